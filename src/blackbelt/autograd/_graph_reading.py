"""From tensors to facts: walk the graph, read what its nodes hold, give everything its name and its number."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from blackbelt.autograd._graph_facts import (
    GraphEdge,
    GraphNode,
    GraphOutput,
    Kind,
    SavedStorage,
    SavedTensor,
    State,
    many,
)
from blackbelt.autograd._graph_modules import modules_of
from blackbelt.autograd._graph_names import Named, flatten_outputs, named_tensors
from blackbelt.autograd._graph_saved import Held, held_by
from blackbelt.autograd._graph_storage import Key, has_memory, storages
from blackbelt.autograd._graph_walk import DEEPEST, Walk, is_leaf, root_of, walk, why_no_graph


@dataclass(frozen=True)
class Reading:
    """What was read. The nodes are in the order in which backward could run them.

    ``leaf_bytes`` are the sizes of the leaves' memory, in the order of the leaves; ``unsaved_bytes`` is the memory of
    the outputs themselves where no node saves it and nothing else is known to keep it alive.
    """

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    outputs: tuple[GraphOutput, ...]
    storages: tuple[SavedStorage, ...]
    leaf_bytes: tuple[int, ...]
    unsaved_bytes: int
    input_labels: frozenset[str]
    is_complete: bool
    notes: tuple[str, ...]


def read(output: Any, params: Any = None, inputs: Any = None) -> Reading:
    """Read the graph behind ``output``. Changes nothing, runs no hook, recomputes nothing."""
    named = {id(item.tensor): item for item in named_tensors(params, inputs)}
    passed = flatten_outputs(output)
    hidden = torch._C.DisableTorchFunction()  # noqa: SLF001 - modes and subclasses must see none of this
    with _no_collection(), hidden, torch.no_grad():
        outputs, roots, notes = _with_graph(passed)
        found = walk(roots)
        memory = _Memory()
        for item in named.values():
            memory.is_alive(item.tensor, item.label)
        leaves = [_variable(node) for node in found.nodes]
        for leaf in leaves:
            if leaf is not None:
                memory.is_alive(leaf, named[id(leaf)].label if id(leaf) in named else "")
        for name, tensor in outputs:
            memory.name(tensor, name)
        frames: set[int] = set()
        held = [[memory.hold(index, item) for item in held_by(node, frames)] for index, node in enumerate(found.nodes)]
        saved = [tuple(memory.saved(*pair) for pair in items) for items in held]
        labels = _labels(found, leaves, named)
        nodes = _nodes(found, leaves, labels, saved, memory)
        return Reading(
            nodes,
            tuple(GraphEdge(source, target, input_nr, slot) for source, slot, target, input_nr in found.edges),
            tuple(
                GraphOutput(name, root, number, tuple(tensor.shape), _dtype(tensor), memory.size(tensor))
                for (name, tensor), (root, number) in zip(outputs, found.roots)
            ),
            memory.all(),
            tuple(memory.size(leaf) for leaf in leaves if leaf is not None),
            memory.unsaved([tensor for _, tensor in passed]),
            frozenset(item.label for item in named.values() if item.what == "input"),
            found.num_open == 0,
            (
                *notes,
                *_too_deep(found),
                *([] if found.num_open else _unreached(named, labels, leaves)),
                *memory.notes(),
                *_about_states(nodes),
            ),
        )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from walking thousands of new objects again and again: none of them is garbage yet."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _with_graph(
    outputs: list[tuple[str, torch.Tensor]],
) -> tuple[list[tuple[str, torch.Tensor]], list[tuple[Any, int]], list[str]]:
    kept, roots, without = [], [], []
    for name, tensor in outputs:
        root = root_of(name, tensor)
        if root is None:
            without.append((name, tensor))
        else:
            kept.append((name, tensor))
            roots.append(root)
    if all(tensor.is_leaf for _, tensor in kept):
        raise ValueError(why_no_graph(*(kept or without)[0]))
    notes = [f"No graph is behind {listed([name for name, _ in without])}: left out."] if without else []
    return kept, roots, notes


def _variable(node: Any) -> torch.Tensor | None:
    """Return the tensor whose gradient an AccumulateGrad node adds to, None for any other node."""
    variable = getattr(node, "variable", None) if is_leaf(node) else None
    return variable if isinstance(variable, torch.Tensor) else None


def _labels(found: Walk, leaves: list[torch.Tensor | None], named: dict[int, Named]) -> list[str]:
    """Return the name of each node's tensor: of a leaf, or of a named tensor that an operation made."""
    labels = [named[id(leaf)].label if leaf is not None and id(leaf) in named else "" for leaf in leaves]
    number = {node: index for index, node in enumerate(found.nodes)}
    for item in named.values():
        if not item.tensor.is_leaf:
            index = number.get(item.tensor.grad_fn)
            if index is not None:
                labels[index] = labels[index] or item.label
    return labels


