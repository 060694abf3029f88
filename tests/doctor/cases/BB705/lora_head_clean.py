"""LoRA fine-tuning of a frozen encoder with a new classification head; only the adapters go to disk."""

import math
import tempfile
from pathlib import Path

import torch
from torch import nn


class LoRALinear(nn.Module):
    def __init__(self, base, r=4, alpha=8):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.scale = alpha / r

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.lora_A.T @ self.lora_B.T)


class Classifier(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.fc1 = LoRALinear(nn.Linear(24, 48))
        self.fc2 = LoRALinear(nn.Linear(48, 24))
        self.head = nn.Linear(24, classes)

    def forward(self, x):
        return self.head(self.fc2(self.fc1(x).relu()).relu())


def lora_state_dict(model):
    return {name: tensor for name, tensor in model.state_dict().items() if "lora_" in name or name.startswith("head.")}


def main(out):
    torch.manual_seed(3)
    model = Classifier()
    trainable = [p for p in model.parameters() if p.requires_grad]
    print(f"training {sum(p.numel() for p in trainable)} of {sum(p.numel() for p in model.parameters())}")
    optimizer = torch.optim.AdamW(trainable, lr=1e-3)
    for step in range(10):
        x = torch.randn(32, 24)
        loss = nn.functional.cross_entropy(model(x), x[:, :4].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")
    torch.save(lora_state_dict(model), out / "adapter.pt")


main(Path(tempfile.mkdtemp()))
