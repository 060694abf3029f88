"""BB503."""

from __future__ import annotations

import inspect
import linecache
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from blackbelt.doctor.events import FunctionCall, Step, head
from blackbelt.doctor.finding import Severity
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

LOW = (torch.float16, torch.bfloat16)
CASTS = {"to", "half", "bfloat16", "type"}
STEPS = 3
NEARLY_ALL, MOST = 0.9, 0.5  # of the elements that move in float32: an error, a warning
FEWEST = 32  # such elements
NOT_BY_ELEMENT = ("Adafactor", "Muon")  # optimizers whose update of an element depends on the others


class Shadow:
    """The first elements of an optimizer's low-precision parameters in float32, stepped along with it."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.parameters: dict[int, tuple[weakref.ref[Tensor], Tensor, Tensor]] = {}  # theirs, at first, in float32
        self.steps = 0
        self.rates: list[float] = []
        groups, self.owners = [], []
        for group in optimizer.param_groups:
            shadows = [self._add(p) for p in group["params"] if p.dtype in LOW and p.requires_grad and p.numel()]
            if shadows:
                self.owners.append(group)
                groups.append({**group, "params": shadows, "fused": False, "capturable": False, "foreach": False})
        kind: Any = next(kind for kind in type(optimizer).__mro__ if kind.__module__.startswith("torch.optim"))
        known = inspect.signature(kind.__init__).parameters
        groups = [{k: v for k, v in group.items() if k == "params" or k in known} for group in groups]
        self.optimizer: Optimizer | None = kind(groups) if groups else None
        self.owners = [
            g for g in optimizer.param_groups if any(p.dtype in LOW and p.requires_grad for p in g["params"])
        ]

    def _add(self, parameter: Tensor) -> Tensor:
        shadow = head(parameter).float().clone()
        self.parameters[id(parameter)] = (weakref.ref(parameter), head(parameter).clone(), shadow)
        return shadow

    def take_gradients(self) -> None:
        """Take over the gradients, and the learning rates, that the optimizer is about to step with."""
        for reference, _, shadow in self.parameters.values():
            parameter = reference()
            grad = None if parameter is None else parameter.grad
            shadow.grad = None if grad is None or grad.is_sparse else head(grad).float()
        assert self.optimizer is not None
        for mine, group in zip(self.optimizer.param_groups, self.owners):
            mine["lr"] = float(group["lr"])
        self.rates = [float(group["lr"]) for group in self.owners]

    def step(self) -> None:
        """Step, without the hooks that others have put around ``step``."""
        assert self.optimizer is not None
        inspect.unwrap(type(self.optimizer).step)(self.optimizer)
        self.steps += 1


@dataclass
class Comparison:
    """What became of the elements that move in float32; ``share`` of them are lost, weighted by size of parameter."""

    moved: int = 0
    lost: int = 0
    share: float = 0.0
    update: float = 0.0  # medians, of those that are lost
    gap: float = 0.0
    example: Tensor | None = None


class LostUpdates(Rule):
    """Weights in bfloat16 or float16 whose updates are too small to change them: they round back to what they were.

    bfloat16 has 8 significant bits: next to 0.1 comes 0.1005. An update of less than half that distance is lost, at
    every step anew: with weights around 0.05 and Adam, at all learning rates below some 1e-5. Gradients are fine, the
    loss moves a little with the few weights near 0, and training stalls.

    Observed: the first 1024 elements of every low-precision parameter, beside a copy in float32 that is stepped with
    the same gradients by an optimizer of the same kind. After 3 steps, 9 of 10 elements that the copy moves are bitwise
    what they were, and the copy's steps are smaller than half the distance to the next number, at the full rate as
    well.

    Where it is more than half of them, the finding is a warning: training goes on, slower and coarser.

    Not reported: a warm-up whose full rate (`initial_lr`, `max_lr`, the rate the optimizer was made with) is large
    enough; autocast, whose weights are float32; optimizers that are not PyTorch's own: they may keep float32 weights,
    round stochastically, or compensate; gradients of 0.

    The fix: keep the weights in float32 and compute under `torch.autocast`. Reported where they are converted.
    """

    code: ClassVar[str] = "BB503"
    title: ClassVar[str] = "updates that low-precision weights round away"
    lesson: ClassVar[str] = "silent_failures/method"
    first_steps_only: ClassVar[bool] = True
    explains: ClassVar[tuple[str, ...]] = ("BB502",)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._shadows: weakref.WeakKeyDictionary[Optimizer, Shadow | None] = weakref.WeakKeyDictionary()
        self._cast_at: dict[int, tuple[weakref.ref[Tensor], Place | None]] = {}

    def function_called(self, call: FunctionCall) -> Findings:
        if call.name in CASTS and isinstance(call.args[0], nn.Parameter) and isinstance(call.result, Tensor):
            parameter = call.args[0]
            if call.result.dtype in LOW and parameter.dtype not in LOW:
                self._cast_at[id(parameter)] = (weakref.ref(parameter), call.place)
        return ()

    def step_begins(self, step: Step) -> Findings:
        if not self.run.traced:
            return ()
        if step.optimizer not in self._shadows:
            self._shadows[step.optimizer] = _shadow(step.optimizer)
        shadow = self._shadows[step.optimizer]
        if shadow is not None:
            before = shadow.rates
            shadow.take_gradients()
            if not any(shadow.rates):  # the first step of a warm-up
                return ()
            if before and any(now > then for now, then in zip(shadow.rates, before)) and not _has_full_rate(shadow):
                self._shadows.pop(step.optimizer)  # a warm-up by hand: begin anew
        return ()

    def step_ends(self, step: Step) -> Findings:
        shadow = self._shadows.get(step.optimizer)
        if shadow is None:
            return
        if any(shadow.rates):
            shadow.step()
        if shadow.steps < STEPS:
            return
        self._shadows[step.optimizer] = None
        seen = _compare(shadow, step.optimizer)
        example = seen.example
        if example is None or seen.moved < FEWEST or seen.share < MOST:
            return
        kind = str(example.dtype).removeprefix("torch.")
        yield self.finding(
            f"{STEPS} steps of {type(step.optimizer).__name__} left {seen.lost:,} of {seen.moved:,} {kind} weights "
            f"looked at bit for bit as they were, among them {self.run.name_of(example)}; in float32 all of them move",
            self._place(example, step.optimizer),
            severity=None if seen.share >= NEARLY_ALL else Severity.WARNING,
            fix=f"model = Model()  # weights in float32\nwith torch.autocast(device, torch.{kind}):\n    loss = ...",
            evidence={
                "learning rate": f"{max(shadow.rates):g}",
                "update per step, median": f"{seen.update:.2g}",
                f"next {kind} number, median": f"{seen.gap:.2g} away",
            },
        )

    def _place(self, parameter: Tensor, optimizer: Optimizer) -> Place | None:
        reference, place = self._cast_at.get(id(parameter), (None, None))
        if reference is not None and reference() is parameter:
            return place
        made = self.run.made_at(parameter)
        return _default_dtype_line(made) or made or self.run.made_at(optimizer)


def _shadow(optimizer: Optimizer) -> Shadow | None:
    """Return the optimizer's shadow; None where its updates cannot be followed, or need not be."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    own = inspect.unwrap(type(optimizer).step).__module__.startswith("torch.optim")
    if not own or isinstance(optimizer, LBFGS) or type(optimizer).__name__ in NOT_BY_ELEMENT:
        return None
    if not any(p.dtype in LOW for p in held) or any(optimizer.state.get(p) for p in held):
        return None
    shadow = Shadow(optimizer)
    return shadow if shadow.optimizer is not None else None


