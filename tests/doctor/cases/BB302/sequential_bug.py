"""Fine-tuning the head of a frozen backbone."""

import torch
from torch import nn

torch.manual_seed(1)
backbone = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 24), nn.GELU())
for p in backbone.parameters():
    p.requires_grad = False
head = nn.Sequential(
    nn.Linear(24, 16),
    nn.ReLU(),
    nn.Linear(16, 3),
    nn.Softmax(dim=-1),  # cause: BB302
)
model = nn.Sequential(backbone, head)
optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
x = torch.randn(90, 12)
y = x[:, :3].argmax(1)
for step in range(12):
    index = torch.randint(90, (30,))
    loss = criterion(model(x[index]), y[index])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    if step % 4 == 0:
        print(step, round(loss.item(), 4))
