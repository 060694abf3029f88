"""Accumulate with a gradient scaler, in the right order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.autograd.accumulation._shared import ROUNDINGS, MicroBatch, add_gradients, linear, regression


class _Scaler(torch.amp.GradScaler):
    def __repr__(self) -> str:  # without one, the learner would read an address
        return f"GradScaler('cpu', init_scale={self.get_scale():g}, growth_interval={self.get_growth_interval()})"


def _training(
    windows: list[list[MicroBatch]], max_norm: float = 1.0, scale: float = 4096.0, grows_after: int = 2000
) -> tuple[torch.nn.Module, torch.optim.Optimizer, torch.amp.GradScaler, list[list[MicroBatch]], float]:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = _Scaler("cpu", init_scale=scale, growth_interval=grows_after)
    return model, optimizer, scaler, windows, max_norm


def _windows(*sizes: list[int]) -> list[list[MicroBatch]]:
    return [regression(window, seed=100 * i) for i, window in enumerate(sizes)]


def _overflowing() -> list[list[MicroBatch]]:
    windows = _windows([2, 1], [1, 2], [2])
    windows[0][0][0][0, 0] = float("inf")
    return windows


@kata(
    minutes=20,
    belt="green",
    hints=(
        "While a window is open, `.grad` holds *scaled* gradients. Which calls may come only when it is complete?",
        "Scale every loss, with one scale for the whole window. Then, once: unscale, clip, step, update, clear.",
        (
            "`scaler.scale(loss).backward()` for each micro-batch. After the last: `scaler.unscale_(optimizer)`, "
            "`clip_grad_norm_`, `scaler.step(optimizer)` (it skips where a gradient is not finite), `scaler.update()`."
        ),
    ),
    cases=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=3).map(
        lambda sizes: _training(_windows(*sizes))
    ),
    edge_cases=lambda: {
        "one micro-batch": _training(_windows([2])),
        "two micro-batches": _training(_windows([1, 2])),
        "nothing to clip": _training(_windows([1, 2], [2]), max_norm=1e6),
        "two windows": _training(_windows([1, 2], [2, 2])),
        "a scale that grows": _training(_windows([1, 2], [2, 1], [2]), grows_after=1),
        "an overflow": _training(_overflowing()),
    },
    laws=[Value(roundings=ROUNDINGS)],
    changes=(0,),
)
def accumulate_scaled(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    windows: list[list[tuple[torch.Tensor, torch.Tensor]]],
    max_norm: float,
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Accumulate with a gradient scaler, in the right order.

    Train with one optimizer step per window. A window is a list of micro-batches `(inputs, targets)`; its loss is the
    mean squared error over all its rows. Clip the true gradient (not the scaled one) to `max_norm` with
    `clip_grad_norm_`. A window with a gradient that is not finite must leave the weights as they are. Return the
    model's `state_dict()` and the scaler's scale after each window.

    ```python
    state, scales = accumulate_scaled(model, optimizer, torch.amp.GradScaler("cpu"), windows, max_norm=1.0)
    ```
    """
    scales = []
    for window in windows:
        rows = sum(len(inputs) for inputs, _ in window)
        optimizer.zero_grad()
        for inputs, targets in window:
            loss = (model(inputs) - targets).square().sum() / rows
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return model.state_dict(), scales


def _backward(model, scaler, window):
    rows = sum(len(inputs) for inputs, _ in window)
    for inputs, targets in window:
        scaler.scale((model(inputs) - targets).square().sum() / rows).backward()


def _close(model, optimizer, scaler, max_norm):
    """Do what comes once, at the end of a window."""
    scaler.unscale_(optimizer)
    clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()


def _each(windows: list[Any], train: Callable[[Any], None], model: torch.nn.Module, scaler: Any) -> Any:
    """Call ``train`` for each window and return what the kata asks for."""
    scales = []
    for window in windows:
        train(window)
        scales.append(scaler.get_scale())
    return model.state_dict(), scales


@accumulate_scaled.wrong(
    "It clips before `unscale_`. The scaled gradient is thousands of times too long, so every one is clipped, down to "
    "`max_norm` divided by the scale: the model hardly moves. Unscale first."
)
def clips_scaled_gradients(model, optimizer, scaler, windows, max_norm):
    def train(window):
        optimizer.zero_grad()
        _backward(model, scaler, window)
        clip_grad_norm_(model.parameters(), max_norm)
        scaler.step(optimizer)
        scaler.update()

    return _each(windows, train, model, scaler)


