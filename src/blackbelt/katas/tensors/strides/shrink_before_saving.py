"""Shrink a slice before saving it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.storage import KeepsAlive, SameSharing
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.tensors.strides._shared import count


def _views_by_storage(state: dict[str, torch.Tensor]) -> dict[int, dict[Any, torch.Tensor]]:
    groups: dict[int, dict[Any, torch.Tensor]] = {}
    for tensor in state.values():
        view = (tensor.storage_offset(), tensor.shape, tensor.stride())
        groups.setdefault(tensor.untyped_storage().data_ptr(), {})[view] = tensor
    return groups


def _small_enough(state: dict[str, torch.Tensor]) -> int:
    total = 0
    for views in _views_by_storage(state).values():
        kept = next(iter(views.values())).untyped_storage().nbytes()
        total += min(kept, sum(tensor.nbytes for tensor in views.values()))
    return total


def _copied(state: dict[str, torch.Tensor]) -> int:
    total = 0
    for views in _views_by_storage(state).values():
        kept = next(iter(views.values())).untyped_storage().nbytes()
        copies = sum(tensor.nbytes for tensor in views.values())
        total += copies if copies < kept else 0
    return total


@st.composite
def _states(draw: st.DrawFn) -> tuple[dict[str, torch.Tensor]]:
    weight, other = count(6, 4), count(8)
    views = (
        weight,
        weight[1],
        weight[:, 1],
        weight[2:3].expand(4, 4),
        weight.t(),
        other[:2],
        other[::3],
        other,
        other[:0],
    )
    chosen = draw(st.lists(st.integers(0, len(views) - 1), min_size=1, max_size=4))
    return ({f"entry {i}": views[number] for i, number in enumerate(chosen)},)


def _edge_states() -> dict[str, tuple[dict[str, torch.Tensor]]]:
    weight, big = count(64, 8), count(1000)
    return {
        "a tensor that owns its storage": ({"weight": count(512)},),
        "a slice": ({"row": weight[3]},),
        "a column": ({"column": weight[:, 3]},),
        "tied weights": ({"embedding": weight, "head": weight},),
        "the same slice twice": ({"first": big[:10], "again": big[:10]},),
        "a tensor and a row of it": ({"weight": weight, "row": weight[0]},),
        "two slices of one storage": ({"low": big[:10], "high": big[-10:]},),
        "a stretched row": ({"bias": count(16).expand(64, 16)},),
        "a transposed matrix": ({"weight": weight.t()},),
        "an empty slice": ({"nothing": big[:0]},),
    }


@kata(
    minutes=25,
    belt="blue",
    hints=(
        (
            "`torch.save` writes every storage once and whole. For a storage that several entries share, what is "
            "smaller: to keep it, or to clone what they use of it?"
        ),
        (
            "Two entries with the same storage, offset, size and stride are the same view. One clone serves both, and "
            "so they stay tied."
        ),
        (
            "Group the entries by `untyped_storage().data_ptr()`. In each group collect the distinct views. If their "
            "`nbytes` add up to less than the storage's, replace each view by one clone; otherwise leave the group as "
            "it is."
        ),
    ),
    cases=_states(),
    edge_cases=_edge_states,
    laws=[
        Value(),
        KeepsAlive(at_most=_small_enough),
        SameSharing(),
        Allocates(at_most=_copied),
    ],
)
def shrink_before_saving(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Shrink a slice before saving it.

    `torch.save` writes whole storages. Return a dictionary of the same entries, equal in value, that saves small: for
    every storage, either leave all entries that use it as they are, or give each distinct view in it a clone of its
    own, whichever keeps fewer bytes (leave them where it is a tie). Entries that are the *same* view, such as tied
    weights, must stay tied. Copy nothing that you need not copy, and change nothing in `state`.

    ```python
    big = torch.zeros(1_000_000)
    shrink_before_saving({"head": big[:10]})["head"].untyped_storage().nbytes()  # 40 instead of 4,000,000
    ```
    """
    groups: dict[int, dict[Any, torch.Tensor]] = {}

    def view_of(tensor: torch.Tensor) -> Any:
        return tensor.storage_offset(), tensor.shape, tensor.stride()

    for tensor in state.values():
        groups.setdefault(tensor.untyped_storage().data_ptr(), {})[view_of(tensor)] = tensor
    for views in groups.values():
        stored = next(iter(views.values())).untyped_storage().nbytes()
        if sum(tensor.nbytes for tensor in views.values()) < stored:
            views.update({view: tensor.clone() for view, tensor in views.items()})
    return {name: groups[tensor.untyped_storage().data_ptr()][view_of(tensor)] for name, tensor in state.items()}


@shrink_before_saving.wrong("It hands back what it got: the slices still carry their whole storage into the file.")
def as_it_came(state):
    return dict(state)


@shrink_before_saving.wrong(
    "It clones every entry. Tied weights come apart (and train apart after loading), and a stretched row is written "
    "out in full."
)
def clones_everything(state):
    return {name: tensor.clone() for name, tensor in state.items()}


@shrink_before_saving.wrong(
    "It calls `contiguous()`, which copies a column but hands a row back as it is: a row is contiguous."
)
def makes_contiguous(state):
    return {name: tensor.contiguous() for name, tensor in state.items()}


@shrink_before_saving.wrong(
    "It calls `deepcopy`, which copies whole storages, like `torch.save` does. Now there are two of them."
)
def deep_copies(state):
    return copy.deepcopy(state)


@shrink_before_saving.wrong(
    "It judges each entry alone. Entries can share a storage: a row costs nothing beside its matrix, and one view "
    "under two names needs one clone."
)
def each_alone(state):
    return {
        name: tensor.clone() if tensor.nbytes < tensor.untyped_storage().nbytes() else tensor
        for name, tensor in state.items()
    }


@shrink_before_saving.wrong(
    "It clones the storage of each entry into a new one of the same length. The gaps are copied along."
)
def clones_storages(state):
    return {
        name: torch.empty(0).set_(
            tensor.untyped_storage().clone(), tensor.storage_offset(), tensor.shape, tensor.stride()
        )
        for name, tensor in state.items()
    }


@shrink_before_saving.also_right
def decide_first(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    small: dict[Any, torch.Tensor] = {}
    used: dict[int, int] = {}
    for tensor in state.values():
        storage = tensor.untyped_storage()
        view = (storage.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        if view not in small:
            small[view] = tensor
            used[storage.data_ptr()] = used.get(storage.data_ptr(), 0) + tensor.numel() * tensor.element_size()
    for view, tensor in small.items():
        if used[view[0]] < tensor.untyped_storage().nbytes():
            small[view] = tensor.detach().clone()
    return {
        name: small[tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride()]
        for name, tensor in state.items()
    }
