"""An autoencoder whose parts each have an optimizer, kept in a dict."""

import torch
from torch import nn

PARTS = ("encoder", "decoder")


def make_optimizers(model, lrs):
    optimizers = {}
    for part in PARTS:
        params = [p for name, p in model.named_parameters() if name.startswith(part)]
        optimizers[part] = torch.optim.AdamW(params, lr=lrs[part])
    return optimizers


def run(steps):
    torch.manual_seed(3)
    model = nn.ModuleDict({"encoder": nn.Linear(12, 4), "decoder": nn.Linear(4, 12)})
    optimizers = make_optimizers(model, {"encoder": 1e-3, "decoder": 3e-3})
    for step in range(steps):
        x = torch.randn(16, 12)
        loss = (model["decoder"](model["encoder"](x).tanh()) - x).square().mean()
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
        print(f"{step:2d} {loss.item():.5f}")


run(8)
