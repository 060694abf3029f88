"""A trainer that accumulates; the condition of the context and that of the step count from different ends."""

import contextlib
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn


class Trainer:
    def __init__(self, model, accumulation_steps=3):
        self.model = nn.parallel.DistributedDataParallel(model)
        self.opt = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.accumulation_steps = accumulation_steps
        self.micro_step = 0

    def maybe_no_sync(self):
        if self.micro_step % self.accumulation_steps != 0:
            return self.model.no_sync()  # cause: BB603
        return contextlib.nullcontext()

    def training_step(self, ids):
        with self.maybe_no_sync():
            logits = self.model(ids[:, :-1])
            loss = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:])
            (loss / self.accumulation_steps).backward()
        self.micro_step += 1
        if self.micro_step % self.accumulation_steps == 0:
            self.opt.step()
            self.opt.zero_grad(set_to_none=True)
        return loss.item()


class TinyLM(nn.Module):
    def __init__(self, vocab=16, dim=16):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.mix = nn.GRU(dim, dim, batch_first=True)
        self.out = nn.Linear(dim, vocab)

    def forward(self, ids):
        return self.out(self.mix(self.emb(ids))[0])


def worker(rank, file):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    trainer = Trainer(TinyLM())
    losses = [trainer.training_step(torch.randint(16, (4, 9))) for _ in range(12)]
    print(rank, [round(loss, 4) for loss in losses[::3]])
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(worker, args=(Path(tempfile.mkdtemp()) / "init",), nprocs=2, start_method="fork")
