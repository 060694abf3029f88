"""How far a step moves each parameter, without a copy of the model."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import nn

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.silent_failures.method._shared import fixed, inputs

WIDE = 256


def _case(optimizer="sgd", *, width=4, zero_bias=False, frozen=False, rows=3):
    model = fixed(nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)))
    first, _, last = model
    if zero_bias:
        nn.init.zeros_(last.bias)
    if frozen:
        first.requires_grad_(False)
        nn.init.zeros_(first.bias)
    optimizers = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=0.25),
        "adam": lambda: torch.optim.Adam(model.parameters(), lr=0.25),
        "decay": lambda: torch.optim.SGD(model.parameters(), lr=0.25, weight_decay=0.5),
    }
    data = inputs(rows, width)
    return model, optimizers[optimizer](), data, data.sum(1, keepdim=True)


def _budget(model, *_):
    """Bytes of the gradients, and half as much again: no room for a copy of the weights."""
    return 6 * sum(parameter.numel() for parameter in model.parameters())


@kata(
    minutes=20,
    belt="green",
    hints=(
        "You need the weights before the step and after it. Do you need all of them?",
        "A thousand entries of each parameter tell its size well enough. Slicing gives a view: it moves with the step.",
        (
            "Before: `p.detach().flatten()[::stride].clone()` for every parameter, stride `max(1, numel // 1024)`. "
            "Backward, step, the same slice again. Two zeros: a weight of norm 0 that moved is `inf`, else 0.0."
        ),
    ),
    cases=st.tuples(st.sampled_from(["sgd", "adam", "decay"]), st.integers(1, 4)).map(lambda c: _case(c[0], rows=c[1])),
    edge_cases=lambda: {
        "plain SGD": _case(),
        "weight decay": _case("decay"),
        "Adam": _case("adam"),
        "a bias of zeros": _case(zero_bias=True),
        "a frozen layer": _case(frozen=True),
        "a wide model": _case(width=WIDE),
    },
    laws=[Value(roundings=16), Allocates(at_most=_budget, on=("a wide model",))],
    changes=(0,),
)
def update_ratios(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, targets: torch.Tensor
) -> dict[str, float]:
    """How far a step moves each parameter, without a copy of the model.

    Take one step of `optimizer` on the mean squared error of `model(inputs)` and `targets`. Return for **every**
    parameter, by name, the norm of its update over the norm it had before the step. Norms are over a sample: the
    entries `parameter.flatten()[::stride]` with `stride = max(1, parameter.numel() // 1024)`. Where the sample was all
    zeros, the ratio is `math.inf` if it moved, and 0.0 if it did not. `.grad` is `None` at the start.

    A copy of the weights would cost as much memory as the model: keep the sample only.

    ```python
    update_ratios(model, optimizer, inputs, targets)  # {"0.weight": 0.0012, "0.bias": 0.0009, …}
    ```
    """

    def sample(parameter: torch.Tensor) -> torch.Tensor:
        return parameter.detach().flatten()[:: max(1, parameter.numel() // 1024)]

    before = {name: sample(parameter).clone() for name, parameter in model.named_parameters()}
    (model(inputs) - targets).square().mean().backward()
    optimizer.step()
    ratios = {}
    for name, parameter in model.named_parameters():
        moved, size = float((sample(parameter) - before[name]).norm()), float(before[name].norm())
        ratios[name] = moved / size if size else math.inf if moved else 0.0
    return ratios


def _sample(parameter):
    return parameter.detach().flatten()[:: max(1, parameter.numel() // 1024)]


def _step(model, optimizer, inputs, targets):
    (model(inputs) - targets).square().mean().backward()
    optimizer.step()


def _ratio(moved, size):
    moved, size = float(moved), float(size)
    return moved / size if size else math.inf if moved else 0.0


@update_ratios.wrong(
    "It copies every weight. The numbers are right, and the check needs as much memory as the model: where memory is "
    "full, nobody will run it. Clone the sample."
)
def copies_the_model(model, optimizer, inputs, targets):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    _step(model, optimizer, inputs, targets)
    return {
        name: _ratio((_sample(p) - _sample(before[name])).norm(), _sample(before[name]).norm())
        for name, p in model.named_parameters()
    }


@update_ratios.wrong(
    "It keeps slices, and a slice is a view: the step, which works in place, moves it along, and every difference is "
    "0. `clone()` it."
)
def keeps_views(model, optimizer, inputs, targets):
    before = {name: _sample(parameter) for name, parameter in model.named_parameters()}
    _step(model, optimizer, inputs, targets)
    return {
        name: _ratio((_sample(p) - before[name]).norm(), before[name].norm()) for name, p in model.named_parameters()
    }


@update_ratios.wrong(
    "It computes learning rate times gradient. That is the update of plain SGD and of nothing else: weight decay, "
    "momentum and Adam move weights otherwise. Measure what moved."
)
def rate_times_gradient(model, optimizer, inputs, targets):
    sizes = {name: _sample(parameter).norm() for name, parameter in model.named_parameters()}
    _step(model, optimizer, inputs, targets)
    rate = optimizer.param_groups[0]["lr"]
    return {
        name: 0.0 if p.grad is None else _ratio(rate * _sample(p.grad).norm(), sizes[name])
        for name, p in model.named_parameters()
    }


@update_ratios.wrong(
    "It divides by the norm after the step. A step that is far too large makes that large as well, and the ratio "
    "harmless: divide by the norm before."
)
def divides_by_the_new_norm(model, optimizer, inputs, targets):
    before = {name: _sample(parameter).clone() for name, parameter in model.named_parameters()}
    _step(model, optimizer, inputs, targets)
    return {name: _ratio((_sample(p) - before[name]).norm(), _sample(p).norm()) for name, p in model.named_parameters()}


@update_ratios.wrong(
    "It subtracts the norms. A weight can move far and keep its length; take the norm of the difference, not the "
    "difference of the norms."
)
def difference_of_norms(model, optimizer, inputs, targets):
    before = {name: _sample(parameter).norm() for name, parameter in model.named_parameters()}
    _step(model, optimizer, inputs, targets)
    return {
        name: _ratio((_sample(p).norm() - before[name]).abs(), before[name]) for name, p in model.named_parameters()
    }


@update_ratios.wrong(
    "It leaves out the parameters without a gradient. They are the ones you are looking for: their ratio is 0, and a "
    "missing line is easily overlooked."
)
def only_those_with_a_gradient(model, optimizer, inputs, targets):
    before = {name: _sample(parameter).clone() for name, parameter in model.named_parameters()}
    _step(model, optimizer, inputs, targets)
    return {
        name: _ratio((_sample(p) - before[name]).norm(), before[name].norm())
        for name, p in model.named_parameters()
        if p.grad is not None
    }


@update_ratios.wrong(
    "It divides by a norm of 0 as by any other: 0/0 is NaN for zeros that did not move, a frozen bias for example. NaN "
    "in a table hides whatever is compared with it."
)
def zero_by_zero(model, optimizer, inputs, targets):
    before = {name: _sample(parameter).clone() for name, parameter in model.named_parameters()}
    _step(model, optimizer, inputs, targets)
    return {
        name: float((_sample(p) - before[name]).norm() / before[name].norm()) for name, p in model.named_parameters()
    }


@update_ratios.wrong(
    "It says 0 wherever the weight was 0. A bias of zeros that moves has moved infinitely far, relative to itself: "
    "`inf` says so, and 0 says that it is stuck."
)
def zeros_are_stuck(model, optimizer, inputs, targets):
    before = {name: _sample(parameter).clone() for name, parameter in model.named_parameters()}
    _step(model, optimizer, inputs, targets)
    return {
        name: _ratio((_sample(p) - before[name]).norm(), before[name].norm()) if before[name].any() else 0.0
        for name, p in model.named_parameters()
    }


@update_ratios.also_right
def overwrites_the_sample(model, optimizer, inputs, targets):
    kept = [_sample(parameter).clone() for parameter in model.parameters()]
    sizes = [tensor.norm() for tensor in kept]
    torch.nn.functional.mse_loss(model(inputs), targets).backward()
    optimizer.step()
    moved = [tensor.sub_(_sample(parameter)).norm() for tensor, parameter in zip(kept, model.parameters())]
    return {name: _ratio(*pair) for (name, _), pair in zip(model.named_parameters(), zip(moved, sizes))}
