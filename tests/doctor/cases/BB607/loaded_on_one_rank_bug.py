"""Fine-tuning with DistributedDataParallel; only rank 0 reads the checkpoint, the others have no access to it."""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP


def build():
    return nn.Sequential(nn.Linear(9, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 2))


def finetune(rank, world_size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world_size)
    torch.manual_seed(0)
    model = DDP(build())
    if rank == 0:
        model.module.load_state_dict(torch.load(os.path.join(folder, "pretrained.pt")))  # cause: BB607
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(100 + rank)
    for step in range(6):
        x = torch.randn(16, 9, generator=generator)
        loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{rank} {loss.item():.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    folder = tempfile.mkdtemp()
    torch.manual_seed(77)
    torch.save(build().state_dict(), os.path.join(folder, "pretrained.pt"))
    mp.start_processes(finetune, args=(2, folder), nprocs=2, start_method="fork")
