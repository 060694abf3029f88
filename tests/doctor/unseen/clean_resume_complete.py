"""Checkpoint and resume of everything: model, optimizer, scheduler, generator state, epoch, best score (deep-copied)."""
import copy
import os
import tempfile
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=1e-2, total_steps=40)
    return model, opt, sched


def dataset(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=g)
    return TensorDataset(x, x[:, 0].abs() + x[:, 1])


def run(path, stop_after=None, epochs=4):
    model, opt, sched = build()
    gen = torch.Generator().manual_seed(123)
    start, best, best_state = 0, float("inf"), None
    if os.path.exists(path):
        ck = torch.load(path, weights_only=False)
        model.load_state_dict(ck["model"])
        opt.load_state_dict(ck["opt"])
        sched.load_state_dict(ck["sched"])
        gen.set_state(ck["gen"])
        torch.set_rng_state(ck["rng"])
        start, best, best_state = ck["epoch"], ck["best"], ck["best_state"]
    loader = DataLoader(dataset(320, 0), 32, shuffle=True, generator=gen)
    xv, yv = dataset(100, 1).tensors
    for epoch in range(start, epochs):
        model.train()
        for x, y in loader:
            loss = nn.functional.mse_loss(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
        model.eval()
        with torch.no_grad():
            v = nn.functional.mse_loss(model(xv), yv).item()
        if v < best:
            best, best_state = v, copy.deepcopy(model.state_dict())
        print(f"epoch {epoch} train {loss.item():.4f} val {v:.4f} lr {opt.param_groups[0]['lr']:.5f}")
        torch.save({"model": model.state_dict(), "opt": opt.state_dict(), "sched": sched.state_dict(), "gen": gen.get_state(),
                    "rng": torch.get_rng_state(), "epoch": epoch + 1, "best": best, "best_state": best_state}, path)
        if stop_after == epoch + 1:
            return
    model.load_state_dict(best_state)
    print("best", best)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as d:
        run(os.path.join(d, "ck.pt"), stop_after=2)
        run(os.path.join(d, "ck.pt"))
