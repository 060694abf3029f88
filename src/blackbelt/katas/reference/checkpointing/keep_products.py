"""Recompute the cheap, keep the dear."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.same_gradients import SameGradients
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.reference.checkpointing._shared import BuildsItself, Holds, LeavesNothing, StepRuns, network

WIDTH = 4
PRODUCTS = (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)


def _case(depth: int, rows: int) -> tuple[nn.Module, torch.Tensor]:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Tanh())]
    model = network(*layers)
    model.num_products = depth  # type: ignore[assignment]  # no tensor: a plain attribute
    return model, numbers((rows, WIDTH)).requires_grad_()


class OneTwice(nn.Module):
    """A layer, another, and the first once more: three products, the same from both ends."""

    num_products = 3

    def __init__(self) -> None:
        super().__init__()
        self.layers = network(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.layers
        return torch.stack([nn.functional.gelu(layer(x)).tanh() for layer in (one, other, one)]).sum(0)


@kata(
    minutes=45,
    belt="brown",
    hints=(
        "Hooks on saved tensors are above autograd and see tensors. What sees operators, and runs below it?",
        (
            "Two classes derived from `TorchDispatchMode`. In forward, one notes what every matrix product returns. In "
            "the recomputation, the other returns it, in the same order, instead of calling the operator."
        ),
        (
            "`with hooks, Keep(): function(x)`, and in `unpack` `with keep_hooks, torch.enable_grad(), Reuse(): "
            "function(x)`. Keep `output.detach()`: autograd writes a `grad_fn` into the output itself, and a list that "
            "the graph holds must not hold the graph."
        ),
    ),
    cases=st.builds(_case, st.integers(1, 3), st.integers(1, 3)),
    edge_cases=lambda: {
        "one layer": _case(1, 1024),
        "three layers": _case(3, 1024),
        "one layer twice": (OneTwice(), numbers((3, WIDTH)).requires_grad_()),
    },
    laws=[
        Value(),
        BuildsItself(on=("three layers",)),
        SameGradients(),
        StepRuns("aten::tanh", at_most=lambda model, _: 2 * model.num_products),
        StepRuns("aten::addmm", at_most=lambda model, _: model.num_products),
        LeavesNothing(on=("three layers",)),
        Holds(at_most=lambda model, x: (model.num_products + 1) * x.nbytes, on=("one layer", "three layers")),
    ],
)
def keep_products(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Recompute the cheap, keep the dear.

    As in the kata `checkpointed`: return `function(x)`, save nothing for backward, and run `function(x)` once more when
    backward comes. But what matrix products return (`aten.addmm`, `aten.mm`) is kept, and the second run takes it from
    there instead of multiplying again. Everything else, here GELU and tanh, is computed again.

    A mode sees every operator below autograd:

    ```python
    class Mode(TorchDispatchMode):  # from torch.utils._python_dispatch
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.addmm.default: ...
            return func(*args, **(kwargs or {}))
    ```

    (With `_should_skip_dynamo`, as in the lesson's `Counter`, its first use does not import the compiler.)

    In memory after forward: the result and the products. When the result is dropped, so are they.
    """
    products = (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)
    numbered = itertools.count()
    kept: list[torch.Tensor] = []
    recomputed: list[torch.Tensor] = []

    class Mode(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False

    class Keep(Mode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **(kwargs or {}))
            if func in products:
                kept.append(output.detach())
            return output

    class Reuse(Mode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return next(waiting).detach() if func in products else func(*args, **(kwargs or {}))

    waiting = iter(kept)

    def unpack(number: int) -> torch.Tensor:
        if not recomputed:
            keep = torch.autograd.graph.saved_tensors_hooks(lambda t: recomputed.append(t.detach()), lambda t: t)
            with keep, torch.enable_grad(), Reuse():
                function(x)
        return recomputed[number]

    with torch.autograd.graph.saved_tensors_hooks(lambda _: next(numbered), unpack), Keep():
        return function(x)


class _Mode(TorchDispatchMode):
    """``after(func, output)`` sees every operator; ``instead(func)`` may give its output and keep it from running."""

    def __init__(self, after: Any = None, instead: Any = None) -> None:
        super().__init__()
        self.after, self.instead = after, instead

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator imports the whole compiler: seconds (torch 2.15)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = self.instead(func) if self.instead else None
        if output is None:
            output = func(*args, **(kwargs or {}))
        if self.after:
            self.after(func, output)
        return output


def _checkpointed(function: Any, x: torch.Tensor, forward: Any, again: Any) -> torch.Tensor:
    numbered = itertools.count()
    recomputed: list[torch.Tensor] = []

    def unpack(number: int) -> torch.Tensor:
        if not recomputed:
            keep = torch.autograd.graph.saved_tensors_hooks(lambda t: recomputed.append(t.detach()), lambda t: t)
            with keep, torch.enable_grad(), again:
                function(x)
        return recomputed[number]

    with torch.autograd.graph.saved_tensors_hooks(lambda _: next(numbered), unpack), forward:
        return function(x)  # type: ignore[no-any-return]


@keep_products.wrong("It calls the function and no more: what GELU and tanh save is in memory, too.")
def only_calls(function, x):
    return function(x)


@keep_products.wrong(
    "It recomputes everything, the products as well. Those are what costs: the second run must not multiply again."
)
def multiplies_again(function, x):
    return _checkpointed(function, x, _Mode(), _Mode())


@keep_products.wrong(
    "It takes the last product first. The second run comes by the products in the order of the first: a queue, not a "
    "stack."
)
def last_one_first(function, x):
    kept = []
    after = lambda func, output: kept.append(output.detach()) if func in PRODUCTS else None  # noqa: E731  # short
    return _checkpointed(
        function, x, _Mode(after=after), _Mode(instead=lambda func: kept.pop() if func in PRODUCTS else None)
    )


@keep_products.wrong(
    "It keeps one product for each operator, not one for each call. The second layer's product overwrites the first's."
)
def one_per_operator(function, x):
    kept = {}
    after = lambda func, output: kept.update({func: output.detach()}) if func in PRODUCTS else None  # noqa: E731  # short
    return _checkpointed(
        function,
        x,
        _Mode(after=after),
        _Mode(instead=lambda func: kept[func].detach() if func in PRODUCTS else None),
    )


@keep_products.wrong(
    "It keeps the outputs themselves. Autograd has written their `grad_fn` into them: the graph holds your list, and "
    "your list holds the graph. Where no backward comes by, neither ever goes. Keep `output.detach()`."
)
def keeps_the_graph(function, x):
    kept, position = [], itertools.count()
    after = lambda func, output: kept.append(output) if func in PRODUCTS else None  # noqa: E731  # short
    return _checkpointed(
        function,
        x,
        _Mode(after=after),
        _Mode(instead=lambda func: kept[next(position)].detach() if func in PRODUCTS else None),
    )


@keep_products.wrong(
    "It keeps what every operator returns. Then nothing is computed again, and nothing is saved: keep products only."
)
def keeps_everything(function, x):
    kept = []
    skipped = (torch.ops.aten.t.default, torch.ops.aten.detach.default)
    after = lambda func, output: None if func in skipped else kept.append(output.detach())  # noqa: E731  # short
    waiting = iter(kept)
    return _checkpointed(
        function,
        x,
        _Mode(after=after),
        _Mode(instead=lambda func: None if func in skipped else next(waiting).detach()),
    )


@keep_products.also_right
def with_a_queue(function, x):
    kept = []
    after = lambda func, output: kept.append(output.detach()) if func in PRODUCTS else None  # noqa: E731  # short
    return _checkpointed(
        function, x, _Mode(after=after), _Mode(instead=lambda func: kept.pop(0) if func in PRODUCTS else None)
    )
