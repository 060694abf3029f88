"""Load weights of a (DataParallel-saved) pretrained backbone, then fine-tune."""
import os
import tempfile
from collections import OrderedDict

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(4, 16, 5, padding=2)
        self.conv2 = nn.Conv1d(16, 16, 5, padding=2)

    def forward(self, x):
        return torch.relu(self.conv2(torch.relu(self.conv1(x)))).amax(2)


class Classifier(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.backbone = Backbone()
        self.fc = nn.Linear(16, k)

    def forward(self, x):
        return self.fc(self.backbone(x))


def dna(n, seed, k):
    g = torch.Generator().manual_seed(seed)
    seq = torch.randint(0, 4, (n, 30), generator=g)
    motif = torch.randint(0, 4, (k, 6), generator=torch.Generator().manual_seed(1))
    y = torch.randint(0, k, (n,), generator=g)
    pos = torch.randint(0, 24, (n,), generator=g)
    for i in range(n):
        seq[i, pos[i]:pos[i] + 6] = motif[y[i]]
    return TensorDataset(nn.functional.one_hot(seq, 4).float().transpose(1, 2), y)


def fit(model, loader, epochs, lr):
    opt = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    for epoch in range(epochs):
        model.train()
        tot = 0.0
        for x, y in loader:
            loss = nn.functional.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            tot += loss.item()
        print(f"  epoch {epoch} loss {tot / len(loader):.4f}")


def pretrain(path):
    model = Classifier(6)
    print("pretraining")
    fit(model, DataLoader(dna(480, 0, 6), 32, shuffle=True), 3, 1e-2)
    wrapped = OrderedDict(("module." + k, v) for k, v in model.backbone.state_dict().items())  # as DataParallel saves it
    torch.save({"state_dict": wrapped}, path)


def load_pretrained(model, path):
    state = torch.load(path, map_location="cpu")["state_dict"]
    model.backbone.load_state_dict(state, strict=False)  # cause: BB703
    return model


def main():
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "backbone.pth")
        pretrain(path)
        model = load_pretrained(Classifier(3), path)
    print("fine-tuning")
    fit(model, DataLoader(dna(96, 5, 3), 16, shuffle=True), 2, 5e-3)
    model.eval()
    with torch.no_grad():
        x, y = dna(150, 6, 3).tensors
        print(f"test acc {(model(x).argmax(1) == y).float().mean():.3f}")


if __name__ == "__main__":
    main()
