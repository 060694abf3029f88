"""A trainer with gradient accumulation; the encoder layers run in checkpointed closures, as in Hugging Face models."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import checkpoint


class Layer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm, self.ff = nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, hidden, mask):
        return hidden + torch.tanh(self.ff(self.norm(hidden))) * mask


class Encoder(nn.Module):
    def __init__(self, dim=12, depth=3):
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim) for _ in range(depth))
        self.gradient_checkpointing = True

    def forward(self, hidden, mask):
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:

                def create_custom_forward(module):
                    def custom_forward(*inputs):
                        return module(*inputs)

                    return custom_forward

                hidden = checkpoint.checkpoint(  # cause: BB216
                    create_custom_forward(layer), hidden, mask, use_reentrant=True
                )
            else:
                hidden = layer(hidden, mask)
        return hidden


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.out = Encoder(), nn.Linear(12, 1)

    def forward(self, features, mask):
        return self.out(self.encoder(features, mask).mean(1)).squeeze(-1)


class Trainer:
    def __init__(self, model, lr=1e-2, accumulation=2):
        self.model, self.accumulation = model, accumulation
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def fit(self, batches):
        self.model.train()
        for i, (features, mask, target) in enumerate(batches, 1):
            loss = F.mse_loss(self.model(features, mask), target) / self.accumulation
            loss.backward()
            if i % self.accumulation == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()
                print(f"update {i // self.accumulation}: {loss.item() * self.accumulation:.4f}")


torch.manual_seed(1)
data = [(x := torch.randn(8, 5, 12), torch.ones(8, 5, 1), x[:, :, 0].sum(1)) for _ in range(10)]
Trainer(Regressor()).fit(data)
