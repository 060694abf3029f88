"""An update that is safe."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.gradients import Gradcheck
from blackbelt.dojo.laws.sharing import OwnsMemory
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers, tensors
from blackbelt.katas.tensors.inplace._shared import leaf


def _holed(*shape: int) -> torch.Tensor:
    values = numbers(shape)
    values[1] = float("inf")
    return values


@kata(
    minutes=10,
    belt="yellow",
    hints=(
        "Somebody saved `state` and will need it in backward. Whose memory may you write to?",
        "A write in place is fine on memory that is yours, and autograd records it (`CopySlices`).",
        "`out = state.clone()`, then `out[index] = row`: one copy, and both gradients flow.",
    ),
    cases=st.tuples(
        tensors((4, 3), layouts=("contiguous", "transposed", "sliced", "offset", "expanded")),
        st.integers(-4, 3),
        tensors((3,), layouts=("contiguous", "sliced", "expanded")),
    ),
    edge_cases=lambda: {
        "plain tensors": (numbers((4, 3)), 2, numbers((3,), seed=1)),
        "the last row, from behind": (numbers((4, 3)), -1, numbers((3,), seed=1)),
        "an infinite row is replaced": (_holed(4, 3), 1, numbers((3,), seed=1)),
        "a state that requires grad": (leaf(4, 3), 0, numbers((3,), seed=1)),
        "the gradient of the state": (leaf(3, 2), 1, numbers((2,), seed=1)),
        "the gradient of the row": (numbers((3, 2)), 1, leaf(2, seed=1)),
        "a large state": (numbers((64, 256)), 5, numbers((256,), seed=1)),
    },
    laws=[
        Value(),
        OwnsMemory(),
        Gradcheck(arguments=(0,), on=("the gradient of the state",)),
        Gradcheck(arguments=(2,), on=("the gradient of the row",)),
        Allocates(at_most=lambda state, *_: state.numel() * state.element_size(), on=("a large state",)),
    ],
)
def with_row(state: torch.Tensor, index: int, row: torch.Tensor) -> torch.Tensor:
    """An update that is safe.

    Return `state` with `state[index]` replaced by `row`. `state` may be saved for a backward that has not run yet, so
    it must stay as it is. The gradient reaches the rows of `state` that are still there, and `row`. One copy of `state`
    is all you may allocate.

    ```python
    with_row(torch.zeros(3, 2), 1, torch.ones(2))  # tensor([[0., 0.], [1., 1.], [0., 0.]])
    ```
    """
    out = state.clone()
    out[index] = row
    return out


@with_row.wrong("It writes into `state`. Whoever saved `state` for backward now holds other values.")
def writes_in_place(state, index, row):
    state[index] = row
    return state


@with_row.wrong(
    "It writes through `.data`. Now nobody is even told that `state` has changed: the gradient is simply wrong."
)
def writes_through_data(state, index, row):
    state.data[index] = row.detach()
    return state


@with_row.wrong("It copies under `no_grad`: the values are right, and no gradient reaches anybody.")
def copies_without_gradient(state, index, row):
    with torch.no_grad():
        out = state.clone()
        out[index] = row
    return out


@with_row.wrong("It detaches the row. `out[index] = row` is recorded by autograd; there is no need to cut anything.")
def detaches_the_row(state, index, row):
    out = state.clone()
    out[index] = row.detach()
    return out


@with_row.wrong("It detaches the state: the rows that stay lose their gradient.")
def detaches_the_state(state, index, row):
    out = state.detach().clone()
    out[index] = row
    return out


@with_row.wrong(
    "It blends with a mask. That costs several tensors, and 0 · inf is NaN: what was in the replaced row leaks through."
)
def blends_with_a_mask(state, index, row):
    mask = torch.zeros(len(state), dtype=state.dtype)
    mask[index] = 1
    mask = mask.view(-1, *[1] * (state.dim() - 1))
    return state * (1 - mask) + row * mask


@with_row.wrong("It slices around the index and forgets that -1 + 1 is 0: counted from behind, the tail is everything.")
def forgets_negative_indices(state, index, row):
    return torch.cat([state[:index], row[None], state[index + 1 :]])


@with_row.also_right
def concatenates(state, index, row):
    index %= len(state)
    return torch.cat([state[:index], row[None], state[index + 1 :]])


@with_row.also_right
def copies_by_index(state, index, row):
    return state.index_copy(0, torch.tensor([index % len(state)]), row[None])
