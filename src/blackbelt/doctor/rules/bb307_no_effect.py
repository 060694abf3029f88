"""BB307."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from blackbelt.doctor.events import Backward, FunctionCall, tensors_in
from blackbelt.doctor.finding import Severity
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._losses import MAX_WAITING, node_name, number
from blackbelt.doctor.run import TRACED_STEPS, Run
from blackbelt.places import Place

ADDING = {"add", "sub", "__rsub__", "rsub", "add_", "sub_"}
READING = {"item", "__float__", "tolist"}
LINEAR = {"AddBackward0", "SubBackward0", "RsubBackward1", "NegBackward0", "MulBackward0", "DivBackward0"}
KEPT = {"clone", "copy_", "deepcopy", "state_dict", "save", "zeros_like", "ones_like", "backward"}
SAME = 1e-4  # relative difference of two ratios that are one coefficient
CONFIRMED = 3  # times that a number was that multiple of a loss that changed


@dataclass
class Cut:
    """Where numbers that came from the model lost their history, and by which call."""

    place: Place | None
    by: str
    near: frozenset[int]  # sequence numbers of the last nodes before
    top: int | None = None  # that of the very last
    used: bool = False  # whether they act on the gradient all the same, as a factor or a target


class NoEffect(Rule):
    """A term is added to the loss and has no effect on the gradient: it lost its history, so it is a constant.

    `loss + 0.1 * penalty.item()` prints what you expect and trains as if the penalty were not there. So do a penalty of
    `p.data` or of `state_dict()`, a `.detach()` too many, and a term counted by `argmax`, `round` or a comparison.

    Observed: a single number without history, computed from tensors that had one (or from the values of parameters),
    is added to the loss, and from there only sums and constant factors lead to where `backward` starts: the derivative
    with respect to the model is zero. Numbers of Python are recognized by value: three times the number added is the
    same multiple of a loss read by `.item()` just before. A term whose factor is 0 in all of the first steps is a note.

    Not reported: constants that the model has no part in, or that `no_grad` made; detached factors, baselines and
    targets, which change the gradient, and the entropy of such a target; parts of a loss that had its own `backward`;
    `x + (y - x).detach()`, which swaps a value on purpose; terms added to what is only printed.

    The fix: leave out the `.item()`, `.detach()` or `.data`. Reported where the history was lost.
    """

    code: ClassVar[str] = "BB307"
    title: ClassVar[str] = "a term of the loss has no effect"
    lesson: ClassVar[str] = "autograd/graph"
    first_steps_only: ClassVar[bool] = True

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._cuts: dict[int, tuple[weakref.ref[Tensor], Cut]] = {}
        self._read: dict[str, tuple[float, Cut]] = {}  # line: the last value read there
        self._ratios: dict[tuple[str, str], tuple[float, int, float]] = {}  # added, read: ratio, times, last value
        self._waiting: dict[int, tuple[Cut, float]] = {}
        self._trained: set[int] = set()  # nodes whose values some backward has begun with, or with their sum
        self._zeros: dict[int, Place | None] = {}  # products with 0 whose backward has not come
        self._zero_lines: dict[
            str, tuple[Place | None, int]
        ] = {}  # lines of such products that reached a root, and how often
        self._storages: tuple[int, set[int]] = (-1, set())  # of trained parameters, and at which step

    def function_called(self, call: FunctionCall) -> Findings:
        name, result = call.name, call.result
        if name in READING:
            self._read_number(call)
        elif not isinstance(result, Tensor):
            return ()
        elif result.requires_grad:
            if name in ADDING and result.dim() == 0 and result.grad_fn is not None:
                self._add(call)
            elif self._cuts:
                for tensor in tensors_in(call.args):
                    if not tensor.requires_grad and (cut := self._find(tensor)) is not None:
                        cut.used = True
            if name == "mul" and result.dim() == 0:
                self._look_at_factor(call)
        elif not (name.endswith("_") or name in KEPT) and result.numel():
            self._spread(call, result)
        return ()

    def _read_number(self, call: FunctionCall) -> None:
        source = call.args[0] if call.args else None
        if isinstance(source, Tensor) and source.numel() == 1:
            cut = self._find(source) or (
                Cut(call.place, call.name, _near(source), number(source)) if source.requires_grad else None
            )
            if cut is not None:
                self._read[str(call.place)] = (float(source.detach()), cut)

    def _spread(self, call: FunctionCall, result: Tensor) -> None:
        tensors = list(tensors_in(call.args, 2))
        cut = next((cut for tensor in tensors if (cut := self._find(tensor)) is not None), None)
        if cut is None and tensors:
            with_history = next((t for t in tensors if t.requires_grad), None)
            if with_history is not None and (call.grad_enabled or call.name in ("detach", "data")):
                cut = Cut(call.place, call.name, _near(with_history), number(with_history))
            elif with_history is None and self._is_parameters(tensors[0]):
                cut = Cut(call.place, "state_dict", frozenset())
        if cut is not None:
            self._cuts[id(result)] = (weakref.ref(result), cut)
            if len(self._cuts) > 4 * MAX_WAITING:
                self._cuts = {key: kept for key, kept in self._cuts.items() if kept[0]() is not None}

    def _is_parameters(self, tensor: Tensor) -> bool:
        """Return whether a tensor without history holds the values of a parameter, as those of a state dict do."""
        if not tensor.is_floating_point() or not tensor.dim() or tensor.is_sparse:
            return False
        if self._storages[0] != self.run.num_steps:
            trained = {p.untyped_storage().data_ptr() for p in self.run.trained().values() if p.requires_grad}
            self._storages = (self.run.num_steps, trained - {0})
        return bool(self._storages[1]) and tensor.untyped_storage().data_ptr() in self._storages[1]

    def _find(self, tensor: Tensor) -> Cut | None:
        made, cut = self._cuts.get(id(tensor), (None, None))
        return cut if made is not None and made() is tensor else None

    def _add(self, call: FunctionCall) -> None:
        key = number(call.result)
        with_history = [a for a in call.args[:2] if isinstance(a, Tensor) and a.requires_grad]
        terms = [a for a in call.args[:2] if not (isinstance(a, Tensor) and a.requires_grad)]
        if key is None or len(terms) != 1 or not with_history:
            return
        term, before = terms[0], set(_linear_part(with_history))
        cut = self._find(term) if isinstance(term, Tensor) else None
        if cut is not None:
            if not before & cut.near:
                self._wait(key, cut, float(term))
        elif isinstance(term, float) or (isinstance(term, Tensor) and term.dim() == 0):
            self._compare(key, str(call.place), float(term), before)

    def _compare(self, key: int, line: str, value: float, before: set[int]) -> None:
        """Look whether the number is a fixed multiple of one of the losses that were read."""
        for read, (loss, cut) in self._read.items():
            if not (math.isfinite(loss) and math.isfinite(value)) or not loss or not value or before & cut.near:
                continue
            ratio, times, last = self._ratios.get((line, read), (value / loss, 0, math.nan))
            if abs(value / loss - ratio) > SAME * abs(ratio):
                self._ratios[line, read] = (value / loss, 1, loss)
            elif loss != last:
                self._ratios[line, read] = (ratio, times + 1, loss)
                if times + 1 >= CONFIRMED:
                    self._wait(key, cut, value)

    def _wait(self, key: int, cut: Cut, value: float) -> None:
        self._waiting[key] = (cut, value)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.pop(next(iter(self._waiting)))

    def _look_at_factor(self, call: FunctionCall) -> None:
        key = number(call.result)
        factors = [a for a in call.args[:2] if not (isinstance(a, Tensor) and a.requires_grad)]
        if key is None or len(factors) != 1 or (isinstance(factors[0], Tensor) and factors[0].dim()):
            return
        if float(factors[0]) == 0:
            self._zeros[key] = call.place
        else:
            self._zero_lines[str(call.place)] = (call.place, -TRACED_STEPS * 100)  # a factor that is not always 0

    def backward_begins(self, call: Backward) -> Findings:
        if not self.run.traced:
            return
        part = list(_linear_part(call.roots))
        for key in part:
            if key in self._waiting:
                cut, value = self._waiting.pop(key)
                if not cut.used and cut.top not in self._trained:
                    yield self._constant(cut, value)
            elif key in self._zeros:
                place = self._zeros.pop(key)
                _, times = self._zero_lines.get(str(place), (place, 0))
                self._zero_lines[str(place)] = (place, times + 1)
                if times + 1 == TRACED_STEPS:
                    yield self.finding(
                        f"a term of the loss was multiplied by 0 in each of the first {TRACED_STEPS} steps",
                        place,
                        fix="# a factor other than 0, or no term",
                        severity=Severity.NOTE,
                    )

        self._trained = (self._trained if len(self._trained) < 64 * MAX_WAITING else set()) | set(part)

    def _constant(self, cut: Cut, value: float) -> Any:
        by = {"data": "`.data`", "state_dict": "being read from a state dict"}.get(cut.by, f"`{cut.by}`")
        return self.finding(
            f"a term of the loss ({value:.4g}) has no effect on the gradient: it lost its history by {by}, and is a "
            f"constant",
            cut.place,
            fix=f"# without {by}: the term must depend on the parameters",
            evidence={"value of the term": f"{value:.6g}", "its gradient": "none"},
        )


def _near(tensor: Tensor) -> frozenset[int]:
    """Return the sequence numbers of the last nodes that a tensor came from."""
    nodes, found = [tensor.grad_fn], set()
    for _ in range(4):
        found |= {node._sequence_nr() for node in nodes if node is not None}  # noqa: SLF001 - has no public name
        nodes = [following for node in nodes if node is not None for following, _ in node.next_functions]
    return frozenset(found)


def _linear_part(roots: Any) -> Iterator[int]:
    """Yield the sequence numbers of the nodes from which only sums and constant factors lead to a root."""
    waiting = [root.grad_fn for root in roots]
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        yield node._sequence_nr()  # noqa: SLF001 - has no public name
        if node_name(node) not in LINEAR:
            continue
        inputs = [following for following, _ in node.next_functions if following is not None]
        if node_name(node) not in ("MulBackward0", "DivBackward0") or len(inputs) == 1:
            waiting.extend(inputs)
