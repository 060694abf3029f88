"""Click prediction with a two-layer network; validation loss after every epoch."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Clicks(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(9, 24)
        self.fc2 = nn.Linear(24, 1)

    def forward(self, x):
        h = F.relu(self.fc1(x))
        h = F.dropout(h, p=0.4, training=self.training)
        return self.fc2(h).squeeze(1)


x = torch.randn(80, 9)
y = (x[:, 0] - x[:, 1] > 0).float()
model = Clicks()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(3):
    model.train()
    for rows in torch.randperm(60).split(15):
        loss = F.binary_cross_entropy_with_logits(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        val = F.binary_cross_entropy_with_logits(model(x[60:]), y[60:])
    print(f"epoch {epoch}: train {loss.item():.4f} val {val.item():.4f}")
