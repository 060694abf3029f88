# wine quality notebook
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

np.random.seed(0); torch.manual_seed(0)

# %% data
protos = np.random.randn(6, 11)
quality = np.random.randint(0, 6, 480)
features = (protos[quality] * 0.8 + np.random.randn(480, 11)).astype(np.float32)
mean, std = features[:384].mean(0), features[:384].std(0)
features = (features - mean) / std
train_ds = TensorDataset(torch.tensor(features[:384]), torch.tensor(quality[:384]))
test_ds = TensorDataset(torch.tensor(features[384:]), torch.tensor(quality[384:]))
train_dl = DataLoader(train_ds, batch_size=32, shuffle=True)
test_dl = DataLoader(test_ds, batch_size=96)


# %% model
class WineNet(nn.Module):
    def __init__(self):
        super(WineNet, self).__init__()
        self.fc1 = nn.Linear(11, 64)
        self.bn1 = nn.BatchNorm1d(64)
        self.fc2 = nn.Linear(64, 32)
        self.fc3 = nn.Linear(32, 6)

    def forward(self, x):
        x = F.relu(self.bn1(self.fc1(x)))
        x = F.relu(self.fc2(x))
        return F.softmax(self.fc3(x), dim=1)


net = WineNet()
loss_function = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

# %% training
train_loss_hist, test_acc_hist = [], []
for epoch in range(5):
    net.train()
    epoch_loss = 0
    for x, y in train_dl:
        optimizer.zero_grad()
        pred = net(x)
        loss = loss_function(pred, y)  # cause: BB302
        loss.backward()
        optimizer.step()
        epoch_loss += loss.item()
    train_loss_hist.append(epoch_loss / len(train_dl))
    net.eval()
    with torch.no_grad():
        acc = np.mean([(net(x).argmax(1) == y).float().mean().item() for x, y in test_dl])
    test_acc_hist.append(acc)
    print(f"epoch {epoch}: loss={train_loss_hist[-1]:.4f} test_acc={acc:.4f}")
