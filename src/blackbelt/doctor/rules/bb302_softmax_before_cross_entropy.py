"""BB302."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from blackbelt.doctor.events import FunctionCall
from blackbelt.doctor.rules._losses import ActivationRule, class_dim, is_simplex, node_name, through_views

SQUASHED = {"SoftmaxBackward0": "softmax", "SigmoidBackward0": "sigmoid"}


class SoftmaxBeforeCrossEntropy(ActivationRule):
    """`cross_entropy` is given probabilities, where it expects logits: it takes the softmax of them once more.

    Numbers between 0 and 1 are logits that hardly differ. With C classes the loss cannot fall below
    log(1 + (C - 1) / e), however sure the model is (1.46 with 10 classes), and the gradient passes through two
    softmaxes, which flattens it. Training is slow and ends early, and nothing is thrown.

    Observed: the first argument of `cross_entropy` comes straight from a softmax or a sigmoid (only reshaped since), or
    each of its rows is non-negative and adds up to 1; and a `backward` starts from that loss.

    Not reported: probabilities as *targets* (label smoothing, distillation); `cross_entropy` of the logarithm of
    probabilities, which is right; probabilities divided by a temperature; losses that are only printed.

    The fix: hand the logits to the loss, and take the softmax where probabilities are needed, after training. Reported
    at the line of the softmax: of `nn.Softmax`, where it is made.
    """

    code: ClassVar[str] = "BB302"
    title: ClassVar[str] = "probabilities where cross_entropy expects logits"
    lesson: ClassVar[str] = "silent_failures/method"

    def look(self, call: FunctionCall) -> None:
        values = call.argument(0, "input") if call.name == "cross_entropy" else None
        if not isinstance(values, Tensor) or values.grad_fn is None or values.dim() == 0:
            return
        dim = class_dim(values)
        num_classes = values.size(dim)
        node = through_views(values.grad_fn)
        squashed = SQUASHED.get(node_name(node), "")
        if num_classes < 2 or not (squashed or (is_simplex(values, dim, 1e-4) and _differ(values, dim))):
            return
        squashed = squashed or "normalization to a sum of 1"
        floor = math.log1p((num_classes - 1) / math.e)
        self.wait(
            call.result,
            f"cross_entropy takes the softmax itself, and here it is given the result of a {squashed}: with "
            f"{num_classes} classes the loss cannot fall below {floor:.3f}",
            self._activations.line_of(node) or call.place,
            fix="loss = F.cross_entropy(logits, target)  # logits: what went into the " + squashed.split()[0],
            evidence={
                "smallest and largest input": f"{values.min().item():.4f}, {values.max().item():.4f}",
                "sums over the classes": f"{values.sum(dim).min().item():.4f} to {values.sum(dim).max().item():.4f}",
                "least loss that is possible": f"{floor:.4f}",
            },
        )


def _differ(values: Tensor, dim: int) -> bool:
    """Return whether there are rows, and they differ: one row may add up to 1 by chance."""
    rows = values.detach().movedim(dim, -1).reshape(-1, values.size(dim))
    return len(rows) > 2 and bool((rows[1:] - rows[0]).abs().max() > 1e-3)
