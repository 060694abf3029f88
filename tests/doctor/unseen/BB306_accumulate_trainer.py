"""HF-like Trainer with gradient accumulation (SGD, to keep optimizer memory low)."""
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class TrainingArgs:
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 16
    learning_rate: float = 0.3
    momentum: float = 0.9
    num_train_epochs: int = 4
    logging_steps: int = 4


class TextClassifier(nn.Module):
    def __init__(self, vocab=40, dim=16, hidden=32, classes=4):
        super().__init__()
        self.emb = nn.EmbeddingBag(vocab, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, input_ids, labels=None):
        logits = self.mlp(self.emb(input_ids))
        loss = nn.functional.cross_entropy(logits, labels) if labels is not None else None
        return loss, logits


class Trainer:
    def __init__(self, model, args, train_dataset, eval_dataset):
        self.model, self.args = model, args
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=args.momentum)
        self.global_step = 0

    def training_step(self, batch):
        self.model.train()
        loss, _ = self.model(*batch)
        loss.backward()  # cause: BB306
        return loss.detach()

    def train(self):
        args = self.args
        loader = DataLoader(self.train_dataset, args.per_device_train_batch_size, shuffle=True, drop_last=True)
        tr_loss = 0.0
        for epoch in range(args.num_train_epochs):
            for step, batch in enumerate(loader):
                tr_loss += self.training_step(batch).item()
                if (step + 1) % args.gradient_accumulation_steps == 0:
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                    self.global_step += 1
                    if self.global_step % args.logging_steps == 0:
                        n = args.logging_steps * args.gradient_accumulation_steps
                        print({"step": self.global_step, "loss": round(tr_loss / n, 4), **self.evaluate()})
                        tr_loss = 0.0

    @torch.no_grad()
    def evaluate(self):
        self.model.eval()
        x, y = self.eval_dataset.tensors
        loss, logits = self.model(x, y)
        return {"eval_loss": round(loss.item(), 4), "eval_acc": round((logits.argmax(1) == y).float().mean().item(), 4)}


def topics(n, seed):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (n,), generator=g)
    x = torch.randint(0, 40, (n, 10), generator=g)
    own = torch.rand(n, 10, generator=g) < 0.4
    return TensorDataset(torch.where(own, y[:, None] * 10 + x % 10, x), y)


if __name__ == "__main__":
    torch.manual_seed(0)
    Trainer(TextClassifier(), TrainingArgs(), topics(256, 0), topics(128, 1)).train()
