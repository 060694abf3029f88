"""Parameters that never get a gradient, because what was computed with them lost its history on the way to the loss."""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from blackbelt.doctor.events import Backward, FunctionCall, Graph, Step, tensors_in
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._losses import number
from blackbelt.doctor.rules._sources import conditions
from blackbelt.doctor.run import Run
from blackbelt.places import Place

CONFIRMED = 3  # steps without a gradient
MAX_KEPT = 2048
MAX_IN_PYTHON = 256
TO_PYTHON = {"numpy", "item", "tolist", "__float__", "__array__"}
FROM_PYTHON = {"tensor", "as_tensor", "from_numpy", "asarray", "full", "full_like"}
ADDING = {"add", "sub", "rsub", "__rsub__", "add_", "sub_"}
SAMPLING = {"normal", "bernoulli", "multinomial"}


@dataclass(eq=False)
class Cut:
    """A call that took the history away, and the parameters (by ``id``) that were in it."""

    place: Place | None
    by: str
    parameters: frozenset[int]


@dataclass(eq=False)
class Watched:
    """A parameter of an optimizer that has had no gradient so far."""

    parameter: weakref.ref[Tensor]
    version: int
    steps: int = 0
    reached: int = 0  # backwards whose loss depends on the value of what was computed with it
    cut: Cut | None = None


