"""Language model with a ReLU RNN, trained by a class with truncated backpropagation."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def __init__(self, vocab=24, hidden=32):
        super().__init__()
        self.embed = nn.Embedding(vocab, 16)
        self.rnn = nn.RNN(16, hidden, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(hidden, vocab)
        nn.init.normal_(self.rnn.weight_hh_l0, std=0.5)  # cause: BB212

    def forward(self, ids, state=None):
        hidden, state = self.rnn(self.embed(ids), state)
        return self.out(hidden), state


class Trainer:
    def __init__(self, model, lr=0.05):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def fit(self, text, length, epochs):
        for epoch in range(epochs):
            for start in range(0, text.size(1) - length, length):
                logits, _ = self.model(text[:, start : start + length])
                loss = F.cross_entropy(logits.flatten(0, 1), text[:, start + 1 : start + length + 1].flatten())
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            print(f"epoch {epoch} loss {loss.item():.4g}")


torch.manual_seed(1)
Trainer(Model()).fit(torch.randint(24, (8, 130)), 30, 2)
