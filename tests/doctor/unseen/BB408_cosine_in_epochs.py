"""timm-like training script with cosine schedule stepped every update."""
import argparse
import logging

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

_logger = logging.getLogger("train")
logging.basicConfig(level=logging.INFO, format="%(message)s")

parser = argparse.ArgumentParser(description="PyTorch ImageNet Training")
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("-b", "--batch-size", type=int, default=16)
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--min-lr", type=float, default=1e-5)


class AverageMeter:
    def __init__(self):
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


def create_model(w=16, k=5):
    return nn.Sequential(nn.Conv2d(3, w, 3, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Conv2d(w, w, 3, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * w, k))


def create_dataset(n, seed, k=5):
    proto = torch.randn(k, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, k, (n,), generator=g)
    return TensorDataset(proto[y] * 0.4 + torch.randn(n, 3, 8, 8, generator=g), y)


def train_one_epoch(epoch, model, loader, optimizer, loss_fn, lr_scheduler):
    model.train()
    losses_m = AverageMeter()
    for batch_idx, (inp, target) in enumerate(loader):
        loss = loss_fn(model(inp), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lr_scheduler.step()
        losses_m.update(loss.item(), inp.size(0))
        if batch_idx % 8 == 0:
            _logger.info("Train: %d [%4d/%d]  Loss: %.3f (%.3f)  LR: %.3e", epoch, batch_idx, len(loader),
                         losses_m.val, losses_m.avg, optimizer.param_groups[0]["lr"])
    return losses_m.avg


def validate(model, loader):
    top1 = AverageMeter()
    model.eval()
    with torch.no_grad():
        for inp, target in loader:
            top1.update((model(inp).argmax(1) == target).float().mean().item() * 100, inp.size(0))
    return top1.avg


def main():
    args = parser.parse_args()
    torch.manual_seed(42)
    loader_train = DataLoader(create_dataset(240, 0), args.batch_size, shuffle=True, drop_last=True)
    loader_eval = DataLoader(create_dataset(100, 1), 50)
    model = create_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs, eta_min=args.min_lr)  # cause: BB408
    for epoch in range(args.epochs):
        train_one_epoch(epoch, model, loader_train, optimizer, nn.CrossEntropyLoss(label_smoothing=0.1), lr_scheduler)
        _logger.info("Test: epoch %d Acc@1: %.2f", epoch, validate(model, loader_eval))


if __name__ == "__main__":
    main()
