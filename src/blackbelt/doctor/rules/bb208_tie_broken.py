"""BB208."""

from __future__ import annotations

import linecache
import re
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from blackbelt.doctor.events import FunctionCall, Registered, StateLoaded, Step
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._sources import statement
from blackbelt.doctor.rules._ties import Tie, Ties
from blackbelt.doctor.run import Run
from blackbelt.places import Place

EARLY = 2  # steps at which everything is looked at
UNTIED = re.compile(
    r"un-?t(ie|ying)|not[ _](tied?|shared?)|no longer (tied|shared)|decoupl|separate|independent", re.IGNORECASE
)
STARTED = re.compile(r"\binit|\bstart", re.IGNORECASE)  # from the same values, on purpose
TIED = re.compile(r"\bti(e|ed|es|ing)\b|(\b|_)tie_|tied_|_tying|\bshar(e|ed|es|ing)\b|weight[ _-]shar", re.IGNORECASE)
SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]


class TieBroken(Rule):
    """Two layers that are to share one weight do not: their gradients go to two parameters.

    `head.weight = embedding.weight` makes one parameter with two names. Whatever puts a new parameter in one of the two
    places afterwards unties them in silence: a new embedding of another size, `load_state_dict(..., assign=True)`,
    `to_empty()` of a model made on the meta device, `module.weight = nn.Parameter(...)` in an initialization.
    `head.weight.data = embedding.weight.data` and `nn.Parameter(embedding.weight)` share memory, not the parameter: an
    adaptive optimizer moves it twice per step. `.copy_()` and `.clone()` make the two equal at the start only.

    Observed at the first steps: two places in one model that were given one parameter, and hold two of the same shape,
    both trained. Or: two parameters of one optimizer are the same memory (not for plain SGD, where two updates add up
    to the right one). Or: two weights are equal bit by bit, one of them perhaps transposed, and the line that made them
    so speaks of tying or sharing.

    Not reported: a place whose new parameter has another shape (another head on purpose), or whose line says that it is
    untied; parameters that no optimizer holds; equal weights of layers that were copied.

    The fix: tie them last, after loading, moving and initializing: `model.head.weight = model.embedding.weight`.
    Reported where the tie is broken, or where it was only seemingly made.
    """

    code: ClassVar[str] = "BB208"
    title: ClassVar[str] = "tied weights are not tied"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._ties = run.shared(Ties)
        self._dirty = False
        self._written: list[tuple[weakref.ref[Tensor] | None, int, Place | None]] = []  # before the first step
        self._said: set[int] = set()

    def registered(self, event: Registered) -> Findings:
        self._dirty |= self._ties.registered(event)
        return ()

    def state_loaded(self, call: StateLoaded) -> Findings:
        self._dirty |= bool(self._ties.ties) and isinstance(call.owner, nn.Module)
        return ()

    def function_called(self, call: FunctionCall) -> Findings:
        written = call.args[0] if call.args and not (self.run.num_steps or self.run.num_backwards) else None
        if isinstance(written, Tensor) and written.dim() > 1:
            if call.function == SET_DATA and isinstance(written, nn.Parameter):
                self._written.append((weakref.ref(written), 0, call.place))
            elif call.name == "copy_" and written.numel() and not written.requires_grad:
                self._written.append((None, written.data_ptr(), call.place))
            elif call.name == "copy_" and isinstance(written, nn.Parameter):
                self._written.append((weakref.ref(written), 0, call.place))
        return ()

    def step_begins(self, step: Step) -> Findings:
        if not self._dirty and step.number > EARLY:
            return
        self._dirty = False
        trained = {key: p for key, p in self.run.trained().items() if p.requires_grad}
        for tie, first, second in self._ties.broken(self.run.models):
            if {id(first), id(second)} <= trained.keys() and id(tie) not in self._said:
                self._said.add(id(tie))
                if (finding := self._broken(tie, first, second)) is not None:
                    yield finding
        if step.number <= EARLY and not self._said:
            yield from [*self._one_memory(step)] or self._copies(trained)

    def _broken(self, tie: Tie, first: Tensor, second: Tensor) -> Finding | None:
        slots = sorted((tie.first, tie.second), key=lambda slot: -slot.order)
        changes = [place for slot in slots if (place := slot.place) is not None and place != tie.place]
        made = [place for p in (second, first) if (place := self.run.made_at(p)) is not None and place != tie.place]
        places = [*changes, *made, tie.place]
        place = places[0]
        if place is None or _says(place, UNTIED):
            return None
        names = self.run.name_of(first), self.run.name_of(second)
        return self.finding(
            f"{names[0]} and {names[1]} were one parameter, tied in {tie.place}, and are two since this line",
            place,
            fix=f"model.{names[1]} = model.{names[0]}  # again, after this line",
            evidence={
                "tied": tie.place,
                "shape of both": tuple(first.shape),
                "equal now": bool(torch.equal(first, second)),
                "parameters in optimizers": 2,
            },
        )

    def _one_memory(self, step: Step) -> Iterator[Finding]:
        if isinstance(step.optimizer, torch.optim.SGD) and not any(
            group["weight_decay"] for group in step.optimizer.param_groups
        ):
            return
        seen: dict[Any, Tensor] = {}
        for parameter in step.parameters:
            if parameter.layout != torch.strided or parameter.numel() < 2 or parameter.grad is None:
                continue
            key = (_address(parameter), parameter.dtype, tuple(sorted(parameter.shape)))
            other = seen.setdefault(key, parameter)
            if other is parameter or not key[0]:
                continue
            self._said.add(id(parameter))
            names = self.run.name_of(other), self.run.name_of(parameter)
            yield self.finding(
                f"{names[0]} and {names[1]} share their memory and are two parameters: "
                f"{type(step.optimizer).__name__} moves it twice per step, each time by a part of the gradient",
                self._line_of(parameter) or self._line_of(other) or self.run.made_at(parameter),
                fix=f"model.{names[1]} = model.{names[0]}  # the parameter itself, not its data",
                evidence={"shape": tuple(parameter.shape), "updates per step": 2},
            )

    def _copies(self, trained: dict[int, Tensor]) -> Iterator[Finding]:
        """Yield what was to be tied and was copied, once, at the first step."""
        for model in self.run.models if not self.run.num_steps else ():
            weights = [p for p in model.parameters() if p.dim() == 2 and id(p) in trained]
            for second in reversed(weights):
                place = self._line_of(second) or self.run.made_at(second)
                if place is None or statement(place).count("weight") < 2:  # such as copies of a whole layer
                    continue
                if not _says(place, TIED) or _says(place, UNTIED) or _says(place, STARTED):
                    continue
                first = next((p for p in weights if p is not second and _equal(p, second)), None)
                if first is None:
                    continue
                names = self.run.name_of(first), self.run.name_of(second)
                yield self.finding(
                    f"{names[1]} is a copy of {names[0]} and not the same parameter: they are equal now and not after "
                    f"the first step",
                    place,
                    fix=f"model.{names[1]} = model.{names[0]}  # the parameter itself, not its values",
                    evidence={"shapes": f"{tuple(first.shape)}, {tuple(second.shape)}", "equal before step 1": True},
                )
                return

    def _line_of(self, parameter: Tensor) -> Place | None:
        """Return the line that last gave a parameter other data, or wrote into it as a whole."""
        address = _address(parameter)
        for reference, kept, place in reversed(self._written):
            if (reference is not None and reference() is parameter) or (kept and kept == address):
                return place
        return None


def _address(parameter: Tensor) -> int:
    return 0 if parameter.is_meta or parameter.layout != torch.strided else parameter.data_ptr()


def _equal(first: Tensor, second: Tensor) -> bool:
    """Return whether two matrices hold the same values, one of them perhaps transposed, and not one value only."""
    if first.device != second.device or _address(first) == 0 or not bool((first != first[0, 0]).any()):
        return False
    return any(first.shape == other.shape and torch.equal(first, other) for other in (second, second.t()))


def _says(place: Place, words: re.Pattern[str]) -> bool:
    lines = "".join(linecache.getline(place.file, n) for n in range(max(1, place.line - 3), place.line + 2))
    return words.search(lines) is not None
