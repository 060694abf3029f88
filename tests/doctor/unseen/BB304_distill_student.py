"""Knowledge distillation: big MLP -> small MLP."""
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


def get_args():
    parser = argparse.ArgumentParser("kd")
    parser.add_argument("--temperature", type=float, default=3.0)
    parser.add_argument("--alpha", type=float, default=0.95)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--epochs", type=int, default=5)
    return parser.parse_args([])


def mlp(width, depth=2, d=14, k=5):
    mods = [nn.Linear(d, width), nn.ReLU()]
    for _ in range(depth - 1):
        mods += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*mods, nn.Linear(width, k))


class DistillationLoss(nn.Module):
    def __init__(self, T, alpha):
        super().__init__()
        self.T, self.alpha = T, alpha

    def forward(self, student_logits, teacher_logits, labels):
        hard = F.cross_entropy(student_logits, labels)
        p_s = F.softmax(student_logits / self.T, dim=1)
        p_t = F.softmax(teacher_logits / self.T, dim=1)
        soft = F.kl_div(p_s, p_t, reduction="batchmean") * self.T ** 2  # cause: BB304
        return self.alpha * soft + (1 - self.alpha) * hard


def dataset(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 14, generator=g)
    w1 = torch.randn(14, 5, generator=torch.Generator().manual_seed(5))
    return TensorDataset(x, (torch.tanh(x) @ w1).argmax(1))


def accuracy(net, loader):
    net.eval()
    with torch.no_grad():
        return sum((net(x).argmax(1) == y).sum().item() for x, y in loader) / len(loader.dataset)


def train_teacher(net, loader, epochs=2):
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(epochs):
        net.train()
        for x, y in loader:
            loss = F.cross_entropy(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.eval()


if __name__ == "__main__":
    args = get_args()
    torch.manual_seed(0)
    train_loader, val_loader = DataLoader(dataset(400, 0), 40, shuffle=True), DataLoader(dataset(150, 1), 150)
    teacher = train_teacher(mlp(96), train_loader)
    print("teacher acc", accuracy(teacher, val_loader))
    student = mlp(12, 1)
    criterion = DistillationLoss(args.temperature, args.alpha)
    optimizer = torch.optim.Adam(student.parameters(), lr=args.lr)
    for epoch in range(args.epochs):
        student.train()
        for x, y in train_loader:
            with torch.no_grad():
                t = teacher(x)
            loss = criterion(student(x), t, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch} kd loss {loss.item():.4f} student acc {accuracy(student, val_loader):.3f}")
