"""Streaming data set split over the workers by hand, with a per-worker, per-epoch random stream."""
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class Stream(IterableDataset):
    def __init__(self, n=320):
        self.n, self.epoch = n, 0

    def set_epoch(self, e):
        self.epoch = e

    def __iter__(self):
        info = get_worker_info()
        wid, num = (info.id, info.num_workers) if info else (0, 1)
        order = np.random.default_rng([7, self.epoch]).permutation(self.n)   # same in all workers: they share the shuffle
        noise = np.random.default_rng([11, self.epoch, wid])                 # different in each
        for i in order[wid::num]:
            r = np.random.default_rng(int(i))
            x = r.standard_normal(8).astype(np.float32)
            y = np.float32(x[0] * 2 - x[1])
            yield x + noise.normal(0, 0.1, 8).astype(np.float32), y


def main():
    torch.manual_seed(0)
    ds = Stream()
    loader = DataLoader(ds, batch_size=20, num_workers=2)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    opt = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(2):
        ds.set_epoch(epoch)
        model.train()
        seen = 0
        for x, y in loader:
            loss = nn.functional.mse_loss(model(x).squeeze(1), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            seen += len(y)
        print(f"epoch {epoch} loss {loss.item():.4f} examples {seen}")


if __name__ == "__main__":
    main()
