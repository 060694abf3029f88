"""Where a NaN, or an overflow of float16, is made, and whether a training goes on in spite of it."""

from __future__ import annotations

import bisect
import functools
import linecache
import math
import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from blackbelt.doctor.events import Backward, FunctionCall, ModuleCall, Placed, ScalerCall, Step, tensors_in
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._losses import node_name, number
from blackbelt.doctor.rules._zeroed import divides_by_infinity
from blackbelt.doctor.run import Run
from blackbelt.places import Place

UNPOISONED = 3  # times a NaN is made, and more often than not, where parameters stay finite
SKIPPED = 3  # batches in a row
MAX_PLACES = 4096
HALF_MAX = 65504.0  # the largest number of float16
LATE = 25  # steps from one look at the parameters to the next, once the run is not traced
GIVEN = ("empty", "new_empty", "full", "new_full", "fill_", "masked_fill", "where", "copy_", "set_", "resize_", "data")
HIDING = {"nan_to_num", "nan_to_num_", "nansum", "where", "masked_fill", "masked_fill_", "fmax", "fmin"}
RISKY = {  # whose derivative is infinite somewhere, or that multiply what may be
    *("Sqrt", "Rsqrt", "Pow", "Norm", "LinalgVectorNorm", "Div", "Acos", "Asin", "Acosh", "Log", "Log2", "Log10"),
    *("Log1P", "Log1p", "Std", "Var", "StdMean", "VarMean", "Cdist", "EuclideanDist", "Mul", "Exp", "Atan2", "Prod"),
    *("Reciprocal", "Softmax", "LogSoftmax", "Xlogy", "Tan", "Hypot", "LinalgEigh", "LinalgSvd", "Renorm", "Mm", "Bmm"),
    *("Addmm", "Erfinv", "Logsumexp", "SafeSoftmax", "Expm1", "Logcumsumexp", "Cumprod", "Sinc"),
}


@dataclass(frozen=True)
class Origin:
    """The operation that made the first NaN out of none, or the first infinity out of finite float16."""

    name: str
    place: Place | None
    shape: tuple[int, ...]
    wrong: int  # elements
    inputs: str  # what was put in, in words
    node: int | None = None  # its sequence number
    backward: bool = False  # the NaN is in the gradient only
    largest: float = 0.0  # what an overflow would have been


@dataclass(frozen=True)
class Verdict:
    """A training that goes on with a NaN, or without what a NaN has taken away."""

    how: str  # "loss", "gradient", "poisoned", "hidden", "skipped", "late", "zeroed"
    origin: Origin | None
    times: int
    of: int
    place: Place | None  # of the symptom
    poisoned: str = ""  # the name of a parameter that is NaN
    overflow: Origin | None = None


@dataclass(eq=False)
class Batch:
    """What has happened since the last backward."""

    origins: list[Origin] = field(default_factory=list)
    overflow: Origin | None = None
    zeroed: bool = False  # a model has divided by the overflow, and goes on with zeros
    entered: Origin | None = None  # where a NaN came in that no operation had made


