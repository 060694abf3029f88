"""Adding problem with a vanilla RNN; gradients are clipped because the RNN explodes."""
import argparse
import torch
import torch.nn as nn


def adding_problem(n, T, g):
    v = torch.rand(n, T, generator=g)
    m = torch.zeros(n, T)
    a = torch.randint(0, T // 2, (n,), generator=g)
    b = torch.randint(T // 2, T, (n,), generator=g)
    m[torch.arange(n), a] = 1
    m[torch.arange(n), b] = 1
    return torch.stack([v, m], -1), (v * m).sum(1)


class RNNRegressor(nn.Module):
    def __init__(self, hidden=32):
        super().__init__()
        self.rnn = nn.RNN(2, hidden, nonlinearity="relu", batch_first=True)
        nn.init.eye_(self.rnn.weight_hh_l0)
        self.rnn.weight_hh_l0.data.mul_(1.15)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1]).squeeze(-1)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--steps", type=int, default=50)
    ap.add_argument("--seq-len", type=int, default=16)
    ap.add_argument("--clip", type=float, default=1.0)
    ap.add_argument("--lr", type=float, default=0.01)
    args = ap.parse_args()
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    model = RNNRegressor()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    criterion = nn.MSELoss()
    xv, yv = adding_problem(200, args.seq_len, torch.Generator().manual_seed(1))
    for step in range(1, args.steps + 1):
        model.train()
        x, y = adding_problem(32, args.seq_len, g)
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        norm = nn.utils.clip_grad_norm_(model.parameters(), args.clip)  # cause: BB405
        if step % 10 == 0:
            model.eval()
            with torch.no_grad():
                val = criterion(model(xv), yv)
            print(f"step {step} loss {loss.item():.4g} grad norm {norm:.3g} val {val:.4g} (mean predictor {yv.var():.3f})")


if __name__ == "__main__":
    main()
