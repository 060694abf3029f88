"""GRU language model; resumes where a checkpoint exists. The checkpoint format has changed since the last run."""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(5)
CKPT = Path(tempfile.mkdtemp()) / "gru.pt"


class CharGRU(nn.Module):
    def __init__(self, vocab=20, dim=16):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.out = nn.Linear(dim, vocab)

    def forward(self, ids):
        return self.out(self.gru(self.emb(ids))[0])


def load_checkpoint(model, optimizer):
    state = torch.load(CKPT)  # cause: BB701
    model.load_state_dict(state["net"])
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    return state.get("step", 0)


def save_checkpoint(model, optimizer, step):
    torch.save({"net": model.state_dict(), "optim": optimizer.state_dict(), "step": step}, CKPT)


def train(max_steps):
    model = CharGRU()
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
    step = load_checkpoint(model, opt) if CKPT.exists() else 0
    while step < max_steps:
        ids = torch.randint(20, (8, 12)).cumsum(1) % 20
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step += 1
        if step % 5 == 0:
            print(step, f"{loss:.3f}")
            save_checkpoint(model, opt, step)


train(10)
train(20)
