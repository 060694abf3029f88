"""BB305."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor

from blackbelt.doctor.events import FunctionCall
from blackbelt.doctor.rules._losses import (
    ActivationRule,
    class_dim,
    is_log_simplex,
    is_simplex,
    node_name,
    number,
    through_views,
)
from blackbelt.doctor.run import Run
from blackbelt.places import Place

NLL = {"nll_loss", "nll_loss2d", "nll_loss_nd"}


class Classes(ActivationRule):
    """The loss takes the wrong dim for the classes, or targets of the wrong kind.

    `cross_entropy` and `nll_loss` expect the classes in dim 1, or in dim 0 of an input of one dim: then a batch of
    single scores counts as one sample with as many classes. With one class the softmax is 1 whatever the model says:
    the loss is 0. A softmax over dim 0 lets the samples of a batch compete. A float target of `cross_entropy` is taken
    as probabilities, and with a target of `binary_cross_entropy_with_logits` outside 0 to 1 the loss has no minimum.

    Observed: an input with one class; an input of one dim that was a column of N rows, with a float target that does
    not add up to 1; a log-softmax over another dim than that of the classes; a linear layer whose features are in the
    last dim, where the dim of the classes is 1 and as long; a float target with negative entries; targets of the binary
    loss outside 0 to 1 that are averaged or summed. And a `backward` starts from that loss.

    Not reported: one sample without a batch dim; one-hot, smoothed, weighted, several-hot float targets; targets of -1
    that a mask removes (`reduction="none"`, or a weight of 0).

    The fix: the shape that the loss expects, `logits.transpose(1, 2)`, `dim=1`; for one score per sample
    `binary_cross_entropy_with_logits`; class numbers as int64.
    """

    code: ClassVar[str] = "BB305"
    title: ClassVar[str] = "wrong dim or kind of classes in the loss"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._linear: OrderedDict[int, int] = OrderedDict()  # sequence numbers of results of linear layers

    def look(self, call: FunctionCall) -> None:
        if call.name == "linear":
            self._remember(call.result)
        elif call.name == "cross_entropy" or call.name in NLL:
            values, target = call.argument(0, "input"), call.argument(1, "target")
            if (
                isinstance(values, Tensor)
                and isinstance(target, Tensor)
                and values.grad_fn is not None
                and values.dim()
            ):
                self._look_at_dim(call, values, target)
                if call.name == "cross_entropy" and target.is_floating_point() and target.numel():
                    self._look_at_float_target(call, values, target)
        elif call.name == "binary_cross_entropy_with_logits":
            self._look_at_binary(call)

    def _remember(self, result: Tensor) -> None:
        if (key := number(result)) is not None and result.dim() > 2:
            self._linear[key] = result.size(-1)
            if len(self._linear) > 64:
                self._linear.popitem(last=False)

    def _look_at_dim(self, call: FunctionCall, values: Tensor, target: Tensor) -> None:
        dim = class_dim(values)
        node = through_views(values.grad_fn)
        direct = self._linear.get(number(values) or -1)
        shape = tuple(values.shape)
        if values.size(dim) == 1 and target.numel() > 1:
            self._say(
                call,
                f"{call.name} is given an input of shape {shape}, which has a single class: the loss is 0 whatever the "
                f"model says",
                "F.binary_cross_entropy_with_logits(logits.squeeze(1), target.float())",
                {"input": shape, "loss": f"{call.result.float().mean().item():.4g}"},
            )
        elif node_name(node) == "LogSoftmaxBackward0" and call.name in NLL and not is_log_simplex(values, dim):
            sums = values.detach().float().exp().sum(dim)
            self._say(
                call,
                f"the log_softmax is not taken over the classes, which {call.name} expects in dim {dim} of {shape}",
                f"F.log_softmax(logits, dim={dim})",
                {"probabilities add up over the classes to": f"{sums.min().item():.3g} to {sums.max().item():.3g}"},
                self._activations.line_of(node),
            )
        elif direct and values.size(1) == direct and target.dim() == values.dim() - 1:
            self._say(
                call,
                f"{call.name} expects the classes in dim 1 of {shape}, and the linear layer left them in the last",
                "loss_fn(logits.transpose(1, -1), target)  # or logits.flatten(0, -2), target.flatten()",
                {"input": shape, "target": tuple(target.shape)},
            )

    def _look_at_float_target(self, call: FunctionCall, values: Tensor, target: Tensor) -> None:
        low, total = target.min().item(), target.sum().item()
        if low < 0:
            self._say(
                call,
                f"cross_entropy takes a float target as probabilities, and this one has negative entries ({low:.3g})",
                "F.cross_entropy(logits, target.softmax(dim=1))  # or class numbers as int64",
                {"smallest and largest target": f"{low:.4g}, {target.max().item():.4g}"},
            )
        elif values.dim() > 2 and is_simplex(target, -1) and not is_simplex(target, 1):
            self._say(
                call,
                f"cross_entropy takes dim 1 of {tuple(values.shape)} for the classes, and the target's probabilities "
                f"add up to 1 over the last",
                "loss_fn(logits.flatten(0, -2), target.flatten(0, -2))  # or transpose(1, -1) of both",
                {
                    "sums over dim 1": f"{target.sum(1).min().item():.3g} to {target.sum(1).max().item():.3g}",
                    "sums over the last dim": f"{target.sum(-1).min().item():.3g} to {target.sum(-1).max().item():.3g}",
                },
            )
        elif values.dim() == 1 and abs(total - 1) > 1e-3 and _was_column(values):
            self._say(
                call,
                f"cross_entropy takes the batch of {values.numel()} scores for one sample with as many classes",
                "F.binary_cross_entropy_with_logits(scores, target)",
                {"input and target": tuple(values.shape), "sum of the target": f"{total:.4g}"},
            )

    def _look_at_binary(self, call: FunctionCall) -> None:
        values, target = call.argument(0, "input"), call.argument(1, "target")
        if not isinstance(values, Tensor) or not isinstance(target, Tensor) or call.result.dim() or not target.numel():
            return
        weight = call.argument(2, "weight")
        low, high = target.min().item(), target.max().item()
        if (low >= 0 and high <= 1) or (isinstance(weight, Tensor) and bool((weight == 0).any())):
            return
        self._say(
            call,
            f"targets from {low:.3g} to {high:.3g} are no probabilities, and the binary loss falls without bound",
            "(target > 0).float()  # 0 or 1",
            {"smallest and largest target": f"{low:.4g}, {high:.4g}", "loss": f"{call.result.item():.4g}"},
        )

    def _say(
        self, call: FunctionCall, message: str, fix: str, evidence: dict[str, object], place: Place | None = None
    ) -> None:
        self.wait(call.result, message, place or call.place, fix=fix, evidence=evidence)


def _was_column(values: Tensor) -> bool:
    """Return whether a tensor of one dim was a column of a matrix, as its history says."""
    node = values.grad_fn
    while node is not None and node is not through_views(node):
        if tuple(getattr(node, "_saved_self_sym_sizes", ()))[-1:] == (1,):
            return True
        node = node.next_functions[0][0]
    return False
