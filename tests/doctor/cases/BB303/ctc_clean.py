"""Speech-like frames to characters with CTC."""

import torch
from torch import nn

torch.manual_seed(0)
T, N, C, S = 20, 4, 6, 5
frames = torch.randn(T, N, 8)
targets = torch.randint(1, C, (N, S))
encoder = nn.GRU(8, 16)
proj = nn.Linear(16, C)
ctc = nn.CTCLoss(blank=0)
opt = torch.optim.Adam([*encoder.parameters(), *proj.parameters()], lr=1e-2)
input_lengths, target_lengths = torch.full((N,), T), torch.full((N,), S)
for step in range(6):
    hidden, _ = encoder(frames)
    logits = proj(hidden)
    loss = ctc(logits.log_softmax(-1), targets, input_lengths, target_lengths)
    opt.zero_grad()
    loss.backward()
    opt.step()
    print(step, f"{loss.item():.4f}")
