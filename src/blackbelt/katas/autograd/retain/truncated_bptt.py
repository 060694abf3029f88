"""Backpropagation through time, truncated."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from blackbelt.dojo.kata import Arguments, kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.passes import BackwardPasses
from blackbelt.dojo.laws.requires_grad import RequiresGrad
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.retain._shared import HalfwayThroughAStep


def _sequence(steps: int, window: int, batch: int = 2, size: int = 3) -> Arguments:
    cell = nn.RNNCell(2, size)
    with torch.no_grad():
        for seed, parameter in enumerate(cell.parameters()):
            parameter.copy_(0.7 * numbers(tuple(parameter.shape), seed=seed))
    inputs, targets = numbers((steps, batch, 2), seed=5), numbers((steps, batch, size), seed=6)
    return cell, inputs, targets, numbers((batch, size), seed=7), window


def _halfway(cell: nn.Module, *rest: Any) -> Arguments:
    return HalfwayThroughAStep(cell), *rest


def _budget(cell: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, state: torch.Tensor, window: int) -> int:
    weights = sum(parameter.nbytes for parameter in cell.parameters())
    return 12 * window * state.nbytes + 4 * weights


def _num_windows(cell: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, state: torch.Tensor, window: int) -> int:
    return -(-len(inputs) // window)


@kata(
    minutes=25,
    belt="blue",
    hints=(
        "After a window's backward its graph is freed. What must the state not bring into the next window?",
        (
            "For each window: run the cell, add up the losses, `torch.autograd.grad` with respect to the cell's "
            "parameters, add that to the total, and `state = state.detach()`."
        ),
        (
            "`range(0, len(inputs), window)` for the starts; slices end by themselves at the end of the sequence. One "
            "backward pass for each window, and a detached state after each."
        ),
    ),
    cases=st.tuples(st.integers(1, 6), st.integers(1, 4)).map(lambda drawn: _sequence(*drawn)),
    edge_cases=lambda: {
        "two windows": _sequence(4, 2),
        "one window": _sequence(3, 3),
        "windows of one step": _sequence(3, 1),
        "a shorter window at the end": _sequence(5, 2),
        "a window longer than the sequence": _sequence(2, 4),
        "gradients are there already": _halfway(*_sequence(4, 2)),
        "a long sequence": _sequence(160, 3, batch=8, size=16),
    },
    laws=[
        Value(),
        RequiresGrad(),
        BackwardPasses(at_most=_num_windows),
        Allocates(at_most=_budget, slack=16_384, on=("a long sequence",)),
    ],
)
def truncated_bptt(
    cell: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, state: torch.Tensor, window: int
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Backpropagation through time, truncated.

    `cell(input, state)` returns the next state. Run it over `inputs` of shape `(steps, batch, features)`, from `state`
    on. The loss of a step is `nn.functional.mse_loss(state, target)`, with the state after the step.

    Go in windows of `window` steps, the last one perhaps shorter. Within a window the gradient is exact; from one
    window to the next the state goes on as numbers only. Return the gradients of the summed losses, one tensor for each
    of `cell.parameters()`, and the last state, without a graph.

    With a window as long as the sequence that is full backpropagation. Memory must follow the window, not the sequence,
    and every window is walked backward once. Leave every `.grad` alone.
    """
    parameters = list(cell.parameters())
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    for start in range(0, len(inputs), window):
        state, losses = state.detach(), []
        for x, target in zip(inputs[start : start + window], targets[start : start + window]):
            state = cell(x, state)
            losses.append(nn.functional.mse_loss(state, target))
        for total, gradient in zip(totals, torch.autograd.grad(torch.stack(losses).sum(), parameters)):
            total.add_(gradient)
    return totals, state.detach()


def _run(cell, inputs, targets, state):
    loss = torch.zeros((), dtype=inputs.dtype)
    for x, target in zip(inputs, targets):
        state = cell(x, state)
        loss = loss + nn.functional.mse_loss(state, target)
    return loss, state


def _windows(cell, inputs, targets, state, window, *, carry=torch.Tensor.detach, share=lambda _: 1.0, **options):
    """Run window after window; ``carry`` makes the state of the next one, ``share(steps)`` weights a window's loss."""
    totals = [torch.zeros_like(parameter) for parameter in cell.parameters()]
    for number, (xs, wanted) in enumerate(zip(inputs.split(window), targets.split(window))):
        loss, state = _run(cell, xs, wanted, carry(state) if number else state)
        gradients = torch.autograd.grad(share(len(xs)) * loss, list(cell.parameters()), **options)
        for total, gradient in zip(totals, gradients):
            total.add_(gradient)
    return totals, state


@truncated_bptt.wrong(
    "The state still hangs on the graph of the window before, which that window's backward has freed. The message "
    "offers `retain_graph=True`; what you want is `state.detach()`."
)
def state_not_detached(cell, inputs, targets, state, window):
    totals, state = _windows(cell, inputs, targets, state, window, carry=lambda state: state)
    return totals, state.detach()


