"""BB702."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from blackbelt.doctor.events import File, StateLoaded, StateTaken
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules import _states
from blackbelt.doctor.rules._keys import assigned_at
from blackbelt.doctor.rules._sources import statement
from blackbelt.doctor.run import Run
from blackbelt.places import Place

KNOWN = 4  # tensors of a state by which it is known again in another dict
PASSED_ON = ("save(", "load_state_dict(")  # a state that is used where it is taken is not kept


@dataclass(eq=False)
class Taken:
    """One call of ``state_dict``."""

    owner: weakref.ref[nn.Module]
    place: Place
    num_steps: int
    num_loads: int  # into the owner


class AliasedState(Rule):
    """The best weights were kept with `state_dict()`, which copies nothing: they are the last weights.

    The tensors in `model.state_dict()` are those of the model. The dict that was kept at the best epoch has followed
    every step since, so `model.load_state_dict(best_state)` copies the weights onto themselves, and early stopping
    returns the last model. `best = dict(model.state_dict())`, `{k: v for k, v in …}` and `.copy()` are new dicts of
    the same tensors; `.detach()`, `.data` and, for a model on the CPU, `.cpu()` share their memory too.

    Observed: a state is loaded into the module whose own memory it is, all of it, though optimizer steps have been
    made, or other weights loaded, since `state_dict` was called. Or such a state is saved, or loaded into a second
    model, after further steps, where the same line took it at different steps or its name says that it is the best.

    Not reported: copies (`copy.deepcopy`, `.clone()`, a file or buffer in between); a state that is loaded back with
    no step in between; one dict made before training that is saved again and again.

    The fix: `best_state = copy.deepcopy(model.state_dict())`. Reported where the state was taken.
    """

    code: ClassVar[str] = "BB702"
    title: ClassVar[str] = "the weights that were kept are the model's own"
    lesson: ClassVar[str] = "silent_failures/rules"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._known: dict[int, tuple[weakref.ref[Tensor], Taken]] = {}
        self._last: weakref.WeakKeyDictionary[nn.Module, dict[Place, Taken]] = weakref.WeakKeyDictionary()
        self._loads: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
        self._steps: dict[Place, set[int]] = {}  # at which a line took states; the first two

    def state_taken(self, call: StateTaken) -> Findings:
        place = call.place
        if place is None:
            return ()
        taken = Taken(weakref.ref(call.owner), place, self.run.num_steps, self._loads.get(call.owner, 0))
        self._last.setdefault(call.owner, {})[place] = taken
        steps = self._steps.setdefault(place, set())
        if len(steps) < 2:
            steps.add(self.run.num_steps)
        tensors = [value for value in call.state.values() if isinstance(value, Tensor)]
        for tensor in tensors[:: max(1, len(tensors) // KNOWN)]:
            key = id(tensor)
            with contextlib.suppress(TypeError):
                self._known[key] = (weakref.ref(tensor, lambda _, key=key: self._known.pop(key, None)), taken)  # type: ignore[misc]
        return ()

    def state_loaded(self, call: StateLoaded) -> Findings:
        owner = call.owner
        if not isinstance(owner, nn.Module):
            return
        number = self._loads.get(owner, 0)
        shares = _shares(owner, call.state)
        if not shares:
            self._loads[owner] = number + 1
            yield from self._kept_too_long(call.state, call.place, "what is loaded are the weights of now")
            return
        taken = self._taken(call.state) or self._guess(owner, call.place)
        if taken is not None and taken.owner() is owner and self._has_changed(owner, taken):
            yield self._report(taken, owner, "loading it changes nothing", call.place)

    def file_saved(self, call: File) -> Findings:
        for _, state in _states.module_states(call.content):
            yield from self._kept_too_long(state, call.place, "what is saved are the weights of now")

    def _kept_too_long(self, state: Mapping[str, Any], place: Place | None, consequence: str) -> Findings:
        """Report a state that is used after further steps, and was meant to be of the step at which it was taken."""
        taken = self._taken(state)
        owner = taken.owner() if taken is not None else None
        if taken is None or owner is None or not taken.num_steps or not self._has_changed(owner, taken):
            return
        is_snapshot = len(self._steps[taken.place]) > 1 or any("best" in n.lower() for n in assigned_at([taken.place]))
        if is_snapshot and _shares(owner, state):
            yield self._report(taken, owner, consequence, place)

    def _taken(self, state: Mapping[str, Any]) -> Taken | None:
        for value in state.values():
            reference, taken = self._known.get(id(value), (None, None))
            if reference is not None and reference() is value:
                return taken
        return None

    def _guess(self, owner: nn.Module, loaded_at: Place | None) -> Taken | None:
        """Return the last call whose state may have been kept: of tensors that were detached one cannot know."""
        for taken in sorted(self._last.get(owner, {}).values(), key=lambda taken: -taken.num_steps):
            passed_on = any(word in statement(taken.place) for word in PASSED_ON)
            if taken.place != loaded_at and not passed_on and self._has_changed(owner, taken):
                return taken
        return None

    def _has_changed(self, owner: nn.Module, taken: Taken) -> bool:
        if self._loads.get(owner, 0) > taken.num_loads:
            return True
        trained = self.run.trained()
        return self.run.num_steps > taken.num_steps and any(id(p) in trained for p in owner.parameters())

    def _report(self, taken: Taken, owner: nn.Module, consequence: str, used_at: Place | None) -> Any:
        variable = next((name for name in assigned_at([taken.place]) if name.replace(".", "").isidentifier()), "state")
        num_steps = self.run.num_steps - taken.num_steps
        return self.finding(
            f"`{variable}` holds the tensors of {type(owner).__name__} itself, which have changed since: {consequence}",
            taken.place,
            fix=f"{variable} = copy.deepcopy(model.state_dict())",
            evidence={
                "taken at step": taken.num_steps,
                "optimizer steps since": num_steps,
                "used at": used_at,
                "tensors that share memory with the model": len(list(owner.parameters())),
            },
        )


def _shares(owner: nn.Module, state: Mapping[str, Any]) -> bool:
    """Return whether all of a state's parameters are the memory of the owner's own."""
    own = dict(owner.named_parameters(remove_duplicate=False))
    pairs = [(own[name], value) for name, value in state.items() if name in own and isinstance(value, Tensor)]
    return bool(pairs) and all(_states.storage(p) == _states.storage(value) != 0 for p, value in pairs)
