"""LSTM tagger in a class with fit and predict, as for scikit-learn."""

import torch
from torch import nn


class Network(nn.Module):
    def __init__(self, vocab, size, tags):
        super().__init__()
        self.embed = nn.Embedding(vocab, size)
        self.lstm = nn.LSTM(size, size, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(2 * size, tags)

    def forward(self, ids):
        h, _ = self.lstm(self.embed(ids))
        h = self.dropout(h)
        return self.out(h)


class Tagger:
    def __init__(self, epochs=4, lr=1e-2):
        self.epochs, self.lr = epochs, lr
        self.network = Network(20, 8, 4)

    def fit(self, ids, tags):
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.lr)
        criterion = nn.CrossEntropyLoss()
        self.network.train()
        for epoch in range(self.epochs):
            for rows in torch.randperm(len(ids)).split(10):
                optimizer.zero_grad()
                loss = criterion(self.network(ids[rows]).transpose(1, 2), tags[rows])
                loss.backward()
                optimizer.step()
            print(epoch, f"{loss.item():.4f}")
        return self

    @torch.no_grad()
    def predict(self, ids):
        self.network.eval()
        return self.network(ids).argmax(-1)


torch.manual_seed(2)
ids = torch.randint(20, (30, 6))
tagger = Tagger().fit(ids, ids % 4)
print("accuracy", (tagger.predict(ids) == ids % 4).float().mean().item())
