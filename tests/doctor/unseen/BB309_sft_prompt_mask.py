"""Supervised fine-tuning of a small causal LM on prompt/answer pairs; the prompt is masked out of the loss."""
import random
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

IGNORE_INDEX = -100
BOS, EOS, PAD, VOCAB = 1, 2, 0, 24


@dataclass
class SFTConfig:
    lr: float = 5e-3
    epochs: int = 2
    batch_size: int = 8
    dim: int = 24


def tokenize(pair):
    prompt, answer = pair
    ids = [BOS] + prompt + answer + [EOS]
    labels = list(ids)
    n_prompt = len(ids)  # cause: BB309
    labels[:n_prompt] = [IGNORE_INDEX] * n_prompt
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def build(n, seed):
    rnd = random.Random(seed)
    out = []
    for _ in range(n):
        p = [rnd.randint(3, VOCAB - 1) for _ in range(rnd.randint(2, 5))]
        out.append(tokenize((p, [p[-1]] * 2)))
    return out


def collate(features):
    return {"input_ids": pad_sequence([f["input_ids"] for f in features], True, PAD),
            "labels": pad_sequence([f["labels"] for f in features], True, IGNORE_INDEX)}


class CausalLM(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, dim)
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.lm_head = nn.Linear(dim, VOCAB)

    def forward(self, input_ids, labels=None):
        logits = self.lm_head(self.rnn(self.emb(input_ids))[0])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), labels[:, 1:].reshape(-1), ignore_index=IGNORE_INDEX)
        return loss, logits


def main():
    cfg = SFTConfig()
    torch.manual_seed(0)
    loader = DataLoader(build(96, 0), cfg.batch_size, shuffle=True, collate_fn=collate)
    model = CausalLM(cfg.dim)
    opt = torch.optim.AdamW(model.parameters(), lr=cfg.lr)
    for epoch in range(cfg.epochs):
        model.train()
        for step, batch in enumerate(loader):
            loss, _ = model(**batch)
            opt.zero_grad()
            loss.backward()
            opt.step()
        print(f"epoch {epoch} step {step} loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
