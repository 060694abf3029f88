"""BB501."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from blackbelt.doctor.events import Clipped, FunctionCall, ScalerCall
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._sources import statement
from blackbelt.doctor.run import Run
from blackbelt.places import Place

LIKE_A_SCALE = 0.1  # a limit this large beside the scale was multiplied by it
CLAMPING = {"clamp_", "clip_"}


@dataclass(eq=False)
class Pending:
    """Gradients that were clipped since the scaler was last updated."""

    parameters: dict[int, weakref.ref[Tensor]]
    place: Place | None
    name: str
    limit: float
    norm: float | None  # before it, as the caller saw it


class ClippedScaled(Rule):
    """Gradients are clipped while they are still multiplied by the scale of a `GradScaler`.

    Between `scaler.scale(loss).backward()` and `scaler.unscale_(optimizer)` every gradient is larger than it is, by a
    factor such as 65,536. A limit of 1.0 then cuts every step down to 1/65,536 of its length, whatever the gradient is:
    SGD hardly moves, Adam loses the relative size of its steps, and each change of the scale changes the limit.

    Observed: `clip_grad_norm_`, `clip_grad_value_`, or a clamp of `p.grad`, made gradients smaller that the scaler had
    scaled and not yet unscaled; the scaler unscaled them for their optimizer later.

    Not reported: a scaler that is not enabled, or whose scale is 1; a limit multiplied by the scale; a limit that cut
    nothing; gradients that overflowed; parameters of optimizers that step without the scaler.

    The fix: `scaler.unscale_(optimizer)` before clipping. `scaler.step` knows of it and does not unscale again.
    """

    code: ClassVar[str] = "BB501"
    title: ClassVar[str] = "gradients clipped before they are unscaled"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._scale = 1.0  # that the gradients hold now
        self._pending: list[Pending] = []
        self._unscaled: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()

    def clipped(self, call: Clipped) -> Findings:
        if self._scale > 1:
            self._note(call.parameters, call.place, call.name, call.limit, call.norm)
        return ()

    def function_called(self, call: FunctionCall) -> Findings:
        if self._scale <= 1 or call.name not in CLAMPING or not isinstance(call.args[0], Tensor):
            return ()
        limit = call.argument(2, "max")
        if isinstance(limit, (int, float)):
            address = call.args[0].data_ptr()
            clamped = [p for p in self._known() if p.grad is not None and p.grad.data_ptr() == address]
            self._note(clamped, call.place, call.name, float(limit), None)
        return ()

    def _known(self) -> list[Tensor]:
        return [p for model in self.run.models for p in model.parameters()]

    def _note(self, parameters: Any, place: Place | None, name: str, limit: float, norm: Tensor | None) -> None:
        held = [p for p in parameters if p.grad is not None and not p.grad.is_sparse]
        total = None if norm is None else float(norm)
        if not held or limit >= LIKE_A_SCALE * self._scale or (place is not None and _scales(place)):
            return
        if total is None:  # clipped by value: whether the limit is among the values
            cut = any(p.grad.numel() and float(p.grad.abs().max()) >= 0.999 * limit for p in held)
        else:
            cut = limit < total < float("inf")
        if cut:
            self._pending.append(Pending({id(p): weakref.ref(p) for p in held}, place, name, limit, total))

    def scaler_called(self, call: ScalerCall) -> Findings:
        if not call.scaler.is_enabled():
            return
        if call.name == "scale":
            self._scale = float(call.scaler.get_scale())
        elif call.name == "update":
            self._scale, self._pending = 1.0, []
            self._unscaled.clear()
        elif call.args and isinstance(call.args[0], torch.optim.Optimizer):
            optimizer = call.args[0]
            if optimizer not in self._unscaled:
                self._unscaled.add(optimizer)
                yield from self._unscale(optimizer)

    def _unscale(self, optimizer: torch.optim.Optimizer) -> Findings:
        held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
        for pending in self._pending:
            ours = [p for key, p in held.items() if key in pending.parameters and pending.parameters[key]() is p]
            if not ours:
                continue
            before = "" if pending.norm is None else f" (norm {pending.norm:.3g}, in truth {self._true(pending.norm)})"
            yield self.finding(
                f"gradients scaled by {self._scale:,.0f}{before} are clipped to {pending.limit:g}, which the scaler "
                f"then divides by {self._scale:,.0f}",
                pending.place,
                fix=f"scaler.unscale_(optimizer)  # before clipping\n{_call(pending)}",
                evidence={
                    "scale": f"{self._scale:g}",
                    "limit as given": f"{pending.limit:g}",
                    "limit in effect": f"{pending.limit / self._scale:.3g}",
                    "parameters clipped": f"{len(ours)} of {len(held)} of {type(optimizer).__name__}",
                },
            )

    def _true(self, norm: float) -> str:
        return f"{norm / self._scale:.3g}"


def _scales(place: Place) -> bool:
    """Return whether the statement speaks of the scale, as ``max_norm * scaler.get_scale()`` does."""
    return re.search(r"(?<!un)scale\b", statement(place).lower()) is not None


def _call(pending: Pending) -> str:
    if pending.name in CLAMPING:
        return f"p.grad.clamp_(-{pending.limit:g}, {pending.limit:g})"
    return f"torch.nn.utils.{pending.name}(model.parameters(), {pending.limit:g})"
