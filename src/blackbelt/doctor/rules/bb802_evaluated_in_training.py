"""BB802."""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from blackbelt.doctor.events import Backward, Batch, Epoch, ModuleCall, Step, tensors_in
from blackbelt.doctor.places import users_lines
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._losses import source_mentions
from blackbelt.doctor.rules._modes import drops, normalizes
from blackbelt.doctor.rules._sources import function_source, statement
from blackbelt.doctor.rules.bb202_mode import ON_PURPOSE
from blackbelt.doctor.run import Run
from blackbelt.places import Place

EVALUATING = {
    *("val", "valid", "validation", "validate", "test", "eval", "evaluate", "evaluation", "dev", "holdout", "heldout"),
    *("accuracy", "acc", "metric", "metrics"),
}
PURPOSES = (
    *ON_PURPOSE,
    "adapt",
    "pseudo",
    "teacher",
    "target network",
    "critic",
    "reward",
    "rollout",
    "advantage",
    "env.step",
)
HASHED = 256  # elements of an input
FRAMES = 3  # the line of the call, and the lines that led there


@dataclass(eq=False)
class Evaluation:
    """Calls of a model from one line since the last step."""

    model: weakref.ref[nn.Module]
    place: Place
    inputs: set[int] = field(default_factory=set)  # hashes of what was put in
    calls: int = 0


class EvaluatedInTraining(Rule):
    """The model is evaluated on held-out tensors, or on a part of a loader, while it is in training mode.

    `torch.no_grad()` switches off gradients, not dropout, and not BatchNorm's use of the batch. Without `model.eval()`
    the metric is noisy and too low, depends on what else is in the batch, and every evaluation moves BatchNorm's
    statistics towards the held-out data. A best epoch chosen by such a metric is chosen by chance.

    Observed: between two steps of the optimizer, a model that it trains and that has active dropout, or BatchNorm in
    training mode, is called without gradients from a line that says what it is for: its names, or those of its
    function or the caller, have a word such as val, test, eval or accuracy. BB202 finds passes over a whole loader.

    Not reported: several calls with one input (Monte Carlo dropout); teachers, pseudo labels, adaptation at test time,
    uncertainty; samples of a generator; rollouts; models without these layers.

    The fix: `model.eval()` before, `model.train()` after. Reported where the model is called.
    """

    code: ClassVar[str] = "BB802"
    title: ClassVar[str] = "evaluated in training mode"
    lesson: ClassVar[str] = "silent_failures/method"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._calls: dict[Place, Evaluation] = {}
        self._in_pass: dict[Place, Evaluation] = {}  # over a loader that is not trained on, and may end
        self._loader: int | None = None  # that handed out the last batch
        self._trained_on: set[int] = set()

    def batch_loaded(self, batch: Batch) -> Findings:
        self._loader = id(batch.loader)
        return ()

    def epoch_ends(self, epoch: Epoch) -> Findings:
        if self._loader == id(epoch.loader):
            self._loader = None
            self._in_pass.clear()  # a whole pass: BB202's
        return ()

    def backward_begins(self, _: Backward) -> Findings:
        if self._loader is not None:
            self._trained_on.add(self._loader)
        return ()

    def module_called(self, call: ModuleCall) -> Findings:
        model = call.module
        if call.depth or call.grad_enabled or not model.training or not self.run.num_steps:
            return ()
        if not any((drops(m) or normalizes(m)) and m.training for m in model.modules()):
            return ()
        places = users_lines()[:FRAMES]
        if not places or not _says_so(places) or any(source_mentions(p, PURPOSES, 6) for p in places):
            return ()
        in_pass = self._loader is not None and self._loader not in self._trained_on
        calls = self._in_pass if in_pass else self._calls
        evaluation = calls.setdefault(places[0], Evaluation(weakref.ref(model), places[0]))
        evaluation.calls += 1
        given = next(iter(tensors_in((call.args, call.kwargs), 3)), None)
        if given is not None:
            evaluation.inputs.add(hash(tuple(given.detach().flatten()[:HASHED].tolist())))
        return ()

    def step_ends(self, _: Step) -> Findings:
        if not self._calls and not self._in_pass:
            return
        self._calls.update(self._in_pass)  # a pass that was left before its end
        yield from self._evaluated()

    def run_ends(self) -> Findings:
        return self._evaluated()

    def _evaluated(self) -> Findings:
        calls, self._calls, self._in_pass = list(self._calls.values()), {}, {}
        held = self.run.trained() if calls else {}
        for evaluation in calls:
            model = evaluation.model()
            if model is None or len(evaluation.inputs) < evaluation.calls:
                continue
            if not any(id(p) in held for p in model.parameters()):
                continue
            dropouts, norms = (sum(map(kind, model.modules())) for kind in (drops, normalizes))
            what = " and ".join(
                word
                for word, there in (("dropout is on", dropouts), ("BatchNorm uses and learns its statistics", norms))
                if there
            )
            yield self.finding(
                f"{type(model).__name__} is in training mode where it is evaluated: {what}",
                evaluation.place,
                fix="model.eval()\nwith torch.no_grad():\n    ...\nmodel.train()",
                evidence={
                    "calls since the last step": evaluation.calls,
                    "layers of dropout": dropouts,
                    "layers of BatchNorm": norms,
                },
            )


def _says_so(places: Sequence[Place]) -> bool:
    """Return whether names in these lines, or in a function of them that does not train, speak of an evaluation."""
    lines = [f"{place.function} {statement(place)}" for place in places]
    around = function_source(places[0])
    text = " ".join([*lines, "" if "backward" in around else around]).lower()
    return not EVALUATING.isdisjoint(re.split(r"[^a-z]+", text))
