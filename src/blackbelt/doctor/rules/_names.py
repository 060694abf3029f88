"""States whose names are not the model's: how they would fit with another prefix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

SHARE = 0.8  # of the file's tensors that must fit under other names
TRIED = 12  # keys from which other prefixes are derived

Sizes = dict[str, tuple[int, ...]]


@dataclass
class Fit:
    """How the names of a state would fit: with ``old`` at their beginning replaced by ``new``."""

    old: str
    new: str
    number: int


def sizes_of(state: Mapping[str, Any]) -> Sizes:
    """Return names and shapes of a state."""
    return {k: tuple(v.shape) for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}


def fit_of(sizes: Sizes, own: Sizes, num_loaded: int) -> Fit | None:
    """Return the exchange of prefixes with which most of ``sizes`` are names of ``own``; None where there is none."""
    best: Fit | None = None
    for old, new in _candidates(sizes, own):
        number = sum(k.startswith(old) and own.get(new + k.removeprefix(old)) == size for k, size in sizes.items())
        if number >= max(2, SHARE * len(sizes), num_loaded + 1) and (best is None or number > best.number):
            best = Fit(old, new, number)
    return best


def _candidates(sizes: Sizes, own: Sizes) -> set[tuple[str, str]]:
    pairs = {("", "")}
    for theirs in list(sizes)[:: max(1, len(sizes) // TRIED)]:
        for ours in own:
            if ours.rpartition(".")[2] == theirs.rpartition(".")[2] and own[ours] == sizes[theirs]:
                a, b = theirs.split("."), ours.split(".")
                while a and b and a[-1] == b[-1]:
                    a, b = a[:-1], b[:-1]
                pairs.add(("".join(f"{part}." for part in a), "".join(f"{part}." for part in b)))
    return pairs
