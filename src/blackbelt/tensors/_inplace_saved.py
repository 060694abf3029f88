"""What `trace_inplace` keeps of a tensor that something relies on, and of each write to its storage."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch

from blackbelt.places import Place
from blackbelt.tensors._inplace_evidence import fingerprint, storage_key, version_of
from blackbelt.tensors._inplace_fixes import NATIVE


@dataclass(frozen=True)
class Write:
    """One in-place write: the operation, the place, and whether the bytes written can be the saved ones."""

    operation: str
    place: Place | None
    overlaps: bool


class Group:
    """The saved tensors that live in one storage. Kept alive by them, and gone with the last."""

    def __init__(self) -> None:
        self.members: weakref.WeakSet[Saved] = weakref.WeakSet()
        self.exposed_at: Place | None = None


class Saved:
    """A tensor that something relies on: what autograd's SavedVariable holds, and what explains a change."""

    def __init__(self, tensor: torch.Tensor, operation: str, place: Place | None, group: Group | None) -> None:
        # Like SavedVariable: a leaf is held itself, anything else as an alias (an output held itself would be a cycle).
        self.tensor = tensor if tensor.is_leaf else tensor.detach()
        self.original = weakref.ref(tensor)
        self.key = storage_key(tensor)
        self.version = version_of(tensor)
        self.creator, self.output_number, self.sequence = _creator(tensor)
        self.is_leaf = tensor.is_leaf and tensor.requires_grad
        self.operation = operation
        self.place = place
        self.group = group
        self.print: torch.Tensor | None = None
        self.latest: torch.Tensor | None = None  # the last fingerprint of memory that NumPy can reach
        self.writes: list[Write] = []
        self.num_writes = 0
        self.is_reported = False
        if group is not None:
            group.members.add(self)

    def seal(self) -> None:
        """Take the fingerprint. Called when the operation that saved the tensor is over."""
        self.print = self.latest = fingerprint(self.tensor)

    def current(self, node: Any) -> torch.Tensor:
        """Return what autograd itself would use now, `x.data = other` included."""
        original = self.original()
        if original is None or self.tensor is original or self._is_output_of(node) or storage_key(original) == self.key:
            return self.tensor.detach()
        return original.detach()

    def _is_output_of(self, node: Any) -> bool:
        return node is not None and self.sequence is not None and _sequence(node) == self.sequence

    def write(self, operation: str, place: Place | None, *, overlaps: bool = True) -> None:
        """Note a write. The first few are kept, all are counted."""
        self.num_writes += 1
        if len(self.writes) < 8:
            self.writes.append(Write(operation, place, overlaps))

    def culprit(self) -> Write | None:
        """Return the first write that can have changed the values, else the first write at all."""
        return next((write for write in self.writes if write.overlaps), self.writes[0] if self.writes else None)

    def describe(self) -> str:
        """Return dtype, shape and origin, in the terms of PyTorch's own message."""
        origin = f", output {self.output_number} of {self.creator}" if self.creator else ", a leaf" * self.is_leaf
        return f"{str(self.tensor.dtype).removeprefix('torch.')} {tuple(self.tensor.shape)}{origin}"


def native_message(saved: Saved, tensor: torch.Tensor, version: int | None) -> str:
    """Return PyTorch's own words about a saved tensor whose version moved."""
    size = ", ".join(map(str, tensor.shape))
    origin = f", which is output {saved.output_number} of {saved.creator}," if saved.creator else ""
    versions = f"is at version {version}; expected version {saved.version} instead."
    return f"{NATIVE}: [{tensor.type()} [{size}]]{origin} {versions}"


def overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the bytes that two tensors of one storage span have any in common."""
    (a, b), (c, d) = _range(one), _range(other)
    return a < d and c < b


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    start = int(tensor.storage_offset()) * tensor.element_size()
    last = sum(int((size - 1) * stride) for size, stride in zip(tensor.shape, tensor.stride()))
    return start, start + (last + 1) * tensor.element_size()


def differs(before: torch.Tensor | None, after: torch.Tensor | None) -> bool:
    """Whether the fingerprint taken before is known and not the one taken now."""
    return before is not None and (after is None or not torch.equal(before, after))


def _creator(tensor: torch.Tensor) -> tuple[str, int, int | None]:
    try:
        node = tensor.grad_fn
    except RuntimeError:  # a view whose history PyTorch refuses to rebuild
        return "", 0, None
    return (node.name(), tensor.output_nr, _sequence(node)) if node is not None else ("", 0, None)


def _sequence(node: Any) -> int:
    number: int = node._sequence_nr()  # noqa: SLF001 - tells nodes apart without keeping them alive
    return number