class Numbers:
    """The NaN of a run; listened to by two rules, kept while the run is traced."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.verdict: Verdict | None = None
        self._batch = Batch()
        self._first: Batch | None = None  # the first bad one in a row
        self._heard: tuple[str, weakref.ref[Placed] | None] = ("", None)
        self._places: list[tuple[int, Place | None]] = []  # of what has a node, by its sequence number
        self._made: dict[int, weakref.ref[Tensor]] = {}  # tensors with NaN that operations made or handed on
        self._handles: list[Any] = []
        self._in_backward: tuple[int, str] | None = None
        self._row = self._bad = self._backwards = 0
        self._outer = 0  # calls of outermost modules
        self._skips: dict[str, set[int]] = {}
        self._hidden: Counter[str] = Counter()
        self._scaled = False
        self._zeroed = 0  # calls of backward in a row

    def hear(self, kind: str, event: Any) -> None:
        """Take note of an event, once, however many rules tell of it."""
        last, reference = self._heard
        if self.verdict is not None or (kind == last and reference is not None and reference() is event):
            return
        self._heard = (kind, weakref.ref(event))
        if self.run.traced or kind == "step_ends":
            getattr(self, "_" + kind)(event)

    def _module_called(self, call: ModuleCall) -> None:
        self._outer += call.depth == 0

    def _scaler_called(self, call: ScalerCall) -> None:
        self._scaled |= call.scaler.is_enabled()

    def _function_called(self, call: FunctionCall) -> None:
        result = call.result
        if not isinstance(result, Tensor) or not result.is_floating_point() or result.layout != torch.strided:
            return
        key = number(result)
        if key is not None and (not self._places or key > self._places[-1][0]):
            self._places.append((key, call.place))
            if len(self._places) > MAX_PLACES:
                del self._places[: MAX_PLACES // 2]
        if self._batch.overflow is not None and call.modules and call.grad_enabled:
            self._batch.zeroed |= divides_by_infinity(call)
        wrong = call.name in HIDING or not is_finite(result)
        if not wrong:
            return
        inputs = [t for t in (*tensors_in(call.args, 2), *tensors_in(call.kwargs, 2)) if t.is_floating_point()]
        broken = [t for t in inputs if bool(t.isnan().any())]
        if bool(result.isnan().any()):
            self._look_at_nan(call, result, inputs, broken)
        elif broken:
            self._look_at_hiding(call, broken)
        elif result.dtype == torch.float16 and self._batch.overflow is None and bool(result.isinf().any()):
            self._batch.overflow = _overflow(call, result, inputs, self.run)

    def _look_at_nan(self, call: FunctionCall, result: Tensor, inputs: list[Tensor], broken: list[Tensor]) -> None:
        if len(self._made) > MAX_PLACES:
            self._made = {key: made for key, made in self._made.items() if made() is not None}
        given = [a for a in (*call.args, *call.kwargs.values()) if isinstance(a, float) and a != a]  # noqa: PLR0124 - NaN
        if broken or given:
            known = any(self._made.get(id(t), lambda: None)() is t for t in broken)
            if not known and self._batch.entered is None and not any(isinstance(t, nn.Parameter) for t in broken):
                self._batch.entered = _origin(call, result, inputs)
            elif known:
                self._made[id(result)] = weakref.ref(result)
                if self._batch.origins:  # made of inputs alone, and on its way into the loss now
                    self._count_if_guarded(self._batch.origins[0], result)
            return
        if not any(isinstance(a, Tensor) for a in tensors_in(call.args, 2)) or call.name.startswith(GIVEN):
            return
        self._made[id(result)] = weakref.ref(result)
        origin = _origin(call, result, inputs)
        if len(self._batch.origins) < 16:
            self._batch.origins.append(origin)
        self._count_if_guarded(origin, result)

    def _count_if_guarded(self, origin: Origin, result: Tensor) -> None:
        if result.requires_grad and origin.place is not None and _guards(origin.place.file):
            self._count_skips(origin)

    def _count_skips(self, origin: Origin) -> None:
        """Count the batches in which one line makes a NaN, and that no backward follows."""
        batches = self._skips.setdefault(str(origin.place), set())
        batches.add(self._outer)
        if len(batches) > SKIPPED:  # the last of them may still be used
            self._conclude(Verdict("skipped", origin, len(batches) - 1, len(batches) - 1, origin.place))

    def _look_at_hiding(self, call: FunctionCall, broken: list[Tensor]) -> None:
        """Look whether a NaN that is all there was of a loss is replaced by a number."""
        lost = [t for t in broken if t.requires_grad and bool(t.isnan().all())]
        if not lost or call.name not in HIDING or not call.result.requires_grad or not self._batch.origins:
            return
        self._hidden[str(call.place)] += 1
        times = self._hidden[str(call.place)]
        if times > 1 and 2 * times > self._backwards + 1:
            self._conclude(Verdict("hidden", self._batch.origins[0], times, self._backwards + 1, call.place))

    def _backward_begins(self, call: Backward) -> None:
        self._backwards += 1
        self._skips.clear()
        self._in_backward = None
        if not all(is_finite(root) for root in call.roots):
            return
        for node in call.graph.nodes:
            if node_name(node).removesuffix("Backward0").removesuffix("Backward1").removesuffix("Backward2") in RISKY:
                look = functools.partial(self._look_at_node, node._sequence_nr(), node_name(node))  # noqa: SLF001 - no public name
                self._handles.append(node.register_hook(look))

    def _look_at_node(self, key: int, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        if self._in_backward is None:
            with torch.no_grad():
                if has_nan(inputs) and not has_nan(outputs):
                    self._in_backward = (key, name)

    def _backward_ends(self, call: Backward) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        batch, self._batch = self._batch, Batch()
        leaves = list(call.graph.leaves.values())
        broken = [root for root in call.roots if not is_finite(root)]
        loss = any(bool(root.isnan().any()) for root in broken) or (bool(broken) and batch.overflow is not None)
        made = [origin for origin in batch.origins if origin.node in call.graph.numbers]
        gradient = (self._in_backward is not None or bool(made)) and has_nan([p.grad for p in leaves])
        if self._scaled and not (batch.overflow is not None and broken):
            loss = gradient = False
        self._zeroed = self._zeroed + 1 if batch.zeroed and not (loss or gradient) else 0
        if self._zeroed > 1:
            self._conclude(Verdict("zeroed", None, self._zeroed, self._backwards, call.place, "", batch.overflow))
        if not (loss or gradient):
            self._row, self._first = 0, None
            return
        self._row, self._bad = self._row + 1, self._bad + 1
        if self._first is None:
            self._first = batch
            if made:
                self._first.origins = made
            elif gradient and not loss:
                self._first.origins = [self._node_origin()]
        poisoned = next((p for p in leaves if bool(p.isnan().any())), None)
        known = self._first.origins[0] if self._first.origins else self._first.entered
        enough = self._row > 1 if poisoned is not None or self._first.overflow else self._bad >= UNPOISONED
        if enough and 2 * self._bad > self._backwards:
            how = "loss" if loss and poisoned is None else "gradient" if poisoned is None else "poisoned"
            name = "" if poisoned is None else self.run.name_of(poisoned)
            self._conclude(Verdict(how, known, self._bad, self._backwards, call.place, name, self._first.overflow))

    def _node_origin(self) -> Origin:
        assert self._in_backward is not None
        key, name = self._in_backward
        index = bisect.bisect_left(
            self._places, key, key=lambda pair: pair[0]
        )  # a function's last node is the one known
        place = self._places[index][1] if index < len(self._places) else None
        return Origin(name.rpartition("Backward")[0].lower(), place, (), 0, "", key, backward=True)

    def _step_ends(self, step: Step) -> None:
        self._skips.clear()
        if self.run.traced or self.run.num_steps % LATE:
            return
        poisoned = next((p for p in step.parameters if p.is_floating_point() and not is_finite(p)), None)
        if poisoned is not None and bool(poisoned.isnan().any()):
            steps, name = self.run.num_steps, self.run.name_of(poisoned)
            self._conclude(Verdict("late", None, steps, steps, step.place, name))

    def _conclude(self, verdict: Verdict) -> None:
        if verdict.overflow is None:
            verdict = replace(verdict, overflow=self._batch.overflow)
        self.verdict = verdict
        self._made.clear()
        self._places.clear()


def is_finite(tensor: Tensor) -> bool:
    """Return whether there is neither NaN nor infinity in a tensor of real numbers, most often by its sum alone."""
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        return True
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return math.isfinite(float(tensor.detach().sum(dtype=wide))) or bool(tensor.isfinite().all())


def has_nan(tensors: Iterable[Any]) -> bool:
    """Return whether any of these tensors, some of which may be None, holds a NaN."""
    return any(isinstance(t, Tensor) and not is_finite(t) and bool(t.isnan().any()) for t in tensors)


def _origin(call: FunctionCall, result: Tensor, inputs: list[Tensor]) -> Origin:
    wrong = int(result.isnan().sum())
    return Origin(call.name, call.place, tuple(result.shape), wrong, _described(inputs), number(result))


def _described(inputs: list[Tensor]) -> str:
    """Say between what the values of the inputs lie."""
    said = []
    for tensor in inputs[:2]:
        if tensor.numel() == 0:
            said.append("no elements")
        elif not bool(tensor.isnan().all()):
            values = tensor.detach()[~tensor.isnan()]
            low, high = float(values.min()), float(values.max())
            said.append(f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}")
    return " and ".join(said)


def _overflow(call: FunctionCall, result: Tensor, inputs: list[Tensor], run: Run) -> Origin | None:
    """Return the operation, if its inputs are finite and its result would be in float32."""
    if not inputs or not all(is_finite(t) for t in inputs) or _within_scaler():
        return None
    if call.name in ("to", "half", "type"):
        largest = max(float(t.abs().max()) for t in inputs if t.numel())
    elif call.name.endswith("_") or "out" in call.kwargs or call.name in GIVEN:
        return None
    else:
        with run.probe(), torch.autocast(result.device.type, enabled=False):
            arguments = [_widened(argument) for argument in call.args]
            again = call.function(*arguments, **{name: _widened(value) for name, value in call.kwargs.items()})
        largest = float(again.detach().abs().max()) if isinstance(again, Tensor) and again.numel() else math.inf
    if not HALF_MAX < largest < math.inf:
        return None
    wrong = int(result.isinf().sum())
    return Origin(
        call.name, call.place, tuple(result.shape), wrong, _described(inputs), number(result), largest=largest
    )


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().float() if value.is_floating_point() else value
    if isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) for part in value):
        return type(value)(_widened(part) for part in value)
    return value


def _within_scaler() -> bool:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - reads the stack without building it
    while frame is not None:
        if frame.f_code.co_filename.endswith("grad_scaler.py"):
            return True
        frame = frame.f_back
    return False


@functools.cache
def _guards(file: str) -> bool:
    """Return whether a file looks for NaN itself."""
    return any(word in line for line in linecache.getlines(file) for word in ("isnan", "isfinite", "nan_to_num"))


class NumberRule(Rule):
    """Base of rules on NaN and infinities: they speak when a training has gone on with them."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._numbers = run.shared(Numbers)
        self._done = False

    def concludes(self, verdict: Verdict) -> Findings:
        """Yield what this rule has to say of a verdict."""
        raise NotImplementedError

    def _hear(self, kind: str, event: Any) -> Findings:
        if self._done:
            return ()
        self._numbers.hear(kind, event)
        if self._numbers.verdict is None:
            return ()
        self._done = True
        return self.concludes(self._numbers.verdict)

    def function_called(self, call: FunctionCall) -> Findings:
        return self._hear("function_called", call)

    def module_called(self, call: ModuleCall) -> Findings:
        return self._hear("module_called", call)

    def scaler_called(self, call: ScalerCall) -> Findings:
        return self._hear("scaler_called", call)

    def backward_begins(self, call: Backward) -> Findings:
        return self._hear("backward_begins", call)

    def backward_ends(self, call: Backward) -> Findings:
        return self._hear("backward_ends", call)

    def step_ends(self, step: Step) -> Findings:
        return self._hear("step_ends", step)
