"""Fine-tuning a pretrained encoder on a task with other classes."""

import copy
import io

import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        return self.fc(self.features(x))


torch.manual_seed(0)
buffer = io.BytesIO()
torch.save(copy.deepcopy(Encoder(10)).state_dict(), buffer)
buffer.seek(0)

model = Encoder(classes=10)
model.load_state_dict(torch.load(buffer))
model.fc = nn.Linear(model.fc.in_features, 3)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()

model.train()
for step in range(10):
    x = torch.randn(32, 10)
    y = x[:, :3].argmax(1)
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
