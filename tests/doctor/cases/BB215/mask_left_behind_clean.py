"""Question classification; the collate function makes ids and a mask, and the trainer calls the model."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader


class Encoder(nn.Module):
    def __init__(self, vocab=40, dim=16, classes=2):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim, padding_idx=0)
        layer = nn.TransformerEncoderLayer(dim, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = nn.Linear(dim, classes)

    def forward(self, ids, mask=None):
        hidden = self.layers(self.embed(ids), src_key_padding_mask=None if mask is None else ~mask)
        return self.out(hidden[:, 0])


def collate(questions):
    longest = max(len(q) for q in questions)
    ids = torch.zeros(len(questions), longest, dtype=torch.long)
    for row, question in enumerate(questions):
        ids[row, : len(question)] = question
    return {"ids": ids, "mask": ids != 0, "label": torch.stack([q[0] % 2 for q in questions])}


class Trainer:
    def __init__(self, model, loader):
        self.model, self.loader = model, loader
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def epoch(self):
        self.model.train()
        for batch in self.loader:
            logits = self.model(batch["ids"], batch["mask"])
            loss = F.cross_entropy(logits, batch["label"])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return loss.item()


torch.manual_seed(2)
questions = [torch.randint(1, 40, (int(n),)) for n in torch.randint(3, 9, (40,))]
trainer = Trainer(Encoder(), DataLoader(questions, batch_size=8, shuffle=True, collate_fn=collate))
for epoch in range(2):
    print(f"epoch {epoch}: {trainer.epoch():.4f}")
