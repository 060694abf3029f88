"""Deep supervised hashing: learn 16-bit codes for retrieval."""
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class HParams(NamedTuple):
    bits: int = 16
    lr: float = 3e-3
    quant_weight: float = 0.1
    epochs: int = 3


class HashNet(nn.Module):
    def __init__(self, bits, n_classes):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.hash_layer = nn.Linear(64, bits)
        self.classifier = nn.Linear(bits, n_classes)

    def forward(self, x):
        h = torch.tanh(self.hash_layer(self.trunk(x)))
        code = torch.sign(h)  # cause: BB206
        return code, self.classifier(code)


def blobs(n, seed, k=6):
    centers = torch.randn(k, 20, generator=torch.Generator().manual_seed(8)) * 0.7
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, k, (n,), generator=g)
    return centers[y] + torch.randn(n, 20, generator=g) * 0.8, y


@torch.no_grad()
def mean_average_precision(net, query, gallery, topk=20):
    net.eval()
    qc, gc = net(query[0])[0], net(gallery[0])[0]
    dist = (qc.shape[1] - qc @ gc.t()) / 2
    rel = (gallery[1][dist.argsort(1)[:, :topk]] == query[1][:, None]).float()
    prec = rel.cumsum(1) / torch.arange(1, topk + 1)
    return ((prec * rel).sum(1) / rel.sum(1).clamp(min=1)).mean().item()


def main(hp=HParams()):
    torch.manual_seed(2)
    x, y = blobs(320, 0)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    net = HashNet(hp.bits, 6)
    optimizer = torch.optim.Adam(net.parameters(), lr=hp.lr)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(hp.epochs):
        net.train()
        ls = 0.0
        for xb, yb in loader:
            _, logits = net(xb)
            loss = criterion(logits, yb)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ls += loss.item()
        print(f"epoch {epoch} loss {ls / len(loader):.4f} mAP@20 {mean_average_precision(net, blobs(80, 1), (x, y)):.4f}")


if __name__ == "__main__":
    main()
