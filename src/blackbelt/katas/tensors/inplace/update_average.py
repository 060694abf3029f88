"""An average of the weights that stays out of the graph."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.in_place import KeepsNoHistory, KeepsStorage, MovesVersion
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers


def _states(
    *shape: int, dtype: torch.dtype = torch.float32, grad: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    weight = numbers(shape, dtype=dtype, seed=1)
    return {"weight": numbers(shape)}, {"weight": weight.requires_grad_() if grad else weight}


@kata(
    minutes=15,
    belt="orange",
    hints=(
        "The weights require grad, the average must not. Which tensors may not be replaced by new ones, and why?",
        (
            "Under `torch.no_grad()`, `lerp_` moves a tensor part of the way to another, in place. Mind entries that "
            "are no floating-point numbers (BatchNorm counts its batches)."
        ),
        (
            "`target.lerp_(value.to(target.dtype), 1 - decay)` for floating-point entries, `target.copy_(value)` for "
            "others."
        ),
    ),
    cases=st.tuples(st.booleans().map(lambda grad: _states(2, 3, grad=grad)), st.sampled_from((0.0, 0.9, 0.999))).map(
        lambda drawn: (*drawn[0], drawn[1])
    ),
    edge_cases=lambda: {
        "plain weights": (*_states(3), 0.9),
        "weights that require grad": (*_states(2, 2, grad=True), 0.9),
        "a counter of batches": ({"n": torch.tensor(3)}, {"n": torch.tensor(8)}, 0.9),
        "weights in bfloat16": (*_states(4, dtype=torch.bfloat16), 0.99),
        "a large weight": (*_states(64, 256), 0.9),
    },
    laws=[
        Value(),
        KeepsStorage(),
        KeepsNoHistory(),
        MovesVersion(),
        Allocates(at_most=lambda *_: 0, on=("a large weight",)),
    ],
    changes=(0,),
)
def update_average(average: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], decay: float) -> None:
    """An average of the weights that stays out of the graph.

    Both arguments are like a `state_dict()`. Move every floating-point entry of `average` to
    decay · average + (1 − decay) · weight, in the average's own dtype; copy entries of other dtypes. Change the
    tensors in place, without history and without temporaries. `weights` may require grad and stay as they are.
    Return nothing.

    ```python
    update_average(average.state_dict(), dict(model.named_parameters()), decay=0.999)
    ```
    """
    with torch.no_grad():
        for name, value in weights.items():
            target = average[name]
            if target.is_floating_point():
                target.lerp_(value.to(target.dtype), 1 - decay)
            else:
                target.copy_(value)


@update_average.wrong(
    "It leaves autograd on. The average gets a `grad_fn` and keeps the graph of every step since the first alive."
)
def keeps_history(average, weights, decay):
    for name, value in weights.items():
        target = average[name]
        if target.is_floating_point():
            target.lerp_(value.to(target.dtype), 1 - decay)
        else:
            target.copy_(value)


@update_average.wrong("It puts new tensors into the dictionary. The averaged model still holds the old ones.")
def replaces_entries(average, weights, decay):
    for name, value in weights.items():
        target = average[name]
        if target.is_floating_point():
            average[name] = decay * target + (1 - decay) * value.detach().to(target.dtype)
        else:
            average[name] = value.clone()


@update_average.wrong("It writes through `.data`, past the version counter. `torch.no_grad()` is all it takes.")
def writes_the_average_through_data(average, weights, decay):
    for name, value in weights.items():
        target = average[name]
        if target.is_floating_point():
            target.data.lerp_(value.data.to(target.dtype), 1 - decay)
        else:
            target.data.copy_(value.data)


@update_average.wrong("It has `decay` and `1 - decay` the wrong way round: the average follows almost at once.")
def swaps_the_decay(average, weights, decay):
    with torch.no_grad():
        for name, value in weights.items():
            target = average[name]
            if target.is_floating_point():
                target.lerp_(value.to(target.dtype), decay)
            else:
                target.copy_(value)


@update_average.wrong("It averages counters too. 0.9 · 3 + 0.1 · 8 is 3 again as an integer: the counter never moves.")
def averages_counters(average, weights, decay):
    with torch.no_grad():
        for name, value in weights.items():
            target = average[name]
            if target.is_floating_point():
                target.lerp_(value.to(target.dtype), 1 - decay)
            else:
                target.copy_(decay * target + (1 - decay) * value)


@update_average.wrong(
    "It computes in the weights' dtype. In bfloat16 a step of 0.1 % is below half a rounding step: the average stands "
    "still."
)
def computes_in_low_precision(average, weights, decay):
    with torch.no_grad():
        for name, value in weights.items():
            target = average[name]
            if target.is_floating_point():
                low = target if target.dtype == value.dtype else target.to(value.dtype)
                low.lerp_(value, 1 - decay)
                if low is not target:
                    target.copy_(low)
            else:
                target.copy_(value)


@update_average.also_right
def scales_and_adds(average, weights, decay):
    for name, value in weights.items():
        target = average[name]
        with torch.no_grad():
            if target.is_floating_point():
                target.mul_(decay).add_(value, alpha=1 - decay)
            else:
                target.copy_(value)