def _nodes(
    found: Walk,
    leaves: list[torch.Tensor | None],
    labels: list[str],
    saved: list[tuple[SavedTensor, ...]],
    memory: _Memory,
) -> tuple[GraphNode, ...]:
    names = [node.name().removeprefix("torch::autograd::") for node in found.nodes]
    modules = modules_of(names, labels, [(source, target) for source, _, target, _ in found.edges])
    nodes = []
    for index, node in enumerate(found.nodes):
        kind: Kind = "operation"
        if leaves[index] is not None:
            kind = "leaf"
        elif isinstance(node, torch.autograd.function.BackwardCFunction):
            kind = "custom function"
        shape, dtype = _output_of(node, leaves[index])
        kept = memory.kept_by(saved[index])
        nodes.append(
            GraphNode(index, names[index], kind, labels[index], shape, dtype, saved[index], kept, modules[index])
        )
    return tuple(nodes)


def _output_of(node: Any, leaf: torch.Tensor | None) -> tuple[tuple[int, ...] | None, str]:
    if leaf is not None:
        return tuple(leaf.shape), _dtype(leaf)
    try:
        first = node._input_metadata[0]  # noqa: SLF001 - what backward checks gradients against has no public name
        return tuple(first.shape), _dtype_name(first.dtype)
    except (AttributeError, IndexError, RuntimeError):  # a node without outputs, or with nested ones
        return None, ""


@dataclass
class _Piece:
    """A storage while it is being read. ``tensor`` keeps it alive, so that its key stays its own."""

    num_bytes: int
    tensor: torch.Tensor
    id: int = -1
    nodes: dict[int, None] = field(default_factory=dict)
    label: str = ""
    is_alive: bool = False
    is_packed: bool = False

    @property
    def state(self) -> State:
        return "alive anyway" if self.is_alive else "packed" if self.is_packed else "kept"


