"""BB404."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from blackbelt.doctor.events import Created, StateLoaded, Step
from blackbelt.doctor.finding import Severity
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._gradients import NOTHING, GradientRule, norms
from blackbelt.doctor.run import Run

CONFIRMED = 3  # steps with a gradient and without a change


class NotInOptimizer(GradientRule):
    """Parameters get gradients, and no optimizer holds them.

    An optimizer keeps the parameters it was given when it was made. A head exchanged afterwards, a layer added, a copy
    or a layer unfrozen later is not among them, and neither is a loss function with parameters of its own when it was
    given `model.parameters()`. They stay as they were initialized, and the rest learns around them.

    Observed: parameters that require a gradient and get one, are in no optimizer that was made, and are the same after
    three steps. An error where they were made, or unfrozen, after the optimizer, within a model of which it holds
    other parameters or whose parameters it held; or where the optimizer's own get no gradient at all. Otherwise a
    warning.

    Not reported: parameters that are frozen; that code of your own moves; that were loaded from a checkpoint or
    trained by an earlier optimizer, or are in evaluation mode (features of a model that is not to be trained); a
    second model of the same class and sizes (a teacher, a target network).

    The fix: make the optimizer after the model is complete, give it all parameters, or call
    `optimizer.add_param_group({"params": new.parameters()})`. What is not to be trained: `requires_grad_(False)`.
    Reported where the optimizer was made.
    """

    code: ClassVar[str] = "BB404"
    title: ClassVar[str] = "parameters are in no optimizer"
    first_steps_only: ClassVar[bool] = True
    explains: ClassVar[tuple[str, ...]] = ("BB205", "BB207")

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._order = 0
        self._made: dict[int, tuple[int, weakref.ref[Tensor]]] = {}
        self._modules: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._optimizers: weakref.WeakKeyDictionary[Optimizer, tuple[int, frozenset[int]]] = weakref.WeakKeyDictionary()
        self._held: set[int] = set()  # parameters that some optimizer holds or held
        self._loaded: set[int] = set()
        self._still: dict[int, tuple[int, int, float, int]] = {}  # parameter: steps, version, norm, last backward
        self._done = False

    def created(self, thing: Created) -> Findings:
        super().created(thing)
        self._order += 1
        made = thing.thing
        if isinstance(made, nn.Parameter):
            self._made[id(made)] = (self._order, weakref.ref(made))
            self._held.discard(id(made))  # of one that is gone
            self._loaded.discard(id(made))
        elif isinstance(made, nn.Module):
            self._modules.add(made)
        elif isinstance(made, Optimizer):
            living = ((key, reference()) for key, (_, reference) in self._made.items())
            frozen = frozenset(key for key, p in living if p is not None and not p.requires_grad)
            self._optimizers[made] = (self._order, frozen)
            self._held |= {id(p) for group in made.param_groups for p in group["params"]}
        return ()

    def state_loaded(self, call: StateLoaded) -> Findings:
        if isinstance(call.owner, nn.Module):
            self._loaded |= {id(p) for name, p in call.owner.named_parameters() if name in call.state}
        return ()

    def step_begins(self, step: Step) -> Findings:
        super().step_begins(step)
        if not self.run.traced or self._done:
            return
        self._held |= {id(p) for p in step.parameters}
        missing = self._missing()
        if not missing:
            return
        roots = [model for model in self.run.models if any(p is missing[0] for p in model.parameters())]
        owned = {id(p) for model in roots for p in model.parameters()}
        known = [o for o in self.gradients.known() if o in self._optimizers]
        sharing = [o for o in known if any(id(p) in owned for group in o.param_groups for p in group["params"])]
        optimizer = (sharing or [step.optimizer])[-1]
        if optimizer not in self._optimizers:
            return
        self._done = True
        yield self._report(optimizer, missing, shares=bool(sharing))

    def _missing(self) -> list[Tensor]:
        """Return the parameters in no optimizer that have had a gradient and stayed the same for some steps."""
        live = [self._made[key][1]() for key in self.gradients.leaves - self._held if key in self._made]
        suspects = [p for p in live if p is not None and p.requires_grad]
        if suspects:
            # a copy is made without `__init__`, and is known by being called
            modules = itertools.chain(self._modules, (m for model in self.run.models for m in model.modules()))
            owners = {id(p): m for m in modules for p in m.parameters(recurse=False)}
            suspects = [p for p in suspects if not self._is_meant(p, owners.get(id(p)))]
        found = []
        for parameter, gradient in zip(suspects, norms(suspects)):
            times, version, size, number = self._still.get(id(parameter), (0, 0, 0.0, 0))
            if gradient == NOTHING or number == self.gradients.number:
                continue
            now = parameter._version, float(parameter.detach().norm())  # noqa: SLF001 - has no public name
            times = times + 1 if times == 0 or (version, size) == now else -1000  # written to, if by equal numbers
            self._still[id(parameter)] = (times, *now, self.gradients.number)
            if times >= CONFIRMED:
                found.append(parameter)
        return sorted(found, key=lambda p: self._made[id(p)][0])

    def _is_meant(self, parameter: Tensor, owner: nn.Module | None) -> bool:
        """Return whether something shows that a parameter is not to be trained, or that it is for another rule."""
        if id(parameter) in self._loaded or self.run.made_at(parameter) is None:
            return True
        if owner is None:
            return False
        roots = [model for model in self.run.models if any(module is owner for module in model.modules())]
        if not roots or not owner.training:
            return True  # in a list that PyTorch does not look into; or evaluated
        others = [model for model in self.run.models if all(model is not root for root in roots)]
        kinds = [_kind(root) for root in roots]
        return any(_kind(other) in kinds and self._holds(other) for other in others)

    def _holds(self, model: nn.Module) -> bool:
        return any(id(p) in self._held for p in model.parameters())

    def _report(self, optimizer: Optimizer, missing: list[Tensor], *, shares: bool) -> Any:
        order, frozen = self._optimizers[optimizer]
        held = [p for group in optimizer.param_groups for p in group["params"]]
        later = [p for p in missing if self._made[id(p)][0] > order]
        unfrozen = [p for p in missing if id(p) in frozen]
        idle = not any(id(p) in self.gradients.leaves for p in held)
        stale = bool(later) and any(id(p) not in self._all_owned() for p in held)
        kind, names = type(optimizer).__name__, _listed(self.run.name_of(p) for p in missing)
        if (later and (shares or stale)) or unfrozen or idle:
            severity = Severity.ERROR
            reason = "made after it" if later else "frozen when it was made" if unfrozen else "not given to it"
        else:
            severity, reason = Severity.WARNING, "not given to it"
        return self.finding(
            f"{names} get gradients and are not in {kind}: they were {reason}, and no other optimizer holds them",
            self.run.made_at(optimizer),
            fix="optimizer = …  # after the model is complete, with all its parameters\n"
            "# or: optimizer.add_param_group({'params': …})",
            evidence={
                "parameters with a gradient, in no optimizer": len(missing),
                "parameters of the optimizer": len(held),
                "of these without a gradient": sum(id(p) not in self.gradients.leaves for p in held),
            },
            severity=severity,
        )

    def _all_owned(self) -> set[int]:
        return {id(p) for model in self.run.models for p in model.parameters()}


def _kind(model: nn.Module) -> Any:
    return type(model), [tuple(p.shape) for p in model.parameters()]


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
