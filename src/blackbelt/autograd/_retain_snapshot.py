"""What is alive between two steps: the tensors Python knows, and the graph that hangs from them.

The nodes of a graph live in C++; Python sees one only when it asks. So the graph is walked from every tensor that has a
``grad_fn``. Nothing is unpacked on the way: unpacking would run the hooks of whoever packed (offloading, checkpoints).
"""

from __future__ import annotations

import gc
import heapq
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from blackbelt.autograd._graph_walk import DEEPEST

_NODES: dict[type, bool] = {}
_TENSORS: dict[type, bool] = {}
_FIELDS: dict[type, tuple[str, ...]] = {}
READS_PACKED = hasattr(torch._C._autograd.SavedTensor, "data")  # noqa: SLF001
OURS = -2  # in place of a step: Python objects for tensors of C++ that came to be when a graph was walked
# A node that Python has seen keeps its Python object (torch 2.15), and a chain of such nodes is freed recursively, so
# 45,000 in a row overflow the stack (see `_graph_walk`). A step that goes on from the last adds to what was seen.
MAX_DEPTH = DEEPEST * 3 // 4
LEAF = 1 << 62  # AccumulateGrad has the largest number there is, so that backward runs it first


@dataclass
class Graph:
    """The part of a graph made since some moment: its nodes by number, and the memory they saved."""

    numbers: set[int] = field(default_factory=set)
    storages: dict[int, int] = field(default_factory=dict)  # identity of the storage: bytes
    kept: dict[int, int] = field(default_factory=dict)  # likewise, of the tensors that the walk began at
    edges: list[tuple[int, int]] = field(default_factory=list)  # from a node of the last step to an older one's
    is_partial: bool = False


class Heap:
    """Reads Python's heap after every step, quickly: what was there before is frozen, so the collector skips it.

    A collector run over a quarter of a million objects takes 0.1 s, and so does reading them; a step makes few. Where
    the user has frozen objects (`gc.freeze`), nothing is frozen here, since thawing cannot tell theirs from ours.
    """

    def __init__(self) -> None:
        gc.collect()
        self._may_freeze = gc.get_freeze_count() == 0
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}
        self._frozen = False

    def freeze(self) -> None:
        """Leave all that is there now out of later readings; its tensors stay known."""
        if self._may_freeze:
            gc.freeze()
            self._frozen = True

    def thaw(self) -> None:
        """Undo :meth:`freeze`."""
        if self._frozen:
            gc.unfreeze()
            self._frozen = False

    def read(self, step: int) -> tuple[list[torch.Tensor], list[Any]]:
        """Return the tensors and the autograd nodes that Python knows, and remember which tensors are new."""
        tensors: list[torch.Tensor] = []
        nodes: list[Any] = []
        for item in gc.get_objects():
            kind = type(item)
            if kind not in _TENSORS:
                _TENSORS[kind] = issubclass(kind, torch.Tensor)
                _NODES[kind] = not _TENSORS[kind] and _is_node(kind)
            if _TENSORS[kind]:
                tensors.append(item)
            elif _NODES[kind]:
                nodes.append(item)
        if self._frozen:
            seen = set(map(id, tensors))
            old = [
                tensor for ref, _ in self._known.values() if (tensor := ref()) is not None and id(tensor) not in seen
            ]
            tensors.extend(old)
        known = {}
        for tensor in tensors:
            entry = self._known.get(id(tensor))
            if entry is None or entry[0]() is not tensor:
                entry = (weakref.ref(tensor), step)
            known[id(tensor)] = entry
        self._known = known
        return tensors, nodes

    def birth(self, tensor: torch.Tensor) -> int:
        """Return the step after which a tensor was first there; -1 for those there before the first."""
        entry = self._known.get(id(tensor))
        return -1 if entry is None else entry[1]

    def num_tensors(self) -> int:
        """Return how many tensors there were at the last reading, but for those that came to be by walking a graph."""
        return sum(step != OURS for _, step in self._known.values())


def _is_node(kind: type) -> bool:
    return issubclass(kind, torch._C._FunctionBase) or kind is getattr(  # noqa: SLF001 - `Node` is abstract
        torch._C._functions,  # noqa: SLF001
        kind.__name__,
        None,
    )


