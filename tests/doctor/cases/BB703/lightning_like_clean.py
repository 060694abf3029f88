"""Serves a model that was trained inside a LightningModule-like wrapper: accuracy on a small test set."""

import tempfile
from pathlib import Path

import torch
from torch import nn


class LitModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)

    def training_step(self, batch):
        x, y = batch
        return self.loss(self.model(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-2)


def batches(n, seed):
    g = torch.Generator().manual_seed(seed)
    for _ in range(n):
        x = torch.randn(32, 4, generator=g)
        yield x, x[:, :3].argmax(1)


torch.manual_seed(13)
lit = LitModel()
opt = lit.configure_optimizers()
for batch in batches(20, seed=0):
    opt.zero_grad()
    lit.training_step(batch).backward()
    opt.step()
ckpt = Path(tempfile.mkdtemp()) / "epoch=0.ckpt"
torch.save({"state_dict": lit.state_dict(), "global_step": 20}, ckpt)

classifier = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
weights = {k[len("model.") :]: v for k, v in torch.load(ckpt)["state_dict"].items() if k.startswith("model.")}
missing, unexpected = classifier.load_state_dict(weights, strict=False)
classifier.eval()
with torch.inference_mode():
    hits = sum((classifier(x).argmax(1) == y).float().mean().item() for x, y in batches(4, seed=1))
print(f"accuracy {hits / 4:.2f}")