class CutRule(Rule):
    """Base of rules on lost history; ``kinds`` are the names of the calls that a rule speaks of."""

    first_steps_only: ClassVar[bool] = True

    kinds: ClassVar[frozenset[str]]

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._alive: set[int] = set()
        self._watched: dict[int, Watched] = {}
        self._tainted: dict[int, tuple[weakref.ref[Tensor], tuple[Cut, ...]]] = {}
        self._in_python: list[
            tuple[int, bool, Tensor, tuple[Cut, ...]]
        ] = []  # what Python holds, and from which module
        self._entries: dict[int, tuple[Cut, ...]] = {}  # sequence numbers of nodes that such values went into

    def report(self, cut: Cut, parameters: Sequence[Tensor], step: Step) -> Finding:
        """Make the finding for all parameters behind a cut."""
        raise NotImplementedError

    def function_called(self, call: FunctionCall) -> Findings:
        if not self._watched:
            return ()
        tensors = list(tensors_in((call.args, dict(call.kwargs)), 3))
        cuts = [cut for t in tensors if t.grad_fn is None for cut in self._find(t)]
        results = [r for r in tensors_in(call.result, 2) if isinstance(r, Tensor)]
        lost = not results or any(r.grad_fn is None for r in results)  # views made under no_grad still require one
        if lost and call.name not in ("backward", "requires_grad_", "size", "register_hook"):
            cuts += self._cut(call, tensors)
        cuts = [self._sampled(cut, call) for cut in cuts]
        context = id(call.modules[-1]) if call.modules else 0
        if call.name in TO_PYTHON and cuts and len(self._in_python) < MAX_IN_PYTHON:
            is_array = call.name in ("numpy", "__array__")
            self._in_python.append((context, is_array, _values(tensors[0]), tuple(cuts)))
        elif call.name in FROM_PYTHON and not tensors and results:
            cuts += self._from_python(results[0], context)
        if cuts:
            self._hand_on(call, tensors[:1] if call.name == "__setitem__" else results, cuts)
        return ()

    def _hand_on(self, call: FunctionCall, results: Sequence[Tensor], cuts: Sequence[Cut]) -> None:
        """Note that results depend on the values of what was cut off."""
        for result in results:
            key = number(result)
            if key is not None:
                if result.dim() or call.name not in ADDING:  # a constant term of the loss is BB307's
                    self._entries[key] = tuple(cuts)
            elif not isinstance(result, nn.Parameter):
                self._tainted[id(result)] = (weakref.ref(result), tuple(dict.fromkeys(cuts)))
        if len(self._tainted) > MAX_KEPT:
            self._tainted = {key: kept for key, kept in self._tainted.items() if kept[0]() is not None}

    def _from_python(self, made: Tensor, context: int) -> list[Cut]:
        """Return the cuts of numbers that a tensor was made of: these, or computed in NumPy in one `forward`."""
        found: list[Cut] = []
        values = _values(made)
        for where, is_array, kept, cuts in self._in_python:
            if where == context and ((is_array and context) or bool(torch.isin(values, kept).any())):
                found += cuts
        return found

    def _sampled(self, cut: Cut, call: FunctionCall) -> Cut:
        return Cut(call.place, "sample", cut.parameters) if cut.by == "no_grad" and call.name in SAMPLING else cut

    def _find(self, tensor: Tensor) -> tuple[Cut, ...]:
        made, cuts = self._tainted.get(id(tensor), (None, ()))
        return cuts if made is not None and made() is tensor else ()

    def _cut(self, call: FunctionCall, tensors: Sequence[Tensor]) -> list[Cut]:
        with_history = [t for t in tensors if t.requires_grad]
        if not with_history:
            return []
        by = call.name if call.grad_enabled or call.name in SAMPLING else "no_grad"
        behind = frozenset(Graph.of(with_history).leaves.keys() & self._watched.keys())
        return [Cut(call.place, by, behind)] if behind else []

    def backward_begins(self, call: Backward) -> Findings:
        if not self._watched or not self.run.traced:
            return ()
        graph = call.graph
        for key in graph.leaves.keys() & self._watched.keys():  # a gradient is on its way
            self._watched.pop(key)
            self._alive.add(key)
        if graph.cut:
            return ()
        reached = {cut: None for entry in graph.numbers & self._entries.keys() for cut in self._entries[entry]}
        for cut in reached:
            for key in cut.parameters & self._watched.keys():
                watched = self._watched[key]
                watched.cut = cut if watched.cut is None or cut.by in self.kinds else watched.cut
                watched.reached += watched.reached <= watched.steps
        return ()

    def step_ends(self, step: Step) -> Iterator[Finding]:
        self._tainted.clear()
        self._in_python.clear()
        self._entries.clear()
        if not self.run.traced:
            self._watched.clear()
            return
        if all(p.grad is None for p in step.parameters):
            return  # nothing was trained: another rule's
        ripe: dict[Cut, list[Tensor]] = {}
        places: dict[str, Cut] = {}
        for parameter in step.parameters:
            watched = self._look(parameter)
            if watched is None or watched.cut is None:
                continue
            if watched.steps == CONFIRMED and watched.reached >= CONFIRMED - 1 and self._is_mine(watched.cut):
                cut = places.setdefault(str(watched.cut.place), watched.cut)
                ripe.setdefault(cut, []).append(parameter)
        for cut, parameters in ripe.items():
            yield self.report(cut, parameters, step)

    def _look(self, parameter: Tensor) -> Watched | None:
        key, version = id(parameter), parameter._version  # noqa: SLF001 - has no public name
        if key in self._alive or not isinstance(parameter, nn.Parameter):
            return None
        watched = self._watched.get(key)
        if watched is not None and watched.parameter() is not parameter:
            watched = None
        if parameter.grad is not None or not parameter.requires_grad or (watched and watched.version != version):
            self._watched.pop(key, None)
            self._alive.add(key)
            return None
        if watched is None:
            watched = self._watched[key] = Watched(weakref.ref(parameter), version)
        watched.steps += 1
        return watched

    def _is_mine(self, cut: Cut) -> bool:
        return cut.by in self.kinds and not (cut.place is not None and is_by_choice(cut.place))


def _values(tensor: Tensor) -> Tensor:
    """Return some of the values, but for 0 and 1, which prove nothing."""
    values = tensor.detach().flatten()[:1024].double()
    return values[(values != 0) & (values != 1)].float()


WORDS = ("freez", "frozen", "probe", "probing", "warm", "stop_grad", "stop grad", "detach_", "finetune", "fine_tune")


def is_by_choice(place: Place) -> bool:
    """Return whether the source says that what happens there is meant: a condition around it, or a word nearby."""
    near = "".join(linecache.getline(place.file, max(1, place.line + offset)) for offset in (-2, -1, 0)).lower()
    return bool(conditions(place)) or any(word in near for word in WORDS)
