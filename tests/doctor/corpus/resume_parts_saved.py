"""Files that hold a part of what is trained, on purpose: a backbone, a generator, adapters and head in two files."""

import io

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(2)


def to_disk(state):
    torch.save(state, io.BytesIO())


# self-supervised pretraining: the projector is thrown away
backbone = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16))
projector = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))
optimizer = torch.optim.AdamW([*backbone.parameters(), *projector.parameters()], lr=1e-3)
for step in range(6):
    x = torch.randn(16, 10)
    a, b = (F.normalize(projector(backbone(x + 0.1 * torch.randn_like(x)))) for _ in range(2))
    loss = F.cross_entropy(a @ b.T / 0.2, torch.arange(16))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 3 == 2:
        to_disk(backbone.state_dict())

# a GAN: the generator is what is wanted
generator, critic = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), nn.Linear(2, 1)
g_opt = torch.optim.Adam(generator.parameters(), lr=1e-3)
d_opt = torch.optim.Adam(critic.parameters(), lr=1e-3)
for step in range(6):
    fake = generator(torch.randn(16, 4))
    d_loss = F.softplus(-critic(torch.randn(16, 2))).mean() + F.softplus(critic(fake.detach())).mean()
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()
    g_loss = F.softplus(-critic(fake)).mean()
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    to_disk({"generator": generator.state_dict(), "g_opt": g_opt.state_dict(), "step": step})


# adapters in one file, the head and the optimizer in others, as sharing them asks for
class Adapted(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(8, 16).requires_grad_(False)
        self.adapter_down, self.adapter_up = nn.Linear(16, 4), nn.Linear(4, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        h = self.base(x).relu()
        return self.head(h + self.adapter_up(self.adapter_down(h).relu()))


model = Adapted()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for epoch in range(3):
    x = torch.randn(16, 8)
    loss = F.cross_entropy(model(x), x[:, :3].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    to_disk({k: v for k, v in model.state_dict().items() if k.startswith("adapter")})
    to_disk(model.head.state_dict())
    to_disk({"optimizer": optimizer.state_dict(), "epoch": epoch})
print(loss.item())

# whole modules pickled, and averaged weights instead of the raw ones
wide = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
average = torch.optim.swa_utils.AveragedModel(wide, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
optimizer = torch.optim.SGD(wide.parameters(), lr=0.01, momentum=0.9)
for step in range(6):
    x = torch.randn(16, 4)
    optimizer.zero_grad()
    (wide(x).squeeze(1) - x.sum(1)).square().mean().backward()
    optimizer.step()
    average.update_parameters(wide)
to_disk({"model": wide, "optimizer": optimizer.state_dict()})
to_disk({"model": average.module.state_dict(), "optimizer": optimizer.state_dict()})
