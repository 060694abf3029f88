"""Length-bucketed batches: samples sorted by length inside a shuffled pool, batches shuffled; packed sequences."""
import random
import torch
import torch.nn as nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler


class Strings(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        self.items = []
        for _ in range(n):
            L = int(torch.randint(2, 15, (1,), generator=g))
            s = torch.randint(1, 20, (L,), generator=g)
            self.items.append((s, int(s[-1] > 10)))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class BucketSampler(Sampler):
    def __init__(self, lengths, bs, pool=4, seed=0):
        self.lengths, self.bs, self.pool = lengths, bs, pool
        self.rnd = random.Random(seed)

    def __len__(self):
        return (len(self.lengths) + self.bs - 1) // self.bs

    def __iter__(self):
        order = list(range(len(self.lengths)))
        self.rnd.shuffle(order)
        batches = []
        for i in range(0, len(order), self.bs * self.pool):
            chunk = sorted(order[i:i + self.bs * self.pool], key=lambda k: self.lengths[k])
            batches += [chunk[j:j + self.bs] for j in range(0, len(chunk), self.bs)]
        self.rnd.shuffle(batches)
        return iter(batches)


def collate(b):
    xs, ys = zip(*b)
    return pad_sequence(xs, batch_first=True), torch.tensor([len(x) for x in xs]), torch.tensor(ys)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.gru, self.out = nn.Embedding(20, 16, padding_idx=0), nn.GRU(16, 24, batch_first=True), nn.Linear(24, 2)

    def forward(self, x, n):
        _, h = self.gru(pack_padded_sequence(self.emb(x), n, batch_first=True, enforce_sorted=False))
        return self.out(h[-1])


if __name__ == "__main__":
    torch.manual_seed(0)
    ds, dv = Strings(320, 0), Strings(96, 1)
    loader = DataLoader(ds, batch_sampler=BucketSampler([len(s) for s, _ in ds.items], 16), collate_fn=collate)
    val = DataLoader(dv, 48, collate_fn=collate)
    net = Net()
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    for epoch in range(3):
        net.train()
        for x, n, y in loader:
            loss = nn.functional.cross_entropy(net(x, n), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
        net.eval()
        with torch.no_grad():
            acc = sum((net(x, n).argmax(1) == y).sum().item() for x, n, y in val) / len(dv)
        print(f"epoch {epoch} loss {loss.item():.4f} acc {acc:.3f}")
