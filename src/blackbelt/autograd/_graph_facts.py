"""The facts that `draw_graph` and `graph_report` share: nodes, edges, and the memory they hold. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["operation", "custom function", "leaf"]
State = Literal["kept", "alive anyway", "packed", "freed", "unreadable"]


@dataclass(frozen=True)
class SavedTensor:
    """One tensor that a node holds for backward.

    ``name`` is what the node calls it (`mat1`, `result`, `tensors[0]`, `ctx.mask`), ``label`` what you call it (the
    name of a parameter or an input), "" where it has none. ``storages`` are the ids of the memory behind it: equal ids
    are the same memory, and there are none where it cannot be seen. ``state``: "kept" by the graph; "alive anyway",
    since a leaf, a parameter or an input is in the same memory; "packed" by the saved-tensor hook ``packed_by``;
    "freed" by a backward pass; "unreadable" where PyTorch does not let it be read. ``num_bytes`` is the size of the
    whole storage, also where the tensor is a small view of it; 0 where unknown.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str
    device: str
    num_bytes: int
    storages: tuple[int, ...]
    state: State
    label: str = ""
    packed_by: str = ""


@dataclass(frozen=True)
class GraphNode:
    """One node of the graph. ``shape`` and ``dtype`` are those of its output in forward (of the first, where several).

    ``saved_bytes`` is what this node saves and the graph keeps alive, each storage once; memory that is alive anyway is
    left out, memory that other nodes save as well is not. ``module`` is the module that it belongs to, as the names of
    the parameters tell, "" where they do not.
    """

    id: int
    name: str
    kind: Kind
    label: str
    shape: tuple[int, ...] | None
    dtype: str
    saved: tuple[SavedTensor, ...]
    saved_bytes: int
    module: str = ""


@dataclass(frozen=True)
class GraphEdge:
    """The gradient of input number ``slot`` of ``source`` goes to output number ``input_nr`` of ``target``.

    These are ``source.next_functions[slot] == (target, input_nr)`` in PyTorch's words.
    """

    source: int
    target: int
    input_nr: int
    slot: int


@dataclass(frozen=True)
class GraphOutput:
    """A tensor that you passed: its name, and the node that made it (``input_nr`` says as which of its outputs)."""

    name: str
    node: int
    input_nr: int
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


@dataclass(frozen=True)
class SavedStorage:
    """One piece of memory that nodes hold: its size, the nodes (by id), and what is known of it."""

    id: int
    num_bytes: int
    nodes: tuple[int, ...]
    state: State
    label: str
    shape: tuple[int, ...] | None
    dtype: str
    device: str


def many(count: int, one: str, several: str = "") -> str:
    """Return a count with its noun.

    >>> many(1, "leaf", "leaves"), many(2000, "leaf", "leaves"), many(0, "edge")
    ('1 leaf', '2,000 leaves', '0 edges')
    """
    return f"{count:,} {one if count == 1 else several or one + 's'}"
