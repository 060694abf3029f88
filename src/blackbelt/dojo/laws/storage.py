"""Storages: how many bytes the result keeps alive, and which of its tensors share them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, storage_key, tensors_in
from blackbelt.report import format_bytes


@dataclass(frozen=True)
class KeepsAlive(Law):
    """The storages behind the result hold at most ``at_most(*arguments)`` bytes, each storage counted once."""

    at_most: Callable[..., int]

    why: ClassVar[str] = "A view keeps its whole storage in memory, and `torch.save` writes the whole storage."

    def check(self, trial: Trial) -> None:
        budget = self.at_most(*trial.case.arguments)
        alive = {storage_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors_in(trial.result)}
        total = sum(alive.values())
        if total > budget:
            raise LawBroken(
                f"The result keeps {format_bytes(total)} alive; {format_bytes(budget)} are enough",
                f"at most {format_bytes(budget)}",
                format_bytes(total),
            )


@dataclass(frozen=True)
class SameSharing(Law):
    """Two tensors of the result share a storage exactly where those of the reference's result do."""

    why: ClassVar[str] = (
        "Tied tensors that come apart train apart; tensors that were apart and get tied overwrite each other."
    )

    def check(self, trial: Trial) -> None:
        expected, got = _partners(trial.expected), _partners(trial.result)
        if expected != got:
            raise LawBroken("Its tensors do not share memory as they should", _words(expected), _words(got))


def _partners(value: object) -> list[int | None]:
    """Return for every tensor the number of the first tensor with the same storage; None for one without elements."""
    tensors = list(tensors_in(value))
    keys = [storage_key(tensor) for tensor in tensors]
    return [keys.index(key) if tensor.numel() else None for tensor, key in zip(tensors, keys)]


def _words(partners: list[int | None]) -> str:
    shared = [f"number {i} with number {first}" for i, first in enumerate(partners) if first not in (None, i)]
    return f"shared: {', '.join(shared)}" if shared else "none share memory"
