# keyword spotting on fake mel spectrograms with SpecAugment
import random
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

@dataclass
class Config:
    n_mels: int = 16
    frames: int = 24
    n_words: int = 5
    seed: int = 1234
    batch_size: int = 20
    num_workers: int = 2
    lr: float = 4e-3
    epochs: int = 2

class SpecAugment:
    """time and frequency masking"""

    def __init__(self, cfg: Config, freq_mask=5, time_mask=8):
        self.cfg = cfg
        self.freq_mask, self.time_mask = freq_mask, time_mask
        self.random = random.Random(cfg.seed)  # cause: BB101

    def __call__(self, spec):
        spec = spec.clone()
        f = self.random.randint(0, self.freq_mask)
        f0 = self.random.randint(0, self.cfg.n_mels - f)
        spec[f0:f0 + f] = 0
        t = self.random.randint(0, self.time_mask)
        t0 = self.random.randint(0, self.cfg.frames - t)
        spec[:, t0:t0 + t] = 0
        return spec

class SpeechCommands(Dataset):
    def __init__(self, cfg, split, transform=None):
        g = torch.Generator().manual_seed({"train": 1, "val": 2}[split])
        n = 200 if split == "train" else 80
        self.y = torch.randint(0, cfg.n_words, (n,), generator=g)
        proto = torch.randn(cfg.n_words, cfg.n_mels, cfg.frames, generator=torch.Generator().manual_seed(99))
        self.x = proto[self.y] * 0.5 + torch.randn(n, cfg.n_mels, cfg.frames, generator=g)
        self.transform = transform

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        spec = self.x[i]
        if self.transform is not None:
            spec = self.transform(spec)
        return spec, self.y[i]

class KWSNet(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.conv = nn.Conv1d(cfg.n_mels, 24, 5, padding=2)
        self.gru = nn.GRU(24, 24, batch_first=True)
        self.out = nn.Linear(24, cfg.n_words)

    def forward(self, spec):
        h = torch.relu(self.conv(spec)).transpose(1, 2)
        _, hn = self.gru(h)
        return self.out(hn[-1])

class Runner:
    def __init__(self, cfg):
        torch.manual_seed(cfg.seed)
        self.cfg = cfg
        self.train_dl = DataLoader(SpeechCommands(cfg, "train", SpecAugment(cfg)), cfg.batch_size,
                                   shuffle=True, num_workers=cfg.num_workers)
        self.val_dl = DataLoader(SpeechCommands(cfg, "val"), 40)
        self.net = KWSNet(cfg)
        self.opt = torch.optim.AdamW(self.net.parameters(), lr=cfg.lr)

    def fit(self):
        for ep in range(self.cfg.epochs):
            self.net.train()
            running = []
            for spec, y in self.train_dl:
                loss = nn.functional.cross_entropy(self.net(spec), y)
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
                running.append(loss.item())
            print(f"[{ep}] train_loss={sum(running) / len(running):.4f} val_acc={self.validate():.3f}")

    @torch.no_grad()
    def validate(self):
        self.net.eval()
        hits = sum((self.net(s).argmax(-1) == y).sum().item() for s, y in self.val_dl)
        return hits / len(self.val_dl.dataset)

if __name__ == "__main__":
    Runner(Config()).fit()