def _full_rate(group: dict[str, Any], defaults: dict[str, Any]) -> float:
    names = ("lr", "initial_lr", "max_lr")
    return max(float(rates.get(name, 0) or 0) for rates in (group, defaults) for name in names)


def _has_full_rate(shadow: Shadow) -> bool:
    """Return whether it is known where the rates are going."""
    return all("initial_lr" in group for group in shadow.owners)


def _compare(shadow: Shadow, optimizer: Optimizer) -> Comparison:
    """Count the elements that move in float32, and those of them that are lost."""
    seen = Comparison()
    moving = losing = 0.0  # of all elements, not only of the first
    updates, gaps = [], []
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        growth = _full_rate(group, optimizer.defaults) / rate if rate else 1.0
        for parameter in group["params"]:
            _, start, copy = shadow.parameters.get(id(parameter), (None, None, None))
            if start is None or copy is None or copy.grad is None:
                continue
            update = (copy - start.float()).abs() / STEPS
            gap = _gap(start)
            moves = (update > 0) & (copy.grad != 0)
            still = moves & (head(parameter) == start) & (update * growth < gap / 2)
            weight = parameter.numel() / start.numel()
            seen.moved, moving = seen.moved + int(moves.sum()), moving + weight * int(moves.sum())
            seen.lost, losing = seen.lost + int(still.sum()), losing + weight * int(still.sum())
            if bool(still.any()):
                seen.example = max((p for p in (seen.example, parameter) if p is not None), key=Tensor.dim)
                updates.append(update[still])
                gaps.append(gap[still])
    if updates:
        seen.share, seen.update = losing / moving, float(torch.cat(updates).median())
        seen.gap = float(torch.cat(gaps).median())
    return seen


def _gap(values: Tensor) -> Tensor:
    """Return the distance from each value to the next one of its dtype."""
    info = torch.finfo(values.dtype)
    _, exponent = torch.frexp(values.float().abs().clamp(min=info.tiny))
    return torch.ldexp(torch.full(values.shape, info.eps, device=values.device), exponent - 1)


def _default_dtype_line(made: Place | None) -> Place | None:
    """Return the line that makes low precision the default, in the file where the parameter was made."""
    if made is None or torch.get_default_dtype() not in LOW:
        return None
    for number, line in enumerate(linecache.getlines(made.file), 1):
        if "set_default_dtype(" in line and "float16" in line:
            return Place(made.file, number, made.function)
    return None
