"""Hogwild: two processes train one model in shared memory, without locks; a class of its own starts them."""

import torch
import torch.multiprocessing as mp
from torch import nn


class Worker(mp.get_context("fork").Process):
    def __init__(self, model, seed, turns):
        super().__init__()
        self.model, self.seed, self.turns = model, seed, turns

    def run(self):
        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        for _ in range(5):
            x = torch.randn(8, 4)
            optimizer.zero_grad()
            (self.model(x).squeeze(1) - x[:, 0]).square().mean().backward()
            optimizer.step()
        self.turns.release()


if __name__ == "__main__":
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    model.share_memory()
    done = mp.get_context("fork").Semaphore(0)
    for seed in range(2):  # one after the other, so that the result can be compared
        worker = Worker(model, seed, done)
        worker.start()
        worker.join()
        print(worker.exitcode, done.acquire(timeout=5))
    print(sum(p.sum().item() for p in model.parameters()))
