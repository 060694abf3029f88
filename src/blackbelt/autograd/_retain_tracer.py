"""The machinery of `trace_retained`: looks at what is alive after every step, and groups it by what holds it.

What tells a leak from a cache is when the things that are left were made: something of the early and of the late steps.
A warm-up leaves only what is early, a window only what is late. There are two shapes of leak. In a *collection* each
step left a tensor of its own. In a *chain* one tensor is left, and its graph goes back through all steps: there, the
edges from one step's nodes to the step before say which tensor was carried over.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from blackbelt.autograd._retain_findings import RetainedFinding
from blackbelt.autograd._retain_fixes import Retained, explain
from blackbelt.autograd._retain_holders import Holder, holders
from blackbelt.autograd._retain_lines import Lines, next_number
from blackbelt.autograd._retain_snapshot import LEAF, MAX_DEPTH, OURS, Graph, Heap, node_of, storages, walk, with_grads

MAX_TARGETS = 100  # of one step, whose holders are looked for


@dataclass
class Group:
    """All that is held in the same way: the elements of one list, one variable, one local in many tracebacks."""

    holder: Holder
    graph: Graph = field(default_factory=Graph)
    num_items: int = 0
    born: set[int] = field(default_factory=set)  # the steps that made its tensors
    reach: set[int] = field(default_factory=set)  # the steps that made the nodes of their graphs
    newest: tuple[int, type, str] = (-1, object, "")  # of the last one made: number, type and name of its node
    is_node: bool = False


class Tracer:
    """Follows a number of steps: :meth:`begin` before each, :meth:`end` after it, :meth:`result` at last."""

    def __init__(self, lines: Lines, namespace: Mapping[str, Any], steps: int) -> None:
        self._lines = lines
        self._namespace = namespace
        self._last = steps - 1
        self._first_numbers: list[int] = []  # the sequence number at which each step began
        self._alive: list[tuple[int, int, int]] = []  # nodes, bytes, tensors after each step
        self._carriers: dict[int, set[str]] = {}  # number of a node: what held its output before the last step
        self._is_partial = False
        self._has_cycles = False
        self._findings: list[RetainedFinding] = []
        self._notes: list[RetainedFinding] = []
        self._heap = Heap()
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - neither subclasses nor the user's modes are to see this
            tensors, _ = self._heap.read(-1)
            self._base = storages(with_grads(tensors))
            self._base_tensors = len(tensors)
            del tensors, _
        self._heap.freeze()

    def close(self) -> None:
        """Leave the collector as it was."""
        self._heap.thaw()

    def begin(self) -> None:
        """Note that a step begins."""
        self._first_numbers.append(next_number())

    def end(self, step: int) -> None:
        """Look at what the step left."""
        self._lines.flush()
        is_enabled = gc.isenabled()
        gc.disable()  # collects when it is told to, and not while cycles are being looked at
        try:
            with torch._C.DisableTorchFunction():  # noqa: SLF001
                cyclic = self._before_collection(step)
                if step == self._last:
                    self._heap.thaw()
                gc.collect()
                if cyclic:
                    self._after_collection(cyclic)
                self._look(step)
        finally:
            if is_enabled:
                gc.enable()

    def _look(self, step: int) -> None:
        tensors, nodes = self._heap.read(step)
        starts = [*nodes, *(node_of(tensor) for tensor in with_grads(tensors))]
        graph = self._walk(starts, self._first_numbers[-1])
        starts.clear()
        self._is_partial |= graph.is_partial
        num_tensors = self._heap.num_tensors() - self._base_tensors
        self._lines.forget(graph.numbers)
        memory = storages(with_grads(tensors)) | graph.storages
        num_bytes = sum(memory.values()) - sum(self._base.values())
        self._alive.append((len(graph.numbers), num_bytes, num_tensors))
        if step < self._last:
            self._heap.read(OURS)
        if step == self._last - 1:
            self._heap.thaw()  # referrers are looked for among all objects
            self._note_carriers(tensors, step)
            self._heap.freeze()
        elif step == self._last:
            self._judge(self._group([*nodes, *with_grads(tensors)], tensors, [tensors, nodes]), graph)

    def _walk(self, starts: list[Any], last_step: int = 0) -> Graph:
        """Walk the graph of all steps, and no more of it once that proved too deep."""
        depth = 0 if self._is_partial else MAX_DEPTH
        return walk(starts, self._first_numbers[0], last_step, depth, self._lines.is_hooked)

    # --- what the collector alone frees ---

    def _before_collection(self, step: int) -> list[tuple[weakref.ref[Any], Group]]:
        """Return what this step left behind, with what holds it, if the step before left reference cycles."""
        if step < self._last - 1 or (step == self._last and not self._has_cycles):
            return []
        if step == self._last:
            self._heap.thaw()
        tensors, nodes = self._heap.read(step)
        fresh = [t for t in tensors if self._step_of(self._number(t)) == step][:MAX_TARGETS]
        if step < self._last:
            dying = [weakref.ref(tensor) for tensor in fresh]
            del tensors, nodes, fresh
            gc.collect()
            self._has_cycles = any(ref() is None for ref in dying)
            return []
        found = holders(fresh, tensors, self._namespace, [tensors, nodes])
        pairs = []
        for tensor in fresh:
            for holder in found[id(tensor)][:1]:
                group = Group(holder)
                self._add(group, tensor, step)
                self._finish(group, [node_of(tensor)], [tensor])
                pairs.append((weakref.ref(tensor), group))
        return pairs

    def _after_collection(self, cyclic: list[tuple[weakref.ref[Any], Group]]) -> None:
        dead = [group for ref, group in cyclic if ref() is None]
        if dead:
            largest = max(dead, key=lambda group: (len(group.graph.numbers), -group.holder.depth))
            self._notes.append(self._finding("cycle", largest))

    # --- who holds what ---

    def _step_of(self, number: int) -> int:
        return sum(first <= number for first in self._first_numbers) - 1

    def _number(self, item: Any) -> int:
        """Return the number of the node that made a tensor; -1 where it was made before the first step, or by none."""
        node = node_of(item) if isinstance(item, torch.Tensor) else item
        number = -1 if node is None else node._sequence_nr()  # noqa: SLF001 - no public name
        return number if self._first_numbers[0] <= number < LEAF else -1

    def _note_carriers(self, tensors: list[torch.Tensor], step: int) -> None:
        """Remember what holds the tensors with a graph now: the next step shows which of them it goes on from."""
        targets = [t for t in with_grads(tensors) if self._step_of(self._number(t)) == step][:MAX_TARGETS]
        found = holders(targets, tensors, self._namespace)
        for target in targets:
            self._carriers.setdefault(self._number(target), set()).update(h.pattern for h in found[id(target)])

    def _group(self, items: list[Any], tensors: list[torch.Tensor], own: list[Any]) -> list[Group]:
        """Group what is alive by what holds it."""
        targets: list[Any] = []
        quota: dict[tuple[int, bool, bool], int] = {}
        births: dict[int, int] = {}
        for item in items:
            number = self._number(item)
            birth = self._step_of(number)
            if birth < 0 and isinstance(item, torch.Tensor):
                birth = self._heap.birth(item)
            key = (birth, number >= 0, isinstance(item, torch.Tensor))
            if birth >= 0 and quota.setdefault(key, 0) < MAX_TARGETS:
                quota[key] += 1
                births[id(item)] = birth
                targets.append(item)
        found = holders(targets, tensors, self._namespace, [items, *own])
        groups: dict[tuple[str, bool], tuple[Group, list[Any]]] = {}
        for item in sorted(targets, key=lambda target: births[id(target)]):
            for holder in found[id(item)]:
                group, members = groups.setdefault((holder.pattern, self._number(item) >= 0), (Group(holder), []))
                if births[id(item)] not in group.born or holder.text < group.holder.text:
                    group.holder = holder
                self._add(group, item, births[id(item)])
                members.append(item)
        for group, members in groups.values():
            nodes = [node_of(item) if isinstance(item, torch.Tensor) else item for item in members]
            self._finish(group, nodes, [item for item in members if isinstance(item, torch.Tensor)])
        return [group for group, _ in groups.values()]

    def _add(self, group: Group, item: Any, birth: int) -> None:
        group.num_items += 1
        group.born.add(birth)
        number = self._number(item)
        if number > group.newest[0]:
            node = node_of(item) if isinstance(item, torch.Tensor) else item
            group.newest = (number, type(node), node.name())
        group.is_node = not isinstance(item, torch.Tensor)

    def _finish(self, group: Group, nodes: list[Any], tensors: list[torch.Tensor]) -> None:
        group.graph = self._walk(nodes)
        group.graph.kept = storages(tensors)
        group.reach = {self._step_of(number) for number in group.graph.numbers}

    # --- the verdict ---

    def _grows(self, steps: set[int]) -> bool:
        """Whether something of the earlier and of the later steps is left: neither a warm-up nor a window."""
        middle = (self._last + 2) // 2
        return any(0 < step < middle for step in steps) and any(middle <= step < self._last for step in steps)

    def _judge(self, groups: list[Group], graph: Graph) -> None:
        collections = [group for group in groups if self._grows(group.born)]
        leaks = [group for group in collections if group.graph.numbers and group.holder.bound is None]
        carried = set().union(*(self._carriers.get(target, set()) for _, target in graph.edges))
        chains = [group for group in groups if group not in collections and self._grows(group.reach)]
        named = [group for group in chains if group.holder.pattern in carried]
        if not leaks:
            named = named or chains
        self._findings = [self._finding("collection", group) for group in leaks]
        self._findings += [self._finding("chain", group) for group in named]
        is_bounded = any(group.holder.bound is not None and group.graph.numbers for group in collections)
        is_explained = bool(self._findings) or is_bounded or self._is_partial
        if self._grows({self._step_of(number) for number in graph.numbers}) and not is_explained:
            unseen = Group(Holder("something that Python's collector does not list", "", (), ()), graph)
            unseen.newest = (max(graph.numbers), object, "")
            self._findings = [self._finding("unseen", unseen)]
        told = {group.holder.pattern for group in (*leaks, *named)}
        for group in collections:
            if group not in leaks and group.holder.pattern not in told:
                self._notes.append(self._finding("bounded" if group.holder.bound else "tensors", group))
        held = [group for group in groups if group.reach == {self._last} and self._is_held(group)]
        if held and not self._findings:
            self._notes.append(self._finding("held", max(held, key=lambda group: len(group.graph.numbers))))

    def _is_held(self, group: Group) -> bool:
        """Whether nodes have kept what they saved, over and above what is alive anyway."""
        return bool(group.graph.storages.keys() - self._base.keys() - group.graph.kept.keys())

    def _finding(self, kind: str, group: Group) -> RetainedFinding:
        number, node, operation = group.newest
        made_at = self._lines.place(number, node) if number >= 0 else None
        sizes = group.graph.storages | group.graph.kept
        num_bytes = sum(size for key, size in sizes.items() if key not in self._base)
        made_in = group.reach | group.born or {self._step_of(number) for number in group.graph.numbers}
        steps = tuple(sorted(step + 1 for step in made_in))
        retained = Retained(
            kind, group.holder, made_at, len(group.graph.numbers), num_bytes, group.is_node, tuple(self._lines.files)
        )
        advice = explain(retained)
        return RetainedFinding(
            advice.kind,
            group.holder.text,
            made_at,
            advice.stored_at,
            operation,
            group.num_items,
            retained.num_nodes,
            num_bytes,
            steps,
            advice.why,
            advice.fix,
        )

    def result(self) -> tuple[Any, ...]:
        """Return findings, notes, nodes, bytes and tensors alive after each step, and whether graphs were too deep."""
        nodes, sizes, tensors = zip(*self._alive)
        return tuple(self._findings), tuple(self._notes), nodes, sizes, tensors, self._is_partial
