"""A student learns the distribution of a teacher over a vocabulary; float16 autocast."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--temperature", type=float, default=2.0)
parser.add_argument("--vocab", type=int, default=400)
parser.add_argument("--steps", type=int, default=8)
args = parser.parse_args([])


class LanguageModel(nn.Module):
    def __init__(self, vocab, dim):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.out = nn.Linear(dim, vocab)

    def forward(self, ids):
        return self.out(torch.tanh(self.rnn(self.embed(ids))[0]))


def kd_loss(student, teacher, temperature):
    log_p = F.log_softmax(student / temperature, -1)
    q = F.softmax(teacher / temperature, -1)
    return (q * (q.clamp_min(1e-9).log() - log_p)).mean()


torch.manual_seed(5)
teacher, student = LanguageModel(args.vocab, 24).eval(), LanguageModel(args.vocab, 12)
optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
scaler = torch.amp.GradScaler("cpu")
for step in range(args.steps):
    ids = torch.randint(args.vocab, (8, 6))
    with torch.autocast("cpu", dtype=torch.float16):
        with torch.no_grad():
            target = teacher(ids)
        loss = kd_loss(student(ids), target, args.temperature)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    print(step, f"{loss.item():.3e}")
