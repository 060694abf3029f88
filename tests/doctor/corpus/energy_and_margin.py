"""nll_loss as a way to gather: cross entropy by hand with a z-loss, a margin on cosines, and policy gradients."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
body, out = nn.Linear(6, 16), nn.Linear(16, 5)
prototypes = nn.Parameter(torch.randn(5, 16))
optimizer = torch.optim.Adam([*body.parameters(), *out.parameters(), prototypes], lr=1e-3)
for step in range(6):
    x, y = torch.randn(15, 6), torch.randint(5, (15,))
    hidden = torch.tanh(body(x))
    logits = 3 * out(hidden)
    partition = logits.logsumexp(1)
    ce = F.nll_loss(logits, y) + partition.mean() + 1e-4 * partition.pow(2).mean()
    cosines = F.normalize(hidden, dim=1) @ F.normalize(prototypes, dim=1).T
    pull = F.nll_loss(cosines, y)
    policy = torch.log_softmax(logits, 1)
    action = torch.distributions.Categorical(logits=logits.detach()).sample()
    reward = (action == y).float()
    reinforce = (F.nll_loss(policy, action, reduction="none") * (reward - reward.mean())).mean()
    loss = ce + 0.1 * pull + reinforce
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{ce.item():.4f}")
