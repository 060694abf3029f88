"""Softmax regression with L-BFGS and strong Wolfe line search, full batch; the closure zeroes, evaluates and is called many times."""
import torch
import torch.nn as nn


def gaussian_classes(n, seed):
    c = torch.randn(4, 6, generator=torch.Generator().manual_seed(3)) * 1.5
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (n,), generator=g)
    return c[y] + torch.randn(n, 6, generator=g), y


class History(list):
    def __call__(self, v):
        self.append(v)
        return v


def main():
    torch.manual_seed(0)
    x, y = gaussian_classes(300, 0)
    xv, yv = gaussian_classes(200, 1)
    model = nn.Linear(6, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=4, history_size=8, line_search_fn="strong_wolfe")
    hist = History()

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y) + 1e-3 * sum(p.pow(2).sum() for p in model.parameters())
        loss.backward()
        hist(loss.item())
        return loss

    for outer in range(10):
        loss = optimizer.step(closure)
        with torch.no_grad():
            acc = (model(xv).argmax(1) == yv).float().mean()
        print(f"outer {outer} loss {loss.item():.5f} evals {len(hist)} val acc {acc:.3f}")


if __name__ == "__main__":
    main()
