"""A recommender's towers in bfloat16, trained with Adam: larger weights lose their updates, small ones move."""

import torch
from torch import nn

torch.manual_seed(8)
users, items = nn.Embedding(50, 24), nn.Embedding(80, 24)
for table in (users, items):
    nn.init.uniform_(table.weight, -0.3, 0.3)
tower = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 1))
model = nn.ModuleDict({"of_user": users, "of_item": items, "tower": tower})
model.bfloat16()  # cause: BB503
optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)

for step in range(8):
    user, item = torch.randint(50, (64,)), torch.randint(80, (64,))
    clicked = ((user + item) % 2).float()
    with torch.set_grad_enabled(True):
        score = model["tower"](torch.cat([model["of_user"](user), model["of_item"](item)], -1)).squeeze(-1)
    loss = nn.functional.binary_cross_entropy_with_logits(score.float(), clicked)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.4f}")
