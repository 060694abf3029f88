"""Classify tiny images listed class by class, as a folder per class is."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Folder(Dataset):
    def __init__(self, num_classes, per_class):
        self.samples = [(c, i) for c in range(num_classes) for i in range(per_class)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        label, number = self.samples[index]
        generator = torch.Generator().manual_seed(label * 1000 + number)
        image = torch.rand(1, 6, 6, generator=generator)
        image[0, label] += 0.5
        return image, label


torch.manual_seed(0)
dataset = Folder(num_classes=3, per_class=16)
train_loader = DataLoader(dataset, batch_size=8)  # cause: BB104
model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
loss_fn = nn.CrossEntropyLoss()
for epoch in range(3):
    correct = 0
    for images, labels in train_loader:
        logits = model(images)
        loss = loss_fn(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        correct += (logits.argmax(1) == labels).sum().item()
    print(f"epoch {epoch} accuracy {correct / len(dataset):.3f}")
