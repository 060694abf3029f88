"""Gestures of different lengths: a class token is put before the frames, and PyTorch's encoder layer reads them."""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence


class GestureModel(nn.Module):
    def __init__(self, codes=20, dim=16, classes=3):
        super().__init__()
        self.codes = nn.Embedding(codes, dim)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.attention = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.classify = nn.Linear(dim, classes)

    def forward(self, codes, is_pad):
        frames = torch.cat([self.token.expand(len(codes), 1, -1), self.codes(codes)], dim=1)
        hidden = torch.cat([is_pad.new_zeros(len(codes), 1), is_pad], dim=1)
        attended, _ = self.attention(frames, frames, frames, need_weights=False)  # cause: BB215
        return self.classify((frames + attended)[:, 0])


torch.manual_seed(21)
model = GestureModel()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for step in range(8):
    lengths = torch.randint(3, 9, (12,)).tolist()
    lengths[0] = 9
    codes = pad_sequence([torch.randint(1, 20, (n,)) for n in lengths], batch_first=True)
    target = codes[:, 0] % 3
    logits = model(codes, codes == 0)
    loss = nn.functional.cross_entropy(logits, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
