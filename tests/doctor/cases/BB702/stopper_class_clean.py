"""Matrix factorization with an EarlyStopping helper, as in many tabular libraries."""

import torch
from torch import nn


class EarlyStopping:
    def __init__(self, patience=3, min_delta=0.0):
        self.patience, self.min_delta = patience, min_delta
        self.best_score, self.counter = None, 0
        self.best_weights = None

    def __call__(self, score, model):
        if self.best_score is None or score > self.best_score + self.min_delta:
            self.best_score, self.counter = score, 0
            self.best_weights = {k: v.cpu().clone() for k, v in model.state_dict().items()}
        else:
            self.counter += 1
        return self.counter >= self.patience

    def restore(self, model):
        model.load_state_dict(self.best_weights)


class MF(nn.Module):
    def __init__(self, users, items, k=8):
        super().__init__()
        self.user = nn.Embedding(users, k)
        self.item = nn.Embedding(items, k)

    def forward(self, u, i):
        return (self.user(u) * self.item(i)).sum(-1)


def main():
    torch.manual_seed(4)
    u, i = torch.randint(30, (200,)), torch.randint(40, (200,))
    rating = (u % 5 + i % 3).float() / 3
    mf = MF(30, 40)
    opt = torch.optim.Adagrad(mf.parameters(), lr=0.5)
    stopper = EarlyStopping()
    for epoch in range(25):
        loss = (mf(u[:150], i[:150]) - rating[:150]).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        with torch.no_grad():
            score = -(mf(u[150:], i[150:]) - rating[150:]).pow(2).mean().item()
        print(f"{epoch:2d} train {loss.item():.3f} val {-score:.3f}")
        if stopper(score, mf):
            break
    stopper.restore(mf)


main()
