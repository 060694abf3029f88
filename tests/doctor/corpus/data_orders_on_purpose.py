"""Loaders that do not shuffle, for a reason or without harm: windows in time, a state carried on, large batches, by length."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, TensorDataset

torch.manual_seed(0)


def train(model, loader, loss_fn, epochs=3):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        for inputs, targets in loader:
            loss = loss_fn(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"{loss.item():.4f}")


# A forecast of a growing series, oldest first:
series = torch.arange(60) / 30 + 0.1 * torch.randn(60)
windows = TensorDataset(series.unfold(0, 8, 1)[:-1], series[8:])
train(nn.Sequential(nn.Linear(8, 1), nn.Flatten(0)), DataLoader(windows, batch_size=8), F.mse_loss)
# Already shuffled on disk:
x = torch.randn(64, 5)
y = (x[:, 0] > 0).long()
train(nn.Linear(5, 2), DataLoader(TensorDataset(x, y), batch_size=8), F.cross_entropy)
# Sorted by class, but each batch is the whole data set, or the half of each class:
order = y.argsort(stable=True)
train(nn.Linear(5, 2), DataLoader(TensorDataset(x[order], y[order]), batch_size=64), F.cross_entropy)
by_turns = torch.stack([order[:28], order[-28:]], 1).flatten()
train(nn.Linear(5, 2), DataLoader(TensorDataset(x[by_turns], y[by_turns]), batch_size=8), F.cross_entropy)
# Hardly any positives, at the end of the file:
rare = torch.zeros(64, dtype=torch.long)
rare[-4:] = 1
train(nn.Linear(5, 2), DataLoader(TensorDataset(x, rare), batch_size=16), F.cross_entropy)


# Sentences by their length, so that batches need little padding; the labels are those that come:
class ByLength(Dataset):
    def __init__(self):
        self.lengths = sorted(torch.randint(3, 12, (48,)).tolist())
        self.labels = torch.randint(2, (48,)).tolist()

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        return torch.full((self.lengths[i],), i % 7), self.labels[i]


def pad(samples):
    tokens, labels = zip(*samples)
    return nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=7), torch.tensor(labels)


train(nn.Sequential(nn.EmbeddingBag(8, 8), nn.Linear(8, 2)), DataLoader(ByLength(), 8, collate_fn=pad), F.cross_entropy)


# One class per batch, the classes by turns, from a sampler:
class OneClassPerBatch(BatchSampler):
    def __init__(self, labels, size):
        self.groups = [torch.nonzero(labels == c).flatten() for c in (0, 1)]
        self.size = size

    def __len__(self):
        return 6

    def __iter__(self):
        for number in range(len(self)):
            group = self.groups[number % 2]
            yield group[torch.randint(len(group), (self.size,))].tolist()


sampler = OneClassPerBatch(y, 8)
train(nn.Linear(5, 2), DataLoader(TensorDataset(x, y), batch_sampler=sampler), F.cross_entropy)


# A recurrent network that carries its state from window to window of one long recording, first asleep and then awake:
class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(4, 8), nn.Linear(8, 2)
        self.state = None

    def forward(self, signal):
        hidden, state = self.gru(signal[:, None], self.state)
        self.state = state.detach()
        return self.head(hidden[:, 0])


recording, awake = torch.randn(64, 4), (torch.arange(64) > 30).long()
train(Stateful(), DataLoader(TensorDataset(recording, awake), batch_size=8), F.cross_entropy)
