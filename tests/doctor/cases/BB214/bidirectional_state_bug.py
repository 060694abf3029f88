"""Sentiment with a bidirectional LSTM: the last hidden states of both directions are joined for the classifier."""

import torch
from torch import nn


class Sentiment(nn.Module):
    def __init__(self, vocab=50, dim=10, hidden=9):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.lstm = nn.LSTM(dim, hidden, batch_first=True, bidirectional=True)
        self.classify = nn.Linear(2 * hidden, 2)

    def forward(self, tokens):
        _, (h_n, _) = self.lstm(self.embed(tokens))
        return self.classify(h_n.view(tokens.size(0), -1))  # cause: BB214


class Trainer:
    def __init__(self, model, criterion, optimizer):
        self.model, self.criterion, self.optimizer = model, criterion, optimizer

    def train_epoch(self, batches):
        self.model.train()
        total = 0.0
        for tokens, target in batches:
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(tokens), target)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total / len(batches)


torch.manual_seed(1)
batches = [(t := torch.randint(50, (16, 8)), (t.float().mean(1) > 24.5).long()) for _ in range(5)]
model = Sentiment()
trainer = Trainer(model, nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=5e-3))
for epoch in range(2):
    print(f"epoch {epoch}: {trainer.train_epoch(batches):.4f}")
