"""Per-pixel labels; a trainer that accumulates micro-batches, since the whole batch does not fit."""

import torch
from torch import nn


class Segmenter(nn.Module):
    def __init__(self, channels=8):
        super().__init__()
        self.pixels = nn.Sequential(nn.Linear(3, channels), nn.GELU(), nn.Linear(channels, channels), nn.GELU())
        self.classify = nn.Linear(channels, 4)

    def forward(self, x):
        return self.classify(self.pixels(x))


class Trainer:
    def __init__(self, model, micro_batches=32, amp_dtype=torch.float16):
        self.model, self.micro_batches, self.amp_dtype = model, micro_batches, amp_dtype
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def forward_backward(self, image, mask):
        with torch.autocast("cpu", dtype=self.amp_dtype):
            logits = self.model(image)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), mask.flatten(), weight=self.rare)
        loss = loss * self.coefficient / self.micro_batches
        loss.backward()  # cause: BB502
        return loss.item()

    rare = torch.tensor([0.5, 1.0, 1.0, 2.0])
    coefficient = 1e-3

    def step(self, batches):
        self.optimizer.zero_grad()
        total = sum(self.forward_backward(*batch) for batch in batches)
        self.optimizer.step()
        return total


torch.manual_seed(9)
trainer = Trainer(Segmenter())
for step in range(2):
    images = [torch.rand(1, 256, 3) for _ in range(trainer.micro_batches)]
    print(step, f"{trainer.step([(image, (image.sum(-1) * 1.3).long().clamp(max=3)) for image in images]):.4e}")
