"""Operation budget: floating-point operations of the matrix products that run, by the formulas of PyTorch itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, seeded


@dataclass(frozen=True)
class Flops(Law):
    """The call spends at most ``at_most(*arguments)`` floating-point operations.

    Counted as ``torch.utils.flop_counter`` does: matrix products, convolutions and attention. Multiplying and summing
    elements one by one is not counted, so pair this law with an allocation budget. Costs one call.
    """

    at_most: Callable[..., int]

    why: ClassVar[str] = "The same numbers can cost a thousand times the operations; only the order differs."

    def check(self, trial: Trial) -> None:
        budget = self.at_most(*trial.case.arguments)
        arguments = trial.case.fresh()
        with seeded(), _Counter() as counter:
            trial.function(*arguments)
        if counter.flops > budget:
            raise LawBroken(
                f"It spends {counter.flops:,} floating-point operations; the budget is {budget:,}",
                f"at most {budget:,} operations",
                f"{counter.flops:,} operations",
            )


class _Counter(TorchDispatchMode):
    """``FlopCounterMode`` without its table of modules, and without the compiler that its first use imports."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator imports the whole compiler, several seconds (torch 2.15)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out
