"""A checkpoint that counts a batch once."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.same_gradients import SameGradients
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.reference.checkpointing._shared import Holds, network
from blackbelt.katas.reference.checkpointing._statistics import (
    Counts,
    ForwardCounts,
    StaysInTraining,
    StepStatistics,
    norms_in,
)

WIDTH = 4


def _case(*norms: nn.Module, rows: int = 6, needs_grad: bool = True) -> tuple[nn.Module, torch.Tensor]:
    layers = [layer for norm in norms for layer in (nn.Linear(WIDTH, WIDTH), norm, nn.Sigmoid())]
    return network(*layers).train(), numbers((rows, WIDTH)).requires_grad_(needs_grad)


@kata(
    minutes=25,
    belt="green",
    hints=(
        "What happens to `running_mean` when the model runs a second time on the same batch?",
        (
            "Hand `checkpoint` a function of your own, which knows whether it runs for the first time. In every later "
            "run the model must compute as it did, and write somewhere else."
        ),
        (
            "`torch.func.functional_call(model, buffers, (x,))` runs the model with these buffers in place of its own: "
            "give it clones, `{name: b.clone() for name, b in model.named_buffers()}`."
        ),
    ),
    cases=st.integers(2, 5).map(lambda rows: _case(nn.BatchNorm1d(WIDTH), rows=rows)),
    edge_cases=lambda: {
        "one norm": _case(nn.BatchNorm1d(WIDTH)),
        "two norms": _case(nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH, momentum=0.5)),
        "a cumulative average": _case(nn.BatchNorm1d(WIDTH, momentum=None)),
        "an input without gradient": _case(nn.BatchNorm1d(WIDTH), needs_grad=False),
        "many rows": _case(nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH), rows=2048),
    },
    laws=[
        ForwardCounts(),
        Value(),
        StaysInTraining(),
        SameGradients(),
        StepStatistics(counter=False),
        Counts(counter=True),
        Holds(at_most=lambda _, x: x.nbytes + 8192, on=("many rows",)),
    ],
    changes=(0,),
)
def statistics_once(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A checkpoint that counts a batch once.

    `torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)` gives the right result and the right gradients.
    But where the model holds a `BatchNorm`, the recomputation updates its running statistics a second time.

    Return `model(x)`, checkpointed, so that after forward every buffer of the model is what it would be without a
    checkpoint, and backward changes none. The model is in training mode, and `checkpoint` may be used.

    ```python
    y = statistics_once(model, x)   # running_mean, running_var, num_batches_tracked: one batch further
    y.sum().backward()              # recomputes, and leaves them there
    ```
    """
    runs = itertools.count()

    def run(x: torch.Tensor) -> torch.Tensor:
        if next(runs) == 0:
            return model(x)  # type: ignore[no-any-return]
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        return functional_call(model, buffers, (x,))  # type: ignore[no-any-return]

    return checkpoint(run, x, use_reentrant=False)


def _in_later_runs(model: nn.Module, around: Any) -> Any:
    """Return the model as a function whose second run, and each after it, happens in a block that ``around`` makes."""
    runs = itertools.count()

    def run(x: torch.Tensor) -> Any:
        with around() if next(runs) else contextlib.nullcontext():
            return model(x)

    return run


@contextlib.contextmanager
def _with_momentum(model: nn.Module, new: Any) -> Any:
    kept = [norm.momentum for norm in norms_in(model)]
    for norm in norms_in(model):
        norm.momentum = new(norm.momentum)
    try:
        yield
    finally:
        for norm, momentum in zip(norms_in(model), kept):
            norm.momentum = momentum


@statistics_once.wrong(
    "It checkpoints the model as it is. The recomputation is a forward pass like any other: the batch is counted twice."
)
def counted_twice(model, x):
    return checkpoint(model, x, use_reentrant=False)


@statistics_once.wrong("It does not checkpoint: everything that the model saves is still in memory after forward.")
def no_checkpoint(model, x):
    return model(x)


@statistics_once.wrong(
    "It recomputes in evaluation mode. There BatchNorm uses the running statistics, not those of the batch: it is "
    "another function, and it saves other tensors."
)
def in_evaluation_mode(model, x):
    @contextlib.contextmanager
    def evaluation():
        model.eval()
        try:
            yield
        finally:
            model.train()

    return checkpoint(_in_later_runs(model, evaluation), x, use_reentrant=False)


@statistics_once.wrong(
    "It sets the momentum to 0 while it recomputes. The averages stand still then; `num_batches_tracked` does not."
)
def momentum_zero(model, x):
    around = lambda: _with_momentum(model, lambda _: 0.0)  # noqa: E731  # reads better here
    return checkpoint(_in_later_runs(model, around), x, use_reentrant=False)


@statistics_once.wrong(
    "It changes the momentum in forward, so that two updates weigh as much as one. After forward, and wherever no "
    "backward follows, the statistics are wrong: forward must update them as ever."
)
def half_the_momentum(model, x):
    def run(x):
        with _with_momentum(model, lambda momentum: 1 - (1 - (momentum or 0.5)) ** 0.5):
            return model(x)

    return checkpoint(run, x, use_reentrant=False)


@statistics_once.wrong(
    "It leaves the update to the recomputation. A forward pass that no backward follows is not counted at all."
)
def only_in_backward(model, x):
    runs = itertools.count()

    def run(x):
        if next(runs):
            return model(x)
        return functional_call(model, {name: buffer.clone() for name, buffer in model.named_buffers()}, (x,))

    return checkpoint(run, x, use_reentrant=False)


@statistics_once.also_right
def puts_them_back(model, x):
    @contextlib.contextmanager
    def kept():
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        try:
            yield
        finally:
            for name, buffer in model.named_buffers():
                buffer.data.copy_(before[name])

    return checkpoint(_in_later_runs(model, kept), x, use_reentrant=False)


@statistics_once.also_right
def by_context_fn(model, x):
    @contextlib.contextmanager
    def untracked():
        for norm in norms_in(model):
            norm.kept = norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()
        try:
            yield
        finally:
            for norm in norms_in(model):
                for buffer, value in zip((norm.running_mean, norm.running_var, norm.num_batches_tracked), norm.kept):
                    buffer.data.copy_(value)
                del norm.kept

    return checkpoint(model, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), untracked()))
