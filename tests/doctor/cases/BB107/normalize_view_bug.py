"""Small images kept as one float array, normalized when they are read."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    def __init__(self, images, labels, mean, std):
        self.images, self.labels = images, labels
        self.mean, self.std = mean, std

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index]
        image -= self.mean  # cause: BB107
        image = image / self.std
        return torch.from_numpy(image).unsqueeze(0), self.labels[index]


rng = np.random.default_rng(0)
torch.manual_seed(0)
labels = rng.integers(0, 2, 64)
images = rng.uniform(0, 1, (64, 8, 8)).astype(np.float32)
images[labels == 1, :4] += 0.3
dataset = Digits(images, labels, images.mean(), images.std())
loader = DataLoader(dataset, batch_size=16, shuffle=True)
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
criterion = nn.CrossEntropyLoss()
for epoch in range(3):
    losses = []
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch}: {np.mean(losses):.4f}")
