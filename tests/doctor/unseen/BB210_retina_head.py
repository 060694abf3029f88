"""Dense anchor-free detector head (RetinaNet-like) on a toy single-object task."""
import math
import torch
from torch import nn
import torch.nn.functional as F


class RetinaHead(nn.Module):
    def __init__(self, in_ch=8, num_classes=3, stacked=3, prior=0.01):
        super().__init__()
        convs = []
        for _ in range(stacked):
            convs += [nn.Conv2d(in_ch, in_ch, 3, padding=1), nn.ReLU()]
        self.tower = nn.Sequential(*convs)
        self.cls_logits = nn.Conv2d(in_ch, num_classes, 3, padding=1)
        bias_value = -math.log((1 - prior) / prior)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, mean=0, std=0.1)
                nn.init.constant_(layer.bias, bias_value)  # cause: BB210

    def forward(self, feat):
        return self.cls_logits(self.tower(feat))


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = RetinaHead()

    def forward(self, x):
        return self.head(self.backbone(x))


def sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0):
    p = torch.sigmoid(logits)
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return (alpha_t * (1 - p_t) ** gamma * ce).sum() / targets.sum().clamp(min=1)


def make_batch(bs, g, size=8):
    cls = torch.randint(0, 3, (bs,), generator=g)
    pos = torch.randint(1, size - 1, (bs, 2), generator=g)
    img = torch.randn(bs, 3, size, size, generator=g) * 0.3
    tgt = torch.zeros(bs, 3, size, size)
    for b in range(bs):
        r, c = pos[b].tolist()
        img[b, cls[b], r - 1:r + 2, c - 1:c + 2] += 2.0
        tgt[b, cls[b], r, c] = 1.0
    return img, tgt


def main():
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    model = Detector()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-4)
    for it in range(60):
        model.train()
        img, tgt = make_batch(16, g)
        loss = sigmoid_focal_loss(model(img), tgt)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if it % 20 == 19:
            model.eval()
            with torch.no_grad():
                img, tgt = make_batch(64, torch.Generator().manual_seed(1))
                hit = model(img).flatten(1).argmax(1) == tgt.flatten(1).argmax(1)
            print(f"iter {it + 1} loss {loss.item():.4f} top1 loc {hit.float().mean():.3f}")


if __name__ == "__main__":
    main()
