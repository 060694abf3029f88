"""MAML on sinusoids with functional_call; inner gradients by autograd.grad, outer step by Adam."""
import torch
import torch.nn as nn
from torch.func import functional_call

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
meta_opt = torch.optim.Adam(net.parameters(), lr=5e-3)
INNER_LR, TASKS, SHOTS = 0.02, 4, 10


def sample_task():
    amp, phase = torch.rand(1) * 4 + 0.5, torch.rand(1) * 3.14

    def draw(n):
        x = torch.rand(n, 1) * 10 - 5
        return x, amp * torch.sin(x + phase)
    return draw


def adapt(params, x, y, create_graph=True):
    loss = nn.functional.mse_loss(functional_call(net, params, (x,)), y)
    grads = torch.autograd.grad(loss, tuple(params.values()), create_graph=create_graph)
    return {k: p - INNER_LR * g for (k, p), g in zip(params.items(), grads)}


for it in range(25):
    meta_opt.zero_grad()
    params = dict(net.named_parameters())
    outer = 0.0
    for _ in range(TASKS):
        draw = sample_task()
        fast = adapt(params, *draw(SHOTS))
        xq, yq = draw(SHOTS)
        outer = outer + nn.functional.mse_loss(functional_call(net, fast, (xq,)), yq) / TASKS
    outer.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 10.0)
    meta_opt.step()
    if it % 5 == 4:
        draw = sample_task()
        p0 = {k: v.detach().clone().requires_grad_() for k, v in net.named_parameters()}
        fast = adapt(p0, *draw(SHOTS), create_graph=False)
        xq, yq = draw(50)
        with torch.no_grad():
            after = nn.functional.mse_loss(functional_call(net, fast, (xq,)), yq)
        print(f"meta-iter {it + 1} outer {outer.item():.3f} adapted test {after.item():.3f}")
