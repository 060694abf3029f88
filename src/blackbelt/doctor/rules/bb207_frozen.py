"""BB207."""

from __future__ import annotations

import difflib
import linecache
import re
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from blackbelt.doctor.events import Created, FunctionCall, Step
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

SETTING = {"__set__", "requires_grad_"}
ALIKE = 0.82  # of two names; `requires_grad` and `require_grad` come to 0.96
CONFIRMED = 2


class Frozen(Rule):
    """What should be frozen is trained, for a typo; or what should be trained is frozen, all of it.

    `p.require_grad = False` makes a new attribute that PyTorch does not read, and so does `module.requires_grad =
    False`: a module has no such attribute, only `requires_grad_()`. The layers meant to be frozen are trained, and
    pretrained weights are lost. The other way round, a loop over `model.parameters()` that comes after the new head
    was made freezes the head as well.

    The same typo with `True` unfreezes nothing: `p.require_grad = True`.

    Observed: a parameter has an attribute whose name resembles `requires_grad`, or a module has the attribute
    `requires_grad`; its value is False, and an optimizer has trained those parameters with gradients; or it is True,
    and none of those parameters, which an optimizer holds, requires a gradient. Or: the only optimizer steps twice, and
    none of its parameters requires a gradient, or ever did when it stepped.

    Not reported: an attribute of that name that agrees with what the parameters require; some parameters that are
    frozen; an optimizer beside others (a backbone to be unfrozen later).

    The fix: `module.requires_grad_(False)`, or `p.requires_grad = False` for each parameter; new layers are made, or
    unfrozen, after that. Reported where the attribute is set, or where `requires_grad` was switched off last.
    """

    code: ClassVar[str] = "BB207"
    title: ClassVar[str] = "frozen by mistake, or not frozen for a typo"
    first_steps_only: ClassVar[bool] = True
    explains: ClassVar[tuple[str, ...]] = ("BB308", "BB405")

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._off: dict[int, tuple[weakref.ref[Tensor], Place | None]] = {}
        self._files: dict[str, None] = {}  # of the user, in the order of their first appearance
        self._steps = 0  # with an optimizer that has nothing to train
        self._done = False

    def created(self, thing: Created) -> Findings:
        if isinstance(thing.thing, Optimizer):
            self._optimizers.add(thing.thing)
        place = self.run.made_at(thing.thing)
        if place is not None:
            self._files[place.file] = None
        return ()

    def function_called(self, call: FunctionCall) -> Findings:
        if call.name in SETTING and call.args and isinstance(call.args[0], nn.Parameter):
            parameter = call.args[0]
            if not parameter.requires_grad:
                self._off[id(parameter)] = (weakref.ref(parameter), call.place)
        return ()

    def step_begins(self, step: Step) -> Findings:
        if self._done or not self.run.traced:
            return
        parameters = step.parameters
        place = step.place
        if place is not None:
            self._files[place.file] = None
        trained = {id(p) for p in parameters if p.requires_grad and p.grad is not None}
        held = {id(p) for p in parameters}
        for owner, name, value, wrong in self._mistyped(parameters):
            if value:
                frozen = [p for p in wrong if id(p) in held and not p.requires_grad]
                meant = frozen if len(frozen) == len(wrong) else []
            else:
                meant = [p for p in wrong if id(p) in trained]
                meant = meant if len(meant) == len([p for p in wrong if p.requires_grad]) else []
            if meant:
                self._done = True
                yield self._typo(owner, name, meant, value=value)
                return
        if any(p.requires_grad or p.grad is not None for p in parameters) or len(self._optimizers) > 1:
            self._steps = -1000
            return
        self._steps += 1
        if self._steps == CONFIRMED:
            made, where = self._off.get(id(parameters[-1]), (None, None))
            known = made is not None and made() is parameters[-1]
            yield self.finding(
                f"none of the {len(parameters)} parameters of {type(step.optimizer).__name__} requires a gradient: "
                f"nothing is trained",
                where if known else self.run.made_at(step.optimizer),
                fix="model.head.requires_grad_(True)  # after the rest is frozen",
                evidence={"parameters that require a gradient": f"0 of {len(parameters)}", "steps": step.number},
            )

    def _mistyped(self, parameters: list[Tensor]) -> Iterator[tuple[Any, str, bool, list[Tensor]]]:
        """Yield what carries an attribute that only resembles, its name, its value, and the parameters meant."""
        if self.run.num_steps > 2 * CONFIRMED:
            return
        found: dict[tuple[str, bool], list[Tensor]] = {}
        for parameter in parameters:
            for name, value in vars(parameter).items():
                if isinstance(value, bool) and _resembles(name):
                    found.setdefault((name, value), []).append(parameter)
        for (name, value), wrong in found.items():
            yield wrong[0], name, value, wrong
        for model in self.run.models:
            for module in model.modules():
                for name, value in vars(module).items():
                    if isinstance(value, bool) and _resembles(name):
                        yield module, name, value, list(module.parameters())

    def _typo(self, owner: Any, name: str, meant: list[Tensor], *, value: bool) -> Any:
        is_module = isinstance(owner, nn.Module)
        what = f"a {type(owner).__name__}" if is_module else "parameters"
        return self.finding(
            f"`{name} = {value}` on {what} is an attribute that PyTorch does not read: {len(meant)} "
            f"parameter{'s' * (len(meant) > 1)} ({self.run.name_of(meant[0])}{', …' * (len(meant) > 1)}) "
            f"meant to be {'trained' if value else 'frozen'} {'are' if len(meant) > 1 else 'is'} "
            f"{'frozen' if value else 'trained'}",
            self._line_of(name, owner, value=value) or self.run.made_at(owner),
            fix=f"module.requires_grad_({value})" if is_module else f"p.requires_grad = {value}",
            evidence={
                f"parameters with this attribute that get {'no' if value else 'a'} gradient": len(meant),
                "their elements": f"{sum(p.numel() for p in meant):,}",
            },
        )

    def _line_of(self, name: str, owner: Any, *, value: bool) -> Place | None:
        """Return the line of the user's files that sets the attribute, the likeliest first."""
        modules = (pair for model in self.run.models for pair in model.named_modules())
        called = next((path.rpartition(".")[2] for path, module in modules if module is owner), "")
        lines = []
        for file in self._files:
            for line, text in enumerate(linecache.getlines(file), 1):
                if re.search(rf"(\.{name}\s*=\s*{value}|setattr\([^)]*[\"']{name}[\"'])", text.partition("#")[0]):
                    of_parameter = re.search(rf"\b(p|param|parameter|w|weight|bias)\.{name}", text) is not None
                    of_another = not called or f"{called}.{name}" not in text
                    lines.append((isinstance(owner, nn.Module) and of_parameter, of_another, file, line))
        return Place(min(lines)[2], min(lines)[3], "") if lines else None


def _resembles(name: str) -> bool:
    return difflib.SequenceMatcher(None, name, "requires_grad").ratio() > ALIKE
