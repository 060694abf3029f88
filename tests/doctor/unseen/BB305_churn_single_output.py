"""Customer churn baseline."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset


class ChurnDataset(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        self.num = torch.randn(n, 6, generator=g)
        self.cat = torch.randint(0, 5, (n, 2), generator=g)
        score = self.num[:, 0] - self.num[:, 1] + (self.cat[:, 0] == 2).float() * 2 - 0.5
        self.label = (score > 0).float()

    def __len__(self):
        return len(self.label)

    def __getitem__(self, idx):
        return self.num[idx], self.cat[idx], self.label[idx]


class ChurnNet(nn.Module):
    def __init__(self, emb=4):
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(5, emb) for _ in range(2)])
        self.fc = nn.Sequential(nn.Linear(6 + 2 * emb, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, num, cat):
        e = [emb(cat[:, i]) for i, emb in enumerate(self.embeddings)]
        return self.fc(torch.cat([num] + e, dim=1))


def fit(model, train_loader, valid_loader, epochs, lr):
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    log = []
    for epoch in range(epochs):
        model.train()
        train_loss = 0.0
        for num, cat, label in train_loader:
            optimizer.zero_grad()
            output = model(num, cat)
            loss = criterion(output, label.unsqueeze(1))  # cause: BB305
            loss.backward()
            optimizer.step()
            train_loss += loss.item()
        model.eval()
        correct = 0
        with torch.no_grad():
            for num, cat, label in valid_loader:
                correct += ((model(num, cat).squeeze(1) > 0).float() == label).sum().item()
        log.append((train_loss / len(train_loader), correct / len(valid_loader.dataset)))
        print("epoch {:d}  train_loss {:.4f}  valid_acc {:.4f}".format(epoch + 1, *log[-1]))
    return log


if __name__ == "__main__":
    torch.manual_seed(7)
    tr = DataLoader(ChurnDataset(320, 0), batch_size=32, shuffle=True, drop_last=True)
    va = DataLoader(ChurnDataset(128, 1), batch_size=64)
    fit(ChurnNet(), tr, va, epochs=3, lr=1e-3)
