"""BB303."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from blackbelt.doctor.events import FunctionCall
from blackbelt.doctor.rules._losses import (
    ActivationRule,
    class_dim,
    is_log_simplex,
    is_simplex,
    node_name,
    through_views,
)

WITH_LOGITS = {"binary_cross_entropy_with_logits", "multilabel_soft_margin_loss"}
BIASED = {"AddmmBackward0", "AddBackward0", "ConvolutionBackward0"}  # no cosines: these have no bias
BOUND = 1.001  # of cosines: as scores of classes they need no logarithm


class LogProbabilities(ActivationRule):
    """A loss function is given what it does not expect: `nll_loss` logits, a loss on logits probabilities.

    `nll_loss` takes the negative of its input at the target, and nothing else. On logits it falls without bound; on
    probabilities it is -p, whose gradient vanishes where the model is wrong. `binary_cross_entropy_with_logits` applies
    the sigmoid itself; after another one, no probability below 0.5 can be expressed. `ctc_loss` expects logarithms of
    probabilities, and its gradient is wrong for anything else. `poisson_nll_loss` takes the exponential itself unless
    told `log_input=False`.

    Observed: for `nll_loss` and `ctc_loss`, rows of the input whose exponentials do not add up to 1 along the classes,
    with the loss as the only user of that input; for the others, an input that comes straight from a sigmoid, a softmax
    or an exponential (only reshaped since); and a `backward` starts from that loss.

    Not reported: `nll_loss` of the logarithm of probabilities, or of logits whose `logsumexp` is added beside it;
    cosines; `cross_entropy` of log-probabilities, which changes nothing.

    The fix: the pair that belongs together, in doubt `cross_entropy` or `binary_cross_entropy_with_logits` on logits.
    Reported at the line of the softmax or sigmoid that is too much or of the wrong kind, else at the loss.
    """

    code: ClassVar[str] = "BB303"
    title: ClassVar[str] = "loss and last activation do not belong together"

    def look(self, call: FunctionCall) -> None:
        if call.name in WITH_LOGITS:
            self._look_at_logits(call)
        elif call.name in ("nll_loss", "nll_loss2d", "nll_loss_nd"):
            values = call.argument(0, "input")
            if isinstance(values, Tensor) and values.grad_fn is not None and values.dim():
                self._look_at_log_probabilities(call, values, class_dim(values))
        elif call.name == "ctc_loss":
            values = call.argument(0, "log_probs")
            if isinstance(values, Tensor) and values.grad_fn is not None:
                self._look_at_log_probabilities(call, values, -1)
        elif call.name == "poisson_nll_loss" and call.argument(2, "log_input", True):
            self._look_at_rates(call)

    def _look_at_logits(self, call: FunctionCall) -> None:
        values = call.argument(0, "input")
        if not isinstance(values, Tensor) or values.grad_fn is None:
            return
        node = through_views(values.grad_fn)
        squashed = {"SigmoidBackward0": "sigmoid", "SoftmaxBackward0": "softmax"}.get(node_name(node))
        if squashed:
            self.wait(
                call.result,
                f"{call.name} applies a sigmoid itself, and is given the result of a {squashed}: no probability "
                f"below 0.5 or above 0.731 can be expressed",
                self._activations.line_of(node) or call.place,
                fix=f"loss = F.{call.name}(logits, target)  # without the {squashed}",
                evidence={"smallest and largest input": f"{values.min().item():.4f}, {values.max().item():.4f}"},
            )

    def _look_at_log_probabilities(self, call: FunctionCall, values: Tensor, dim: int) -> None:
        if values.numel() == 0 or values.size(dim) < 2 or is_log_simplex(values, dim):
            return
        node = through_views(values.grad_fn)
        probable = node_name(node) == "SoftmaxBackward0" or is_simplex(values, dim)
        low, high = values.min().item(), values.max().item()
        if node_name(node) == "LogSoftmaxBackward0" or not (probable or high > 0):
            return  # along another dim: BB305; or logarithms of something that need not add up to 1
        if not probable and max(-low, high) <= BOUND and node_name(node) not in BIASED:
            return
        what = "probabilities" if probable else "logits"
        sums = values.detach().float().exp().sum(dim)
        self.wait(
            call.result,
            f"{call.name} expects logarithms of probabilities, and here it is given {what} ({low:.3g} to {high:.3g})",
            (self._activations.line_of(node) if probable else None) or call.place,
            fix="log_probabilities = F.log_softmax(logits, dim=-1)  # or F.cross_entropy(logits, target)",
            evidence={
                "smallest and largest input": f"{low:.4f}, {high:.4f}",
                "sums of its exponentials over the classes": f"{sums.min().item():.4g} to {sums.max().item():.4g}",
            },
            only_user_of=None if probable else values,
        )

    def _look_at_rates(self, call: FunctionCall) -> None:
        values = call.argument(0, "input")
        if not isinstance(values, Tensor):
            return
        node = through_views(values.grad_fn)
        if node_name(node) == "ExpBackward0":
            self.wait(
                call.result,
                "poisson_nll_loss takes the exponential itself, and here it is given the result of an exp",
                self._activations.line_of(node) or call.place,
                fix="F.poisson_nll_loss(rate, target, log_input=False)",
                evidence={"smallest and largest input": f"{values.min().item():.4g}, {values.max().item():.4g}"},
            )
