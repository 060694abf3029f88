"""The contract of an exercise: one declaration from which statement, stub, hints, grading and tests derive."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis.strategies import SearchStrategy

from blackbelt.dojo.catalog import find_kata
from blackbelt.dojo.laws import Law

Function = Callable[..., Any]
Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Wrong:
    """A plausible wrong solution and the sentence its author must be told."""

    function: Function
    sentence: str


@dataclass
class Kata:
    """An exercise: ``edge_cases()`` and ``cases`` give argument tuples, ``changes`` names those changed in place.

    With ``ranks`` the function runs in that many real processes at once (see ``dojo.ranks``): a case is then a tuple
    of argument tuples, one per rank, and a result the list of what the ranks returned.
    """

    reference: Function
    minutes: int
    belt: str
    hints: Sequence[str]
    cases: SearchStrategy[Any]
    edge_cases: Callable[[], Mapping[str, Arguments]]
    laws: Sequence[Law]
    changes: tuple[int, ...] = ()
    ranks: int = 0
    wrongs: dict[str, Wrong] = field(default_factory=dict)
    rights: dict[str, Function] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.reference.__name__

    def wrong(self, sentence: str) -> Callable[[Function], Function]:
        """Register a wrong solution with the sentence a learner who wrote it must be told."""

        def register(function: Function) -> Function:
            self.wrongs[function.__name__] = Wrong(function, sentence)
            return function

        return register

    def also_right(self, function: Function) -> Function:
        """Register another correct solution, which must pass."""
        self.rights[function.__name__] = function
        return function


def kata(
    *,
    minutes: int,
    belt: str,
    hints: Sequence[str],
    cases: SearchStrategy[Any],
    edge_cases: Callable[[], Mapping[str, Arguments]],
    laws: Sequence[Law],
    changes: tuple[int, ...] = (),
    ranks: int = 0,
) -> Callable[[Function], Kata]:
    """Declare the decorated function as the reference solution of a kata; its docstring is the statement.

    ``minutes``, ``belt`` and ``hints`` must be literals, so that they can be read without importing torch.
    ``edge_cases()`` runs under a fixed seed.
    """

    def declare(reference: Function) -> Kata:
        return Kata(reference, minutes, belt, hints, cases, edge_cases, laws, changes, ranks)

    return declare


def load_kata(name: str) -> Kata:
    """Import the file of the kata of that name and return the kata. Raises CatalogError where there is none."""
    entry = find_kata(name)
    loaded = getattr(importlib.import_module(f"blackbelt.katas.{entry.lesson.replace('/', '.')}.{name}"), name)
    assert isinstance(loaded, Kata)
    return loaded
