"""Mixed precision with a gradient scaler, interrupted and resumed."""

import io

import torch
from torch import nn

torch.manual_seed(2)


def make():
    net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3))
    opt = torch.optim.RMSprop(net.parameters(), lr=1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=4)
    return net, opt, scaler


def run(net, opt, scaler, first, last):
    for it in range(first, last):
        x = torch.randn(24, 8)
        y = x[:, :3].argmax(dim=1)
        opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(net(x).float(), y)
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
    print(f"iteration {last}: loss {loss.item():.4f}, scale {scaler.get_scale():g}")


net, opt, scaler = make()
run(net, opt, scaler, 0, 10)
file = io.BytesIO()
torch.save({"net": net.state_dict(), "opt": opt.state_dict(), "scaler": scaler.state_dict(), "iteration": 10}, file)

file.seek(0)
net, opt, scaler = make()
ckpt = torch.load(file)  # cause: BB701
net.load_state_dict(ckpt["net"])
opt.load_state_dict(ckpt["opt"])
run(net, opt, scaler, ckpt["iteration"], 20)
