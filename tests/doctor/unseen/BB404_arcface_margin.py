"""Speaker embeddings trained with an ArcFace / AAM-softmax criterion."""
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class AAMSoftmax(nn.Module):
    def __init__(self, n_class, dim, m=0.1, s=12.0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_class, dim))
        nn.init.xavier_normal_(self.weight, gain=1)
        self.m, self.s = m, s
        self.ce = nn.CrossEntropyLoss()

    def forward(self, x, label):
        cosine = F.linear(F.normalize(x), F.normalize(self.weight)).clamp(-1 + 1e-6, 1 - 1e-6)
        theta = torch.acos(cosine)
        onehot = F.one_hot(label, cosine.shape[1]).float()
        logits = torch.cos(theta + onehot * self.m) * self.s
        return self.ce(logits, label), (cosine.argmax(1) == label).float().mean()


class ECAPA(nn.Module):
    """not really"""

    def __init__(self, n_mels=10, dim=16):
        super().__init__()
        self.conv = nn.Conv1d(n_mels, 24, 3, padding=1)
        self.bn = nn.BatchNorm1d(24)
        self.fc = nn.Linear(48, dim)

    def forward(self, x):
        h = torch.relu(self.bn(self.conv(x)))
        return self.fc(torch.cat([h.mean(2), h.std(2)], 1))


def speakers(n, seed, k=30, T=12):
    voice = torch.randn(k, 10, 1, generator=torch.Generator().manual_seed(77))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, k, (n,), generator=g)
    return TensorDataset(voice[y] * 0.7 + torch.randn(n, 10, T, generator=g), y)


def main():
    torch.manual_seed(0)
    loader, test_loader = DataLoader(speakers(480, 0), 32, shuffle=True), DataLoader(speakers(120, 1), 120)
    speaker_encoder = ECAPA()
    speaker_loss = AAMSoftmax(n_class=30, dim=16)
    optim = torch.optim.Adam(speaker_encoder.parameters(), lr=3e-3, weight_decay=2e-5)  # cause: BB404
    scheduler = torch.optim.lr_scheduler.StepLR(optim, step_size=1, gamma=0.97)
    for epoch in range(3):
        speaker_encoder.train()
        tot, top1 = 0.0, 0.0
        for x, label in loader:
            optim.zero_grad()
            nloss, prec = speaker_loss(speaker_encoder(x), label)
            nloss.backward()
            optim.step()
            tot += nloss.item()
            top1 += prec.item()
        scheduler.step()
        speaker_encoder.eval()
        with torch.no_grad():
            for x, label in test_loader:
                _, acc = speaker_loss(speaker_encoder(x), label)
        print(f"{epoch} epoch, LOSS {tot / len(loader):.4f}, ACC {top1 / len(loader):.2%}, test {acc:.2%}")


if __name__ == "__main__":
    main()
