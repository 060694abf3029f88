"""Memory sharing: is the result a view of an argument, or memory of its own?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, storage_key, tensors_in


@dataclass(frozen=True)
class SharesMemory(Law):
    """Every tensor in the result uses the storage of the tensor at ``argument``."""

    argument: int = 0

    why: ClassVar[str] = "A view costs no bytes and no time, whatever the size; a copy costs both."

    def check(self, trial: Trial) -> None:
        source = trial.arguments[self.argument]
        for tensor in tensors_in(trial.result):
            if tensor.numel() and storage_key(tensor) != storage_key(source):
                raise LawBroken(
                    "The result is a copy; a view of the input was asked for",
                    "the result shares the input's storage",
                    f"a storage of its own, {tensor.untyped_storage().nbytes()} bytes",
                )


@dataclass(frozen=True)
class OwnsMemory(Law):
    """No tensor in the result uses the storage of any tensor among the arguments."""

    why: ClassVar[str] = "Who writes into a result that shares memory with the input changes the input too."

    def check(self, trial: Trial) -> None:
        theirs = {storage_key(tensor) for tensor in tensors_in(trial.arguments) if tensor.numel()}
        for tensor in tensors_in(trial.result):
            if tensor.numel() and storage_key(tensor) in theirs:
                raise LawBroken(
                    "The result is a view of the input; memory of its own was asked for",
                    "a new storage",
                    "the input's storage",
                )


@dataclass(frozen=True)
class Strides(Law):
    """The result has the strides (and so the memory format) of the reference's result."""

    why: ClassVar[str] = "The layout decides which views are possible afterwards and how fast the next operator runs."

    def check(self, trial: Trial) -> None:
        for expected, got in zip(tensors_in(trial.expected), tensors_in(trial.result)):
            if _relevant(expected) != _relevant(got):
                raise LawBroken(
                    "The numbers are right and the strides are not",
                    f"stride {expected.stride()}",
                    f"stride {got.stride()}",
                )


def _relevant(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the strides of the dimensions that have more than one index: the others are never used."""
    return tuple(stride for size, stride in zip(tensor.shape, tensor.stride()) if size > 1 and tensor.numel())
