"""BB506."""

from __future__ import annotations

from typing import ClassVar

from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._numbers import NumberRule, Verdict

AFTER = {"skipped": "the batches are skipped", "zeroed": "what is divided by it becomes 0"}


class HalfOverflow(NumberRule):
    """An operation in float16 overflows: its inputs are finite, its result is infinite, and the loss becomes NaN.

    The largest number of float16 is 65,504. Scores of attention before they are divided, sums over many elements,
    squares and exponentials reach it. Infinity minus infinity, or divided by it, is NaN. A gradient scaler skips these
    steps, all of them, and lowers a scale that has nothing to do with it.

    Observed: a result in float16 with an infinity, of inputs without; the same operation tried again in float32 is
    finite and larger than 65,504; and the loss is infinite or NaN in two calls of `backward` in a row, or the batches
    are skipped.

    Or, in two batches in a row, a norm or variance that overflowed is divided by (`rsqrt`, `x / norm`): where it was
    infinite the model goes on with zeros, and the loss stays finite.

    Not reported: an infinity that the script gives itself (masks), or that does not reach the loss, as where it is
    clamped; a gradient scaler whose scale is too high; a single overflow now and then; bfloat16, which goes as far as
    float32.

    The fix: compute that operation in float32 (`x.float()`, inside `torch.autocast(device, enabled=False)`), divide
    before the product instead of after it, or use bfloat16. Reported where the first infinity is made.
    """

    code: ClassVar[str] = "BB506"
    title: ClassVar[str] = "activations that overflow in float16"
    explains: ClassVar[tuple[str, ...]] = ("BB405", "BB413", "BB504")

    def concludes(self, verdict: Verdict) -> Findings:
        overflow = verdict.overflow
        if overflow is None:
            return
        after = AFTER.get(verdict.how, "the loss is not finite")
        yield self.finding(
            f"{overflow.name} overflows float16: in float32 its largest result is {overflow.largest:,.0f}, here it is "
            f"infinite, and {after}",
            overflow.place,
            fix="with torch.autocast(device, enabled=False):\n    ...  # this line, with x.float() instead of x\n"
            "# or: torch.autocast(device, torch.bfloat16)",
            evidence={
                "infinite": f"{overflow.wrong:,} elements of {overflow.shape}",
                "inputs": overflow.inputs,
                "largest float16": "65,504",
                "batches": f"{verdict.times} of {verdict.of}",
            },
        )
