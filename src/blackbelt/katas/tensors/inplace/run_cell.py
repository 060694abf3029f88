"""Repair a broken RNN."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.gradients import Gradcheck
from blackbelt.dojo.laws.saved import SavesForBackward
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers


def _cell(
    steps: int, batch: int = 2, size: int = 3, grad: bool = False, scale: float = 0.5
) -> tuple[torch.Tensor, ...]:
    shapes = ((steps, batch, 2), (batch, size), (2, size), (size, size))
    made = [numbers(shape, seed=i) * (scale if i == 3 else 0.5) for i, shape in enumerate(shapes)]
    return tuple(tensor.requires_grad_(grad) for tensor in made)


@kata(
    minutes=20,
    belt="green",
    hints=(
        "`states[t - 1] @ w_state` saves `states[t - 1]`. What does the next line do to its version?",
        "All rows of one tensor share one version counter. Let the recurrence run over tensors of their own.",
        "Keep `state` as a variable, append it to a list, and `torch.stack` at the end.",
    ),
    cases=st.integers(1, 5).map(_cell),
    edge_cases=lambda: {
        "one step": _cell(1),
        "three steps": _cell(3),
        "a cell without memory": _cell(3, scale=0.0),
        "a long sequence": _cell(40, batch=4, size=8, grad=True),
    },
    laws=[
        Value(),
        Gradcheck(arguments=(0, 1, 2, 3), on=("one step", "three steps", "a cell without memory")),
        SavesForBackward(
            at_most=lambda inputs, state, *_: 2 * len(inputs) * state.numel() * state.element_size(),
            on=("a long sequence",),
        ),
    ],
)
def run_cell(inputs: torch.Tensor, state: torch.Tensor, w_in: torch.Tensor, w_state: torch.Tensor) -> torch.Tensor:
    """Repair a broken RNN.

    This code gives the right states, and its backward refuses:

    ```python
    states = torch.zeros(len(inputs), *state.shape)
    for t in range(len(inputs)):
        previous = state if t == 0 else states[t - 1]
        states[t] = torch.tanh(inputs[t] @ w_in + previous @ w_state)
    return states
    ```

    Return the same states, of shape `(steps, batch, size)`, so that backward runs and every gradient is right. What is
    saved for backward must grow with the number of steps, not with its square.
    """
    states = []
    for step in inputs:
        state = torch.tanh(step @ w_in + state @ w_state)
        states.append(state)
    return torch.stack(states)


@run_cell.wrong(
    "It is the broken cell. Each write to `states` moves the version of the row that the step before saved."
)
def as_it_was(inputs, state, w_in, w_state):
    states = torch.zeros(len(inputs), *state.shape, dtype=state.dtype)
    for t in range(len(inputs)):
        previous = state if t == 0 else states[t - 1]
        states[t] = torch.tanh(inputs[t] @ w_in + previous @ w_state)
    return states


@run_cell.wrong("It silences the error with `.data`: no gradient comes back at all, and nothing says so.")
def silences_with_data(inputs, state, w_in, w_state):
    states = torch.zeros(len(inputs), *state.shape, dtype=state.dtype)
    for t in range(len(inputs)):
        previous = state if t == 0 else states[t - 1]
        states.data[t] = torch.tanh(inputs[t] @ w_in + previous @ w_state)
    return states


@run_cell.wrong(
    "It detaches the state at every step. Backward runs, and no step learns what it did to the next: that is another "
    "model."
)
def detaches_every_step(inputs, state, w_in, w_state):
    states = []
    for step in inputs:
        state = torch.tanh(step @ w_in + (state.detach() if states else state) @ w_state)
        states.append(state)
    return torch.stack(states)


@run_cell.wrong(
    "It clones the whole history at every step. That is safe, and saves steps² states for backward where steps are "
    "enough."
)
def clones_the_history(inputs, state, w_in, w_state):
    states = torch.zeros(len(inputs), *state.shape, dtype=state.dtype)
    for t in range(len(inputs)):
        previous = state if t == 0 else states[t - 1]
        new = torch.tanh(inputs[t] @ w_in + previous @ w_state)
        states = states.clone()
        states[t] = new
    return states


@run_cell.wrong("It returns the initial state in front. `states[t]` is the state after step t.")
def with_the_initial_state(inputs, state, w_in, w_state):
    states = [state]
    for step in inputs:
        states.append(torch.tanh(step @ w_in + states[-1] @ w_state))
    return torch.stack(states)


@run_cell.also_right
def buffer_that_nobody_reads(inputs, state, w_in, w_state):
    states = torch.empty(len(inputs), *state.shape, dtype=state.dtype)
    for t, step in enumerate(inputs):
        state = torch.tanh(step @ w_in + state @ w_state)
        states[t] = state
    return states


@run_cell.also_right
def inputs_at_once(inputs, state, w_in, w_state):
    states = []
    for projected in (inputs @ w_in).unbind():
        state = torch.tanh(projected + state @ w_state)
        states.append(state)
    return torch.stack(states)
