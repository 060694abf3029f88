"""BB309."""

from __future__ import annotations

import math
import weakref
from typing import Any, ClassVar

import torch
from torch import Tensor

from blackbelt.doctor.events import FunctionCall
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._losses import MAX_WAITING, LossRule, class_dim
from blackbelt.doctor.run import Run
from blackbelt.places import Place

IGNORING = {"cross_entropy": 3, "nll_loss": 3, "nll_loss_nd": 3}  # positions of ignore_index
MEANS = {"mean", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits"}
MEANS |= {"binary_cross_entropy", "cross_entropy", "nll_loss", "kl_div"}
FEWEST = 64  # samples before anything is concluded from how frequent a class is
IMBALANCE = 2.5  # times that one class is more frequent than another, for weights to tell


class Weights(LossRule):
    """The weights of the classes favor the frequent ones, or nothing is left to average and the loss is NaN.

    Weights are to make up for rare classes: `pos_weight` is negatives / positives, `weight` goes with 1 / count. Upside
    down they make the rare class rarer. And a mean over no elements, as when every target of a batch is `ignore_index`
    or a mask is empty, is 0 / 0: one such batch makes the gradient NaN, and all parameters after the step.

    Observed: over the targets seen so far, a `pos_weight` that equals positives / negatives where these differ by 2.5
    and more; class weights that grow in proportion to the frequency of their class; a NaN loss of no elements at all;
    and a `backward` that starts from that loss.

    Not reported: weights that follow the inverse frequency, or a root or logarithm of it, or weights that are chosen by
    hand; classes with weight 0; batches that are skipped when nothing is left, or divided by `clamp(min=1)`.

    The fix: `pos_weight = negatives / positives`, `weight = total / (classes * counts)`; skip a batch without targets.
    Weights are reported where they are computed, NaN at the loss.
    """

    code: ClassVar[str] = "BB309"
    title: ClassVar[str] = "weights upside down, or a mean of nothing"
    explains: ClassVar[tuple[str, ...]] = ("BB504",)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._made: dict[int, tuple[weakref.ref[Tensor], Place | None]] = {}  # small vectors: candidates for weights
        self._counts: dict[int, Tensor] = {}  # per criterion's weight: how often each class was a target
        self._seen: dict[int, int] = {}

    def function_called(self, call: FunctionCall) -> Findings:
        result = call.result
        if not isinstance(result, Tensor):
            return ()
        if not result.requires_grad:
            if result.dim() <= 1 and result.is_floating_point() and 1 <= result.numel() <= 1000:
                self._made[id(result)] = (weakref.ref(result), call.place)
                if len(self._made) > MAX_WAITING:
                    self._made = {key: kept for key, kept in self._made.items() if kept[0]() is not None}
        elif result.dim() == 0:
            if call.name in MEANS:
                self._look_for_nothing(call)
            elif call.name in ("div", "true_divide"):
                self._look_at_division(call)
            if call.name == "binary_cross_entropy_with_logits":
                self._look_at_positives(call)
            elif call.name in ("cross_entropy", "nll_loss"):
                self._look_at_classes(call)
        return ()

    def _look_for_nothing(self, call: FunctionCall) -> None:
        values, target = call.argument(0, "input"), call.argument(1, "target")
        if not isinstance(values, Tensor) or not bool(call.result.isnan()):
            return
        ignored = False
        if call.name in IGNORING and isinstance(target, Tensor) and not target.is_floating_point():
            index = call.argument(IGNORING[call.name], "ignore_index", -100)
            ignored = bool((target == index).all())
        if values.numel() == 0 or ignored:
            what = (
                f"all {target.numel()} targets are ignored" if ignored and isinstance(target, Tensor) else "no elements"
            )
            self._nothing(call, what)

    def _look_at_division(self, call: FunctionCall) -> None:
        total, count = call.args[:2]
        if isinstance(total, Tensor) and float(total) == 0 and float(count) == 0:
            self._nothing(call, "a mask that leaves nothing")

    def _nothing(self, call: FunctionCall, what: str) -> None:
        self.wait(
            call.result,
            f"the loss is a mean of nothing ({what}), so it is NaN, and so is every gradient",
            call.place,
            fix="if mask.any():  # else skip the batch\n# or: loss.sum() / mask.sum().clamp(min=1)",
            evidence={"loss": "nan", "elements averaged": 0},
        )

    def _look_at_positives(self, call: FunctionCall) -> None:
        target, weight = call.argument(1, "target"), call.argument(6, "pos_weight")
        if weight is None:
            weight = call.kwargs.get("pos_weight")
        if not isinstance(weight, Tensor) or not isinstance(target, Tensor) or target.numel() == 0:
            return
        width = weight.numel()
        if width > 1 and target.size(-1) != width:
            return
        rows = target.detach().float().reshape(-1, width)
        positives, seen = self._add(weight, (rows > 0.5).sum(0), len(rows))
        odds = positives / (seen - positives).clamp(min=1)
        telling = (positives >= 3) & (odds < 1 / IMBALANCE)
        if seen < FEWEST or not bool(telling.any()):
            return
        logs = (weight.detach().float().reshape(-1)[telling].clamp(min=1e-12).log() - odds[telling].log()).abs()
        if float(logs.mean()) < math.log(1.6):
            odd, chosen = float(odds[telling][0]), float(weight.detach().reshape(-1)[telling][0])
            self._upside_down(
                call,
                weight,
                f"pos_weight is {chosen:.3g}, and there are {odd:.3g} positives per negative: rare ones count less "
                f"instead of more",
                f"pos_weight = negatives / positives  # about {1 / odd:.3g}",
                {"pos_weight": f"{chosen:.4g}", "positives / negatives": f"{odd:.4g}", "targets seen": seen},
            )

    def _look_at_classes(self, call: FunctionCall) -> None:
        values, target, weight = call.argument(0, "input"), call.argument(1, "target"), call.argument(2, "weight")
        if not isinstance(weight, Tensor) or not isinstance(target, Tensor) or target.is_floating_point():
            return
        classes = values.size(class_dim(values))
        valid = target.detach().flatten()
        valid = valid[(valid >= 0) & (valid < classes)]
        counts, seen = self._add(weight, torch.bincount(valid, minlength=classes), valid.numel())
        usable = (counts >= 3) & (weight.detach() > 0)
        if seen < max(FEWEST, 10 * classes) or int(usable.sum()) < 2:
            return
        frequency, chosen = counts[usable].float().log(), weight.detach().float()[usable].log()
        if float(frequency.max() - frequency.min()) < math.log(IMBALANCE):
            return
        x, y = frequency - frequency.mean(), chosen - chosen.mean()
        slope = float((x * y).sum() / (x * x).sum())
        if 0.7 < slope < 1.4 and float((y - slope * x).abs().max()) < math.log(1.6):
            self._upside_down(
                call,
                weight,
                "the weights of the classes grow with their frequency: rare classes count less instead of more",
                "weight = counts.sum() / (len(counts) * counts)",
                {"weights": _short(weight), "targets seen of each class": _short(counts)},
            )

    def _add(self, weight: Tensor, counts: Tensor, seen: int) -> tuple[Tensor, int]:
        key = id(weight)
        self._counts[key] = self._counts[key] + counts if key in self._counts else counts
        self._seen[key] = self._seen.get(key, 0) + seen
        return self._counts[key], self._seen[key]

    def _upside_down(
        self, call: FunctionCall, weight: Tensor, message: str, fix: str, evidence: dict[str, Any]
    ) -> None:
        reference, place = self._made.get(id(weight), (None, None))
        known = place if reference is not None and reference() is weight else None
        owner = call.modules[-1] if call.modules else None
        made = self.run.made_at(owner) if owner is not None and "Loss" in type(owner).__name__ else None
        self.wait(call.result, message, known or made or call.place, fix=fix, evidence=evidence)


def _short(values: Tensor) -> str:
    shown = ", ".join(f"{float(value):.3g}" for value in values.detach().flatten()[:8])
    return shown + (", …" if values.numel() > 8 else "")
