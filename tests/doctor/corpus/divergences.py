"""kl_div in both directions, of log_target, of Bernoullis, and virtual adversarial training with the entropy apart."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(6):
    x, y = torch.randn(12, 6), torch.randint(4, (12,))
    logits = model(x)
    noisy = model(x + 0.1 * torch.randn_like(x))
    target = F.softmax(logits.detach(), 1)
    forward = F.kl_div(F.log_softmax(noisy, 1), target, reduction="batchmean")
    reverse = F.kl_div((target + 1e-8).log(), F.softmax(noisy, 1), reduction="batchmean")
    logged = F.kl_div(noisy.log_softmax(1), logits.log_softmax(1), log_target=True, reduction="batchmean")
    one_hot = F.kl_div(noisy.log_softmax(1), F.one_hot(y, 4).float(), reduction="batchmean")
    bernoulli = F.kl_div(F.logsigmoid(noisy), torch.sigmoid(logits.detach()), reduction="batchmean")
    q = logits.detach().softmax(1)
    qlogq = (q * q.log()).sum(1).mean()
    qlogp = (q * noisy.log_softmax(1)).sum(1).mean()
    loss = F.cross_entropy(logits, y) + forward + reverse + logged + one_hot + bernoulli + (qlogq - qlogp)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