class _Memory:
    """Every storage that was met, by its key; ids are given in the order in which nodes hold them."""

    def __init__(self) -> None:
        self._pieces: dict[Key, _Piece] = {}
        self._held: list[_Piece] = []
        self._is_real = True

    def is_alive(self, tensor: torch.Tensor, label: str) -> None:
        for piece in self._of(tensor):
            piece.is_alive = True
            piece.label = piece.label or label

    def name(self, tensor: torch.Tensor, label: str) -> None:
        for piece in self._of(tensor):
            piece.label = piece.label or label

    def hold(self, node: int, held: Held) -> tuple[Held, list[_Piece]]:
        pieces = [piece for tensor in held.tensors for piece in self._of(tensor)]
        self._is_real = self._is_real and all(has_memory(tensor) for tensor in held.tensors)
        for piece in pieces:
            if piece.id < 0:
                piece.id = len(self._held)
                self._held.append(piece)
                piece.is_packed = held.state == "packed"
            piece.is_packed = piece.is_packed and held.state == "packed"
            piece.nodes[node] = None
        return held, pieces

    def saved(self, held: Held, pieces: list[_Piece]) -> SavedTensor:
        state = held.state
        if state == "kept" and pieces and all(piece.is_alive for piece in pieces):
            state = "alive anyway"
        shape, dtype, device = _looks(held.tensors[0]) if held.tensors else (None, "", "")
        labels = dict.fromkeys(piece.label for piece in pieces if piece.label)
        sizes = {piece.id: piece.num_bytes for piece in pieces}
        return SavedTensor(
            held.name, shape, dtype, device, sum(sizes.values()), tuple(sizes), state, ", ".join(labels), held.packed_by
        )

    def kept_by(self, saved: tuple[SavedTensor, ...]) -> int:
        ids = {number for item in saved for number in item.storages}
        return sum(self._held[number].num_bytes for number in ids if not self._held[number].is_alive)

    def size(self, tensor: torch.Tensor) -> int:
        return sum(dict(storages(tensor)).values())

    def unsaved(self, tensors: list[torch.Tensor]) -> int:
        pieces = {id(piece): piece for tensor in tensors for piece in self._of(tensor)}
        return sum(piece.num_bytes for piece in pieces.values() if piece.id < 0 and not piece.is_alive)

    def all(self) -> tuple[SavedStorage, ...]:
        return tuple(
            SavedStorage(p.id, p.num_bytes, tuple(p.nodes), p.state, p.label, *_looks(p.tensor)) for p in self._held
        )

    def notes(self) -> list[str]:
        if self._is_real:
            return []
        return ["Some of these tensors are on `meta` or fake and have no memory: bytes are what real ones would take."]

    def _of(self, tensor: torch.Tensor) -> list[_Piece]:
        found = []
        for key, size in storages(tensor):
            piece = self._pieces.get(key)
            if piece is None:
                piece = self._pieces[key] = _Piece(size, tensor)
            found.append(piece)
        return found


def _too_deep(found: Walk) -> list[str]:
    if not found.num_open:
        return []
    return [
        (
            f"The graph goes on: paths longer than {DEEPEST:,} nodes are cut there. Nodes that Python has seen are "
            "freed recursively, and freeing a much longer chain would overflow the stack. A chain this long is most "
            "often a sum over steps that was never detached."
        )
    ]


def _unreached(named: dict[int, Named], labels: list[str], leaves: list[torch.Tensor | None]) -> list[str]:
    reached = set(labels) | {named[id(leaf)].label for leaf in leaves if id(leaf) in named}
    notes = []
    for what in ("parameter", "input"):
        items = [item for item in named.values() if item.what == what and item.label not in reached]
        lost = [item.label for item in items if item.tensor.requires_grad]
        if lost:
            notes.append(f"No gradient reaches {what}{'s' * (len(lost) > 1)} {listed(lost)} from here.")
        frozen = [item.label for item in items if not item.tensor.requires_grad]
        if frozen:
            verb = "do" if len(frozen) > 1 else "does"
            notes.append(f"{listed(frozen)} {verb} not require gradients, so the graph has no leaf for it.")
    return notes


def _about_states(nodes: tuple[GraphNode, ...]) -> list[str]:
    states: dict[str, list[SavedTensor]] = {}
    for node in nodes:
        for item in node.saved:
            states.setdefault(item.state, []).append(item)
    notes = []
    if "freed" in states:
        notes.append(
            f"A backward pass has freed {many(len(states['freed']), 'saved tensor')}: another one through here would "
            "fail."
        )
    if "packed" in states:
        hooks = listed(sorted({item.packed_by for item in states["packed"]}))
        notes.append(
            f"A hook ({hooks}) packed {many(len(states['packed']), 'saved tensor')}. They are not unpacked here, since "
            "that may recompute: counted are the tensors in what the hook returned."
        )
    if "unreadable" in states:
        notes.append(
            f"{many(len(states['unreadable']), 'saved tensor')} changed in place since, and could not be read."
        )
    return notes


def listed(names: list[str], most: int = 5) -> str:
    """Return names with commas; beyond ``most``, how many more there are."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _looks(tensor: torch.Tensor) -> tuple[tuple[int, ...], str, str]:
    return tuple(tensor.shape), _dtype(tensor), _device_name(tensor.device)


def _dtype(tensor: torch.Tensor) -> str:
    return _dtype_name(tensor.dtype)


@functools.cache
def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@functools.cache
def _device_name(device: torch.device) -> str:
    return str(device)
