"""Checkpoints that a run has loaded, and the states in them that training goes on from."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from blackbelt.doctor.events import File, tensors_in
from blackbelt.doctor.places import users_lines
from blackbelt.doctor.rules import _states
from blackbelt.doctor.rules._keys import assigned_at, counting_names, keys_read, names_at
from blackbelt.places import Place

MANY = 50_000  # tensors of a checkpoint that are remembered
POSITION = ("last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial", "verbose", "base_lrs")


@dataclass(eq=False)
class Piece:
    """A state in a checkpoint that training goes on from."""

    kind: str  # "optimizer", "scheduler" or "scaler"
    path: tuple[str, ...]  # the keys that lead to it
    shapes: list[list[tuple[int, ...]]] = field(default_factory=list)  # of an optimizer's tensors, per parameter
    names: frozenset[str] = frozenset()  # of the hyperparameters
    numbers: Mapping[str, Any] = field(default_factory=dict)  # numbers of a scheduler or a scaler
    tensors: set[int] = field(default_factory=set)
    was_loaded: bool = False  # into an optimizer, whichever


@dataclass(eq=False)
class Checkpoint:
    """A file that was loaded."""

    place: Place | None
    pieces: list[Piece]
    tensors: dict[int, weakref.ref[Tensor]]
    files: set[str]  # of the user's code that led to the load
    variables: list[str]
    callers: set[str]  # names that what the function around the load returns is assigned to
    counters: list[str]
    has_model: bool
    models: list[weakref.ref[nn.Module]] = field(default_factory=list)
    restored: bool = False  # something other than a model was

    @classmethod
    def of(cls, call: File) -> Checkpoint | None:
        """Return what a file holds, None where no training goes on from it. Ask while the file is being loaded."""
        if not isinstance(call.content, Mapping):
            return None
        pieces = [piece for path, state in _states.paths(call.content) if (piece := _piece(path, state))]
        if not pieces:
            return None
        lines = users_lines()
        tensors = {id(t): weakref.ref(t) for t in list(tensors_in(call.content))[:MANY]}
        files = {line.file for line in lines}
        counters = _states.counters(call.content)
        has_model = bool(_states.module_states(call.content))
        return cls(call.place, pieces, tensors, files, assigned_at(lines), names_at(lines[1:]), counters, has_model)

    def ids_of(self, state: Any) -> set[int]:
        """Return the ids of those tensors of a state that are the file's."""
        references = ((t, self.tensors.get(id(t))) for t in tensors_in(state))
        return {id(t) for t, reference in references if reference is not None and reference() is t}

    def is_read(self, piece: Piece) -> bool:
        """Return whether the script reads the piece by name: what it does not do with it is then meant."""
        key, parent = (*piece.path[-1:], "")[0], piece.path[-2:-1]
        for read in (read for file in self._all_files() for read in keys_read(file)):
            is_there = not parent or read.owner not in self.variables  # else `checkpoint["g"]` for `["opts"]["g"]`
            if read.key == key and (is_there or any(repr(name) in read.owner for name in parent)):
                return True
        return False

    def is_resumed(self) -> bool:
        """Return whether the script goes on counting from a number in the checkpoint."""
        files = self._all_files()
        counting = {name for file in files for name in counting_names(file)}
        for read in (read for file in files for read in keys_read(file) if read.key in self.counters):
            if read.is_printed or not (read.is_parameter or not self.variables or read.owner in self.variables):
                continue
            if read.is_passed or counting & {*read.names, *(self.callers if read.is_returned else ())}:
                return True
        return False

    def _all_files(self) -> set[str]:
        return self.files | {line.file for line in users_lines()}

    @property
    def variable(self) -> str:
        """The name of the variable that the checkpoint is in, as well as one can tell."""
        names = [name for name in self.variables if name.replace(".", "").isidentifier()]
        return names[0] if names else "checkpoint"


def _piece(path: tuple[str, ...], state: Mapping[Any, Any]) -> Piece | None:
    if _states.is_optimizer_state(state):
        indices = [i for group in state["param_groups"] for i in group["params"]]
        kept = [[t for t in tensors_in(state["state"].get(i, {})) if t.dim()] for i in indices]
        names = frozenset(state["param_groups"][0]) - {"initial_lr", "params"} if state["param_groups"] else frozenset()
        shapes = [[tuple(t.shape) for t in tensors] for tensors in kept]
        return Piece("optimizer", path, shapes, names, tensors={id(t) for tensors in kept for t in tensors})
    if _states.is_scheduler_state(state):
        return Piece("scheduler", path, numbers=plain(state))
    if _states.is_scaler_state(state):
        return Piece("scaler", path, numbers=plain(state))
    return None


def plain(state: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what of a state is numbers and words."""
    return {k: v for k, v in state.items() if isinstance(v, (int, float, str, list, tuple)) and _is_flat(v)}


def _is_flat(value: Any) -> bool:
    return not isinstance(value, (list, tuple)) or all(isinstance(item, (int, float)) for item in value)


def settings(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a scheduler's numbers says how it is made, not how far it is."""
    return {key: value for key, value in numbers.items() if key not in POSITION}
