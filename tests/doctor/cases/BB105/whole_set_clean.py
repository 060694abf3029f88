"""A module in the manner of Lightning, with its data loaders as methods, and a loop that calls them."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset


class Sequences(Dataset):
    def __init__(self, n, length=12, vocab=20):
        self.tokens = torch.randint(vocab, (n, length))
        self.labels = (self.tokens < vocab // 2).sum(1) > length // 2

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, i):
        return self.tokens[i], self.labels[i].long()


class LitClassifier(nn.Module):
    def __init__(self, dataset, val_fraction=0.25):
        super().__init__()
        self.dataset = dataset
        indices = torch.randperm(len(dataset)).tolist()
        cut = int(len(dataset) * val_fraction)
        self.val_set, self.train_set = Subset(dataset, indices[:cut]), Subset(dataset, indices[cut:])
        self.embedding = nn.EmbeddingBag(20, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))

    def train_dataloader(self):
        return DataLoader(self.train_set, batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, batch_size=8)

    def training_step(self, batch, batch_idx):
        tokens, labels = batch
        return F.cross_entropy(self(tokens), labels)

    def validation_step(self, batch, batch_idx):
        tokens, labels = batch
        return (self(tokens).argmax(1) == labels).float().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


def fit(module, max_epochs):
    optimizer = module.configure_optimizers()
    train_loader, val_loader = module.train_dataloader(), module.val_dataloader()
    for epoch in range(max_epochs):
        for i, batch in enumerate(train_loader):
            loss = module.training_step(batch, i)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        module.eval()
        with torch.no_grad():
            metric = torch.stack([module.validation_step(batch, i) for i, batch in enumerate(val_loader)]).mean()
        module.train()
        print(f"epoch {epoch}: val_acc={metric.item():.3f}")


torch.manual_seed(0)
fit(LitClassifier(Sequences(64)), max_epochs=3)