@truncated_bptt.wrong(
    "`retain_graph=True` silences the error and does not truncate: every window's backward walks on through all "
    "windows before it, and all their graphs stay in memory. Detach the state."
)
def everything_retained(cell, inputs, targets, state, window):
    totals, state = _windows(cell, inputs, targets, state, window, carry=lambda state: state, retain_graph=True)
    return totals, state.detach()


@truncated_bptt.wrong(
    "It detaches after every *step*. Then no step learns what it did to the next one: that is a window of 1, whatever "
    "`window` says."
)
def detached_every_step(cell, inputs, targets, state, window):
    def forgetful(x, state):
        return cell(x, state.detach())

    forgetful.parameters = cell.parameters
    totals, state = _windows(forgetful, inputs, targets, state, window)
    return totals, state.detach()


@truncated_bptt.wrong(
    "It detaches at the right places and calls backward once, at the end. The gradients are right; the graphs of all "
    "windows wait in memory until then."
)
def one_backward_at_the_end(cell, inputs, targets, state, window):
    total = torch.zeros((), dtype=inputs.dtype)
    for xs, wanted in zip(inputs.split(window), targets.split(window)):
        loss, state = _run(cell, xs, wanted, state.detach())
        total = total + loss
    return list(torch.autograd.grad(total, list(cell.parameters()))), state.detach()


@truncated_bptt.wrong(
    "It runs one backward per step and keeps the window's graph for the next with `retain_graph=True`. Sum the losses "
    "of a window first: one backward, nothing retained."
)
def backward_every_step(cell, inputs, targets, state, window):
    totals = [torch.zeros_like(parameter) for parameter in cell.parameters()]
    for step, (x, target) in enumerate(zip(inputs, targets)):
        loss, state = _run(cell, x[None], target[None], state.detach() if step % window == 0 else state)
        for total, gradient in zip(totals, torch.autograd.grad(loss, list(cell.parameters()), retain_graph=True)):
            total.add_(gradient)
    return totals, state.detach()


@truncated_bptt.wrong(
    "It begins every window with a state of zeros. Truncation cuts the gradient, not the memory: the state's "
    "numbers go on."
)
def state_reset(cell, inputs, targets, state, window):
    totals, state = _windows(cell, inputs, targets, state, window, carry=torch.zeros_like)
    return totals, state.detach()


@truncated_bptt.wrong(
    "The shorter window at the end of the sequence is run and never walked backward: its losses are missing in the "
    "gradients."
)
def whole_windows_only(cell, inputs, targets, state, window):
    steps = len(inputs) // window * window
    totals = [torch.zeros_like(parameter) for parameter in cell.parameters()]
    if steps:
        totals, state = _windows(cell, inputs[:steps], targets[:steps], state, window)
    return totals, _run(cell, inputs[steps:], targets[steps:], state)[1].detach()


@truncated_bptt.wrong(
    "It takes the loss of each window's last step only. Every step has a target, and its loss belongs to the sum."
)
def last_step_only(cell, inputs, targets, state, window):
    totals = [torch.zeros_like(parameter) for parameter in cell.parameters()]
    for xs, wanted in zip(inputs.split(window), targets.split(window)):
        state = _run(cell, xs, wanted, state.detach())[1]
        loss = nn.functional.mse_loss(state, wanted[-1])
        for total, gradient in zip(totals, torch.autograd.grad(loss, list(cell.parameters()))):
            total.add_(gradient)
    return totals, state.detach()


@truncated_bptt.wrong(
    "It returns the last state with its graph. Whoever carries it into the next batch carries a whole window along: "
    "return it detached."
)
def state_with_its_graph(cell, inputs, targets, state, window):
    return _windows(cell, inputs, targets, state, window)


@truncated_bptt.wrong(
    "It calls `backward()`, which adds to the cell's `.grad`: the caller's own gradients get mixed with these. "
    "`torch.autograd.grad` returns them and writes nothing."
)
def writes_the_grads(cell, inputs, targets, state, window):
    for xs, wanted in zip(inputs.split(window), targets.split(window)):
        loss, state = _run(cell, xs, wanted, state.detach())
        loss.backward()
    return [parameter.grad for parameter in cell.parameters()], state.detach()


@truncated_bptt.wrong(
    "It cleans up with `zero_grad()`: gradients that the caller had there are gone. `torch.autograd.grad` needs no "
    "cleaning up."
)
def erases_the_grads(cell, inputs, targets, state, window):
    cell.zero_grad()
    gradients, state = writes_the_grads(cell, inputs, targets, state, window)
    cell.zero_grad()
    return gradients, state


@truncated_bptt.wrong("It averages the losses of a window. Asked for are the gradients of their sum, over all steps.")
def mean_of_the_window(cell, inputs, targets, state, window):
    totals, state = _windows(cell, inputs, targets, state, window, share=lambda steps: 1 / steps)
    return totals, state.detach()


@truncated_bptt.also_right
def from_a_copy_of_the_state(cell, inputs, targets, state, window):
    totals, state = _windows(cell, inputs, targets, state.clone(), window)
    return totals, state.detach()


@truncated_bptt.also_right
def detached_in_place(cell, inputs, targets, state, window):
    totals, state = _windows(cell, inputs, targets, state, window, carry=torch.Tensor.detach_)
    return totals, state.detach_()
