"""Training of a small regressor that is interrupted after three epochs and resumed from its checkpoint."""

import argparse
import os
import tempfile

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--lr", type=float, default=1e-2)
parser.add_argument("--resume", default="")
folder = tempfile.mkdtemp()


def main(args):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    start_epoch = 0
    if args.resume:
        checkpoint = torch.load(args.resume)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        start_epoch = checkpoint["epoch"] + 1
        print(f"resumed from {os.path.basename(args.resume)}, epoch {start_epoch}")

    x = torch.randn(64, 6)
    y = x.sum(1, keepdim=True).sin()
    for epoch in range(start_epoch, args.epochs):
        for i in range(0, len(x), 16):
            loss = nn.functional.mse_loss(model(x[i : i + 16]), y[i : i + 16])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch} loss {loss.item():.4f}")
        state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, os.path.join(folder, "last.pt"))


main(parser.parse_args([]))
main(parser.parse_args(["--epochs", "6", "--resume", os.path.join(folder, "last.pt")]))
