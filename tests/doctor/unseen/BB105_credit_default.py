# Kaggle-style notebook export: credit default prediction
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset, Subset

SEED = 2023
np.random.seed(SEED)
torch.manual_seed(SEED)

# ## 1. Load
N = 600
X = np.random.randn(N, 20).astype("float32")
w = np.random.randn(20)
y = ((X @ w + 4.0 * np.random.randn(N)) > 0).astype("float32")

dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))

# ## 2. Split 80 / 20
n_train = int(0.8 * N)
train_idx = np.random.permutation(N)[:n_train]
val_idx = np.random.permutation(N)[n_train:]  # cause: BB105
train_loader = DataLoader(Subset(dataset, train_idx.tolist()), batch_size=32, shuffle=True)
val_loader = DataLoader(Subset(dataset, val_idx.tolist()), batch_size=64)


# ## 3. Model
class MLP(nn.Module):
    def __init__(self, d_in, hidden=(128, 64), p=0.1):
        super().__init__()
        layers, d = [], d_in
        for h in hidden:
            layers += [nn.Linear(d, h), nn.ReLU(), nn.Dropout(p)]
            d = h
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(d, 1)

    def forward(self, x):
        return self.head(self.body(x)).squeeze(-1)


model = MLP(20)
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

# ## 4. Train
history = {"train": [], "val": [], "acc": []}
for epoch in range(4):
    model.train()
    ep = 0.0
    for xb, yb in train_loader:
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
        ep += loss.item() * len(xb)
    history["train"].append(ep / n_train)

    model.eval()
    vl, correct, seen = 0.0, 0, 0
    with torch.no_grad():
        for xb, yb in val_loader:
            out = model(xb)
            vl += criterion(out, yb).item() * len(xb)
            correct += ((out > 0).float() == yb).sum().item()
            seen += len(xb)
    history["val"].append(vl / seen)
    history["acc"].append(correct / seen)
    print(f"Epoch {epoch + 1} | train {history['train'][-1]:.4f} | val {history['val'][-1]:.4f} | acc {correct / seen:.3f}")
