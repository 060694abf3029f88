"""BB214."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from blackbelt.doctor.events import Backward, FunctionCall, ModuleCall, Step, tensors_in
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._losses import number
from blackbelt.doctor.rules._named_sizes import means_kept, names_reversed
from blackbelt.doctor.rules._reshapes import Scrambled, correction, scrambled, step_of
from blackbelt.doctor.run import Run
from blackbelt.places import Place

CALLS = ("view", "reshape")
CONSUMERS = {"conv1d", "cross_entropy", "nll_loss", "batch_norm"}  # their second dim is one of features, or of classes
MOVING = {"__getitem__", "index_select", "gather", "sort", "flip", "roll", "transpose", "permute", "t", "matmul", "mm"}
MAX_LINES = 32


@dataclass(eq=False)
class Suspect:
    """A line that scrambles dims, and whether training goes through it."""

    place: Place
    name: str
    source: tuple[int, ...]
    target: tuple[int, ...]
    what: Scrambled
    used: bool  # in a forward pass, as the input of a model, or in the graph of a loss
    node: int | None  # sequence number of the result's node


class ViewForPermute(Rule):
    """`view` or `reshape` where dims should have changed places: the sizes are right and the values are scrambled.

    `view` never moves a value. `x.view(batch, features, time)` of a (batch, time, features) tensor has the shape that
    the next layer wants, and mixes values of different features and times; `x.view(batch, heads, time, dim)` of a
    (batch, time, heads * dim) tensor gives each head pieces of other tokens, and `logits.view(-1, classes)` of
    (batch, classes, time) makes rows of several positions. The loss falls, and stays above what it could be.

    Observed: a call that splits and merges dims which are no neighbors, while a dim of one size is in both shapes at
    another stride: it was meant to be kept, and is not. In a model's forward, or where the result has the shape of a
    model's input; reported at the next step of an optimizer.

    Also: dims (a, b) that were merged, and that a line names as (b, a) when it splits them after some layers.

    Not reported: splitting a dim, merging neighbors, moving dims of size 1; grouping rows by a factor, as from
    (16, 8) to (8, 16), unless it is what an RNN returned, the input of a convolution over time or the logits of a
    cross entropy, or the line names a size of that same tensor (`b, t, f = x.shape`, `x.view(b, f, t)`); calls inside
    of PyTorch.

    The fix: `x.transpose(1, 2)` or `x.permute(...)`; for heads `x.view(batch, time, heads, dim).transpose(1, 2)`.
    Reported where `view` or `reshape` is called.
    """

    code: ClassVar[str] = "BB214"
    title: ClassVar[str] = "view or reshape where dims should change places"
    lesson: ClassVar[str] = "tensors/strides"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._suspects: dict[str, Suspect] = {}
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], Scrambled | None] = {}
        self._said: set[str] = set()
        self._pending: dict[int, tuple[weakref.ref[Tensor], Suspect]] = {}  # results that a consumer may give away
        self._rows: dict[int, tuple[weakref.ref[Tensor], tuple[int, ...]]] = {}  # tensors of rows that were two dims
        self._recurrent: list[weakref.ref[Tensor]] = []  # what the last RNN returned

    def function_called(self, call: FunctionCall) -> Findings:
        source = call.args[0] if call.args else None
        if not isinstance(source, Tensor) or not isinstance(call.result, Tensor):
            return ()
        if self._pending and call.name in CONSUMERS:
            suspect = self._pending.pop(id(source), None)
            if suspect is not None and suspect[0]() is source:
                self._suspects.setdefault(str(suspect[1].place), suspect[1])
        split = self._follow_rows(call, source) if call.modules else None
        if call.name in CALLS:
            self._look(call, source, split)
        return ()

    def _follow_rows(self, call: FunctionCall, source: Tensor) -> Scrambled | None:
        """Follow merged rows through the layers; return what is wrong where they are split the other way round."""
        before, after = tuple(source.shape), tuple(call.result.shape)
        reference, dims = self._rows.get(id(source), (None, None))
        if reference is not None and reference() is source and dims is not None:
            if call.name in CALLS and len(after) > 1 and after[:2] == dims[::-1] and dims[0] != dims[1]:
                place = call.place
                if place is not None and names_reversed(place, call.name):
                    return Scrambled(dims, after[:2], dims[0], 1, sure=True)
            if after[:1] == before[:1] and call.name not in MOVING:
                self._rows[id(call.result)] = (weakref.ref(call.result), dims)
        elif call.name in (*CALLS, "flatten") and len(before) > 2 and after[:1] == (before[0] * before[1],):
            self._rows[id(call.result)] = (weakref.ref(call.result), before[:2])
        return None

    def _look(self, call: FunctionCall, given: Tensor, split: Scrambled | None) -> None:
        source, target = tuple(given.shape), tuple(call.result.shape)
        if source == target or len(target) < 2 or (split is None and len(source) < 2):
            return
        if (source, target) not in self._known:
            self._known[source, target] = scrambled(source, target)
        what = split or self._known[source, target]
        place = None if what is None else call.place
        if what is None or place is None or len(self._suspects) > MAX_LINES or str(place) in self._said:
            return
        if len(source) == 3 and target[0] == source[1] != source[0] and self._is_of_rnn(given):
            what = replace(what, sure=True)
        meant = None if str(place) in self._suspects else means_kept(place, call.name, what, len(target))
        if meant is None:
            return
        used = bool(call.modules) and call.grad_enabled
        suspect = Suspect(place, call.name, source, target, what, used, number(call.result))
        if meant:
            self._suspects[str(place)] = suspect
        elif len(source) == len(target) == 3 and len(what.before) == 2 and source[0] == target[0]:
            self._pending[id(call.result)] = (weakref.ref(call.result), suspect)

    def _is_of_rnn(self, tensor: Any) -> bool:
        return any(reference() is tensor for reference in self._recurrent)

    def module_called(self, call: ModuleCall) -> Findings:
        if isinstance(call.module, nn.RNNBase) and isinstance(call.output, tuple):
            self._recurrent = [weakref.ref(t) for t in tensors_in(call.output, 3) if t.dim() == 3]
        if not call.depth:
            self._rows.clear()
        if self._suspects and not call.depth and call.grad_enabled:
            shapes = [tuple(t.shape) for t in tensors_in((call.args, dict(call.kwargs)), 3)]
            for suspect in self._suspects.values():
                target = suspect.target
                suspect.used |= any(
                    target == shape or target == shape[1:] or (len(target) > 2 and target[1:] == shape[1:])
                    for shape in shapes
                )
        return ()

    def backward_begins(self, call: Backward) -> Findings:
        for suspect in self._suspects.values():
            suspect.used = suspect.used or suspect.node in call.graph.numbers
        return ()

    def step_ends(self, _: Step) -> Findings:
        self._pending.clear()
        self._rows.clear()
        for line, suspect in list(self._suspects.items()):
            if not suspect.used:
                continue
            del self._suspects[line]
            self._said.add(line)
            what = suspect.what
            yield self.finding(
                f"`{suspect.name}` makes {suspect.target} of {suspect.source}: the dim of size {what.size} keeps its "
                f"size and not its values, since view moves nothing",
                suspect.place,
                fix=correction(suspect.name, suspect.source, suspect.target),
                evidence={
                    "shape before": suspect.source,
                    "shape after": suspect.target,
                    f"values from one index to the next, dim of size {what.size}": (
                        f"{step_of(what.before, what.size)} apart before, {step_of(what.after, what.size)} after"
                    ),
                },
            )
