"""Recompute instead of keeping."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn
from torch.utils import checkpoint as pytorch

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.requires_grad import RequiresGrad
from blackbelt.dojo.laws.same_gradients import SameGradients
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.reference.checkpointing._shared import (
    BuildsItself,
    Holds,
    RerunsFromTheInput,
    RerunsInGradMode,
    StepRuns,
    network,
    result_bytes,
)

WIDTH = 4
LARGE = ("tensors of one shape", "three layers", "an input without gradient", "one layer")


def _layers(depth: int, x: torch.Tensor) -> tuple[nn.Module, torch.Tensor]:
    return network(*[layer for _ in range(depth) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]), x


class Waves(nn.Module):
    """One function after the other, all of one shape: a tensor in the place of another raises nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin().exp().cos().tanh()


def _num_tanh(model: nn.Module) -> int:
    return sum(isinstance(module, (nn.Tanh, Waves)) for module in model.modules())


@kata(
    minutes=30,
    belt="blue",
    hints=(
        (
            "`saved_tensors_hooks(pack, unpack)`: the graph keeps what `pack` returns. What is small, and enough to "
            "find the tensor again later?"
        ),
        (
            "Let `pack` return a number: 0 for the first tensor saved, 1 for the next. In the first `unpack`, run "
            "`function(x)` again under hooks of its own, whose `pack` puts the tensors in a list. Then hand them out."
        ),
        (
            "Backward runs with grad mode off, and then nothing is saved: `with torch.enable_grad(): function(x)`. Put "
            "`tensor.detach()` in the list; autograd puts the history back itself. `if not recomputed:` runs it once."
        ),
    ),
    cases=st.tuples(st.integers(1, 3), st.integers(1, 3), st.booleans()).map(
        lambda drawn: _layers(drawn[0], numbers((drawn[1], WIDTH)).requires_grad_(drawn[2]))
    ),
    edge_cases=lambda: {
        "tensors of one shape": (Waves(), numbers((512, WIDTH)).requires_grad_()),
        "three layers": _layers(3, numbers((512, WIDTH)).requires_grad_()),
        "an input without gradient": _layers(2, numbers((512, WIDTH))),
        "one layer": _layers(1, numbers((512, WIDTH)).requires_grad_()),
    },
    laws=[
        Value(),
        RequiresGrad(),
        BuildsItself(on=LARGE),
        Holds(at_most=result_bytes(WIDTH), on=LARGE),
        RerunsInGradMode(on=LARGE),
        RerunsFromTheInput(on=LARGE),
        SameGradients(),
        StepRuns("aten::tanh", at_most=lambda model, _: 2 * _num_tanh(model)),
    ],
)
def checkpointed(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Recompute instead of keeping.

    Return `function(x)`, differentiable as ever. But nothing of what autograd saves on the way may stay in memory: when
    backward asks for the first of those tensors, run `function(x)` again, once, and hand out what that run saves.

    ```python
    y = checkpointed(model, x)  # in memory: x, y, the parameters
    y.sum().backward()          # runs model(x) a second time, then walks back
    ```

    `function` is deterministic and always saves the same tensors in the same order. Parameters get their gradients
    also where `x` needs none, and `torch.autograd.grad` works as well as `backward()`. Build it on
    `torch.autograd.graph.saved_tensors_hooks`, not on `torch.utils.checkpoint`.
    """
    numbered = itertools.count()
    recomputed: list[torch.Tensor] = []

    def unpack(number: int) -> torch.Tensor:
        if not recomputed:
            keep = torch.autograd.graph.saved_tensors_hooks(
                lambda t: recomputed.append(t.detach()), lambda nothing: nothing
            )
            with torch.enable_grad(), keep:
                function(x)
        return recomputed[number]

    with torch.autograd.graph.saved_tensors_hooks(lambda _: next(numbered), unpack):
        return function(x)


def _with_hooks(function: Any, x: torch.Tensor, rerun: Callable[[], Any], *, once: bool = True) -> torch.Tensor:
    """Run the function on hooks; ``rerun()`` is what happens when a tensor is missing."""
    numbered: Iterator[int] = itertools.count()
    recomputed: list[torch.Tensor] = []

    def unpack(number: int) -> torch.Tensor:
        if not recomputed or not once:
            recomputed.clear()
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t: recomputed.append(t.detach()), lambda nothing: nothing
            ):
                rerun()
        return recomputed[number]

    with torch.autograd.graph.saved_tensors_hooks(lambda _: next(numbered), unpack):
        return function(x)  # type: ignore[no-any-return]


@checkpointed.wrong(
    "What backward needs is still in memory, whoever holds it: the graph, a list, a copy. Let the graph hold a number, "
    "and run the function again."
)
def only_calls(function, x):
    return function(x)


@checkpointed.wrong(
    "It runs the function under `no_grad`, so nothing is kept, and nothing is recorded either: the result has no graph."
)
def without_graph(function, x):
    with torch.no_grad():
        return function(x)


@checkpointed.wrong(
    "It is an `autograd.Function` of `x` alone, as PyTorch's reentrant checkpoint is. The parameters are not among its "
    "inputs: `autograd.grad` does not reach them, and where `x` needs no gradient, neither does `backward()`."
)
def as_a_function(function, x):
    class Rerun(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            with torch.no_grad():
                return function(x)

        @staticmethod
        def backward(ctx, grad):
            x = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad():
                y = function(x)
            torch.autograd.backward(y, grad)
            return x.grad

    return Rerun.apply(x)


@checkpointed.wrong(
    "It runs the function again with grad mode as it finds it, and in backward that is off: no tensor is saved, and "
    "there is nothing to hand out."
)
def grad_mode_off(function, x):
    return _with_hooks(function, x, lambda: function(x))


@checkpointed.wrong(
    "It recomputes from `x.detach()`. Where no gradient for `x` is needed, the first layer saves fewer tensors than it "
    "did in forward, and every number after that means another tensor."
)
def from_a_detached_input(function, x):
    return _with_hooks(function, x, lambda: torch.enable_grad()(function)(x.detach()))


@checkpointed.wrong(
    "It hands out a tensor that is not the one saved in that place. Backward asks in an order of its own, and may "
    "leave one out: go by the number."
)
def last_one_first(function, x):
    recomputed = []

    def unpack(_):
        if not recomputed:
            keep = torch.autograd.graph.saved_tensors_hooks(lambda t: recomputed.append(t.detach()), lambda t: t)
            with torch.enable_grad(), keep:
                function(x)
        return recomputed.pop(0)

    with torch.autograd.graph.saved_tensors_hooks(lambda _: None, unpack):
        return function(x)


@checkpointed.wrong(
    "It runs the function again for every tensor that backward asks for. Once is enough: keep what the first "
    "recomputation saved."
)
def once_per_tensor(function, x):
    return _with_hooks(function, x, lambda: torch.enable_grad()(function)(x), once=False)


@checkpointed.wrong("It calls a checkpoint that somebody else wrote. Here you build it, on `saved_tensors_hooks`.")
def calls_pytorch(function, x):
    return pytorch.checkpoint(function, x, use_reentrant=False)


@checkpointed.also_right
def with_a_class(function, x):
    class Saved:
        def __init__(self, number):
            self.number = number

    tensors = {}
    count = []

    def pack(_):
        count.append(None)
        return Saved(len(count) - 1)

    def unpack(saved):
        if saved.number not in tensors:
            with (
                torch.enable_grad(),
                torch.autograd.graph.saved_tensors_hooks(
                    lambda tensor: tensors.setdefault(len(tensors), tensor.detach()), lambda tensor: tensor
                ),
            ):
                function(x)
        return tensors[saved.number]

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return function(x)


@checkpointed.also_right
def stops_early(function, x):
    class EnoughError(Exception):
        pass

    numbered, recomputed = itertools.count(), []
    saved = []

    def pack(_):
        saved.append(next(numbered))
        return saved[-1]

    def keep(tensor):
        recomputed.append(tensor.detach())
        if len(recomputed) == len(saved):
            raise EnoughError

    def unpack(number):
        if not recomputed:
            try:
                with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
                    function(x)
            except EnoughError:
                pass
        return recomputed[number]

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return function(x)
