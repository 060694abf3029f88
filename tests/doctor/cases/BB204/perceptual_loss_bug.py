"""Super-resolution with a perceptual loss: distances between features of a fixed, pretrained network."""

import io

import torch
from torch import nn


class Features(nn.Module):
    def __init__(self, checkpoint):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3))
        self.layers.load_state_dict(torch.load(checkpoint))
        self.layers.requires_grad_(False)  # cause: BB204

    def forward(self, image):
        return self.layers(image)


def checkpoint():
    layers = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3))
    with torch.no_grad():
        for _ in range(5):
            layers(torch.randn(4, 1, 8, 8) + 1)
    file = io.BytesIO()
    torch.save(layers.state_dict(), file)
    file.seek(0)
    return file


torch.manual_seed(2)
perceive = Features(checkpoint())
upscale = nn.Sequential(
    nn.Upsample(scale_factor=2), nn.Conv2d(1, 8, 3, padding=1), nn.PReLU(), nn.Conv2d(8, 1, 3, padding=1)
)
optimizer = torch.optim.Adam(upscale.parameters(), lr=1e-3)
for step in range(6):
    sharp = torch.rand(4, 1, 12, 12)
    coarse = nn.functional.avg_pool2d(sharp, 2)
    restored = upscale(coarse)
    loss = (restored - sharp).abs().mean() + 0.1 * (perceive(restored) - perceive(sharp)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
