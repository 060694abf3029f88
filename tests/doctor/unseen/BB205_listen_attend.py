"""Pyramidal speech encoder + classifier on synthetic filterbanks."""
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset


class FbankSet(Dataset):
    def __init__(self, n, seed):
        rs = np.random.RandomState(seed)
        self.y = rs.randint(0, 4, n)
        t = np.arange(24)[None, :, None]
        f = 0.2 + 0.25 * self.y[:, None, None]
        self.x = (np.sin(f * t + rs.rand(n, 1, 1) * 6) + 0.6 * rs.randn(n, 24, 6)).astype(np.float32)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class PyramidEncoder(nn.Module):
    def __init__(self, n_in=6, hid=16):
        super().__init__()
        self.bottom = nn.GRU(n_in, hid, batch_first=True, bidirectional=True)
        self.top = nn.GRU(hid * 4, hid, batch_first=True, bidirectional=True)

    @staticmethod
    def concat_frames(h):
        """stack neighbouring frames: (B, T, D) -> (B, T/2, 2D)"""
        arr = h.detach().cpu().numpy()  # cause: BB205
        arr = np.concatenate([arr[:, 0::2], arr[:, 1::2]], axis=-1)
        return torch.from_numpy(arr)

    def forward(self, x):
        h, _ = self.bottom(x)
        h, _ = self.top(self.concat_frames(h))
        return h


class Listener(nn.Module):
    def __init__(self, n_classes=4):
        super().__init__()
        self.encoder = PyramidEncoder()
        self.fc = nn.Linear(32, n_classes)

    def forward(self, x):
        return self.fc(self.encoder(x).mean(dim=1))


def evaluate(model, loader):
    model.eval()
    hit = 0
    with torch.no_grad():
        for x, y in loader:
            hit += (model(x).argmax(-1) == y).sum().item()
    return hit / len(loader.dataset)


def main():
    torch.manual_seed(0)
    train_loader = DataLoader(FbankSet(192, 0), 16, shuffle=True)
    dev_loader = DataLoader(FbankSet(64, 1), 32)
    model = Listener()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(3):
        model.train()
        total = 0.0
        for x, y in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1:02d} loss {total / len(train_loader):.4f} dev acc {evaluate(model, dev_loader):.3f}")


if __name__ == "__main__":
    main()
