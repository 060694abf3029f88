"""VAE on 8x8 'digits' (pytorch/examples style)."""
import argparse
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()
torch.manual_seed(args.seed)

def digits(n, seed):
    g = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, 8, (n,), generator=g)
    img = torch.full((n, 8, 8), 0.03)
    img[torch.arange(n), rows] = 0.95
    return TensorDataset(torch.bernoulli(img, generator=g).view(n, 64))

train_loader = DataLoader(digits(320, 0), batch_size=args.batch_size, shuffle=True)
test_loader = DataLoader(digits(96, 1), batch_size=args.batch_size)

class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 48)
        self.fc21 = nn.Linear(48, 6)
        self.fc22 = nn.Linear(48, 6)
        self.fc3 = nn.Linear(6, 48)
        self.fc4 = nn.Linear(48, 64)

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        return torch.normal(mu, std)  # cause: BB206

    def decode(self, z):
        return self.fc4(F.relu(self.fc3(z)))

    def forward(self, x):
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar

def loss_function(recon, x, mu, logvar):
    bce = F.binary_cross_entropy_with_logits(recon, x, reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return (bce + kld) / x.shape[0]

model = VAE()
optimizer = optim.Adam(model.parameters(), lr=1e-2)

def train(epoch):
    model.train()
    train_loss = 0
    for (data,) in train_loader:
        optimizer.zero_grad()
        recon, mu, logvar = model(data)
        loss = loss_function(recon, data, mu, logvar)
        loss.backward()
        train_loss += loss.item() * len(data)
        optimizer.step()
    print("====> Epoch: {} Average loss: {:.4f}".format(epoch, train_loss / len(train_loader.dataset)))

def test():
    model.eval()
    total = kl = 0
    with torch.no_grad():
        for (data,) in test_loader:
            recon, mu, logvar = model(data)
            total += loss_function(recon, data, mu, logvar).item() * len(data)
            kl += (-0.5 * (1 + logvar - mu.pow(2) - logvar.exp())).sum().item()
    print("====> Test loss: {:.4f} (kl {:.4f})".format(total / 96, kl / 96))

for epoch in range(1, args.epochs + 1):
    train(epoch)
    test()
