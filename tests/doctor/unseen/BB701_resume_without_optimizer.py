"""Preemptible job: train, get killed, resume from the last checkpoint."""
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(12, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, x):
        return self.fc(x).squeeze(-1)


class Job:
    def __init__(self, workdir, total_steps=60, save_every=10):
        self.path = os.path.join(workdir, "last.pt")
        self.total_steps, self.save_every = total_steps, save_every
        self.model = MLP()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-2, betas=(0.9, 0.99))
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, total_steps)
        self.start = 0

    def save(self, step):
        torch.save({"step": step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                    "scheduler": self.scheduler.state_dict()}, self.path)

    def maybe_resume(self):
        if os.path.exists(self.path):
            ckpt = torch.load(self.path)  # cause: BB701
            self.model.load_state_dict(ckpt["model"])
            self.start = ckpt["step"]
            print(f"resumed from step {self.start}")

    def data(self, step, n=64):
        g = torch.Generator().manual_seed(step)
        x = torch.randn(n, 12, generator=g)
        return x, torch.sin(x[:, 0] * 2) + x[:, 1] + 0.5 * torch.randn(n, generator=g)

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        x, y = self.data(10_000, 500)
        return F.mse_loss(self.model(x), y).item()

    def train(self, stop_at=None):
        self.model.train()
        for step in range(self.start, self.total_steps):
            x, y = self.data(step)
            loss = F.mse_loss(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            if (step + 1) % 10 == 0:
                print(f"step {step + 1} loss {loss.item():.4f} lr {self.optimizer.param_groups[0]['lr']:.5f}")
            if (step + 1) % self.save_every == 0:
                self.save(step + 1)
            if stop_at is not None and step + 1 == stop_at:
                return  # preempted


def main():
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as workdir:
        Job(workdir).train(stop_at=40)
        job = Job(workdir)
        job.maybe_resume()
        job.train()
        print(f"final val {job.validate():.4f}")


if __name__ == "__main__":
    main()
