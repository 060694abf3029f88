"""Two tasks with learned uncertainties as weights (Kendall et al.); checkpoint kept in half precision."""

import io

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(17)


class MultiTask(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 32), nn.SiLU())
        self.depth = nn.Linear(32, 1)
        self.segment = nn.Linear(32, 3)

    def forward(self, x):
        h = self.trunk(x)
        return self.depth(h).squeeze(-1), self.segment(h)


net = MultiTask()
log_vars = nn.Parameter(torch.zeros(2))
optim = torch.optim.Adam([{"params": net.parameters()}, {"params": [log_vars], "lr": 1e-2}], lr=1e-3)
latest = io.BytesIO()
for step in range(1, 13):
    x = torch.randn(16, 8)
    depth, logits = net(x)
    losses = torch.stack([F.l1_loss(depth, x.norm(dim=1)), F.cross_entropy(logits, x[:, :3].argmax(1))])
    loss = (torch.exp(-log_vars) * losses + log_vars).sum()
    optim.zero_grad()
    loss.backward()
    optim.step()
    if step % 6 == 0:
        print(step, loss.item(), log_vars.tolist())
        latest = io.BytesIO()
        half = {k: v.half() for k, v in net.state_dict().items()}
        torch.save({"net": half, "log_vars": log_vars.data, "optim": optim.state_dict(), "step": step}, latest)
