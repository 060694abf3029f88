"""BB306."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from blackbelt.doctor.events import Backward, Batch, Cleared, Clipped, Created, FunctionCall, ScalerCall, Step
from blackbelt.doctor.finding import Severity
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._losses import MAX_WAITING, number, source_mentions
from blackbelt.doctor.rules._terms import AVERAGE, TOTAL, Term, nodes_behind, terms_of
from blackbelt.doctor.run import Run
from blackbelt.places import Place

GROWTH = 100  # times the first loss: no training recovers to what it would have been
CONSTANT = (0.5, 1.0)  # factors that a formula has, as the 0.5 of a divergence; others are weights


class Reduction(Rule):
    """The scale of the loss grows with the size of the batch or with the number of batches that are accumulated.

    Gradients of several calls of `backward` add up. Means of k small batches add up to k times the mean of the large
    one, unless each is divided by k: the learning rate, the clipping and the weight decay are not what you chose. So
    too with `reduction="sum"`, by the number of elements; and where one term is a mean and another a sum, the second
    outweighs the first.

    Observed: several calls of `backward` in one line between two steps, each of a mean, of its own batch, with no
    division of the loss or of the gradients; a sum, not divided, whose value grows a hundredfold or beyond all numbers
    under SGD; a sum over the batch added, unweighted, to a mean over the batch.

    Not reported: calls of `backward` in different lines (two parts of a GAN); several tasks, or chunks of one sequence;
    sums of losses divided later; sums that train (many a variational autoencoder is written so); penalties on
    parameters.

    The fix: `(loss / accumulation).backward()`; or a sum divided by the number of elements of all batches of the step.
    A warning, not an error: the learning rate may have been chosen for it. Adaptive optimizers cancel the factor, but
    for clipping, decay and epsilon.
    """

    code: ClassVar[str] = "BB306"
    title: ClassVar[str] = "loss not divided by what it was added up over"
    severity: ClassVar[Severity] = Severity.WARNING
    lesson: ClassVar[str] = "autograd/accumulation"
    first_steps_only: ClassVar[bool] = True
    explains: ClassVar[tuple[str, ...]] = ("BB210", "BB212", "BB504")

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._lines: list[Place | None] = []  # of calls of backward since the last step
        self._means = 0  # of these, those of an undivided mean
        self._batches: dict[int, int] = {}  # handed out since the last step, by loader
        self._scaled = 0  # calls of scale() since the last backward
        self._expected: tuple[Tensor, float] | None = None
        self._made: dict[int, Place | None] = {}  # lines of sums and losses by sequence number
        self._first: float | None = None  # value of a loss that is a sum
        self._sum_place: Place | None = None
        self._elements = 0

    def created(self, thing: Created) -> Findings:
        if isinstance(thing.thing, torch.optim.Optimizer):
            self._first = None  # another training, with losses of another size
        return ()

    def batch_loaded(self, batch: Batch) -> Findings:
        self._batches[id(batch.loader)] = self._batches.get(id(batch.loader), 0) + 1
        return ()

    def scaler_called(self, call: ScalerCall) -> Findings:
        self._scaled += call.name == "scale" and call.scaler.is_enabled()
        return ()

    def function_called(self, call: FunctionCall) -> Findings:
        if (call.name == "sum" or "loss" in call.name or "cross_entropy" in call.name) and isinstance(
            call.result, Tensor
        ):
            key = number(call.result)
            if key is not None and call.result.dim() == 0:
                owner = call.modules[-1] if call.modules and "Loss" in type(call.modules[-1]).__name__ else None
                self._made[key] = (self.run.made_at(owner) if owner is not None else None) or call.place
                if len(self._made) > MAX_WAITING:
                    self._made.pop(next(iter(self._made)))
        return ()

    def backward_begins(self, call: Backward) -> Findings:
        if not self.run.traced or len(call.roots) != 1 or call.roots[0].numel() != 1:
            return
        terms = list(terms_of(call.roots[0].grad_fn, self._scaled))
        self._scaled = 0
        self._lines.append(call.place)
        self._means += any(t.reduction == AVERAGE and abs(t.weight or 0) == 1 for t in terms)
        yield from self._look_at_terms(terms)
        yield from self._look_at_growth(call.roots[0], terms)

    def backward_ends(self, _: Backward) -> Findings:
        if self.run.traced and len(self._lines) > 1:
            parameter = next((p for p in self.run.trained().values() if p.grad is not None), None)
            self._expected = None if parameter is None else (parameter.new_tensor(0), _size(parameter))
        return ()

    def gradients_cleared(self, call: Cleared) -> Findings:
        """What was added up is gone, as after a step that a scaler has skipped; the last batch is still to come."""
        if self._lines and call.had_gradients:
            self._lines, self._means, self._expected = [], 0, None
            self._batches = dict.fromkeys(self._batches, 1)
        return ()

    def clipped(self, call: Clipped) -> Findings:
        if self._expected is not None and call.norm is not None:
            ratio = min(1.0, call.limit / (float(call.norm) + 1e-6))
            self._expected = (self._expected[0], self._expected[1] * ratio)
        return ()

    def step_begins(self, step: Step) -> Findings:
        lines, means, batches, expected = self._lines, self._means, self._batches, self._expected
        self._lines, self._means, self._batches, self._expected = [], 0, {}, None
        k = len(lines)
        if k < 2 or means < k or len(set(lines)) > 1 or lines[0] is None or not self.run.traced:
            return
        one_each = k in batches.values() and len(batches) == 1
        if not one_each and not (len(batches) <= 1 and source_mentions(lines[0], ("accum", "micro"))):
            return
        parameter = next((p for p in self.run.trained().values() if p.grad is not None), None)
        if expected is not None and parameter is not None and abs(_size(parameter) / (expected[1] or 1) - 1) > 0.02:
            return  # the gradients were divided
        yield self.finding(
            f"the means of {k} batches are added up and not divided by {k}: the gradient is {k} times a batch's",
            lines[0],
            fix=f"(loss / {k}).backward()",
            evidence={"calls of backward per step": k, "optimizer": type(step.optimizer).__name__},
        )

    def _look_at_terms(self, terms: list[Term]) -> Findings:
        mean = next((t for t in terms if t.reduction == AVERAGE and abs(t.weight or 0) == 1 and t.sizes), None)
        for term in terms if mean is not None else ():
            assert mean is not None
            batch = mean.sizes[0]
            in_formula = term.weight is not None and CONSTANT[0] <= abs(term.weight) <= CONSTANT[1]
            place = self._made.get(term.node._sequence_nr())  # noqa: SLF001 - has no public name
            if (
                term.reduction == TOTAL
                and in_formula
                and len(term.sizes) > 1
                and term.sizes[0] == batch > 1
                and nodes_behind(term) & nodes_behind(mean)
            ):
                yield self.finding(
                    f"one term of the loss is a mean over the batch and this one a sum over {term.sizes}: it counts "
                    f"{batch} times as much as per sample",
                    place,
                    fix="….sum(1).mean()  # per sample, like the other term",
                    evidence={"shape summed": term.sizes, "shape averaged": mean.sizes},
                )

    def _look_at_growth(self, root: Tensor, terms: list[Term]) -> Findings:
        if len(terms) != 1 or terms[0].reduction != TOTAL or terms[0].weight != 1:
            return
        if not all(type(o) is torch.optim.SGD for o in self.run.optimizers):
            return
        term, value = terms[0], float(root)
        if self._first is None:
            self._first, self._elements = abs(value), torch.Size(term.sizes).numel()
            self._sum_place = self._made.get(term.node._sequence_nr())  # noqa: SLF001 - likewise
        elif not abs(value) <= GROWTH * self._first and self._elements > 1:
            yield self.finding(
                f"the loss is a sum over {self._elements} elements, not a mean, so the learning rate is "
                f"{self._elements} times as large, and the loss grew from {self._first:.4g} to {value:.4g}",
                self._sum_place,
                fix='reduction="mean"  # or loss / len(targets)',
                evidence={"elements": self._elements, "first loss": f"{self._first:.4g}", "loss now": f"{value:.4g}"},
            )


def _size(parameter: Tensor) -> float:
    """Return the sum of the magnitudes of a gradient."""
    return 0.0 if parameter.grad is None else float(parameter.grad.detach().abs().sum())
