"""Multiple-instance learning: a scorer selects the instances of a bag that count."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(7)


class Bag(nn.Module):
    def __init__(self, dim=5):
        super().__init__()
        self.scorer = nn.Linear(dim, 1)
        self.features = nn.Sequential(nn.Linear(dim, 12), nn.ReLU())
        self.head = nn.Linear(12, 1)

    def forward(self, bags):
        score = torch.sigmoid(self.scorer(bags))
        keep = (score > 0.5).float()  # cause: BB206
        pooled = (keep * self.features(bags)).sum(1) / keep.sum(1).clamp(min=1e-6)
        return self.head(pooled).squeeze(-1)


def step(model, optimizer, bags, labels):
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(bags)
    loss = F.binary_cross_entropy_with_logits(logits.float(), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


model = Bag()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for iteration in range(8):
    bags = torch.randn(16, 6, 5)
    labels = (bags[..., 0].amax(1) > 1).float()
    print(iteration, f"{step(model, optimizer, bags, labels):.4f}")
