"""BB304."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from blackbelt.doctor.events import FunctionCall
from blackbelt.doctor.rules._losses import ActivationRule, is_log_simplex, is_simplex, node_name, through_views

SLACK = 1e-3  # what rounding may add to the logarithm of a probability of 1


class KlDivergence(ActivationRule):
    """`kl_div` is given probabilities or logits where it expects logarithms of probabilities, or the reverse.

    `kl_div(input, target)` is `target * (log target - input)`: its first argument must hold log-probabilities, its
    second probabilities (with `log_target=True` log-probabilities too). Given probabilities first, the gradient is
    that of a linear function of p, the loss is no divergence and may fall below zero; nothing is thrown.

    Observed: a first argument whose rows are non-negative and add up to 1, or that has positive entries and is not
    normalized while the second adds up to 1; a second argument with negative entries and no `log_target=True`, or with
    rows that add up to 1 and `log_target=True`; and a `backward` starts from that loss.

    Not reported: `kl_div(log_softmax(a), softmax(b))`, in either direction; logarithms of sigmoids or of
    probabilities with an epsilon; logits whose `logsumexp` is added beside it; soft or one-hot targets.

    The fix: `F.kl_div(F.log_softmax(student, -1), F.softmax(teacher, -1), reduction="batchmean")`. Reported at the line
    of the softmax that should be a log_softmax, or the reverse; where that is not known, at the loss.
    """

    code: ClassVar[str] = "BB304"
    title: ClassVar[str] = "kl_div of what is no logarithm of probabilities"

    def look(self, call: FunctionCall) -> None:
        if call.name == "kl_div":
            values, target = call.argument(0, "input"), call.argument(1, "target")
            if isinstance(values, Tensor) and isinstance(target, Tensor) and values.numel() and values.dim():
                self._look_at_target(call, target, bool(call.argument(5, "log_target", False)))
                self._look_at_input(call, values, target)

    def _look_at_input(self, call: FunctionCall, values: Tensor, target: Tensor) -> None:
        if values.max() <= SLACK:
            return
        node = through_views(values.grad_fn)
        dim = next((d for d in range(values.dim()) if is_simplex(values, d)), None)
        if dim is not None or node_name(node) in ("SoftmaxBackward0", "SigmoidBackward0"):
            what, place, sole = "probabilities", self._activations.line_of(node), None
        elif (is_simplex(target, -1) or is_log_simplex(target, -1)) and not is_log_simplex(values, -1):
            what, place, sole = "logits", None, values
        else:
            return
        self.wait(
            call.result,
            f"kl_div expects logarithms of probabilities first, and here it is given {what} "
            f"({values.min().item():.3g} to {values.max().item():.3g})",
            place or call.place,
            fix='F.kl_div(F.log_softmax(student, -1), F.softmax(teacher, -1), reduction="batchmean")',
            evidence={
                "smallest and largest input": f"{values.min().item():.4f}, {values.max().item():.4f}",
                "sums over the last dim": f"{values.sum(-1).min().item():.4f} to {values.sum(-1).max().item():.4f}",
            },
            only_user_of=sole,
        )

    def _look_at_target(self, call: FunctionCall, target: Tensor, log_target: bool) -> None:
        if log_target and is_simplex(target, -1):
            what, fix = "probabilities, and log_target=True", "log_target=False, or F.log_softmax(teacher, -1)"
        elif not log_target and target.numel() and target.min() < 0:
            what, fix = "negative numbers, and no log_target=True", "log_target=True, or F.softmax(teacher, -1)"
        else:
            return
        self.wait(
            call.result,
            f"kl_div is given a target of {what}",
            call.place,
            fix=fix,
            evidence={"smallest and largest target": f"{target.min().item():.4f}, {target.max().item():.4f}"},
        )
