"""Fine-tuning a small translation decoder after special tokens were added to its vocabulary."""

import argparse

import torch
from torch import nn


class Decoder(nn.Module):
    def __init__(self, vocab, dim):
        super().__init__()
        self.tokens = nn.Embedding(vocab, dim)
        layer = nn.TransformerEncoderLayer(dim, 2, 2 * dim, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.lm_head = nn.Linear(dim, vocab, bias=False)
        self.tie_weights()

    def tie_weights(self):
        self.lm_head.weight = self.tokens.weight

    def forward(self, ids):
        mask = nn.Transformer.generate_square_subsequent_mask(ids.size(1))
        return self.lm_head(self.layers(self.tokens(ids), mask=mask, is_causal=True))

    def resize_vocabulary(self, vocab):
        tokens = nn.Embedding(vocab, self.tokens.embedding_dim)
        head = nn.Linear(self.tokens.embedding_dim, vocab, bias=False)
        with torch.no_grad():
            tokens.weight[: len(self.tokens.weight)] = self.tokens.weight
            head.weight[: len(self.lm_head.weight)] = self.lm_head.weight
        self.tokens = tokens
        self.lm_head = head
        self.tie_weights()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args([])
    torch.manual_seed(2)
    model = Decoder(24, 16)
    model.resize_vocabulary(27)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    criterion = nn.CrossEntropyLoss()
    for step in range(args.steps):
        ids = torch.randint(27, (8, 9))
        logits = model(ids[:, :-1])
        loss = criterion(logits.reshape(-1, 27), ids[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, round(loss.item(), 4))


main()
