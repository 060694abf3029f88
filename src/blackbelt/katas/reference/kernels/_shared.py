"""What several katas of this lesson use: a result compared with a formula in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, to_double


@dataclass(frozen=True)
class Computes(Law):
    """The result has the first argument's dtype and is ``formula`` in float64, but for some roundings of its largest.

    In half precision one rounding is allowed: sums are in float32.

    ``Value`` would run the reference in float64, where a kernel that sums in float32 is no better than in float32.
    """

    formula: Callable[..., torch.Tensor]
    roundings: int = 8

    why: ClassVar[str] = "A fast or elegant answer that is not the answer helps nobody."
    about_result: ClassVar[bool] = True

    def check(self, trial: Trial) -> None:
        got, first = trial.result, trial.case.arguments[0]
        exact = self.formula(*to_double(trial.case.fresh()))
        wanted = exact.to(first.dtype)
        if not isinstance(got, torch.Tensor):
            raise LawBroken("The result is no tensor", describe(wanted), describe(got))
        if got.shape != wanted.shape:
            raise LawBroken(f"The result has shape {tuple(got.shape)}", describe(wanted), describe(got))
        if got.dtype != first.dtype:
            raise LawBroken(f"The result has dtype {got.dtype}", f"{first.dtype}", f"{got.dtype}")
        finite = torch.isfinite(wanted)
        if not torch.equal(torch.isfinite(got), finite):
            raise LawBroken("It has NaN or infinite values in other places", describe(wanted), describe(got))
        if not finite.any():
            return
        error = float((got.double() - exact)[finite].abs().max())
        roundings = 1 if first.dtype in (torch.float16, torch.bfloat16) else self.roundings
        allowed = roundings * torch.finfo(first.dtype).eps * float(exact[finite].abs().max())
        if error > allowed:
            raise LawBroken(
                f"The result is off by {error:.3g}; at most {allowed:.3g} is allowed", describe(wanted), describe(got)
            )
