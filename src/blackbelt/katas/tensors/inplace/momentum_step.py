"""An optimizer step that does not grow the graph."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.in_place import KeepsNoHistory, KeepsStorage, MovesVersion
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.tensors.inplace._shared import leaf


def _weights(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [leaf(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def _plain(*shapes: tuple[int, ...], seed: int = 10) -> list[torch.Tensor]:
    return [numbers(shape, seed=seed + i) for i, shape in enumerate(shapes)]


@kata(
    minutes=15,
    belt="orange",
    hints=(
        "A weight is a leaf that requires grad. Where may it be changed in place, and what must autograd not see?",
        (
            "Everything in the step happens under `torch.no_grad()`: also the velocity, since the gradients may "
            "require grad (`create_graph=True`)."
        ),
        "`velocity.mul_(momentum).add_(gradient)`, then `weight.sub_(velocity, alpha=rate)`: no new tensor at all.",
    ),
    cases=st.tuples(
        st.just([(2,), (2, 3)]).map(lambda s: _weights(*s)),
        st.integers(0, 99).map(lambda seed: _plain((2,), (2, 3), seed=seed)),
        st.integers(100, 199).map(lambda seed: _plain((2,), (2, 3), seed=seed)),
        st.sampled_from((0.1, 1.0)),
        st.sampled_from((0.0, 0.9)),
    ),
    edge_cases=lambda: {
        "two weights": (_weights((3,), (2, 2)), _plain((3,), (2, 2)), _plain((3,), (2, 2), seed=20), 0.1, 0.9),
        "no momentum": (_weights((3,)), _plain((3,)), _plain((3,), seed=20), 0.5, 0.0),
        "gradients with a graph": (_weights((3,)), _weights((3,)), _plain((3,), seed=20), 0.1, 0.9),
        "a large weight": (_weights((64, 256)), _plain((64, 256)), _plain((64, 256), seed=20), 0.1, 0.9),
    },
    laws=[
        Value(),
        KeepsStorage(arguments=(0, 2)),
        KeepsNoHistory(arguments=(0, 2)),
        MovesVersion(arguments=(0, 2)),
        Allocates(at_most=lambda *_: 0, on=("a large weight",)),
    ],
    changes=(0, 2),
)
def momentum_step(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    velocities: list[torch.Tensor],
    rate: float,
    momentum: float,
) -> None:
    """An optimizer step that does not grow the graph.

    For every weight: velocity = momentum · velocity + gradient, then weight = weight − rate · velocity. Change
    weights and velocities in place: the same tensors, no `grad_fn`, no temporary, and a version counter that moves, so
    that a backward that still needs the old weights can refuse. The weights are leaves that require grad. Return
    nothing.

    ```python
    momentum_step(list(model.parameters()), gradients, velocities, rate=0.1, momentum=0.9)
    ```
    """
    with torch.no_grad():
        for weight, gradient, velocity in zip(weights, gradients, velocities):
            velocity.mul_(momentum).add_(gradient)
            weight.sub_(velocity, alpha=rate)


@momentum_step.wrong("It binds names. `weight = weight - …` makes a new tensor and leaves the model's own as it was.")
def binds_names(weights, gradients, velocities, rate, momentum):
    for weight, gradient, velocity in zip(weights, gradients, velocities):
        velocity = momentum * velocity + gradient  # noqa: PLW2901
        weight = weight - rate * velocity  # noqa: PLW2901


@momentum_step.wrong("It puts new tensors into the lists. The model still holds the old ones, and trains no more.")
def replaces_tensors(weights, gradients, velocities, rate, momentum):
    with torch.no_grad():
        for i, gradient in enumerate(gradients):
            velocities[i] = momentum * velocities[i] + gradient
            weights[i] = (weights[i] - rate * velocities[i]).requires_grad_()


@momentum_step.wrong(
    "It updates through `.data`. The version stays, so a backward that needs the old weights runs on the new ones and "
    "says nothing. PyTorch 1.5 removed `.data` from its optimizers for this."
)
def updates_through_data(weights, gradients, velocities, rate, momentum):
    for weight, gradient, velocity in zip(weights, gradients, velocities):
        velocity.data.mul_(momentum).add_(gradient.data)
        weight.data.sub_(velocity.data, alpha=rate)


@momentum_step.wrong("It leaves autograd on and changes a leaf: PyTorch refuses. Use `torch.no_grad()`.")
def autograd_left_on(weights, gradients, velocities, rate, momentum):
    for weight, gradient, velocity in zip(weights, gradients, velocities):
        velocity.mul_(momentum).add_(gradient)
        weight -= rate * velocity  # noqa: PLW2901


@momentum_step.wrong(
    "It guards the weights and not the velocity. Where gradients carry a graph, the velocity keeps every step's graph "
    "alive."
)
def velocity_keeps_history(weights, gradients, velocities, rate, momentum):
    for weight, gradient, velocity in zip(weights, gradients, velocities):
        velocity.mul_(momentum).add_(gradient)
        with torch.no_grad():
            weight.sub_(velocity, alpha=rate)


@momentum_step.wrong(
    "It averages: velocity = m · velocity + (1 − m) · gradient. That is Adam's first moment, not momentum."
)
def averages_gradients(weights, gradients, velocities, rate, momentum):
    with torch.no_grad():
        for weight, gradient, velocity in zip(weights, gradients, velocities):
            velocity.mul_(momentum).add_(gradient, alpha=1 - momentum)
            weight.sub_(velocity, alpha=rate)


@momentum_step.wrong("It makes temporaries as large as the weight. `mul_`, `add_` and `alpha=` need none.")
def makes_temporaries(weights, gradients, velocities, rate, momentum):
    with torch.no_grad():
        for weight, gradient, velocity in zip(weights, gradients, velocities):
            velocity.copy_(momentum * velocity + gradient)
            weight -= rate * velocity  # noqa: PLW2901


@momentum_step.also_right
def with_foreach(weights, gradients, velocities, rate, momentum):
    with torch.no_grad():
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, gradients)
        torch._foreach_add_(weights, velocities, alpha=-rate)
