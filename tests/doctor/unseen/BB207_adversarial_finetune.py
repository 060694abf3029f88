"""Adversarial fine-tuning (FGSM): only the classifier of a frozen network is meant to be trained."""
import argparse
from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F


def get_model():
    return nn.Sequential(OrderedDict([
        ("stem", nn.Linear(16, 32)), ("act1", nn.Tanh()),
        ("hidden", nn.Linear(32, 32)), ("act2", nn.Tanh()),
        ("classifier", nn.Linear(32, 3)),
    ]))


def set_trainable(model, prefix):
    for name, p in model.named_parameters():
        p.requires_grad = name.startswith(prefix)


def fgsm(model, x, y, eps):
    x = x.detach().clone().requires_grad_(True)
    loss = F.cross_entropy(model(x), y)
    (grad,) = torch.autograd.grad(loss, x)
    return (x + eps * grad.sign()).detach()


def batches(x, y, bs, gen):
    order = torch.randperm(len(x), generator=gen)
    for i in range(0, len(x), bs):
        yield x[order[i:i + bs]], y[order[i:i + bs]]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--eps", type=float, default=0.1)
    ap.add_argument("--lr", type=float, default=0.1)
    ap.add_argument("--epochs", type=int, default=3)
    ap.add_argument("--tune", default="head")  # cause: BB207
    args = ap.parse_args()
    torch.manual_seed(0)
    gen = torch.Generator().manual_seed(4)
    x = torch.randn(300, 16, generator=gen)
    y = (x @ torch.randn(16, 3, generator=gen)).argmax(1)
    xt, yt = x[240:], y[240:]
    x, y = x[:240], y[:240]
    model = get_model()
    set_trainable(model, args.tune)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    for epoch in range(args.epochs):
        model.train()
        tot = 0.0
        for xb, yb in batches(x, y, 30, gen):
            adv = fgsm(model, xb, yb, args.eps).requires_grad_()
            loss = 0.5 * F.cross_entropy(model(xb), yb) + 0.5 * F.cross_entropy(model(adv), yb)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tot += loss.item()
        model.eval()
        with torch.no_grad():
            acc = (model(xt).argmax(1) == yt).float().mean()
        print(f"epoch {epoch} loss {tot / 8:.4f} clean acc {acc:.3f}")


if __name__ == "__main__":
    main()
