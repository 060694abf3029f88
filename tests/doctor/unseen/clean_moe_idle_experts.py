"""Top-1 mixture of experts with load-balancing loss; an expert may receive no token in a batch."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class MoE(nn.Module):
    def __init__(self, d, h, n_experts):
        super().__init__()
        self.gate = nn.Linear(d, n_experts, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Linear(h, d)) for _ in range(n_experts))

    def forward(self, x):
        prob = self.gate(x).softmax(-1)
        weight, idx = prob.max(-1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            sel = (idx == e).nonzero(as_tuple=True)[0]
            if sel.numel() == 0:
                continue
            out = out.index_add(0, sel, expert(x[sel]) * weight[sel, None])
        frac = F.one_hot(idx, prob.shape[-1]).float().mean(0)
        balance = prob.shape[-1] * (frac * prob.mean(0)).sum()
        return x + out, balance


class Net(nn.Module):
    def __init__(self, d=10, k=3):
        super().__init__()
        self.inp, self.moe, self.out = nn.Linear(d, 16), MoE(16, 24, 6), nn.Linear(16, k)

    def forward(self, x):
        h, aux = self.moe(F.relu(self.inp(x)))
        return self.out(h), aux


def data(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 10, generator=g)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] * x[:, 2] > 0).long())


if __name__ == "__main__":
    torch.manual_seed(0)
    loader, test = DataLoader(data(320, 0), 16, shuffle=True), data(100, 1).tensors
    net = Net()
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    for epoch in range(3):
        net.train()
        for x, y in loader:
            logits, aux = net(x)
            loss = F.cross_entropy(logits, y) + 0.01 * aux
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
        net.eval()
        with torch.no_grad():
            print(f"epoch {epoch} loss {loss.item():.4f} aux {aux.item():.3f} acc {(net(test[0])[0].argmax(1) == test[1]).float().mean():.3f}")
