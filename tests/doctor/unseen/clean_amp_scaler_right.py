"""fp16 autocast with a GradScaler used as documented: unscale_, clip, step, update; the first steps may be skipped while the scale settles."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

device = "cuda" if torch.cuda.is_available() else "cpu"


def data(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 10, generator=g)
    return TensorDataset(x, x[:, 0] * 3 - x[:, 1])


def main():
    torch.manual_seed(0)
    loader, (xt, yt) = DataLoader(data(384, 0), 32, shuffle=True), data(100, 1).tensors
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0)).to(device)
    opt = torch.optim.Adam(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler(device, init_scale=2.0 ** 16)
    sched = torch.optim.lr_scheduler.LinearLR(opt, 0.2, 1.0, total_iters=8)
    for epoch in range(3):
        model.train()
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            opt.zero_grad(set_to_none=True)
            with torch.autocast(device, dtype=torch.float16):
                out = model(x)
            loss = nn.functional.mse_loss(out.float(), y)
            scaler.scale(loss).backward()
            scaler.unscale_(opt)
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            before = scaler.get_scale()
            scaler.step(opt)
            scaler.update()
            if scaler.get_scale() >= before:
                sched.step()
        model.eval()
        with torch.no_grad(), torch.autocast(device, dtype=torch.float16):
            v = nn.functional.mse_loss(model(xt.to(device)).float(), yt.to(device))
        print(f"epoch {epoch} loss {loss.item():.4f} val {v.item():.4f} scale {scaler.get_scale():.0f}")


if __name__ == "__main__":
    main()
