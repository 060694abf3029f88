"""Models that get back a part of what another one was trained to, and are evaluated with the rest at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor, nn

from blackbelt.doctor.events import ModuleCall, StateLoaded, Step, head
from blackbelt.doctor.rules._states import Table
from blackbelt.places import Place

HASHED = 64  # elements of a parameter
Account = TypeVar("Account")


@dataclass(eq=False)
class Part(Generic[Account]):
    """What a file has of a model and what it lacks, and the models that were evaluated with no more than that."""

    model: str
    place: Place | None
    saved: set[str]
    lacking: dict[str, tuple[int, Account]]  # hashes of the values, by name
    evaluated: list[set[int]] = field(default_factory=list)  # the ids of what they have at random


class Reloads(Generic[Account]):
    """Follows parts of models from the file to the evaluation; holds names and numbers, no tensors."""

    def __init__(self) -> None:
        self._parts: list[Part[Account]] = []
        self._loaded: dict[int, int] = {}  # parameters whose state was loaded, with hashes of it

    def saved(
        self,
        models: Iterable[nn.Module],
        table: Table,
        place: Place | None,
        account: Callable[[Tensor], Account | None],
    ) -> None:
        """Note which trained parameters of which model a file lacks, if it has others of them."""
        for model in models:
            trained = [(n, p, a) for n, p in model.named_parameters() if (a := account(p)) is not None]
            has = {name for name, p, _ in trained if table.has(p)}
            lacking = {name: (_hash(p), a) for name, p, a in trained if name not in has}
            if has and lacking:
                kind = type(model).__qualname__
                self._parts = [part for part in self._parts if (part.place, part.model) != (place, kind)]
                self._parts.append(Part(kind, place, has, lacking))

    def loaded(self, call: StateLoaded) -> None:
        """Note what was loaded into which parameters."""
        if self._parts and isinstance(call.owner, nn.Module):
            named = call.owner.named_parameters()
            self._loaded.update({id(p): _hash(p) for name, p in named if name in call.state})

    def called(self, call: ModuleCall) -> None:
        """Look whether a model is evaluated whose state was loaded in part."""
        if not self._loaded or call.depth or call.grad_enabled or call.module.training:
            return
        own = dict(call.module.named_parameters())
        for part in self._parts:
            if part.model != type(call.module).__qualname__ or not part.lacking.keys() <= own.keys():
                continue
            others = [own[name] for name in part.lacking]
            known = any(self._is_loaded(p) for p in others) or any(
                _hash(own[name]) == values for name, (values, _) in part.lacking.items()
            )
            if not known and all(name in own and self._is_loaded(own[name]) for name in part.saved):
                part.evaluated.append({id(p) for p in others})

    def stepping(self, step: Step) -> None:
        """Forget models that are trained after all."""
        held = {id(p) for p in step.parameters}
        for part in self._parts:
            part.evaluated = [ids for ids in part.evaluated if not ids & held]

    def evaluated(self) -> Sequence[Part[Account]]:
        """Return the parts that a model was evaluated with, and never trained on."""
        return [part for part in self._parts if part.evaluated]

    def _is_loaded(self, parameter: Tensor) -> bool:
        return id(parameter) in self._loaded and self._loaded[id(parameter)] == _hash(parameter)


def _hash(parameter: Tensor) -> int:
    return hash(tuple(head(parameter)[:HASHED].tolist()))
