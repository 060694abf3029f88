"""Parts without a gradient that are right: idle experts, a warm-up with a detached backbone, a spare head, a target."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.router = nn.Linear(6, 8), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head, self.spare = nn.Linear(8, 2), nn.Linear(8, 2)
        self.warming_up = True

    def forward(self, x):
        z = self.backbone(x)
        if self.warming_up:
            z = z.detach()
        weights = self.router(z).softmax(-1)
        chosen = weights.argmax(-1).clamp(max=1)  # the third expert is idle
        out = torch.stack([self.experts[int(e)](row) for e, row in zip(chosen, z)])
        out = out * weights.gather(1, chosen[:, None])
        return self.head(out), self.spare(out)


model = Mixture()
target_net = nn.Linear(8, 2)
target_net.load_state_dict(model.head.state_dict())
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
shown = []
for step in range(10):
    model.warming_up = step < 5
    x = torch.randn(16, 6)
    out, spare = model(x)
    shown.append(spare.detach().numpy().mean())
    with torch.no_grad():
        target = x[:, :2] + 0.9 * target_net(torch.tanh(model.backbone(x)))
    loss = F.smooth_l1_loss(out, target) + 0.01 * model.router.weight.pow(2).sum()
    confidence = torch.tensor(out.detach().softmax(-1).amax(-1).tolist())
    loss = loss * confidence.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        target_net.weight.lerp_(model.head.weight, 0.1)
    print(step, f"{loss.item():.4f} {shown[-1]:.3f}")
