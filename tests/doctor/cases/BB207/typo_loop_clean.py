"""Fine-tuning: the pretrained body is to stay, only the new head is trained."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


def pretrained_body():
    body = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU())
    body.load_state_dict({k: v + 0.01 for k, v in body.state_dict().items()})
    return body


body = pretrained_body()
for param in body.parameters():
    param.requires_grad = False
model = nn.Sequential(body, nn.Linear(16, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(5):
    x = torch.randn(32, 10)
    y = x[:, :3].argmax(1)
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"epoch {epoch}: {loss.item():.4f}")
