"""Initializes the encoder of a classifier from a pretraining run; takes over whatever fits."""

import tempfile
from pathlib import Path

import torch
from torch import nn

torch.manual_seed(8)


class Encoder(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.proj = nn.Linear(6, dim)
        self.block = nn.TransformerEncoderLayer(dim, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.block(self.proj(x)).mean(1)


class Pretrainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = nn.Linear(16, 6)


class Classifier(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.backbone = Encoder()
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(self.backbone(x))


def init_from(model, path):
    pretrained = {f"backbone.{k}": v for k, v in torch.load(path).items()}
    own = model.state_dict()
    matched = {k: v for k, v in pretrained.items() if k in own and own[k].shape == v.shape}
    own.update(matched)
    model.load_state_dict(own)
    return model


path = Path(tempfile.mkdtemp()) / "mae.pt"
torch.save(Pretrainer().encoder.state_dict(), path)
model = init_from(Classifier(), path)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(5):
    x = torch.randn(8, 5, 6)
    y = x.mean((1, 2)).gt(0).long()
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.4f}")
