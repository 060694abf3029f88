"""BB203."""

from __future__ import annotations

import re
import weakref
from typing import Any, ClassVar

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from blackbelt.doctor.events import FunctionCall, ModuleCall
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._losses import source_mentions
from blackbelt.doctor.rules._sources import conditions, statement
from blackbelt.doctor.run import Run
from blackbelt.places import Place

DROPPING = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
ATTENTION = "scaled_dot_product_attention"
ON_PURPOSE = ("mc_dropout", "mc dropout", "monte", "bayes", "uncertain")


class DropoutInEval(Rule):
    """Dropout goes on after `model.eval()`, because the call does not ask for the mode.

    `F.dropout(x, 0.5)` has `training=True` by default, whatever the module's mode; `nn.Dropout(0.5)(x)`, made anew in
    `forward`, is always in training mode; `F.scaled_dot_product_attention(..., dropout_p=0.1)` drops whenever it is
    told to. Validation is noisy, two calls with one input differ, and the deployed model is worse than it could be.

    Observed: such a call within the `forward` of a module that is in evaluation mode. If the first evaluation comes
    after the first 20 steps: the line of such a call, seen in training, and the model called in evaluation mode.

    Not reported: calls that say `training=` or are under a condition on it; dropout that says `training=True` (Monte
    Carlo dropout), or whose surroundings speak of uncertainty; `nn.Dropout` layers of the model that were put back
    into training mode; models that are never evaluated.

    The fix: `F.dropout(x, 0.5, training=self.training)`, or `self.dropout = nn.Dropout(0.5)` in `__init__`;
    `dropout_p=self.p if self.training else 0.0`. Reported where dropout is called.
    """

    code: ClassVar[str] = "BB203"
    title: ClassVar[str] = "dropout that evaluation mode does not switch off"
    lesson: ClassVar[str] = "silent_failures/method"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._lines: dict[str, tuple[Place, weakref.ref[nn.Module], str, float]] = {}
        self._said: set[str] = set()

    def function_called(self, call: FunctionCall) -> Findings:
        if (call.name not in DROPPING and call.name != ATTENTION) or not call.modules:
            return
        owner, probability = _caller(call), _probability(call)
        place = call.place if owner is not None and probability > 0 else None
        if owner is None or place is None or str(place) in self._said or (str(place) in self._lines and owner.training):
            return
        if _asks(place):
            return
        if not owner.training and not call.modules[0].training:
            yield self._report(place, owner, call.name, probability)
        elif not source_mentions(place, ("training",), 12):
            self._lines[str(place)] = (place, weakref.ref(owner), call.name, probability)

    def module_called(self, call: ModuleCall) -> Findings:
        if call.depth or call.module.training or self.run.traced or not self._lines:
            return
        inside = set(map(id, call.module.modules()))
        for line, (place, reference, name, probability) in list(self._lines.items()):
            owner = reference()
            if owner is not None and id(owner) in inside and not owner.training:
                self._lines.pop(line)
                if line not in self._said:
                    yield self._report(place, owner, name, probability)

    def _report(self, place: Place, owner: nn.Module, name: str, probability: float) -> Any:
        self._said.add(str(place))
        if name == ATTENTION:
            fix = f"dropout_p={probability:g} if self.training else 0.0"
        elif "nn.Dropout" in statement(place):
            fix = f"self.dropout = nn.Dropout({probability:g})  # in __init__; here: self.dropout(x)"
        else:
            fix = f"F.{name}(x, {probability:g}, training=self.training)"
        return self.finding(
            f"{type(owner).__name__} drops values with probability {probability:g} in evaluation mode as well",
            place,
            fix=fix,
            evidence={"mode of the module": "evaluation", "mode of this dropout": "training", "called": name},
        )


def _caller(call: FunctionCall) -> nn.Module | None:
    """Return the module whose forward calls dropout; None for a layer of dropout that is part of the model."""
    last = call.modules[-1]
    if not isinstance(last, _DropoutNd):
        return None if type(last).__module__.startswith("torch.") else last
    if any(module is last for module in call.modules[0].modules()) or len(call.modules) < 2:
        return None
    return call.modules[-2]


def _probability(call: FunctionCall) -> float:
    if call.name == ATTENTION:
        return float(call.argument(4, "dropout_p", 0.0))
    return float(call.argument(1, "p", 0.5)) if call.argument(2, "training", True) else 0.0


def _asks(place: Place) -> bool:
    """Return whether the line says which mode it wants, or its surroundings why it wants none."""
    said = statement(place)
    explicit = re.search(r"\btraining\b|,\s*True\s*\)", said) is not None
    return explicit or "training" in conditions(place) or source_mentions(place, ON_PURPOSE, 12)
