"""Transfer-learning style train_model() that keeps the best epoch."""
import time

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


def split(n, seed, noise):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 30, generator=g)
    y = (x[:, :3].sum(1) > 0).long()
    flip = torch.rand(n, generator=g) < noise
    return TensorDataset(x, torch.where(flip, 1 - y, y))


def train_model(model, criterion, optimizer, dataloaders, num_epochs=6):
    since = time.time()
    best_model_wts = None
    best_loss, best_epoch = float("inf"), -1
    for epoch in range(num_epochs):
        for phase in ["train", "val"]:
            if phase == "train":
                model.train()
            else:
                model.eval()
            running_loss, running_corrects, n = 0.0, 0, 0
            for inputs, labels in dataloaders[phase]:
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    loss = criterion(outputs, labels)
                    if phase == "train":
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)
                running_corrects += (outputs.argmax(1) == labels).sum().item()
                n += inputs.size(0)
            epoch_loss, epoch_acc = running_loss / n, running_corrects / n
            print("{} {} Loss: {:.4f} Acc: {:.4f}".format(epoch, phase, epoch_loss, epoch_acc))
            if phase == "val" and epoch_loss < best_loss:
                best_loss, best_epoch = epoch_loss, epoch
                best_model_wts = model.state_dict()  # cause: BB702
    print(f"Training complete in {time.time() - since:.0f}s, best val loss {best_loss:.4f} (epoch {best_epoch})")
    model.load_state_dict(best_model_wts)
    return model


def main():
    torch.manual_seed(0)
    dataloaders = {"train": DataLoader(split(96, 0, 0.25), 16, shuffle=True), "val": DataLoader(split(200, 1, 0.0), 100)}
    model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model = train_model(model, nn.CrossEntropyLoss(), optimizer, dataloaders)
    model.eval()
    with torch.no_grad():
        loss = sum(nn.functional.cross_entropy(model(x), y, reduction="sum").item() for x, y in dataloaders["val"]) / 200
    print(f"val loss of the returned model {loss:.4f}")


if __name__ == "__main__":
    main()
