"""BB202."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from blackbelt.doctor.events import Backward, Batch, Epoch, ModeSet, ModuleCall, Step, tensors_in
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._losses import source_mentions
from blackbelt.doctor.rules._modes import drops, is_pristine, normalizes
from blackbelt.doctor.run import Run
from blackbelt.places import Place

CONFIRMED = 2  # steps in evaluation mode after others in training mode
FROM_THE_START = 3  # steps in evaluation mode with none before
ON_PURPOSE = (
    "mc_dropout",
    "mc dropout",
    "monte",
    "uncertain",
    "recalib",
    "calibrat",
    "update_bn",
    "statistics",
    "ensemble",
)
KEPT = ("keep", "frozen", "freez", "determin", "on purpose", "fine-tun", "finetun", "disable", "no dropout")


@dataclass(eq=False)
class Steps:
    """How a model was called for the optimizer's steps.

    How a model was called for the optimizer's steps.
    """

    in_training: int = 0
    in_evaluation: int = 0  # the last ones, in a row
    modes: set[bool] = field(default_factory=set)  # since the last step


@dataclass(eq=False)
class Pass:
    """A pass over a loader, so far."""

    loader: int
    batches: int = 0
    backwards: int = 0
    calls: int = 0
    wrong: tuple[weakref.ref[nn.Module], Place | None] | None = None  # a call in training mode, without gradients


class Mode(Rule):
    """The model is trained in evaluation mode, or evaluated in training mode.

    `model.eval()` before a validation lasts until `model.train()` is called. Without that, dropout is off and BatchNorm
    uses old statistics from the second epoch on: the model overfits, or does not fit at all. The other way round,
    without `model.eval()`, predictions are noisy, depend on the rest of the batch, and move BatchNorm's statistics.

    Observed: an optimizer steps twice in a row with a model all of which is in evaluation mode, after steps in training
    mode; or three times from the start after a call of `eval()`. Or: a pass over a loader that is not trained on, with
    one call per batch, without gradients, of a trained model in training mode. Only for models that have dropout, or
    BatchNorm with running statistics.

    Not reported: submodules kept in evaluation mode while the model is in training mode; models of which a part is
    frozen, and BatchNorm with loaded statistics, when they are in evaluation mode from the start; teachers and target
    networks, which no optimizer holds; several passes or calls per batch (Monte Carlo dropout); new statistics
    (`update_bn`); an `eval()` whose line, or the one before, says that it is meant.

    The fix: `model.train()` before each epoch, and `model.eval()` before each validation. Reported at the `eval()` that
    is in force, or where the model is called for validation.
    """

    code: ClassVar[str] = "BB202"
    title: ClassVar[str] = "training in evaluation mode, or the other way round"
    lesson: ClassVar[str] = "silent_failures/method"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._set: weakref.WeakKeyDictionary[nn.Module, Place | None] = weakref.WeakKeyDictionary()
        self._steps: weakref.WeakKeyDictionary[nn.Module, Steps] = weakref.WeakKeyDictionary()
        self._called: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # since the last step
        self._passes: dict[int, Pass] = {}  # by the loader, that runs
        self._current: Pass | None = None
        self._trained_on: set[int] = set()  # loaders
        self._waiting: list[Pass] = []  # passes to speak of when the next step shows that there were no more

    def mode_set(self, call: ModeSet) -> Findings:
        place = None if call.training else call.place
        for module in call.module.modules():
            self._set[module] = place
        return ()

    def module_called(self, call: ModuleCall) -> Findings:
        if call.depth:
            return ()
        if self._current is not None:
            wrong = self._current.wrong
            if wrong is not None:
                self._current.calls += wrong[0]() is call.module
            elif call.module.training and not call.grad_enabled and self._differs(call.module):
                self._current.wrong, self._current.calls = (weakref.ref(call.module), call.place), 1
        if call.grad_enabled and any(t.requires_grad for t in tensors_in(call.output, 2)):
            steps = self._steps.setdefault(call.module, Steps())
            steps.modes.add(call.module.training or any(module.training for module in call.module.modules()))
            self._called.add(call.module)
        return ()

    def step_ends(self, step: Step) -> Findings:
        yield from self._evaluated()
        if not self._called:
            return
        held: set[int] = set()
        for model in list(self._called):
            steps = self._steps[model]
            if True in steps.modes:
                steps.in_training, steps.in_evaluation, steps.modes = steps.in_training + 1, 0, set()
                self._called.discard(model)
                continue
            held = held or {id(p) for p in step.parameters}
            parameters = list(model.parameters())
            if not any(id(p) in held and p.grad is not None for p in parameters):
                continue
            self._called.discard(model)
            steps.modes, steps.in_evaluation = set(), steps.in_evaluation + 1
            if steps.in_evaluation == (CONFIRMED if steps.in_training else FROM_THE_START):
                yield from self._in_evaluation(model, steps, all(id(p) in held for p in parameters))

    def _in_evaluation(self, model: nn.Module, steps: Steps, whole: bool) -> Findings:
        place = self._set.get(model)
        dropouts = [m for m in model.modules() if drops(m)]
        norms = [m for m in model.modules() if normalizes(m) and (steps.in_training or is_pristine(m))]
        if place is None or not (dropouts or norms) or not (whole or steps.in_training) or _says(place, KEPT):
            return
        kind = type(model).__name__
        before = f"after {steps.in_training} in training mode" if steps.in_training else "and none in training mode"
        yield self.finding(
            f"{kind} is trained in evaluation mode, {before}: "
            f"{' and '.join(w for w, there in (('dropout', dropouts), ('BatchNorm', norms)) if there)} "
            f"{'do' if dropouts and norms else 'does'} not train with it",
            place,
            fix="model.train()  # before each epoch's steps; eval() lasts until then",
            evidence={
                "steps in evaluation mode": steps.in_evaluation,
                "steps in training mode before": steps.in_training,
                "layers of dropout": len(dropouts),
                "layers of BatchNorm": len(norms),
            },
        )

    def _differs(self, model: nn.Module) -> bool:
        return any((drops(m) or normalizes(m)) and m.training for m in model.modules())

    def epoch_begins(self, epoch: Epoch) -> Findings:
        self._passes[id(epoch.loader)] = Pass(id(epoch.loader))
        return ()

    def batch_loaded(self, batch: Batch) -> Findings:
        self._current = self._passes.get(id(batch.loader))
        if self._current is not None:
            self._current.batches += 1
        return ()

    def backward_begins(self, _: Backward) -> Findings:
        if self._current is not None:
            self._trained_on.add(self._current.loader)
        return ()

    def epoch_ends(self, epoch: Epoch) -> Findings:
        ended = self._passes.pop(id(epoch.loader), None)
        self._current = None
        if ended is not None and ended.wrong is not None and ended.calls == ended.batches:
            self._waiting.append(ended)
        return ()

    def run_ends(self) -> Findings:
        return self._evaluated()

    def _evaluated(self) -> Findings:
        waiting, self._waiting = self._waiting, []
        loaders = [p.loader for p in waiting]
        held: dict[int, Tensor] = {}
        for ended in waiting:
            assert ended.wrong is not None
            reference, place = ended.wrong
            model = reference()
            if model is None or ended.loader in self._trained_on or loaders.count(ended.loader) > 1 or place is None:
                continue
            held = held or self.run.trained()
            norms = [m for m in model.modules() if normalizes(m)]
            if not any(id(p) in held for p in model.parameters()) or any(m.momentum is None for m in norms):
                continue
            if not source_mentions(place, ON_PURPOSE, 8):
                yield self._in_training(model, place, ended, len(norms))

    def _in_training(self, model: nn.Module, place: Place, ended: Pass, norms: int) -> Finding:
        dropouts = sum(drops(m) for m in model.modules())
        return self.finding(
            f"{type(model).__name__} is in training mode in a pass over {ended.batches} evaluated batches: "
            f"{'dropout is on' if dropouts else ''}{' and ' if dropouts and norms else ''}"
            f"{'BatchNorm uses and learns their statistics' if norms else ''}",
            place,
            fix="model.eval()  # before the validation; model.train() after it",
            evidence={
                "batches": ended.batches,
                "steps of optimizers in the pass": 0,
                "layers of dropout": dropouts,
                "layers of BatchNorm": norms,
            },
        )


def _says(place: Place, words: tuple[str, ...]) -> bool:
    return source_mentions(place, words, 2)
