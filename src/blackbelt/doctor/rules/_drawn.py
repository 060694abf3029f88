"""Samples drawn by ``torch.normal`` within a model, through which what follows hands back no gradient."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from blackbelt.doctor.events import Backward
from blackbelt.places import Place


@dataclass(eq=False)
class Drawn:
    """A line that draws, the parameters behind it, and in how many calls of ``backward`` the loss was behind it."""

    place: Place | None
    parameters: Sequence[weakref.ref[Tensor]]
    times: int = 0


def drawn_within(call: Backward, made: Mapping[int, Place | None]) -> list[tuple[Place | None, list[Tensor]]]:
    """Return the lines of ``made`` (by number of node) whose samples the loss sees through trained layers only.

    Where the loss also uses a sample itself, as the logarithm of its probability does, no gradient is what is wanted.
    """
    nodes = [node for node in call.graph.nodes if node._sequence_nr() in made]  # noqa: SLF001 - has no public name
    if not nodes:
        return []
    used = _reached_without_layers(call.roots)
    found = []
    for node in nodes:
        parameters = [] if node in used else _parameters_behind(node)
        if parameters:
            found.append((made[node._sequence_nr()], parameters))  # noqa: SLF001 - likewise
    return found


def _reached_without_layers(roots: Sequence[Tensor]) -> set[Any]:
    waiting = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen = set(waiting)
    node: Any
    for node in waiting:
        following = [each for each, _ in node.next_functions if each is not None]
        if any(_is_parameter(each) for each in following):
            continue
        for each in following:
            if each not in seen:
                seen.add(each)
                waiting.append(each)
    return seen


def _is_parameter(node: Any) -> bool:
    """Return whether a node is a parameter, as it is or transposed."""
    for _ in range(2):
        if hasattr(node, "variable"):
            return isinstance(node.variable, nn.Parameter)
        following = node.next_functions
        if len(following) != 1 or following[0][0] is None:
            return False
        node = following[0][0]
    return False


def _parameters_behind(start: Any) -> list[Tensor]:
    waiting, found = [start], []
    seen = {start}
    for node in waiting:
        if isinstance(getattr(node, "variable", None), nn.Parameter):
            found.append(node.variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return found
