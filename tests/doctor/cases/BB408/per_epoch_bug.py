"""A convolutional classifier; the schedule is computed in batches."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def get_model():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)
    )


def main(epochs=4):
    torch.manual_seed(2)
    images, labels = torch.randn(72, 1, 8, 8), torch.randint(3, (72,))
    images[:, 0, 0] += labels[:, None]
    train_loader = DataLoader(TensorDataset(images[:48], labels[:48]), batch_size=12, shuffle=True)
    test_loader = DataLoader(TensorDataset(images[48:], labels[48:]), batch_size=24)
    model = get_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    total = epochs * len(train_loader)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)  # cause: BB408
    for epoch in range(epochs):
        model.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        scheduler.step()
        model.eval()
        with torch.no_grad():
            correct = sum((model(x).argmax(1) == y).sum().item() for x, y in test_loader)
        print(epoch, correct / 24, scheduler.get_last_lr())


main()
