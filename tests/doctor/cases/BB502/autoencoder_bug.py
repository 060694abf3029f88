"""Two tasks on small images, mixed precision: reconstruct them, and tell left from right."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
images = torch.rand(64, 512) * 0.2
sides = (images[:, :256].sum(1) > images[:, 256:].sum(1)).float()
loader = DataLoader(TensorDataset(images, sides), batch_size=16, shuffle=True)


class AutoEncoder(nn.Module):
    def __init__(self, hidden=48, code=8):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(512, hidden), nn.ReLU(), nn.Linear(hidden, code))
        self.decode = nn.Sequential(nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, 512), nn.Sigmoid())
        self.side = nn.Linear(code, 1)

    def forward(self, x):
        code = self.encode(x)
        return self.decode(code), self.side(code).squeeze(1)


model = AutoEncoder()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(4):
    for x, side in loader:
        with torch.autocast("cpu", dtype=torch.float16):
            restored, logit = model(x)
            loss = 1e-3 * (restored - x).pow(2).mean() + 1e-4 * nn.functional.binary_cross_entropy_with_logits(
                logit, side
            )
        optimizer.zero_grad()
        loss.backward()  # cause: BB502
        optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.7f}")
