# Kaggle kernel: leaf disease, 2 folds
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset, Subset

class CFG:
    seed = 719
    epochs = 3
    train_bs = 16
    valid_bs = 4
    lr = 5e-3
    drop = 0.5
    n_folds = 2


def get_df(n=256):
    g = torch.Generator().manual_seed(CFG.seed)
    y = torch.randint(0, 5, (n,), generator=g)
    proto = torch.randn(5, 3, 6, 6, generator=g)
    return TensorDataset(proto[y] * 0.7 + torch.randn(n, 3, 6, 6, generator=g), y), y


class LeafModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(CFG.drop), nn.Linear(144, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(CFG.drop), nn.Linear(32, 5))

    def forward(self, x):
        return self.head(self.backbone(x))


def train_one_epoch(model, loss_fn, optimizer, loader):
    model.train()
    running = None
    for imgs, labels in loader:
        loss = loss_fn(model(imgs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running = loss.item() if running is None else running * .9 + loss.item() * .1
    return running


def valid_one_epoch(model, loss_fn, loader):
    loss_sum, n, preds, targets = 0, 0, [], []
    with torch.no_grad():  # cause: BB802
        for imgs, labels in loader:
            out = model(imgs)
            preds.append(out.argmax(1))
            targets.append(labels)
            loss_sum += loss_fn(out, labels).item() * labels.shape[0]
            n += labels.shape[0]
    acc = (torch.cat(preds) == torch.cat(targets)).float().mean().item()
    return loss_sum / n, acc


if __name__ == "__main__":
    torch.manual_seed(CFG.seed)
    ds, y = get_df()
    folds = torch.randperm(len(y)) % CFG.n_folds
    for fold in range(CFG.n_folds):
        trn = (folds != fold).nonzero().flatten().tolist()
        val = (folds == fold).nonzero().flatten().tolist()
        train_loader = DataLoader(Subset(ds, trn), CFG.train_bs, shuffle=True, drop_last=True)
        val_loader = DataLoader(Subset(ds, val), CFG.valid_bs, shuffle=False)
        model = LeafModel()
        optimizer = torch.optim.Adam(model.parameters(), lr=CFG.lr)
        for epoch in range(CFG.epochs):
            tl = train_one_epoch(model, nn.CrossEntropyLoss(), optimizer, train_loader)
            vl, va = valid_one_epoch(model, nn.CrossEntropyLoss(), val_loader)
            print(f"fold {fold} epoch {epoch} train {tl:.4f} valid {vl:.4f} acc {va:.4f}")
