"""Resuming an autoencoder with tied weights from a checkpoint, loaded by assignment to save a copy."""

import io

import torch
from torch import nn


class TiedAutoencoder(nn.Module):
    def __init__(self, inputs=12, hidden=12):
        super().__init__()
        self.encode = nn.Linear(inputs, hidden)
        self.decode = nn.Linear(hidden, inputs)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(torch.tanh(self.encode(x)))


def pretrain(steps):
    model = TiedAutoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        x = torch.randn(32, 12)
        loss = (model(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print("pretrained", f"{loss.item():.4f}")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


torch.manual_seed(5)
checkpoint = pretrain(4)
model = TiedAutoencoder()
model.load_state_dict(torch.load(checkpoint))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(6):
    x = torch.randn(32, 12)
    loss = (model(x) - x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(epoch, f"{loss.item():.4f}")
