"""Calls without gradients in training mode that are meant: Monte Carlo, samples to look at, rollouts, pseudo labels."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(1)


def net(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, outputs))


@torch.no_grad()
def predict_with_spread(model, x_test, passes=6):
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    predictions = torch.stack([model(x_test) for _ in range(passes)])
    return predictions.mean(0), predictions.std(0)


model = net(5, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
x_test = torch.randn(20, 5)
for step in range(6):
    model.train()
    x = torch.randn(16, 5)
    loss = F.mse_loss(model(x), x[:, :1])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 2:
        print("spread", f"{predict_with_spread(model, x_test)[1].mean().item():.4f}")

generator, critic = net(3, 4), nn.Sequential(nn.Linear(4, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
opt_g = torch.optim.Adam(generator.parameters(), lr=1e-3)
opt_c = torch.optim.Adam(critic.parameters(), lr=1e-3)
fixed_noise = torch.randn(16, 3)
for step in range(5):
    fake = generator(torch.randn(16, 3))
    loss_c = F.softplus(-critic(torch.randn(16, 4))).mean() + F.softplus(critic(fake.detach())).mean()
    opt_c.zero_grad()
    loss_c.backward()
    opt_c.step()
    loss_g = F.softplus(-critic(fake)).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    with torch.no_grad():  # as in the DCGAN example
        print("samples", f"{generator(fixed_noise).std().item():.4f}")

policy = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
for episode in range(4):
    observations, actions, rewards = [], [], []
    state = torch.randn(1, 4)
    for _ in range(8):
        with torch.no_grad():
            action = torch.distributions.Categorical(logits=policy(state)).sample()
        observations.append(state)
        actions.append(action)
        rewards.append((action == (state[:, 0] > 0)).float())
        state = torch.randn(1, 4)
    log_p = torch.distributions.Categorical(logits=policy(torch.cat(observations))).log_prob(torch.cat(actions))
    loss = -(log_p * (torch.cat(rewards) - 0.5)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print("return", sum(r.item() for r in rewards))

student = net(5, 2)
optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
for step in range(5):
    weak, strong = torch.randn(16, 5), torch.randn(16, 5)
    with torch.no_grad():
        confidence, pseudo = student(weak).softmax(1).max(1)
    loss = (F.cross_entropy(student(strong), pseudo, reduction="none") * (confidence > 0.5)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print("pseudo", f"{loss.item():.4f}")
