"""Synchronizations: operators that make the host wait for the device to hand over a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from blackbelt.dojo.laws import Law, LawBroken

if TYPE_CHECKING:
    from blackbelt.dojo.trial import Trial

# On a GPU each of these copies a result, or the size of a result, to the host. Counting them works on any device.
SYNCHRONIZING_OPERATORS = (
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
)
SYNCHRONIZING_FUNCTIONS = ("torch.Tensor.tolist", "torch.Tensor.numpy", "torch.Tensor.cpu")


@dataclass(frozen=True)
class Synchronizes(Law):
    """At most ``at_most`` operators wait for the device (``.item()``, ``nonzero``, ``if tensor:``, ``.tolist()``)."""

    at_most: int = 0

    why: ClassVar[str] = "A GPU runs ahead of Python; every number it must hand back drains the queue."

    def check(self, trial: Trial) -> None:
        seen = {name: trial.operators[name] for name in SYNCHRONIZING_OPERATORS if trial.operators[name]}
        seen |= {name: trial.functions[name] for name in SYNCHRONIZING_FUNCTIONS if trial.functions[name]}
        if sum(seen.values()) > self.at_most:
            names = ", ".join(f"`{name}` ×{count}" for name, count in seen.items())
            raise LawBroken(
                f"It waits for the device {sum(seen.values())} times; {self.at_most} are enough",
                f"at most {self.at_most} synchronizations",
                names,
            )
