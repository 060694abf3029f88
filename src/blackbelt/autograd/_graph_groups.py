"""Which nodes of a large graph are drawn as one: repeated blocks, by module where the names of parameters tell.

Operations are taken in the order in which forward made them and cut into stretches. A stretch drawn as one box can
never lie on a cycle: all edges point back in that order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from blackbelt.autograd._graph_facts import GraphEdge, GraphNode

DRAW_ALL = 250  # nodes up to which everything is drawn as it is
MOST_BLOCKS = 40
MOST_DRAWN = 130  # boxes to draw where blocks are collapsed: what fits is drawn in full, the shortest first
SHORT = 12  # operations in a stretch that may be drawn in full without a frame
DOMINATES = 0.9  # a cut that leaves this part of the operations in one stretch tells too little
LONGEST_PERIOD = 200


@dataclass(frozen=True)
class Stretch:
    """Consecutive operations, by node id in forward order.

    ``repeats`` says how often the same operations come one after the other in it; ``like`` names the stretch, drawn in
    full, that has the same ones; ``is_open`` that it is drawn in full itself.
    """

    title: str
    members: tuple[int, ...]
    repeats: int = 1
    is_open: bool = False
    like: str = ""


def stretches(nodes: Sequence[GraphNode], edges: Sequence[GraphEdge]) -> list[Stretch]:
    """Cut the operations of ``nodes``, which are in backward order, into stretches, in forward order."""
    forward = [node for node in reversed(nodes) if node.kind != "leaf"]
    if len(nodes) <= DRAW_ALL:
        return [Stretch("", tuple(node.id for node in forward), is_open=True)]
    cut = _by_module(forward, nodes, _passing(forward, edges)) or [Stretch("", tuple(node.id for node in forward))]
    if _dominates(cut, forward):
        cut = [part for stretch in cut for part in _by_repetition(stretch, nodes)]
    return _opened(_capped(cut), nodes)


def _dominates(cut: list[Stretch], forward: list[GraphNode]) -> bool:
    return max(len(stretch.members) for stretch in cut) > DOMINATES * len(forward)


def _names(stretch: Stretch, nodes: Sequence[GraphNode]) -> tuple[str, ...]:
    return tuple(nodes[member].name for member in stretch.members)


# --- by module --------------------------------------------------------------------------------------------------------


def _by_module(forward: list[GraphNode], nodes: Sequence[GraphNode], passing: Sequence[int]) -> list[Stretch] | None:
    """Cut where the module changes: as deep as leaves few enough blocks, alike ones put together where need be."""
    depths = range(max((node.module.count(".") + 1 for node in forward if node.module), default=0), 0, -1)
    plain = [_tail_cut_off(_cut(forward, depth, passing), nodes) for depth in depths]
    for cut in [*plain, *(_alike(cut, nodes) for cut in plain)]:
        if 1 < len(cut) <= MOST_BLOCKS and not _dominates(cut, forward):
            return cut
    joined = [_alike(cut, nodes) for cut in plain]
    return next((cut for cut in joined if 1 < len(cut) <= MOST_BLOCKS), None)


def _cut(forward: list[GraphNode], depth: int, passing: Sequence[int]) -> list[Stretch]:
    """Cut by the first ``depth`` parts of the module.

    Operations without a parameter lie between the last of one module and the first of the next. Of the places where the
    cut can be, take the last of those that the fewest tensors pass.
    """
    modules = [".".join(node.module.split(".")[:depth]) for node in forward]
    known = [position for position, module in enumerate(modules) if module]
    cuts = [0]
    for here, there in pairwise(known):
        if modules[here] != modules[there]:
            cuts.append(min(range(there, here, -1), key=lambda start: passing[start - 1]))
    if known:
        before = min(range(known[0], -1, -1), key=lambda start: passing[start - 1] if start else 0)
        cuts = sorted({*cuts, before})
    titles = [next((module for module in modules[a:b] if module), "") for a, b in zip(cuts, [*cuts[1:], len(modules)])]
    ends = [*cuts[1:], len(forward)]
    return [
        Stretch(title, tuple(node.id for node in forward[start:end])) for title, start, end in zip(titles, cuts, ends)
    ]


def _passing(forward: list[GraphNode], edges: Sequence[GraphEdge]) -> list[int]:
    """Return, for every position, how many results up to there are used after it."""
    position = {node.id: number for number, node in enumerate(forward)}
    last = list(range(len(forward)))
    for edge in edges:  # from the user of a result to the operation that made it
        if edge.target in position:
            made, used = position[edge.target], position[edge.source]
            last[made] = max(last[made], used)
    steps = [0] * (len(forward) + 1)
    for made, used in enumerate(last):
        steps[made] += 1
        steps[used] -= 1
    return list(accumulate(steps[:-1]))


def _tail_cut_off(cut: list[Stretch], nodes: Sequence[GraphNode]) -> list[Stretch]:
    """Cut what follows the last block, such as a loss, off where the block before shows how long it is."""
    if len(cut) < 2:
        return cut
    usual, last = _names(cut[-2], nodes), _names(cut[-1], nodes)
    if not len(usual) < len(last) or last[: len(usual)] != usual:
        return cut
    members = cut[-1].members
    return [*cut[:-1], Stretch(cut[-1].title, members[: len(usual)]), Stretch("", members[len(usual) :])]


def _alike(cut: list[Stretch], nodes: Sequence[GraphNode]) -> list[Stretch]:
    """Put neighbors together that hold the same operations in the same order."""
    joined: list[Stretch] = []
    names: tuple[str, ...] = ()
    start = ""
    for stretch in cut:
        operations = _names(stretch, nodes)
        if joined and operations == names:
            last = joined[-1]
            title = f"{start} … {stretch.title}" if stretch.title else start
            joined[-1] = Stretch(title, last.members + stretch.members, last.repeats + 1)
        else:
            joined.append(stretch)
            names, start = operations, stretch.title
    return joined


# --- by repetition ----------------------------------------------------------------------------------------------------


def _by_repetition(stretch: Stretch, nodes: Sequence[GraphNode]) -> Iterator[Stretch]:
    """Cut a stretch into runs in which a few operations repeat, the last time of each run, and what is in between."""
    members = stretch.members
    codes: dict[str, int] = {}
    names = [codes.setdefault(nodes[member].name, len(codes)) for member in members]
    start = position = 0
    while position < len(names):
        period, repeats = _repetition(names, position)
        if repeats < 3 or repeats * period <= SHORT:
            position += 1
            continue
        if start < position:
            yield Stretch(stretch.title, members[start:position])
        end = position + repeats * period
        title = stretch.title or _said([nodes[member].name for member in members[position : position + period]])
        yield Stretch(title, members[position : end - period], repeats - 1)
        yield Stretch("", members[end - period : end])  # the last one, at the top of the drawing, by itself
        start = position = end
    if start < len(names):
        yield Stretch(stretch.title, members[start:])


def _repetition(names: list[int], start: int) -> tuple[int, int]:
    """Return the shortest period from ``start`` on that repeats at least three times, and how often it does."""
    for period in range(1, min(LONGEST_PERIOD, (len(names) - start) // 3) + 1):
        middle = start + period
        if names[start] != names[middle] or names[start:middle] != names[middle : middle + period]:
            continue
        end = middle
        while end < len(names) and names[end] == names[end - period]:
            end += 1
        if (end - start) // period >= 3:
            return period, (end - start) // period
    return 1, 1


def _said(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(names))
    return ", ".join(different[:2]) + (", …" if len(different) > 2 else "")


# --- what is drawn in full --------------------------------------------------------------------------------------------


def _capped(cut: list[Stretch]) -> list[Stretch]:
    """Put the middle into one block where there are still too many."""
    if len(cut) <= MOST_BLOCKS:
        return cut
    half = MOST_BLOCKS // 2
    middle = tuple(member for stretch in cut[half:-half] for member in stretch.members)
    return [*cut[:half], Stretch(f"{len(cut) - 2 * half:,} more blocks", middle), *cut[-half:]]


def _opened(cut: list[Stretch], nodes: Sequence[GraphNode]) -> list[Stretch]:
    """Draw short stretches in full, and one of those that are alike, as long as there is room."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for index, stretch in enumerate(cut):
        if stretch.repeats == 1:
            alike.setdefault(_names(stretch, nodes), []).append(index)
    drawn = len(cut)
    is_open: set[int] = set()
    for index in sorted(range(len(cut)), key=lambda i: (len(cut[i].members), i)):
        size = len(cut[index].members)
        group = alike.get(_names(cut[index], nodes), []) if size > SHORT else []
        if size > SHORT and (len(group) < 2 or index != group[-1] or not cut[index].title):
            continue  # of those that are alike the last: it is the one at the top of the drawing
        if drawn + size - 1 <= MOST_DRAWN:
            is_open.add(index)
            drawn += size - 1
    like = {index: cut[group[-1]].title for group in alike.values() if group[-1] in is_open for index in group[:-1]}
    return [
        replace(stretch, is_open=index in is_open, like="" if index in is_open else like.get(index, ""))
        for index, stretch in enumerate(cut)
    ]
