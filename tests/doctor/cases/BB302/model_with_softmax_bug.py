"""A small convolutional classifier of synthetic digits."""

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 2 * 2, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = self.fc(x.flatten(1))
        return F.softmax(x, dim=1)  # cause: BB302


torch.manual_seed(0)
images, labels = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))
model = Net()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(2):
    correct = 0
    for i in range(0, 64, 16):
        x, y = images[i : i + 16], labels[i : i + 16]
        optimizer.zero_grad()
        outputs = model(x)
        loss = criterion(outputs, y)
        loss.backward()
        optimizer.step()
        correct += (outputs.argmax(1) == y).sum().item()
    print(f"epoch {epoch} loss {loss.item():.4f} accuracy {correct / 64:.3f}")
