"""Video clips of different lengths, as features of frames; attention over frames with nn.MultiheadAttention."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Clips(Dataset):
    def __init__(self, n):
        self.clips = [torch.randn(int(length), 6) for length in torch.randint(3, 9, (n,))]

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, i):
        return self.clips[i], float(self.clips[i][:, 0].mean() > 0)


def collate(items):
    longest = 9
    frames = torch.zeros(len(items), longest, 6)
    valid = torch.zeros(len(items), longest, dtype=torch.bool)
    for row, (clip, _) in enumerate(items):
        frames[row, : len(clip)] = clip
        valid[row, : len(clip)] = True
    return frames, valid, torch.tensor([label for _, label in items])


class ClipClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(6, 12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.out = nn.Linear(12, 1)

    def forward(self, frames, valid):
        h = self.project(frames)
        attended, _ = self.attention(h, h, h, key_padding_mask=~valid)
        pooled = ((h + attended) * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True)
        return self.out(pooled).squeeze(-1)


torch.manual_seed(6)
loader = DataLoader(Clips(40), batch_size=10, shuffle=True, collate_fn=collate)
model = ClipClassifier()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
criterion = nn.BCEWithLogitsLoss()
for epoch in range(2):
    for frames, valid, target in loader:
        loss = criterion(model(frames, valid), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: {loss.item():.4f}")
