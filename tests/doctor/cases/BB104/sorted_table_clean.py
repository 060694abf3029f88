"""Fine-tune the head of a small encoder on a table exported ORDER BY diagnosis; trainer with accumulation, dict batches."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Records(Dataset):
    def __init__(self, rows):
        self.rows = sorted(rows, key=lambda row: row["diagnosis"])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        row = self.rows[i]
        return {"features": torch.tensor(row["features"]), "label": row["diagnosis"]}


class FineTuner:
    def __init__(self, encoder, num_labels, lr=0.02, accumulation=2):
        for parameter in encoder.parameters():
            parameter.requires_grad = False
        self.encoder = encoder.eval()
        self.head = nn.Linear(12, num_labels)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=lr)
        self.accumulation = accumulation

    def train_dataloader(self, dataset):
        return DataLoader(dataset, batch_size=4, collate_fn=None, num_workers=0, shuffle=True)

    def fit(self, dataset, epochs):
        loader = self.train_dataloader(dataset)
        for epoch in range(epochs):
            for i, batch in enumerate(loader):
                with torch.no_grad():
                    hidden = self.encoder(batch["features"])
                loss = nn.functional.cross_entropy(self.head(hidden), batch["label"])
                (loss / self.accumulation).backward()
                if (i + 1) % self.accumulation == 0:
                    self.optimizer.step()
                    self.optimizer.zero_grad()
            print(f"[epoch {epoch}] last loss {loss.item():.4f}")


torch.manual_seed(4)
table = []
for features in torch.randn(40, 6):
    diagnosis = int(features[0] > 0) + int(features[1] > 0.3)
    table.append({"features": features.tolist(), "diagnosis": diagnosis})
FineTuner(nn.Sequential(nn.Linear(6, 12), nn.Tanh()), num_labels=3).fit(Records(table), epochs=2)