@accumulate_scaled.wrong(
    "It calls `unscale_` for every micro-batch. The second call would divide the first one's gradient again, so "
    "PyTorch refuses: unscale once, when the window is complete."
)
def unscales_each_micro_batch(model, optimizer, scaler, windows, max_norm):
    def train(window):
        rows = sum(len(inputs) for inputs, _ in window)
        optimizer.zero_grad()
        for inputs, targets in window:
            scaler.scale((model(inputs) - targets).square().sum() / rows).backward()
            scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), max_norm)
        scaler.step(optimizer)
        scaler.update()

    return _each(windows, train, model, scaler)


@accumulate_scaled.wrong(
    "It steps and updates for every micro-batch: that is no accumulation, and the scale changes in the middle of a "
    "window. One step per window."
)
def steps_each_micro_batch(model, optimizer, scaler, windows, max_norm):
    def train(window):
        rows = sum(len(inputs) for inputs, _ in window)
        for inputs, targets in window:
            optimizer.zero_grad()
            scaler.scale((model(inputs) - targets).square().sum() / rows).backward()
            _close(model, optimizer, scaler, max_norm)

    return _each(windows, train, model, scaler)


@accumulate_scaled.wrong(
    "It calls `optimizer.step()` itself. Nobody asks whether the gradients are finite, and after one overflow the "
    "weights are NaN. `scaler.step(optimizer)` asks."
)
def steps_past_the_scaler(model, optimizer, scaler, windows, max_norm):
    def train(window):
        optimizer.zero_grad()
        _backward(model, scaler, window)
        scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        scaler.update()

    return _each(windows, train, model, scaler)


@accumulate_scaled.wrong(
    "It never calls `scaler.update()`. The scale can neither fall after an overflow nor grow again, and the next "
    "window finds the optimizer still marked as stepped."
)
def never_updates(model, optimizer, scaler, windows, max_norm):
    def train(window):
        optimizer.zero_grad()
        _backward(model, scaler, window)
        scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), max_norm)
        scaler.step(optimizer)

    return _each(windows, train, model, scaler)


@accumulate_scaled.wrong(
    "It never clears the gradients. The next window adds scaled gradients to unscaled, clipped ones."
)
def never_clears(model, optimizer, scaler, windows, max_norm):
    def train(window):
        _backward(model, scaler, window)
        _close(model, optimizer, scaler, max_norm)

    return _each(windows, train, model, scaler)


@accumulate_scaled.wrong(
    "It leaves the scaler out. With float16, small gradients would be 0 by now, and after an overflow nobody skips the "
    "step: scale every loss, and step through the scaler."
)
def never_scales(model, optimizer, scaler, windows, max_norm):
    def train(window):
        optimizer.zero_grad()
        add_gradients(model, window, sum(len(inputs) for inputs, _ in window))
        clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()

    return _each(windows, train, model, scaler)


@accumulate_scaled.wrong(
    "It clears the gradients for every micro-batch. Only the last one of a window is left when the step comes."
)
def clears_inside_the_window(model, optimizer, scaler, windows, max_norm):
    def train(window):
        rows = sum(len(inputs) for inputs, _ in window)
        for inputs, targets in window:
            optimizer.zero_grad()
            scaler.scale((model(inputs) - targets).square().sum() / rows).backward()
        _close(model, optimizer, scaler, max_norm)

    return _each(windows, train, model, scaler)


@accumulate_scaled.wrong(
    "It averages the micro-batches' means. The scaler is right, the denominator is not: divide by the window's rows."
)
def mean_of_means(model, optimizer, scaler, windows, max_norm):
    def train(window):
        optimizer.zero_grad()
        for inputs, targets in window:
            scaler.scale((model(inputs) - targets).square().mean() / len(window)).backward()
        _close(model, optimizer, scaler, max_norm)

    return _each(windows, train, model, scaler)


@accumulate_scaled.also_right
def clears_after_the_step(model, optimizer, scaler, windows, max_norm):
    scales = []
    for window in windows:
        _backward(model, scaler, window)
        _close(model, optimizer, scaler, max_norm)
        optimizer.zero_grad()
        scales.append(scaler.get_scale())
    return {name: value.clone() for name, value in model.state_dict().items()}, scales
