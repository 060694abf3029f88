"""Add a new 'defect' head on a frozen production backbone; the old 'category' head is served with the same backbone."""
import torch
import torch.nn as nn
import torch.nn.functional as F


def make_batch(n, g, shift=0.0):
    cat = torch.randint(0, 3, (n,), generator=g)
    defect = torch.randint(0, 2, (n,), generator=g)
    x = torch.randn(n, 3, 8, 8, generator=g) * 0.5
    x[torch.arange(n), cat] += 1.0
    x[:, :, 2:4, 2:4] += defect.view(-1, 1, 1, 1) * 1.5
    return x * (1 + shift) + shift * 3, cat, defect


class Backbone(nn.Module):
    def __init__(self, c=12):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, c, 3, 2, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(),
                                  nn.Conv2d(c, c, 3, 2, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU(), nn.Flatten())

    def forward(self, x):
        return self.body(x)


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.category = nn.Linear(48, 3)
        self.defect = nn.Linear(48, 2)


def fit_category(model, g, steps=25):
    params = list(model.backbone.parameters()) + list(model.category.parameters())
    opt = torch.optim.Adam(params, lr=5e-3)
    model.train()
    for _ in range(steps):
        x, cat, _ = make_batch(32, g)
        loss = F.cross_entropy(model.category(model.backbone(x)), cat)
        opt.zero_grad()
        loss.backward()
        opt.step()


def fit_defect(model, g, epochs=2, steps=12):
    model.backbone.requires_grad_(False)
    model.category.requires_grad_(False)
    opt = torch.optim.Adam(model.defect.parameters(), lr=5e-3)
    for epoch in range(epochs):
        model.train()  # cause: BB204
        for _ in range(steps):
            x, _, defect = make_batch(32, g, shift=0.8)
            loss = F.cross_entropy(model.defect(model.backbone(x)), defect)
            opt.zero_grad()
            loss.backward()
            opt.step()
        print(f"defect head epoch {epoch} loss {loss.item():.3f} | category acc {category_accuracy(model):.3f}")


@torch.no_grad()
def category_accuracy(model):
    model.eval()
    x, cat, _ = make_batch(300, torch.Generator().manual_seed(77))
    return (model.category(model.backbone(x)).argmax(1) == cat).float().mean().item()


if __name__ == "__main__":
    torch.manual_seed(0)
    gen = torch.Generator().manual_seed(1)
    net = Product()
    fit_category(net, gen)
    print("category acc before:", round(category_accuracy(net), 3))
    fit_defect(net, gen)
