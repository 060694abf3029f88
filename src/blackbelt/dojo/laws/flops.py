"""Operation budget: floating-point operations of the matrix products that run, as PyTorch's own counter counts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch.utils.flop_counter import FlopCounterMode

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, seeded


@dataclass(frozen=True)
class Flops(Law):
    """The call spends at most ``at_most(*arguments)`` floating-point operations.

    Counted by ``torch.utils.flop_counter.FlopCounterMode``: matrix products, convolutions and attention. Multiplying
    and summing elements one by one is not counted, so pair this law with an allocation budget. Costs one call.
    """

    at_most: Callable[..., int]

    why: ClassVar[str] = "The same numbers can cost a thousand times the operations; only the order differs."

    def check(self, trial: Trial) -> None:
        budget = self.at_most(*trial.case.arguments)
        arguments = trial.case.fresh()
        with seeded(), FlopCounterMode(display=False) as counter:
            trial.function(*arguments)
        spent = counter.get_total_flops()
        if spent > budget:
            raise LawBroken(
                f"It spends {spent:,} floating-point operations; the budget is {budget:,}",
                f"at most {budget:,} operations",
                f"{spent:,} operations",
            )
