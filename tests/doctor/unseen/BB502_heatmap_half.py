"""Keypoint heatmap regression under fp16 autocast."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

SIZE, JOINTS = 24, 4
amp_dtype = torch.float16
HEAT_WEIGHT = 1e-3  # relative to the box losses of the full model


class Pose(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        self.kp = torch.randint(4, SIZE - 4, (n, JOINTS, 2), generator=g)
        yy, xx = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
        d = (yy - self.kp[..., 0, None, None]) ** 2 + (xx - self.kp[..., 1, None, None]) ** 2
        self.heat = torch.exp(-d / 4.0)
        self.img = torch.exp(-d / 4.0) + 0.1 * torch.randn(n, JOINTS, SIZE, SIZE, generator=g)

    def __len__(self):
        return len(self.kp)

    def __getitem__(self, i):
        return self.img[i], self.heat[i]


class PoseNet(nn.Module):
    def __init__(self, w=8):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(JOINTS, w, 3, padding=1), nn.ReLU(), nn.Conv2d(w, w, 3, padding=1), nn.ReLU())
        self.final = nn.Conv2d(w, JOINTS, 1)
        nn.init.normal_(self.final.weight, std=0.001)
        nn.init.zeros_(self.final.bias)

    def forward(self, x):
        return self.final(self.enc(x))


def pck(pred, heat):
    a, b = pred.flatten(2).argmax(-1), heat.flatten(2).argmax(-1)
    dy, dx = a // SIZE - b // SIZE, a % SIZE - b % SIZE
    return ((dy.abs() <= 1) & (dx.abs() <= 1)).float().mean().item()


def main():
    torch.manual_seed(0)
    loader, val_loader = DataLoader(Pose(64, 0), batch_size=32, shuffle=True), DataLoader(Pose(16, 1), batch_size=16)
    model = PoseNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    mse = nn.MSELoss()
    for epoch in range(6):
        model.train()
        losses = []
        for img, heat in loader:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=amp_dtype):
                out = model(img)
                loss = HEAT_WEIGHT * mse(out.float(), heat)
            loss.backward()  # cause: BB502
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad(), torch.autocast("cpu", dtype=amp_dtype):
            score = sum(pck(model(i), h) for i, h in val_loader) / len(val_loader)
        print(f"epoch {epoch} loss {sum(losses) / len(losses):.3e} PCK {score:.3f}")


if __name__ == "__main__":
    main()
