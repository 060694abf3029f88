"""A sender and a receiver over a noisy channel; a penalty on the signal's power trains the sender as well."""

import torch
from torch import nn


class Channel(nn.Module):
    def __init__(self, symbols=6, width=3):
        super().__init__()
        self.sender = nn.Sequential(nn.Embedding(symbols, 16), nn.Tanh(), nn.Linear(16, width))
        self.log_noise = nn.Parameter(torch.full((width,), -1.0))
        self.receiver = nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, symbols))

    def transmit(self, signal):
        sigma = self.log_noise.exp().expand_as(signal)
        return signal + sigma * torch.randn_like(signal)

    def forward(self, symbol):
        signal = self.sender(symbol)
        return self.receiver(self.transmit(signal)), signal


torch.manual_seed(5)
net = Channel()
opt = torch.optim.RMSprop(net.parameters(), lr=3e-3)
for it in range(12):
    sent = torch.randint(6, (32,))
    received, signal = net(sent)
    power = signal.square().sum(-1).mean() - net.log_noise.sum()
    loss = nn.functional.cross_entropy(received, sent) + 0.05 * power
    opt.zero_grad()
    loss.backward()
    opt.step()
    if it % 4 == 3:
        print(it, round(loss.item(), 4), round(power.item(), 4))
