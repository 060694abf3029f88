"""The programs of a Triton kernel on the interpreter: how they read memory, how they share it, whether order matters.

Needs Triton (Linux); no GPU. Call :func:`blackbelt.dojo.laws.interpreted.interpret` before kernels are decorated.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, seeded
from blackbelt.report import format_bytes

SECTOR = 32  # bytes: the least that a GPU moves (CUDA C++ Best Practices Guide, coalesced access: 32-byte transactions)


@dataclass
class Reading:
    """What programs read while they were watched: bytes of whole sectors, the most elements of one program."""

    moved: int = 0
    most: int = 0


@contextmanager
def reading() -> Iterator[Reading]:
    """Watch the programs that run in this block. A sector counts once for each load that touches it."""
    from triton.runtime.interpreter import interpreter_builder as builder

    seen, of_program = Reading(), 0
    load, turn = builder.create_masked_load, builder.set_grid_idx

    def next_program(*index: int) -> None:
        nonlocal of_program
        of_program = 0
        turn(*index)

    def watched(pointers: Any, mask: Any, *rest: Any, **more: Any) -> Any:
        nonlocal of_program
        addresses = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        seen.moved += SECTOR * np.unique(addresses // np.uint64(SECTOR)).size
        of_program += addresses.size
        seen.most = max(seen.most, of_program)
        return load(pointers, mask, *rest, **more)

    with _replaced(builder, create_masked_load=watched, set_grid_idx=next_program):
        yield seen


@contextmanager
def reversed_programs() -> Iterator[None]:
    """Run the programs of every launch in this block in reverse order, the last first."""
    from triton.runtime.interpreter import interpreter_builder as builder

    turn = builder.set_grid_idx

    def from_the_end(*index: int) -> None:
        turn(*(size - 1 - place for size, place in zip(builder.grid_dim, index)))

    with _replaced(builder, set_grid_idx=from_the_end):
        yield


@contextmanager
def _replaced(owner: Any, **functions: Callable[..., Any]) -> Iterator[None]:
    before = {name: vars(owner).get(name) for name in functions}
    vars(owner).update(functions)
    try:
        yield
    finally:
        for name, function in before.items():
            if function is None:
                delattr(owner, name)
            else:
                setattr(owner, name, function)


@dataclass(frozen=True)
class LoadsWholeSectors(Law):
    """What kernels load comes in sectors of 32 bytes, together at most ``at_most(*arguments)`` bytes."""

    at_most: Callable[..., int]

    why: ClassVar[str] = "Memory comes in sectors of 32 bytes: who wants 4 of them has all 32 moved."

    def check(self, trial: Trial) -> None:
        budget, moved = self.at_most(*trial.case.arguments), _watched(trial).moved
        if moved > budget:
            raise LawBroken(
                f"Its loads move {format_bytes(moved)} in sectors of {SECTOR} bytes; {format_bytes(budget)} are enough",
                f"at most {format_bytes(budget)}",
                format_bytes(moved),
            )


@dataclass(frozen=True)
class SharesTheWork(Law):
    """No program loads more than ``at_most`` elements."""

    at_most: int

    why: ClassVar[str] = "A GPU runs thousands of programs at a time: a few long ones leave most of it idle."

    def check(self, trial: Trial) -> None:
        most = _watched(trial).most
        if most > self.at_most:
            raise LawBroken(f"One program loads {most:,} elements", f"at most {self.at_most:,}", f"{most:,}")


@dataclass(frozen=True)
class SameInAnyOrder(Law):
    """The resulting tensor has the same bits when the programs of every launch run in reverse order."""

    why: ClassVar[str] = "Programs of a GPU run in no fixed order, and a sum in another order has other last bits."

    def check(self, trial: Trial) -> None:
        arguments = trial.case.fresh()
        with seeded(), reversed_programs():
            again = trial.function(*arguments)
        first = trial.result
        if not torch.equal(_bits(first), _bits(again)):
            difference = f"a difference of {float((first - again).abs().max()):.3g} with the last program first"
            raise LawBroken("Its bits depend on the order in which programs run", "the same bits", difference)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


@functools.lru_cache(maxsize=1)  # two laws look at one trial after the other
def _watched(trial: Trial) -> Reading:
    arguments = trial.case.fresh()
    with seeded(), reading() as seen:
        trial.function(*arguments)
    return seen
