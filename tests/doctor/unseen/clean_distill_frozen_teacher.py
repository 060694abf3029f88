"""Distillation: T^2-scaled KL with log-probabilities on both sides (log_target=True), feature hints through a regressor."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self, h):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(12, h), nn.ReLU()), nn.Linear(h, 4)

    def forward(self, x):
        f = self.body(x)
        return f, self.head(f)


def data(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 12, generator=g)
    w = torch.randn(12, 4, generator=torch.Generator().manual_seed(3))
    return TensorDataset(x, (torch.tanh(x) @ w).argmax(1))


def main(T=4.0):
    torch.manual_seed(0)
    loader, (xt, yt) = DataLoader(data(320, 0), 32, shuffle=True), data(150, 1).tensors
    teacher, student, hint = Net(64), Net(10), nn.Linear(10, 64, bias=False)
    topt = torch.optim.Adam(teacher.parameters(), lr=1e-2)
    for x, y in loader:
        loss = F.cross_entropy(teacher(x)[1], y)
        topt.zero_grad()
        loss.backward()
        topt.step()
    teacher.eval().requires_grad_(False)
    opt = torch.optim.Adam([{"params": student.parameters()}, {"params": hint.parameters(), "lr": 1e-3}], lr=1e-2)
    for epoch in range(3):
        student.train()
        for x, y in loader:
            tf, tl = teacher(x)
            sf, sl = student(x)
            kd = F.kl_div(F.log_softmax(sl / T, 1), F.log_softmax(tl / T, 1), log_target=True, reduction="batchmean") * T * T
            loss = 0.7 * kd + 0.3 * F.cross_entropy(sl, y) + 0.05 * F.mse_loss(hint(sf), tf)
            opt.zero_grad()
            loss.backward()
            opt.step()
        student.eval()
        with torch.no_grad():
            print(f"epoch {epoch} loss {loss.item():.4f} student {(student(xt)[1].argmax(1) == yt).float().mean():.3f} teacher {(teacher(xt)[1].argmax(1) == yt).float().mean():.3f}")


if __name__ == "__main__":
    main()
