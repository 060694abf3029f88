"""LBFGS with and without line search, SAM as a wrapper and by hand, Lookahead, and a manual line search."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
x = torch.randn(40, 5)
y = (x @ torch.tensor([1.0, -1.0, 2.0, 0.0, 0.5])).unsqueeze(1)


class SAM(torch.optim.Optimizer):
    def __init__(self, params, base, rho=0.05, **kwargs):
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base = base(self.param_groups, **kwargs)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        for p in (p for g in self.param_groups for p in g["params"]):
            self.state[p]["moved"] = 0.05 * p.grad / norm
            p.add_(self.state[p]["moved"])
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure):
        closure = torch.enable_grad()(closure)
        self.first_step()
        closure()
        for p in (p for g in self.param_groups for p in g["params"]):
            p.sub_(self.state[p]["moved"])
        self.base.step()


class Lookahead(torch.optim.Optimizer):
    def __init__(self, inner, k=3):
        super().__init__(inner.param_groups, {"lr": 1e-2})
        self.inner, self.k, self.count = inner, k, 0
        self.slow = [p.detach().clone() for g in inner.param_groups for p in g["params"]]

    def step(self, closure=None):
        self.inner.step()
        self.count += 1
        if self.count % self.k == 0:
            with torch.no_grad():
                for slow, p in zip(self.slow, [p for g in self.inner.param_groups for p in g["params"]]):
                    slow.lerp_(p, 0.5)
                    p.copy_(slow)


def run(make, steps, with_closure):
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = make(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        loss = closure() if with_closure != "only" else None
        result = optimizer.step(closure) if with_closure else optimizer.step()
        loss = result if loss is None else loss
    print(f"{loss.item():.5f}")


run(lambda p: torch.optim.LBFGS(p, max_iter=5), 5, "only")
run(lambda p: torch.optim.LBFGS(p, line_search_fn="strong_wolfe"), 4, "only")
run(lambda p: SAM(p, torch.optim.SGD, lr=0.1), 6, True)
run(lambda p: Lookahead(torch.optim.Adam(p, lr=1e-2)), 6, False)
