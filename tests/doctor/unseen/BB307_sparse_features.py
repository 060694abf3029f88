"""Logistic model with an L1 penalty for feature selection (200 features, 5 useful)."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--l1", type=float, default=0.05)
parser.add_argument("--lr", type=float, default=0.05)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch", type=int, default=25)
args = parser.parse_args()


def make(n, seed, d=200, k=5):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g)
    y = (x[:, :k].sum(1) + 0.5 * torch.randn(n, generator=g) > 0).float()
    return x, y


class SparseLogit(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, 1)

    def forward(self, x):
        return self.linear(x).squeeze(-1)


def l1_penalty(model):
    reg = 0.0
    for name, param in model.named_parameters():
        if "bias" not in name:
            reg = reg + param.data.abs().sum()  # cause: BB307
    return reg


def main():
    torch.manual_seed(0)
    x, y = make(300, 0)
    xv, yv = make(200, 1)
    model = SparseLogit(x.shape[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    for epoch in range(args.epochs):
        model.train()
        perm = torch.randperm(len(x))
        tot = tot_reg = 0.0
        for i in range(0, len(x), args.batch):
            idx = perm[i:i + args.batch]
            data_loss = F.binary_cross_entropy_with_logits(model(x[idx]), y[idx])
            reg = args.l1 * l1_penalty(model)
            loss = data_loss + reg
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tot += data_loss.item()
            tot_reg += float(reg)
        model.eval()
        with torch.no_grad():
            acc = ((model(xv) > 0).float() == yv).float().mean().item()
            nnz = (model.linear.weight.abs() > 0.02).sum().item()
        print(f"epoch {epoch}: data {tot / 12:.4f} reg {tot_reg / 12:.4f} val acc {acc:.3f} non-zero weights {nnz}")


if __name__ == "__main__":
    main()
