"""Parameters that two modules share: where they were tied, and what is in those two places now."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from blackbelt.doctor.events import Registered
from blackbelt.doctor.places import users_line
from blackbelt.doctor.run import Run
from blackbelt.places import Place


@dataclass(eq=False)
class Slot:
    """A place for a parameter: the attribute ``name`` of a module, which another module may have replaced since."""

    module: weakref.ref[nn.Module]
    name: str
    moves: list[tuple[weakref.ref[nn.Module], str, str]] = field(default_factory=list)  # parent, attribute, path below
    place: Place | None = None  # of the last change
    order: int = 0  # of that change

    def candidates(self) -> Iterator[nn.Module]:
        """Yield the modules that have this place now, the last replacement first."""
        for parent, attribute, path in reversed(self.moves):
            owner = parent()
            child = None if owner is None else owner._modules.get(attribute)  # noqa: SLF001 - has no public name
            if child is not None:
                found = [module for name, module in child.named_modules() if name == path]
                yield from found
        module = self.module()
        if module is not None:
            yield module

    def current(self, inside: Iterable[nn.Module]) -> Tensor | None:
        """Return the parameter that is there now, if its module is one of ``inside``."""
        known = set(map(id, inside))
        for module in self.candidates():
            parameter = module._parameters.get(self.name)  # noqa: SLF001 - likewise
            if id(module) in known:
                return parameter
        return None


@dataclass(eq=False)
class Tie:
    """Two slots that got one parameter."""

    first: Slot
    second: Slot
    place: Place | None


class Ties:
    """The ties of a run, in the order they were made."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ties: list[Tie] = []
        self._slots: dict[tuple[int, str], Slot] = {}  # of parameters and modules that live
        self._num_changes = 0
        self._homes: dict[int, tuple[weakref.ref[Tensor], list[Slot]]] = {}

    def registered(self, event: Registered) -> bool:
        """Take note of an assignment; return whether it made a tie or touched one."""
        if isinstance(event.thing, nn.Module):
            return self._module(event)
        parameter, key = event.thing, (id(event.owner), event.name)
        slot = self._slots.get(key)
        if slot is None or slot.module() is not event.owner:
            slot = self._slots[key] = Slot(weakref.ref(event.owner), event.name)
        touched = any(slot in (tie.first, tie.second) for tie in self.ties)
        if touched:
            self._changed(slot)
        made, homes = self._homes.get(id(parameter), (None, []))
        if made is None or made() is not parameter:
            homes = []
            self._homes[id(parameter)] = (weakref.ref(parameter), homes)
        if slot not in homes:
            if homes:
                self.ties.append(Tie(homes[0], slot, users_line()))
                touched = True
            homes.append(slot)
        return touched

    def _module(self, event: Registered) -> bool:
        old = event.previous
        if not isinstance(old, nn.Module) or old is event.thing or not self.ties:
            return False
        names = {id(module): name for name, module in old.named_modules()}
        touched = False
        for slot in {slot for tie in self.ties for slot in (tie.first, tie.second)}:
            module = next((m for m in slot.candidates() if id(m) in names), None)
            if module is not None:
                slot.moves.append((weakref.ref(event.owner), event.name, names[id(module)]))
                self._changed(slot)
                touched = True
        return touched

    def _changed(self, slot: Slot) -> None:
        self._num_changes += 1
        slot.place, slot.order = users_line(), self._num_changes

    def broken(self, models: Iterable[nn.Module]) -> Iterator[tuple[Tie, Tensor, Tensor]]:
        """Yield the ties within one model whose slots hold two parameters of one shape now."""
        for model in models:
            modules = list(model.modules()) if self.ties else []
            for tie in self.ties:
                first, second = tie.first.current(modules), tie.second.current(modules)
                if first is not None and second is not None and first is not second and first.shape == second.shape:
                    yield tie, first, second
