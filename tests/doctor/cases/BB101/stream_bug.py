"""A stream of noisy samples, one shard per worker; a second pass over the loader sees the noise of the first."""

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class Stream(IterableDataset):
    def __init__(self, n, seed):
        super().__init__()
        self.x = torch.linspace(-1, 1, n)[:, None]
        self.generator = torch.Generator().manual_seed(seed)  # cause: BB101

    def __iter__(self):
        info = get_worker_info()
        for i in range(info.id, len(self.x), info.num_workers):
            noise = 0.05 * torch.randn(1, generator=self.generator)
            yield self.x[i] + noise, self.x[i] ** 2


def main():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    loader = DataLoader(Stream(64, seed=11), batch_size=8, num_workers=1)
    for epoch in range(3):
        losses = []
        for x, y in loader:
            loss = (model(x) - y).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"{epoch} {sum(losses) / len(losses):.6f}")


if __name__ == "__main__":
    main()
