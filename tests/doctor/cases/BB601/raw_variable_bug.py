"""Wraps the model for the optimizer and for saving, and goes on calling the variable from before."""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn


class Tagger(nn.Module):
    def __init__(self, vocab=30, tags=5, dim=12):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.rnn = nn.LSTM(dim, dim, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * dim, tags)

    def forward(self, ids):
        return self.out(self.rnn(self.emb(ids))[0])


def main(rank, file):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(1 + rank)  # own data; weights are broadcast from rank 0
    model = Tagger()
    ddp_model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(ddp_model.parameters(), lr=1e-2)
    for it in range(6):
        ids = torch.randint(30, (4, 7))
        logits = model(ids)  # cause: BB601
        loss = F.cross_entropy(logits.flatten(0, 1), (ids % 5).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(rank, round(loss.item(), 5))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(main, args=(Path(tempfile.mkdtemp()) / "rdzv",), nprocs=2, start_method="fork")
