"""BB212."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from blackbelt.doctor.events import Backward, FunctionCall, ModuleCall, Step, head
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._writes import Writes
from blackbelt.doctor.run import Run
from blackbelt.places import Place

CONFIRMED = 3  # steps in a row
LOST = 1e-8  # of the largest gradient: what does not even change a sum of two in float32
FADING, DEPTH, PER_LAYER = 1e-5, 5, 0.4  # of the largest, over so many layers, from one to the next
STILL = 1e-6  # of a weight's size: what a step of SGD moves it
THROWN = 20  # of the weights' size: what one step moves them
WORSE = 10  # times the loss, and the gradient, before such a step
GROWTH, LOSS_GROWTH, WEIGHTS_GROWTH = 1e2, 1e2, 10  # of gradient, loss and weights since the first step
SATURATING = {"sigmoid", "tanh", "sigmoid_", "tanh_", "softsign", "hardsigmoid", "hardtanh"}


@dataclass(frozen=True)
class Scale:
    """Norms and the loss at one step."""

    gradient: float
    weights: float
    loss: float


class GradientScale(Rule):
    """The gradient vanishes on its way through the layers, or explodes: steps do nothing, or throw the weights away.

    Each layer multiplies the gradient. Twelve layers of sigmoid, whose derivative is at most 1/4, leave a millionth;
    weights that are drawn too small do the same, and weights drawn too large, or a learning rate that is too high, the
    opposite. The first layers stay random, or the loss rises from step to step until it is infinite.

    Observed, vanishing: in three steps in a row, gradients of a third of the weights are below 1e-8 of the largest one,
    or two below 1e-5 after fading from layer to layer over five; they do not grow; and the optimizer cannot make up for
    it: SGD moves them by less than 1e-6 of their size, Adam sees less than its `eps`. Exploding: one step moves the
    weights by more than 20 times their size, and loss and gradient are more than 10 times what they were after it, or
    no number; or within the first 20 steps gradient and loss have grown more than 100-fold, and the weights 10-fold.

    Not reported: gradients of exactly 0; layers that begin at zero on purpose, whose gradients grow with each step;
    weights that Adam can still train; gradients that were clipped in time.

    The fix: ReLU or GELU with `nn.init.kaiming_normal_`, normalization, residuals; a smaller learning rate, a warmup,
    `clip_grad_norm_`. Reported where the weights were initialized, where the saturating activation is made or called,
    or where the optimizer was made.
    """

    code: ClassVar[str] = "BB212"
    title: ClassVar[str] = "the gradient vanishes or explodes"
    lesson: ClassVar[str] = "silent_failures/method"
    first_steps_only: ClassVar[bool] = True
    explains: ClassVar[tuple[str, ...]] = ("BB210",)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._writes = run.shared(Writes)
        self._order: dict[int, weakref.ref[Tensor]] = {}  # weights, in the order of the forward pass
        self._activation: Place | None = None  # the first that saturates
        self._lost: dict[int, tuple[int, float]] = {}  # weight: steps, first ratio
        self._loss: float | None = None
        self._first: weakref.WeakKeyDictionary[torch.optim.Optimizer, Scale] = weakref.WeakKeyDictionary()
        self._now: Scale | None = None  # at the step that runs
        self._last: weakref.WeakKeyDictionary[torch.optim.Optimizer, tuple[float, Scale]] = weakref.WeakKeyDictionary()
        self._done = False

    def function_called(self, call: FunctionCall) -> Findings:
        self._writes.note(call)
        if self._activation is None and call.name in SATURATING and len(call.modules) > 0:
            owner = call.modules[-1]
            of_library = type(owner).__module__.startswith("torch.nn")
            self._activation = (self.run.made_at(owner) if of_library else None) or call.place
        return ()

    def module_called(self, call: ModuleCall) -> Findings:
        weight = call.module._parameters.get("weight")  # noqa: SLF001 - has no public name
        if weight is not None and weight.dim() > 1 and not isinstance(call.module, nn.Embedding):
            self._order.setdefault(id(weight), weakref.ref(weight))
        return ()

    def backward_begins(self, call: Backward) -> Findings:
        if self.run.traced and not self._done and call.roots[0].numel() == 1:
            self._loss = abs(float(call.roots[0].detach()))
        return ()

    def step_begins(self, step: Step) -> Findings:
        if self._done or not self.run.traced:
            return
        known = [p for p in step.parameters if p.grad is not None and p.grad.layout == torch.strided and p.numel()]
        if len(known) < 2:
            return
        sizes = [float(n) for n in torch._foreach_norm([p.grad for p in known], math.inf)]  # type: ignore[misc]  # noqa: SLF001 - has no public name
        if not all(map(math.isfinite, sizes)):
            if (last := self._last.pop(step.optimizer, None)) is not None:
                self._done = True
                what = f"one step moves the weights by {last[0]:.3g} times their size, and the next is no number"
                yield self._exploded(step, last[1], self._first[step.optimizer], what)
            return
        if max(sizes) == 0:
            return
        findings = [*self._vanishing(step, dict(zip(map(id, known), sizes))), *self._exploding(step, known)]
        if findings:
            self._done = True
            yield findings[0]

    def _vanishing(self, step: Step, sizes: dict[int, float]) -> Iterator[Finding]:
        weights = [p for key, ref in self._order.items() if key in sizes and (p := ref()) is not None]
        largest = max(sizes.values())
        ratios = [sizes[id(p)] / largest for p in weights]
        fading = _fading(ratios)
        ripe: list[Tensor] = []
        for i, (weight, ratio) in enumerate(zip(weights, ratios)):
            steps, first = self._lost.get(id(weight), (0, ratio))
            small = 0 < ratio < LOST or (i in fading and 0 < ratio < FADING)
            if not small or ratio > 2 * first or not self._cannot_move(step, weight, sizes[id(weight)]):
                self._lost.pop(id(weight), None)
                continue
            self._lost[id(weight)] = (steps + 1, first)
            if steps + 1 >= CONFIRMED:
                ripe.append(weight)
        needed = 2 if fading else max(2, len(weights) / 3)
        if len(ripe) < needed or len(weights) < 4:
            return
        lines = [place for p in weights if (place := self._writes.line_of(p)) is not None]
        name, smallest = self.run.name_of(ripe[0]), min(sizes[id(p)] for p in ripe)
        yield self.finding(
            f"the gradient vanishes on its way to {name}: {smallest:.1g}, where the largest is {largest:.1g}; "
            f"{len(ripe)} of {len(weights)} weights do not learn",
            lines[0] if lines else self._activation or self.run.made_at(ripe[0]),
            fix="nn.ReLU() and nn.init.kaiming_normal_(layer.weight)  # and normalization, or residuals",
            evidence={
                "largest gradient of each weight, from the first layer to the last": ", ".join(
                    f"{sizes[id(p)]:.1g}" for p in weights[:8]
                ),
                "steps": CONFIRMED,
            },
        )

    def _cannot_move(self, step: Step, weight: Tensor, gradient: float) -> bool:
        group = next(g for g in step.optimizer.param_groups if any(p is weight for p in g["params"]))
        if "eps" in group:
            return isinstance(group["eps"], float) and gradient < group["eps"]
        size = float(weight.detach().square().mean().sqrt())
        return float(group.get("lr", 0)) * gradient < STILL * size

    def _exploding(self, step: Step, known: list[Tensor]) -> Iterator[Finding]:
        """Compare with the first step, and with the one before if that threw the weights."""
        now = Scale(self._norm([p.grad for p in known]), self._norm([p.detach() for p in known]), self._loss or 0.0)
        first, last = self._first.setdefault(step.optimizer, now), self._last.pop(step.optimizer, None)
        if last is not None:
            moved, before = last
            if now.loss > WORSE * before.loss and now.gradient > WORSE * before.gradient:
                yield self._exploded(step, before, first, f"one step moves the weights by {moved:.0f} times their size")
                return
        grown = now.gradient / max(first.gradient, 1e-3), now.loss / max(first.loss, 1e-2)
        if grown[0] > GROWTH and grown[1] > LOSS_GROWTH and now.weights > WEIGHTS_GROWTH * first.weights:
            since = f"it has grown {grown[0]:.2g}-fold in {step.number} steps, and the loss {grown[1]:.2g}-fold"
            yield self._exploded(step, now, first, since)
        self._now = now

    def step_ends(self, step: Step) -> Findings:
        now, self._now = self._now, None
        if now is None or not step.before or self._done:
            return ()
        kept = [(step.before[id(p)], head(p)) for p in step.parameters if id(p) in step.before]
        before = self._norm([old for old, _ in kept])
        moved = self._norm([new - old for old, new in kept])
        if before > 0 and not moved <= THROWN * before:  # so that "not a number" counts
            self._last[step.optimizer] = (moved / before, now)
        return ()

    def _exploded(self, step: Step, now: Scale, first: Scale, what: str) -> Finding:
        known = step.parameters
        rate = float(step.optimizer.param_groups[0].get("lr", 0))
        lines = [place for p in known if p.dim() > 1 and (place := self._writes.line_of(p)) is not None]
        at_once = now is first and now.gradient > 10 * max(now.weights, 1.0) and bool(lines)
        return self.finding(
            f"the gradient explodes: its norm is {now.gradient:.2g}, and {what}",
            lines[0] if at_once else self.run.made_at(step.optimizer),
            fix="nn.init.kaiming_normal_(layer.weight)"
            if at_once
            else f"lr={rate / 100:g}  # and torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
            evidence={
                "norm of the gradient": f"{now.gradient:.3g}, {first.gradient:.3g} at the first step",
                "norm of the weights": f"{now.weights:.3g}, {first.weights:.3g} at the first step",
                "loss": f"{now.loss:.3g}, {first.loss:.3g} at the first step",
                "learning rate": f"{rate:g}",
            },
        )

    @staticmethod
    def _norm(tensors: Sequence[Tensor | None]) -> float:
        norms = torch._foreach_norm([t for t in tensors if t is not None and t.numel()])  # noqa: SLF001 - likewise
        return math.sqrt(sum(float(n) ** 2 for n in norms))


def _fading(ratios: list[float]) -> set[int]:
    """Return the indices before and in runs of layers towards which gradients fade, each by a factor."""
    found: set[int] = set()
    start = len(ratios) - 1
    for i in range(len(ratios) - 2, -1, -1):
        if not 0 < ratios[i] < PER_LAYER * ratios[i + 1]:
            start = i
        elif start - i >= DEPTH - 1:
            found.update(range(i + 1))
    return found
