"""Phoneme duration predictor (FastSpeech-like): Conv1d over the time axis."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


class Phonemes(Dataset):
    def __init__(self, n, T, seed, vocab=12):
        g = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(0, vocab, (n, T), generator=g)
        base = torch.linspace(0.2, 2.0, vocab)[self.ids]
        nxt = torch.roll(base, -1, 1)
        self.dur = base + 0.5 * nxt + 0.05 * torch.randn(n, T, generator=g)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return self.ids[i], self.dur[i]


class DurationPredictor(nn.Module):
    def __init__(self, vocab=12, dim=16, kernel=3):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.conv1 = nn.Conv1d(dim, dim, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv1d(dim, dim, kernel, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, 1)

    def forward(self, ids):
        x = self.embed(ids)                      # (B, T, C)
        B, T, C = x.shape
        x = x.view(B, C, T)  # cause: BB214
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x)).transpose(1, 2)
        return self.proj(self.norm(x)).squeeze(-1)


def validate(model, loader):
    model.eval()
    err, n = 0.0, 0
    with torch.no_grad():
        for ids, dur in loader:
            err += (model(ids) - dur).abs().sum().item()
            n += dur.numel()
    return err / n


if __name__ == "__main__":
    torch.manual_seed(123)
    train_loader = DataLoader(Phonemes(256, 18, 0), batch_size=32, shuffle=True)
    val_loader = DataLoader(Phonemes(64, 18, 1), batch_size=64)
    model = DurationPredictor()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3, betas=(0.9, 0.98))
    for epoch in range(4):
        model.train()
        running = 0.0
        for ids, dur in train_loader:
            optimizer.zero_grad()
            loss = F.mse_loss(model(ids), dur)
            loss.backward()
            optimizer.step()
            running += loss.item()
        print(f"epoch {epoch} mse {running / len(train_loader):.4f} val mae {validate(model, val_loader):.4f}")
