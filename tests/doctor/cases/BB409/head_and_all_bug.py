"""Fine-tuning with a larger learning rate for the head."""

import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU())
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.backbone(x))


torch.manual_seed(0)
model = Classifier()
head_optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-2)
backbone_optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)  # cause: BB409
criterion = nn.CrossEntropyLoss()

for step in range(10):
    x = torch.randn(32, 8)
    y = x[:, :3].argmax(1)
    head_optimizer.zero_grad()
    backbone_optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    head_optimizer.step()
    backbone_optimizer.step()
    print(step, f"{loss.item():.4f}")
