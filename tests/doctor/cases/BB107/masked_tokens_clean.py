"""Masked language model: a share of the tokens of each sentence is masked anew in every epoch."""

import random

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

PAD, MASK, FIRST = 0, 1, 2


class MaskedSentences(Dataset):
    def __init__(self, sentences, vocab, mlm_probability=0.15):
        self.examples = [[vocab[word] for word in sentence.split()] for sentence in sentences]
        self.mlm_probability = mlm_probability

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        ids = list(self.examples[i])
        labels = [-100] * len(ids)
        for position, token in enumerate(ids):
            if random.random() < self.mlm_probability or position == i % len(ids):
                labels[position] = token
                ids[position] = MASK
        return torch.tensor(ids), torch.tensor(labels)


def collate(samples):
    ids, labels = zip(*samples)
    pad = nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True), pad(labels, batch_first=True, padding_value=-100)


class TinyBert(nn.Module):
    def __init__(self, vocab_size, width=16):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=PAD)
        self.layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.lm_head = nn.Linear(width, vocab_size)

    def forward(self, ids):
        return self.lm_head(self.layer(self.embedding(ids), src_key_padding_mask=ids == PAD))


def main():
    torch.manual_seed(0)
    random.seed(0)
    words = "the a cat dog bird sees hears likes old young small big house tree river".split()
    vocab = {word: number for number, word in enumerate(words, FIRST)}
    sentences = [" ".join(random.choices(words, k=random.randint(5, 9))) for _ in range(24)]
    loader = DataLoader(MaskedSentences(sentences, vocab), batch_size=8, shuffle=True, collate_fn=collate)
    model = TinyBert(len(vocab) + FIRST)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(3):
        for ids, labels in loader:
            loss = F.cross_entropy(model(ids).transpose(1, 2), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch} loss {loss.item():.4f}")


main()
