"""Cross-validation with a new model per fold, then one model for all of the data, and training curves on training data."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

torch.manual_seed(0)
x = torch.randn(60, 6)
dataset = TensorDataset(x, (x[:, 0] + x[:, 1] > 0).long())
test_set = TensorDataset(xt := torch.randn(24, 6), (xt[:, 0] + xt[:, 1] > 0).long())


def new_model():
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    return model, torch.optim.Adam(model.parameters(), lr=1e-2)


def train(model, optimizer, loader, epochs=2):
    for _ in range(epochs):
        for inputs, targets in loader:
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def evaluate(model, loader):
    return sum((model(inputs).argmax(1) == targets).sum().item() for inputs, targets in loader) / len(loader.dataset)


models, scores = [], []
for fold in torch.randperm(60).chunk(4):
    rest = [i for i in range(60) if i not in fold.tolist()]
    train_loader = DataLoader(Subset(dataset, rest), batch_size=15, shuffle=True)
    train_eval_loader = DataLoader(Subset(dataset, rest), batch_size=60)
    val_loader = DataLoader(Subset(dataset, fold.tolist()), batch_size=15)
    model, optimizer = new_model()
    train(model, optimizer, train_loader)
    scores.append(evaluate(model, val_loader))
    models.append((model, val_loader))
    print(f"{evaluate(model, train_eval_loader):.3f} {evaluate(model, train_loader):.3f} {scores[-1]:.3f}")
# The out-of-fold scores once more, when all folds are trained:
print(f"{sum(evaluate(model, val_loader) for model, val_loader in models) / 4:.3f}")
model, optimizer = new_model()
train(model, optimizer, DataLoader(dataset, batch_size=20, shuffle=True))
test_loader = DataLoader(test_set, batch_size=24)
print(f"{evaluate(model, test_loader):.3f}")
