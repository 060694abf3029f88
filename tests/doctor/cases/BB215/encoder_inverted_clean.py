"""Sentence classification with nn.TransformerEncoder; sentences of different lengths are padded with 0."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

PAD = 0
torch.manual_seed(0)


class SentenceClassifier(nn.Module):
    def __init__(self, vocab=50, dim=16, classes=2):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim, padding_idx=PAD)
        self.position = nn.Parameter(0.1 * torch.randn(1, 20, dim))
        layer = nn.TransformerEncoderLayer(dim, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.classify = nn.Linear(dim, classes)

    def forward(self, ids):
        pad_mask = ids == PAD
        h = self.embed(ids) + self.position[:, : ids.size(1)]
        h = self.encoder(h, src_key_padding_mask=pad_mask)
        return self.classify(h[:, 0])


def collate(items):
    ids = pad_sequence([ids for ids, _ in items], batch_first=True, padding_value=PAD)
    ids = F.pad(ids, (0, 12 - ids.size(1)), value=PAD)
    return ids, torch.tensor([label for _, label in items])


sentences = [torch.randint(1, 50, (int(n),)) for n in torch.randint(3, 10, (48,))]
data = [(s, int(s.float().mean() > 25)) for s in sentences]
loader = DataLoader(data, batch_size=8, shuffle=True, collate_fn=collate)
model = SentenceClassifier()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(2):
    model.train()
    for ids, labels in loader:
        loss = F.cross_entropy(model(ids), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.4f}")
