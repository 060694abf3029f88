"""A sequence tagger trained by a class of ours: accumulation, a warm-up, mixed precision where the device has it."""

import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self, vocab=40, dim=16, tags=5):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.out = nn.Linear(dim, tags)

    def forward(self, ids):
        return self.out(self.rnn(self.embed(ids))[0])


class Trainer:
    def __init__(self, model, lr=3e-3, accumulate=2, max_grad_norm=0.5):
        self.model, self.accumulate, self.max_grad_norm = model, accumulate, max_grad_norm
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.1, total_iters=4)
        self.amp = torch.amp.GradScaler("cpu", init_scale=2.0**14)
        self.count = 0

    def training_step(self, ids, tags):
        loss = nn.functional.cross_entropy(self.model(ids).flatten(0, 1), tags.flatten())
        self.amp.scale(loss / self.accumulate).backward()
        self.count += 1
        if self.count % self.accumulate == 0:
            self.update()
        return loss.item()

    def update(self):
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)  # cause: BB501
        self.amp.unscale_(self.optimizer)
        self.amp.step(self.optimizer)
        self.amp.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()


torch.manual_seed(1)
trainer = Trainer(Tagger())
for step in range(12):
    ids = torch.randint(40, (8, 6))
    value = trainer.training_step(ids, ids % 5)
    if step % 4 == 3:
        print(step, f"{value:.3f}", trainer.schedule.get_last_lr())
