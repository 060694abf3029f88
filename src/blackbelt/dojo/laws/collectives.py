"""Collectives: what every rank sends, and how often."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from blackbelt.dojo.laws import Law, LawBroken

if TYPE_CHECKING:
    from blackbelt.dojo.trial import Trial


@dataclass(frozen=True)
class Collectives(Law):
    """Every rank issues each named collective exactly as often as ``exactly(*arguments of the rank)`` says.

    Names as dispatched, ``c10d::allreduce_`` for ``all_reduce`` and for a bucket of ``DistributedDataParallel``. Those
    not named are free. For katas with ``ranks``.
    """

    exactly: Callable[..., Mapping[str, int]]

    why: ClassVar[str] = "Every collective waits for the slowest rank and for the network, whatever it computes."

    def check(self, trial: Trial) -> None:
        for rank, (arguments, seen) in enumerate(zip(trial.case.arguments, trial.rank_operators)):
            for name, wanted in self.exactly(*arguments).items():
                if seen[name] != wanted:
                    raise LawBroken(
                        f"Rank {rank} issues `{name}` {seen[name]} times; {wanted} were asked for",
                        f"`{name}` {wanted} times",
                        f"{seen[name]} times",
                    )