def storage_of(tensor: torch.Tensor) -> tuple[int, int] | None:
    """Return the identity and the bytes of a tensor's memory; None where it has none (meta) or several (sparse)."""
    try:
        storage = tensor.untyped_storage()
        return None if storage.device.type == "meta" else (storage._cdata, storage.nbytes())  # noqa: SLF001
    except (NotImplementedError, RuntimeError):
        return None


def node_of(tensor: torch.Tensor) -> Any:
    """Return ``grad_fn``; None for leaves, and where a subclass or a view in a forbidden state refuses."""
    try:
        return tensor.grad_fn
    except RuntimeError:
        return None


def with_grads(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors and those in their ``grad``, which Python does not know before it asks for them."""
    known = set(map(id, tensors))
    return [*tensors, *(grad for one in tensors if (grad := grad_of(one)) is not None and id(grad) not in known)]


def grad_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return ``grad`` without the warning that reading it of an intermediate gives; None where there is no tensor."""
    try:
        return tensor.grad if tensor.is_leaf or tensor.retains_grad else None
    except RuntimeError:  # an undefined tensor, which gradients that are None are in PyTorch 2.9
        return None


def storages(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """Return the memory of tensors, each piece once: identity to bytes."""
    return dict(found for tensor in tensors if (found := storage_of(tensor)) is not None)


def walk(
    starts: Iterable[Any],
    since: int,
    last_step: int = 0,
    max_depth: int = MAX_DEPTH,
    is_hooked: Callable[[int], bool] | None = None,
) -> Graph:
    """Walk from nodes to all they lead to that were made since a sequence number.

    Edges from nodes made since ``last_step`` to older ones are kept. Nodes more than ``max_depth`` deep are not looked
    at. ``is_hooked`` tells of a node whether saved-tensor hooks were on when it was made.
    """
    graph = Graph()
    depths = {node: 0 for node in starts if node is not None}
    # Newest first: every node comes after all that lead to it, so its depth is the length of the longest way to it.
    heap = [(-node._sequence_nr(), index, node) for index, node in enumerate(depths)]  # noqa: SLF001 - no public name
    heapq.heapify(heap)
    while heap:
        negative, _, node = heapq.heappop(heap)
        number = -negative
        if number < since:
            continue
        for key, size in _saved(node, is_hooked):
            graph.storages[key] = size
        if number >= LEAF:
            continue
        graph.numbers.add(number)
        if depths[node] >= max_depth:
            graph.is_partial = True
            continue
        for other, _ in node.next_functions:
            if other is None:
                continue
            target = other._sequence_nr()  # noqa: SLF001
            if number >= last_step > target >= since:
                graph.edges.append((number, target))
            if other not in depths:
                heapq.heappush(heap, (-target, len(depths), other))
            depths[other] = max(depths.get(other, 0), depths[node] + 1)
    return graph


def _saved(node: Any, is_hooked: Callable[[int], bool] | None) -> Iterator[tuple[int, int]]:
    """Yield the memory of what a node has saved, as it was packed: unpacking would run the user's hooks.

    Where Python cannot read what was packed (PyTorch 2.9) it is unpacked, unless hooks were on when it was saved.
    """
    kind = type(node)
    names = _FIELDS.get(kind)
    if names is None:
        names = _FIELDS[kind] = tuple(n for n in dir(kind) if n.startswith("_raw_saved_") or n == "variable")
    for name in names:
        if not READS_PACKED and name != "variable":
            if is_hooked is not None and is_hooked(node._sequence_nr()):  # noqa: SLF001
                continue
            name = "saved_tensors" if name == "_raw_saved_tensors" else name.removeprefix("_raw")  # noqa: PLW2901
        try:
            value = getattr(node, name)
        except Exception:  # noqa: S112 - freed by backward, changed in place since, or (2.9) impossible to unpack now
            continue
        for tensor in _tensors_in(value):
            storage = storage_of(tensor)
            if storage is not None:
                yield storage


def _tensors_in(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    if type(value) is torch._C._autograd.SavedTensor:  # noqa: SLF001
        try:
            value = getattr(value, "data", None)
        except RuntimeError:  # packed by hooks written in C++
            return
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)) and depth < 3:
        for item in value:
            yield from _tensors_in(item, depth + 1)
