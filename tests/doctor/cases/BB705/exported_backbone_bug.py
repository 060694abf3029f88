"""Detector of anomalies: the backbone is exported for the service, which loads it and scores what it gets."""

import io

import torch
from torch import nn


class Detector(nn.Module):
    def __init__(self, width=10):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, width), nn.Tanh())
        self.score = nn.Linear(width, 1)

    def forward(self, readings):
        return self.score(self.backbone(readings)).squeeze(-1)


def export(detector):
    blob = io.BytesIO()
    torch.save({"weights": detector.backbone.state_dict()}, blob)  # cause: BB705
    blob.seek(0)
    return blob


class Service:
    def __init__(self, blob):
        self.detector = Detector()
        self.detector.backbone.load_state_dict(torch.load(blob)["weights"])
        self.detector.eval()

    @torch.inference_mode()
    def __call__(self, readings):
        return self.detector(readings)


torch.manual_seed(30)
detector = Detector()
optimizer = torch.optim.Adam(detector.parameters(), lr=0.02)
for step in range(12):
    readings = torch.randn(32, 6)
    loss = nn.functional.mse_loss(detector(readings), readings.square().mean(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
service = Service(export(detector))
readings = torch.randn(64, 6)
print(
    f"trained to {loss.item():.4f}, served with {(service(readings) - readings.square().mean(1)).square().mean():.4f}"
)
