"""BB504."""

from __future__ import annotations

from typing import ClassVar

from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._numbers import NumberRule, Origin, Verdict

CURES = {
    "sqrt": "(x + 1e-12).sqrt()  # the derivative of sqrt at 0 is infinite",
    "norm": "(x.pow(2).sum(-1) + 1e-12).sqrt()  # the derivative of a norm at 0 is 0 / 0",
    "log": "x.clamp(min=1e-12).log()",
    "div": "a / b.clamp(min=1e-12)",
    "pow": "x.clamp(min=1e-12) ** exponent",
    "std": "x.std(unbiased=False)  # of a single element: 0 / 0 otherwise",
    "var": "x.var(unbiased=False)  # of a single element: 0 / 0 otherwise",
    "acos": "x.clamp(-1 + 1e-6, 1 - 1e-6).acos()",
    "asin": "x.clamp(-1 + 1e-6, 1 - 1e-6).asin()",
    "softmax": "scores.masked_fill(mask, -1e4)  # a row that is all -inf has no softmax",
    "mean": "x.sum() / max(x.numel(), 1)  # the mean of nothing is 0 / 0",
    "where": "torch.where(ok, f(torch.where(ok, x, 1.0)), 0.0)  # make the other branch harmless before f",
}


class HiddenNaN(NumberRule):
    """A NaN is made in most batches, and the training goes on: it is replaced by 0, its batch is skipped, or the
    parameters have become NaN themselves.

    `torch.nan_to_num(loss)`, `if torch.isnan(loss): continue`, or zeros written into the gradients, keep the program
    running; what those batches should have taught is gone. Without them the first step makes every parameter NaN, and
    nothing says so either.

    Observed: the first operation whose result has a NaN while no input has one, forward or backward, followed until it
    takes effect: the loss or the gradients are NaN in two calls of `backward` in a row and so are parameters; or NaN
    gradients are made three times and in most batches; or a loss that is all NaN is replaced by a number; or three
    batches in a row with a NaN have no `backward`. After the first 20 steps: parameters that are NaN.

    Not reported: a NaN now and then that a guard skips; NaN in data or labels that a mask keeps out of the loss; rows
    without anything to attend to; NaN in what is only printed; what a gradient scaler skips (BB413); what another
    finding explains.

    The fix is in the operation that is named: `torch.sqrt(x + eps)`, a clamp before `log` or a division, a mask that is
    applied before and not after.
    """

    code: ClassVar[str] = "BB504"
    title: ClassVar[str] = "a NaN that is hidden, and training goes on"
    lesson: ClassVar[str] = "silent_failures/rules"

    def concludes(self, verdict: Verdict) -> Findings:
        if verdict.overflow is not None or self.run.findings:  # another rule has said where it comes from
            return
        origin = verdict.origin
        made = f"the gradient of {origin.name}" if origin is not None and origin.backward else "this line"
        if origin is None:
            made = "something before this line"
        yield self.finding(
            f"{made} makes NaN{_of(origin)}: {self._consequence(verdict)}",
            (origin and origin.place) or verdict.place,
            fix=_cure(origin),
            evidence={
                "operation": "not seen" if origin is None else _shown(origin),
                "inputs": "not seen" if origin is None or not origin.inputs else origin.inputs,
                "times": f"{verdict.times} of {verdict.of} batches" if verdict.how != "late" else "until now",
            },
        )

    @staticmethod
    def _consequence(verdict: Verdict) -> str:
        if verdict.poisoned:
            return f"{verdict.poisoned} is NaN now, and training goes on"
        return {
            "hidden": f"the loss is replaced by a number {_line(verdict)}, and these batches teach nothing",
            "skipped": f"{verdict.times} batches in a row are skipped without a backward",
            "loss": "the loss is NaN in most batches, and training goes on without them",
            "gradient": "gradients are NaN in most batches, and training goes on without them",
        }[verdict.how]


def _line(verdict: Verdict) -> str:
    return "" if verdict.place is None else f"at {verdict.place}"


def _of(origin: Origin | None) -> str:
    return "" if origin is None or not origin.inputs else f" of {origin.inputs}"


def _shown(origin: Origin) -> str:
    return f"{origin.name}, {'backward' if origin.backward else f'{origin.wrong} elements of {origin.shape}'}"


def _cure(origin: Origin | None) -> str:
    name = "" if origin is None else origin.name.lower().removeprefix("linalgvector").removeprefix("linalg_vector_")
    for known, cure in CURES.items():
        if name.startswith((known, "true_" + known, "log_" + known)):
            return cure
    return (
        "with torch.autograd.detect_anomaly():  # names the operation whose backward makes a NaN\n    loss.backward()"
    )
