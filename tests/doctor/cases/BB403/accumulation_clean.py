"""Sentiment from bags of words, with gradient accumulation."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--accumulation-steps", type=int, default=4)
parser.add_argument("--epochs", type=int, default=2)
args = parser.parse_args([])

torch.manual_seed(0)
words = torch.randint(1, 50, (128, 12))
sentiment = ((words < 12).float().mean(1) > 0.22).float()
loader = DataLoader(TensorDataset(words, sentiment), batch_size=8, shuffle=True)

model = nn.Sequential(nn.EmbeddingBag(50, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

for epoch in range(args.epochs):
    running = 0.0
    for i, (ids, target) in enumerate(loader):
        loss = criterion(model(ids).squeeze(1), target)
        (loss / args.accumulation_steps).backward()
        running += loss.item()
        if (i + 1) % args.accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
    print(f"epoch {epoch}: {running / len(loader):.4f}")
