"""A loop that loses nothing at the end of an epoch."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.autograd.accumulation._shared import ROUNDINGS, MicroBatch, add_gradients, linear, regression


def _epochs(*sizes: list[int]) -> list[list[MicroBatch]]:
    return [regression(epoch, seed=100 * i) for i, epoch in enumerate(sizes)]


@kata(
    minutes=20,
    belt="green",
    hints=(
        "Seven micro-batches, windows of three. How many optimizer steps are in one epoch, and what is in the last?",
        "Cut the epoch into windows first: `epoch[start : start + window]`. The last one is shorter, and is one too.",
        (
            "For each window: clear, divide every sum by the rows of *this* window, `backward()`; then "
            "`optimizer.step()`, then `scheduler.step()`. Nothing happens per micro-batch but forward and backward."
        ),
    ),
    cases=st.tuples(
        st.just(()).map(lambda _: linear()),
        st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=4), min_size=1, max_size=2).map(
            lambda s: _epochs(*s)
        ),
        st.integers(1, 3),
        st.just(0.01),
        st.just(0.5),
    ),
    edge_cases=lambda: {
        "one window": (linear(), _epochs([2, 2]), 2, 0.01, 0.5),
        "two windows": (linear(), _epochs([2, 2, 2, 2]), 2, 0.01, 0.5),
        "a tail": (linear(), _epochs([2, 2, 2]), 2, 0.01, 0.5),
        "a tail, then another epoch": (linear(), _epochs([2, 2, 2], [2, 2, 2]), 2, 0.01, 0.5),
        "uneven": (linear(), _epochs([2, 1]), 2, 0.01, 0.5),
        "window 1": (linear(), _epochs([2, 1]), 1, 0.01, 0.5),
        "fewer than a window": (linear(), _epochs([2, 2]), 4, 0.01, 0.5),
    },
    laws=[Value(roundings=ROUNDINGS)],
    changes=(0,),
)
def train_epochs(
    model: torch.nn.Module,
    epochs: list[list[tuple[torch.Tensor, torch.Tensor]]],
    window: int,
    rate: float,
    decay: float,
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """A loop that loses nothing at the end of an epoch.

    Each epoch is a list of micro-batches `(inputs, targets)`. Take one step of `torch.optim.SGD` after every `window`
    micro-batches, and one for what is left at the end of an epoch. The loss of a step is the mean squared error over
    the rows in it. The first step has learning rate `rate`; every *step* multiplies it by `decay`
    (`torch.optim.lr_scheduler.ExponentialLR`). Return `model.state_dict()` and the learning rate of each step.

    ```python
    state, rates = train_epochs(model, [seven_micro_batches] * 2, window=3, rate=0.1, decay=0.5)
    len(rates)  # 6: three steps in each epoch
    ```
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    rates = []
    for epoch in epochs:
        for start in range(0, len(epoch), window):
            part = epoch[start : start + window]
            rows = sum(len(inputs) for inputs, _ in part)
            optimizer.zero_grad()
            for inputs, targets in part:
                ((model(inputs) - targets).square().sum() / rows).backward()
            rates.append(float(scheduler.get_last_lr()[0]))
            optimizer.step()
            scheduler.step()
    return model.state_dict(), rates


class _Loop:
    """The loop's parts, so that each wrong one below shows only where it goes wrong."""

    def __init__(self, model, rate, decay):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, decay)
        self.rates = []

    def add(self, part):
        add_gradients(self.model, part, sum(len(inputs) for inputs, _ in part))

    def step(self, clear=True):
        self.rates.append(self.scheduler.get_last_lr()[0])
        self.optimizer.step()
        self.scheduler.step()
        if clear:
            self.optimizer.zero_grad()

    def result(self):
        return self.model.state_dict(), self.rates


def _parts(epoch, window):
    return [epoch[start : start + window] for start in range(0, len(epoch), window)]


@train_epochs.wrong(
    "It steps after full windows only and drops the rest of the epoch: those micro-batches are computed and never "
    "learned from. The last, shorter window is a step too."
)
def drops_the_tail(model, epochs, window, rate, decay):
    loop = _Loop(model, rate, decay)
    for epoch in epochs:
        for part in _parts(epoch, window):
            loop.optimizer.zero_grad()
            loop.add(part)
            if len(part) == window:
                loop.step()
    return loop.result()


@train_epochs.wrong(
    "It leaves the gradient of the unfinished window in `.grad`, where the first window of the next epoch adds to it. "
    "Step for it, at the end of the epoch."
)
def leaks_into_the_next_epoch(model, epochs, window, rate, decay):
    loop = _Loop(model, rate, decay)
    for epoch in epochs:
        for part in _parts(epoch, window):
            loop.add(part)
            if len(part) == window:
                loop.step()
    return loop.result()


@train_epochs.wrong(
    "It divides the last, shorter window as if it were full: that step is too short. Divide by the rows that are in it."
)
def divides_the_tail_by_a_full_window(model, epochs, window, rate, decay):
    loop = _Loop(model, rate, decay)
    for epoch in epochs:
        for part in _parts(epoch, window):
            for inputs, targets in part:
                ((model(inputs) - targets).square().mean() / window).backward()
            loop.step()
    return loop.result()


@train_epochs.wrong(
    "It divides by the number of micro-batches in the window. Where their sizes differ, divide sums by rows."
)
def mean_of_means(model, epochs, window, rate, decay):
    loop = _Loop(model, rate, decay)
    for epoch in epochs:
        for part in _parts(epoch, window):
            for inputs, targets in part:
                ((model(inputs) - targets).square().mean() / len(part)).backward()
            loop.step()
    return loop.result()


def _with_rates(model, epochs, window, rate_of):
    """Train with ``rate_of(epoch, micro-batches so far)`` as the learning rate of each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rates, seen = [], 0
    for number, epoch in enumerate(epochs):
        for part in _parts(epoch, window):
            optimizer.zero_grad()
            add_gradients(model, part, sum(len(inputs) for inputs, _ in part))
            rates.append(rate_of(number, seen))
            optimizer.param_groups[0]["lr"] = rates[-1]
            optimizer.step()
            seen += len(part)
    return model.state_dict(), rates


@train_epochs.wrong(
    "It steps the scheduler for every micro-batch: the learning rate falls `window` times too fast. Step it when, and "
    "only when, the optimizer has stepped."
)
def schedules_micro_batches(model, epochs, window, rate, decay):
    return _with_rates(model, epochs, window, lambda _, seen: rate * decay**seen)


@train_epochs.wrong("It steps the scheduler once per epoch. Here every optimizer step has a learning rate of its own.")
def schedules_epochs(model, epochs, window, rate, decay):
    return _with_rates(model, epochs, window, lambda epoch, _: rate * decay**epoch)


@train_epochs.wrong("It never clears the gradients. Every step moves by all gradients so far.")
def never_clears(model, epochs, window, rate, decay):
    loop = _Loop(model, rate, decay)
    for epoch in epochs:
        for part in _parts(epoch, window):
            loop.add(part)
            loop.step(clear=False)
    return loop.result()


@train_epochs.also_right
def rescales_what_was_summed(model, epochs, window, rate, decay):
    loop = _Loop(model, rate, decay)
    for epoch in epochs:
        rows = 0
        for number, (inputs, targets) in enumerate(epoch, 1):
            (model(inputs) - targets).square().sum().backward()
            rows += len(inputs)
            if number % window == 0 or number == len(epoch):
                for parameter in model.parameters():
                    parameter.grad /= rows
                loop.step()
                rows = 0
    return loop.result()
