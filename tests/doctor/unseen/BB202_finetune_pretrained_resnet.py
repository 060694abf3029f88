"""Fine-tune a small pretrained conv net with a transformers-like API (config, from_pretrained, model(..., labels))."""
import os
import tempfile
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class ConvConfig:
    width: int = 16
    num_labels: int = 10
    hidden_dropout: float = 0.1


class ConvEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        w = config.width
        self.stem = nn.Sequential(nn.Conv2d(1, w, 3, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(w, w, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU(),
                                   nn.Conv2d(w, w, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU())

    def forward(self, pixel_values):
        return self.stage(self.stem(pixel_values)).flatten(1)


class ConvForImageClassification(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.encoder = ConvEncoder(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.classifier = nn.Linear(config.width * 4, config.num_labels)

    def forward(self, pixel_values, labels=None):
        logits = self.classifier(self.dropout(self.encoder(pixel_values)))
        loss = nn.functional.cross_entropy(logits, labels) if labels is not None else None
        return {"loss": loss, "logits": logits}

    @classmethod
    def from_pretrained(cls, path, num_labels):
        state = torch.load(path)
        model = cls(ConvConfig(num_labels=num_labels))
        model.encoder.load_state_dict(state)
        model.eval()  # cause: BB202
        return model


@dataclass
class TrainingArguments:
    learning_rate: float = 2e-2
    max_steps: int = 50
    batch_size: int = 16
    logging_steps: int = 25
    log_history: list = field(default_factory=list)


def scans(n, seed, k=4):
    proto = torch.randn(k, 1, 8, 8, generator=torch.Generator().manual_seed(31))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, k, (n,), generator=g)
    return 40 + 12 * (0.6 * proto[y] + torch.randn(n, 1, 8, 8, generator=g)), y


def main():
    torch.manual_seed(0)
    args = TrainingArguments()
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "pytorch_model.bin")
        torch.save(ConvEncoder(ConvConfig()).state_dict(), path)  # stands for the hub
        model = ConvForImageClassification.from_pretrained(path, num_labels=4)
    x, y = scans(320, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=0.9)
    for step in range(args.max_steps):
        sel = torch.randint(0, len(x), (args.batch_size,))
        loss = model(x[sel], y[sel])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % args.logging_steps == 0:
            args.log_history.append({"step": step + 1, "loss": round(loss.item(), 4)})
    model.eval()
    xt, yt = scans(160, 1)
    with torch.no_grad():
        acc = (model(xt)["logits"].argmax(-1) == yt).float().mean().item()
    print(args.log_history, "test acc", round(acc, 3))


if __name__ == "__main__":
    main()
