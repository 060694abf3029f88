"""Recurrent sentiment model; validation loss decides which weights are kept."""

import copy

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(5)


class Sentiment(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(25, 8)
        self.lstm = nn.LSTM(8, 12, batch_first=True)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(12, 1)

    def forward(self, ids):
        states, _ = self.lstm(self.embed(ids))
        return self.out(self.drop(states[:, -1])).squeeze(1)


def run_epoch(model, loader, criterion, optimizer=None):
    total = 0.0
    for ids, labels in loader:
        if optimizer is None:
            with torch.no_grad():
                total += criterion(model(ids), labels).item()  # cause: BB202
            continue
        loss = criterion(model(ids), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


ids = torch.randint(25, (72, 6))
labels = (ids[:, -1] > 12).float()
train = DataLoader(TensorDataset(ids[:48], labels[:48]), batch_size=12, shuffle=True)
val = DataLoader(TensorDataset(ids[48:], labels[48:]), batch_size=12)
model, criterion = Sentiment(), nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
best, kept = float("inf"), None
for epoch in range(3):
    train_loss = run_epoch(model, train, criterion, optimizer)
    val_loss = run_epoch(model, val, criterion)
    if val_loss < best:
        best, kept = val_loss, copy.deepcopy(model.state_dict())
    print(f"{epoch} train {train_loss:.4f} val {val_loss:.4f}")
