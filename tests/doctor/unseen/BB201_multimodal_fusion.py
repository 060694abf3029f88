import json
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

CONFIG = json.loads("""{"modalities": {"audio": 10, "text": 14, "video": 8}, "dim": 16, "classes": 3,
                        "optim": {"lr": 0.003, "weight_decay": 0.01}, "epochs": 3, "batch_size": 24}""")


class MultimodalSet(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        basis = torch.Generator().manual_seed(5)
        self.target = torch.randint(0, CONFIG["classes"], (n,), generator=g)
        self.data = {}
        for name, d in CONFIG["modalities"].items():
            proto = torch.randn(CONFIG["classes"], d, generator=basis)
            self.data[name] = (proto[self.target] * 0.6 + torch.randn(n, d, generator=g)).tanh()

    def __len__(self):
        return len(self.target)

    def __getitem__(self, i):
        return {k: v[i] for k, v in self.data.items()}, self.target[i]


class FusionModel(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.encoders = {  # cause: BB201
            name: nn.Sequential(nn.Linear(d, cfg["dim"]), nn.LayerNorm(cfg["dim"]), nn.GELU(), nn.Linear(cfg["dim"], cfg["dim"]))
            for name, d in cfg["modalities"].items()
        }
        self.gate = nn.Linear(cfg["dim"] * len(self.encoders), len(self.encoders))
        self.classifier = nn.Linear(cfg["dim"], cfg["classes"])

    def forward(self, inputs):
        feats = [self.encoders[k](inputs[k]) for k in sorted(self.encoders)]
        alpha = self.gate(torch.cat(feats, -1)).softmax(-1)
        fused = sum(alpha[:, i:i + 1] * f for i, f in enumerate(feats))
        return self.classifier(fused)


class Trainer:
    def __init__(self, model, train_set, val_set, cfg):
        self.model, self.cfg = model, cfg
        self.train_loader = DataLoader(train_set, cfg["batch_size"], shuffle=True)
        self.val_loader = DataLoader(val_set, 64)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(model.parameters(), **cfg["optim"])

    def fit(self):
        for epoch in range(self.cfg["epochs"]):
            self.model.train()
            for inputs, target in self.train_loader:
                self.optimizer.zero_grad()
                loss = self.criterion(self.model(inputs), target)
                loss.backward()
                self.optimizer.step()
            print(json.dumps({"epoch": epoch, **self.evaluate()}))

    @torch.no_grad()
    def evaluate(self):
        self.model.eval()
        logits, ys = zip(*[(self.model(x), y) for x, y in self.val_loader])
        logits, ys = torch.cat(logits), torch.cat(ys)
        return {"val_loss": round(self.criterion(logits, ys).item(), 4), "val_acc": round((logits.argmax(1) == ys).float().mean().item(), 4)}


if __name__ == "__main__":
    torch.manual_seed(0)
    Trainer(FusionModel(CONFIG), MultimodalSet(360, 0), MultimodalSet(120, 1), CONFIG).fit()
