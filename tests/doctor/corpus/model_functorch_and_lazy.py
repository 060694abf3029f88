"""Gradients per sample and ensembles by functorch, lazy modules, sparse and complex parameters, nested tensors."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        h = F.relu(self.norm(self.a(x)))
        hidden = (h > 0).float() * -1e9
        return self.b(h * torch.softmax(h, -1) + 0 * hidden.clamp(min=-1)).reshape(-1, 3)


def loss_of_one(parameters, x, y):
    return F.cross_entropy(functional_call(model, parameters, (x.unsqueeze(0),)), y.unsqueeze(0))


def ensemble(parameters, buffers, x):
    skeleton = copy.deepcopy(model).to("meta")
    return vmap(lambda p, b, x: functional_call(skeleton, (p, b), (x,)), (0, 0, None))(parameters, buffers, x)


def ragged_mean():
    ragged = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)])
    return (ragged * 2).to_padded_tensor(0.0).mean().item()


model = Net()
members = [Net() for _ in range(3)]
parameters, buffers = stack_module_state(members)
lazy = nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2))
x, y = torch.randn(8, 5), torch.randint(3, (8,))
lazy(x)
words = nn.Embedding(20, 4, sparse=True)
spectrum = nn.Parameter(torch.randn(4, 4, dtype=torch.cfloat))
encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1).eval()
private = torch.optim.SGD(model.parameters(), lr=0.1)
together = torch.optim.Adam(list(parameters.values()), lr=1e-2)
sparse = torch.optim.SparseAdam(words.parameters(), lr=1e-2)
dense = torch.optim.Adam([*lazy.parameters(), spectrum], lr=1e-2)
for step in range(5):
    detached = {name: p.detach() for name, p in model.named_parameters()}
    per_sample = vmap(grad(loss_of_one), (None, 0, 0))(detached, x, y)
    for name, p in model.named_parameters():  # clipped one by one, as for differential privacy
        norms = per_sample[name].flatten(1).norm(dim=1).clamp(min=1.0)
        p.grad = (per_sample[name] / norms.view(-1, *[1] * p.dim())).mean(0)
    private.step()
    loss = F.cross_entropy(ensemble(parameters, buffers, x).flatten(0, 1), y.repeat(3))
    together.zero_grad()
    loss.backward()
    together.step()
    ids = torch.randint(1, 20, (6, 5)) * (torch.arange(5) < torch.tensor([5, 3, 2, 4, 1, 5])[:, None])
    sparse.zero_grad()
    words(ids).square().sum().backward()
    sparse.step()
    waves = (spectrum @ x[:, :4].t().to(spectrum.dtype)).abs().square().mean()
    dense.zero_grad()
    (F.cross_entropy(lazy(x), y % 2) + waves).backward()
    dense.step()
    _, tangent = jvp(lambda t: F.relu(t).sum(), (x,), (torch.ones_like(x),))
    with torch.no_grad():
        encoded = encoder(words(ids), src_key_padding_mask=ids == 0)
    print(step, f"{loss.item():.4f} {waves.item():.4f} {ragged_mean():.4f}")
