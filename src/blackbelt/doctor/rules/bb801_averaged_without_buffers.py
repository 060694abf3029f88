"""BB801."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from blackbelt.doctor.events import FunctionCall, ModuleCall, StateLoaded, Step, head
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._modes import is_pristine, normalizes
from blackbelt.doctor.run import Run
from blackbelt.places import Place

WRITES = {"mul_", "add_", "sub_", "lerp_", "copy_", "set_", "__imul__", "__iadd__", "__isub__", "__set__"}
WRITES |= {"_foreach_mul_", "_foreach_add_", "_foreach_sub_", "_foreach_lerp_", "_foreach_copy_"}
SAMPLE = 64  # elements of each parameter that are kept from before the first step
NEAR = 1.2  # times as far from the trained parameters as their start is: a model of other origin is farther away
MAX_WRITES = 20_000


@dataclass(frozen=True)
class Look:
    """A copy of the model at one of its evaluations: sums stand for its parameters and its statistics."""

    parameters: float
    statistics: float
    batches: int  # that the trained model had seen


class AveragedWithoutBuffers(Rule):
    """An averaged model (EMA) is evaluated with BatchNorm statistics that nobody has updated.

    An average over `model.parameters()` leaves out the buffers, and with them `running_mean` and `running_var`. The
    copy normalizes with mean 0 and variance 1, or with what they were when it was made, and its accuracy is that of a
    guess, or falls, while the trained model is fine.

    Observed: a model that no optimizer holds is called in evaluation mode; its parameters have moved along with those
    of a trained model of the same shapes; its running statistics are at their initial values and those of the trained
    model are not. Or at two evaluations: parameters have changed and so have the trained model's statistics, while
    the copy's are bit for bit the same.

    Not reported: copies that are called in training mode (they have statistics of their own), random networks that
    never move, models without BatchNorm, models whose BatchNorm is frozen.

    The fix: copy the buffers along with every update, or `AveragedModel(model, multi_avg_fn=...)`, which does; or
    `torch.optim.swa_utils.update_bn(loader, ema)` before evaluation. Reported where the copy is updated.
    """

    code: ClassVar[str] = "BB801"
    title: ClassVar[str] = "averaged weights without BatchNorm's statistics"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._start: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}  # parameters before the first step: a sample
        self._writes: dict[int, Counter[Place]] = {}  # lines that write, by the address of what they write to
        self._loads: weakref.WeakKeyDictionary[nn.Module, Place | None] = weakref.WeakKeyDictionary()
        self._looks: weakref.WeakKeyDictionary[nn.Module, Look] = weakref.WeakKeyDictionary()
        self._settled: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # nothing more to find out about these
        self._stepping = False

    def step_begins(self, step: Step) -> Findings:
        self._stepping = True
        if step.number == 1:
            for p in step.parameters:
                if id(p) not in self._start:
                    self._start[id(p)] = (weakref.ref(p), head(p)[:SAMPLE].clone())
        return ()

    def step_ends(self, _: Step) -> Findings:
        self._stepping = False
        return ()

    def function_called(self, call: FunctionCall) -> Findings:
        if call.name not in WRITES or self._stepping or call.grad_enabled or call.modules or not self._start:
            return ()
        written = call.args[1] if call.name == "__set__" else call.args[0]
        place = call.place
        for tensor in written if isinstance(written, (list, tuple)) else [written]:
            if isinstance(tensor, Tensor) and place is not None and len(self._writes) < MAX_WRITES:
                self._writes.setdefault(tensor.data_ptr(), Counter())[place] += 1
        return ()

    def state_loaded(self, call: StateLoaded) -> Findings:
        if isinstance(call.owner, nn.Module):
            self._loads[call.owner] = call.place
        return ()

    def module_called(self, call: ModuleCall) -> Findings:
        copy = call.module
        if call.depth or copy.training or not self._start or copy in self._settled:
            return
        norms = _norms(copy)
        held = self.run.trained()
        if not norms or any(norm.training for norm in norms) or any(id(p) in held for p in copy.parameters()):
            if not norms or not any(norm.training for norm in norms):
                self._settled.add(copy)
            return
        for model in self.run.models:
            theirs = _norms(model)
            if model is copy or not any(id(p) in held for p in model.parameters()) or not _alike(copy, model):
                continue
            if any(is_pristine(norm) for norm in theirs) or not self._follows(copy, model):
                continue
            initial = sum(is_pristine(norm) for norm in norms)
            seen = max(int(norm.num_batches_tracked or 0) for norm in theirs)
            if initial or self._stands_still(copy, norms, seen):
                self._settled.add(copy)
                yield self._report(copy, model, call.place, initial, len(norms), seen)
                return

    def _stands_still(self, copy: nn.Module, norms: list[Any], seen: int) -> bool:
        """Return whether the copy has changed since its last evaluation, and its statistics have not."""
        before = self._looks.get(copy)
        parameters = sum(float(head(p).float().abs().sum()) for p in copy.parameters())
        statistics = sum(float(norm.running_mean.abs().sum() + norm.running_var.sum()) for norm in norms)
        self._looks[copy] = now = Look(parameters, statistics, seen)
        if before is None:
            return False
        return before.statistics == now.statistics and before.parameters != now.parameters and before.batches < seen

    def _follows(self, copy: nn.Module, model: nn.Module) -> bool:
        """Return whether the copy's parameters have moved from where training began towards the trained ones."""
        moved = False
        away = way = 0.0
        for mine, trained in zip(copy.parameters(), model.parameters()):
            reference, start = self._start.get(id(trained), (None, None))
            if start is None or reference is None or reference() is not trained:
                continue
            here, there = head(mine)[:SAMPLE].float(), head(trained)[:SAMPLE].float()
            moved |= not torch.equal(here, start.float())
            away += float((here - there).pow(2).sum())
            way += float((start.float() - there).pow(2).sum())
        return moved and away <= NEAR**2 * way

    def _report(
        self, copy: nn.Module, model: nn.Module, called: Place | None, initial: int, norms: int, seen: int
    ) -> Any:
        kind = type(copy).__name__
        state = "at their initial values" if initial else "what they were at its last evaluation"
        return self.finding(
            f"{kind} is evaluated with averaged weights, but its BatchNorm statistics are {state}; those of the "
            f"trained {type(model).__name__} come from {seen} batches",
            self._updated_at(copy) or self._loads.get(copy) or called,
            fix="for mine, theirs in zip(ema.buffers(), model.buffers()):\n    mine.copy_(theirs)",
            evidence={
                "layers of BatchNorm": norms,
                "of them at mean 0, variance 1": initial,
                "batches in the trained model's statistics": seen,
            },
        )

    def _updated_at(self, copy: nn.Module) -> Place | None:
        """Return the line that writes to the copy's parameters most often, the first of several."""
        lines: Counter[Place] = Counter()
        for parameter in copy.parameters():
            lines.update(self._writes.get(parameter.data_ptr(), {}))
        most = max(lines.values(), default=0)
        return min((place for place, times in lines.items() if times == most), key=lambda p: p.line, default=None)


def _norms(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if normalizes(module)]


def _alike(copy: nn.Module, model: nn.Module) -> bool:
    """Return whether two models have parameters and statistics of the same shapes, in the same order."""
    ours, theirs = _norms(copy), _norms(model)
    return [p.shape for p in copy.parameters()] == [p.shape for p in model.parameters()] and [
        norm.num_features for norm in ours
    ] == [norm.num_features for norm in theirs]
