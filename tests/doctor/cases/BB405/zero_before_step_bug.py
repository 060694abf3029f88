"""A character model; a helper does what belongs to the optimizer."""

import torch
import torch.nn.functional as F
from torch import nn


class CharModel(nn.Module):
    def __init__(self, size=20):
        super().__init__()
        self.embedding = nn.Embedding(size, 8)
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.decoder = nn.Linear(16, size)

    def forward(self, ids):
        return self.decoder(self.lstm(self.embedding(ids))[0])


class Learner:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 4, 0.5)

    def learn(self, loss):
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.zero_grad()  # cause: BB405
        self.optimizer.step()


torch.manual_seed(1)
learner = Learner(CharModel())
for epoch in range(2):
    for _ in range(4):
        ids = (torch.arange(9) + torch.randint(20, (6, 1))) % 20
        logits = learner.model(ids[:, :-1])
        loss = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:])
        learner.learn(loss)
    learner.scheduler.step()
    print(epoch, f"{loss.item():.4f}")
