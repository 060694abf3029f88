"""Spam filter: all positives, then all negatives, concatenated; a train() and a test() as in the tutorials."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(10, 16)
        self.dropout = nn.Dropout(0.1)
        self.fc2 = nn.Linear(16, 1)

    def forward(self, x):
        return self.fc2(self.dropout(F.relu(self.fc1(x)))).squeeze(1)


def train(args, model, loader, optimizer, epoch):
    model.train()
    for batch_idx, (data, target) in enumerate(loader):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(data), target)
        loss.backward()
        optimizer.step()
        if batch_idx % args.log_interval == 0:
            print(f"Train Epoch: {epoch} [{batch_idx * len(data)}/{len(loader.dataset)}]\tLoss: {loss.item():.6f}")


def test(model, loader):
    model.eval()
    correct = 0
    with torch.no_grad():
        for data, target in loader:
            correct += ((model(data) > 0) == (target > 0.5)).sum().item()
    print(f"Test accuracy: {correct}/{len(loader.dataset)}")


def make_data(n_spam, n_ham):
    spam = TensorDataset(torch.randn(n_spam, 10) + 0.4, torch.ones(n_spam))
    ham = TensorDataset(torch.randn(n_ham, 10) - 0.4, torch.zeros(n_ham))
    return ConcatDataset([spam, ham])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--log-interval", type=int, default=4)
    args = parser.parse_args([])
    torch.manual_seed(2)
    kwargs = {"batch_size": args.batch_size, "drop_last": True}
    train_loader = DataLoader(make_data(45, 75), shuffle=True, **kwargs)
    test_loader = DataLoader(make_data(15, 25), batch_size=40)
    model = Net()
    optimizer = optim.Adadelta(model.parameters(), lr=1.0)
    for epoch in range(1, args.epochs + 1):
        train(args, model, train_loader, optimizer, epoch)
        test(model, test_loader)


if __name__ == "__main__":
    main()
