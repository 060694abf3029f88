"""A denoising autoencoder whose decoder uses the encoder's weights, transposed."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(6)


class TiedAutoencoder(nn.Module):
    def __init__(self, features, codes):
        super().__init__()
        self.encoder = nn.Linear(features, codes)
        self.decoder_bias = nn.Parameter(torch.zeros(features))

    def forward(self, x):
        codes = torch.relu(self.encoder(x))
        return F.linear(codes, self.encoder.weight.t(), self.decoder_bias)


model = TiedAutoencoder(12, 5)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
for epoch in range(2):
    for _ in range(4):
        x = torch.randn(32, 12)
        loss = F.mse_loss(model(x + 0.1 * torch.randn_like(x)), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} {loss.item():.4f}")
