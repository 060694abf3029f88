"""The autograd graph as it is: `draw_graph` draws it, `graph_report` weighs it, `measure_dropped` checks the weight.

Every operation on a tensor that requires gradients leaves a node behind (``grad_fn``), with edges to the nodes of its
inputs (``next_functions``) and the tensors that its backward formula needs. A leaf's node is an ``AccumulateGrad``. The
output holds its node, and through it everything else: the graph lives as long as the output does. Backward frees what
the nodes saved, and not the nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from blackbelt.autograd._graph_dropping import look_and_drop
from blackbelt.autograd._graph_facts import GraphEdge, GraphNode, GraphOutput, SavedStorage, SavedTensor, many
from blackbelt.autograd._graph_picture import draw
from blackbelt.autograd._graph_reading import Reading, read
from blackbelt.report import Block, Graph, Prose, Report, Table, Verdict, format_bytes

__all__ = [
    "DropReport",
    "GraphDrawing",
    "GraphEdge",
    "GraphNode",
    "GraphOutput",
    "GraphReport",
    "SavedStorage",
    "SavedTensor",
    "draw_graph",
    "graph_report",
    "measure_dropped",
]

MOST_ROWS = 15


@dataclass(frozen=True)
class _Facts(Report):
    """What both reports know.

    ``nodes`` are all nodes, each before those that it sends gradients to, and ``edges`` all edges; both name nodes by
    their position in ``nodes``. ``storages`` is every piece of memory that a node holds. ``saved_bytes`` is the memory
    that the graph keeps alive, each storage once; ``alive_bytes`` what nodes hold as well but is alive anyway: the
    memory of leaves, parameters, buffers and inputs. ``unsaved_bytes`` is the memory of the outputs that no node holds.
    ``is_complete`` is False where a path was too long to be followed to its end.
    """

    num_nodes: int
    num_leaves: int
    saved_bytes: int
    alive_bytes: int
    unsaved_bytes: int
    is_complete: bool
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    outputs: tuple[GraphOutput, ...]
    storages: tuple[SavedStorage, ...]
    notes: tuple[str, ...]

    @property
    def is_freed(self) -> bool:
        """Whether a backward pass has freed saved tensors, so that another one would fail."""
        return any(item.state == "freed" for node in self.nodes for item in node.saved)

    def _summary(self) -> str:
        shared = sum(len(storage.nodes) > 1 for storage in self.storages if storage.state != "alive anyway")
        text = (
            f"{many(self.num_nodes, 'node')} ({many(self.num_leaves, 'leaf', 'leaves')}) and "
            f"{many(len(self.edges), 'edge')}. The graph keeps {format_bytes(self.saved_bytes)} alive for backward"
        )
        return f"{text}, {many(shared, 'tensor')} of it for several nodes." if shared else f"{text}."


@dataclass(frozen=True)
class GraphDrawing(_Facts):
    """The graph, and a drawing of it: :func:`draw_graph`."""

    graph: Graph

    def blocks(self) -> Iterator[Block]:
        yield Prose(f"{self._summary()} Arrows carry the gradient, from your output to the leaves.")
        yield self.graph
        for note in self.notes:
            yield Prose(note)


@dataclass(frozen=True)
class GraphReport(_Facts):
    """The graph as a table of what its nodes keep alive: :func:`graph_report`."""

    @property
    def rows(self) -> tuple[tuple[GraphNode, int], ...]:
        """The nodes that save something, with the bytes counted for each, largest first.

        A storage that several nodes save counts for the one that saves most, of equals for the one that backward runs
        first, so the bytes add up to ``saved_bytes``.
        """
        counted: set[int] = set()
        rows = []
        for node in sorted(self.nodes, key=lambda node: (-node.saved_bytes, node.id)):
            if node.saved:
                ids = {number for item in node.saved for number in item.storages} - counted
                counted |= ids
                kept = (self.storages[number] for number in ids)
                rows.append((node, sum(storage.num_bytes for storage in kept if storage.state != "alive anyway")))
        return tuple(sorted(rows, key=lambda row: (-row[1], row[0].id)))

    def blocks(self) -> Iterator[Block]:
        if self.is_freed:
            yield Verdict("A backward pass has freed what this graph saved; its nodes are still there.", ok=None)
        yield Prose(self._summary())
        rows = [row for row in self.rows if any(item.state not in {"alive anyway", "freed"} for item in row[0].saved)]
        if rows:
            yield self._by_node(rows)
        if len(rows) > MOST_ROWS:
            yield self._by_operation(rows)
        anyway = [storage for storage in self.storages if storage.state == "alive anyway"]
        if anyway:
            yield self._alive_anyway(anyway)
        for note in self.notes:
            yield Prose(note)

    def _by_node(self, rows: list[tuple[GraphNode, int]]) -> Table:
        shown = [(_called(node), format_bytes(counted), self._tensors(node)) for node, counted in rows[:MOST_ROWS]]
        if len(rows) > MOST_ROWS:
            rest = rows[MOST_ROWS:]
            shown.append((f"{len(rest):,} more nodes", format_bytes(sum(counted for _, counted in rest)), ""))
        shown.append(("total", format_bytes(self.saved_bytes), ""))
        title = "What the graph keeps alive, each storage counted once"
        return Table(("node", "bytes", "saved tensors"), shown, title=title)

    def _tensors(self, node: GraphNode) -> str:
        said = []
        for item in node.saved:
            if item.state in {"alive anyway", "freed"}:
                continue
            text = item.name if item.shape is None else f"{item.name} {item.shape}"
            others = {other for number in item.storages for other in self.storages[number].nodes} - {node.id}
            if others:
                text += f", as {', '.join(f'#{other}' for other in sorted(others)[:3])}{' …' * (len(others) > 3)}"
            if item.state != "kept":
                text += f" ({item.state}{' by ' * bool(item.packed_by)}{item.packed_by})"
            said.append(text)
        return "; ".join(said[:4]) + (f"; {len(said) - 4} more" if len(said) > 4 else "")

    def _by_operation(self, rows: list[tuple[GraphNode, int]]) -> Table:
        total: Counter[str] = Counter()
        for node, counted in rows:
            total[node.name] += counted
        count = Counter(node.name for node, _ in rows)
        most = total.most_common(MOST_ROWS)
        shown = [(name, count[name], format_bytes(size), _percent(size, self.saved_bytes)) for name, size in most]
        return Table(("operation", "nodes", "bytes", "share"), shown, title="The same by kind of operation")

    def _alive_anyway(self, storages: list[SavedStorage]) -> Table:
        largest = sorted(storages, key=lambda storage: (-storage.num_bytes, storage.id))
        shown = [
            (storage.label or "a leaf", format_bytes(storage.num_bytes), _held_by(storage))
            for storage in largest[:MOST_ROWS]
        ]
        if len(largest) > MOST_ROWS:
            rest = sum(storage.num_bytes for storage in largest[MOST_ROWS:])
            shown.append((f"{len(largest) - MOST_ROWS:,} more", format_bytes(rest), ""))
        return Table(("tensor", "bytes", "saved by"), shown, title="Saved too, but alive anyway")


@dataclass(frozen=True)
class DropReport(Report):
    """What a graph said it keeps alive, next to what the allocator got back when it was dropped.

    ``freed_bytes`` is what the allocator got back; of that, ``unsaved_bytes`` are the outputs' own memory where no node
    saves it, so ``freed_bytes`` should be ``saved_bytes + unsaved_bytes``.
    """

    saved_bytes: int
    unsaved_bytes: int
    freed_bytes: int
    device: str

    @property
    def ratio(self) -> float:
        """``freed_bytes`` relative to what the report says: 1.0 is exact."""
        expected = self.saved_bytes + self.unsaved_bytes
        return self.freed_bytes / expected if expected else float(self.freed_bytes == 0)

    def blocks(self) -> Iterator[Block]:
        text = f"The report accounts for {1 / self.ratio:.1%} of what the allocator got back." if self.ratio else ""
        yield Verdict(
            text or "The allocator got nothing back: something else holds the graph.", abs(self.ratio - 1) < 0.02
        )
        rows = [
            ("saved for backward, as `graph_report` says", format_bytes(self.saved_bytes)),
            ("the outputs themselves", format_bytes(self.unsaved_bytes)),
            (f"returned to the allocator ({self.device})", format_bytes(self.freed_bytes)),
        ]
        yield Table(("", "bytes"), rows)


def draw_graph(output: Any, params: Any = None, inputs: Any = None) -> GraphDrawing:
    """Draw the autograd graph behind ``output``: every node, every edge, and what each node saves for backward.

    ``output`` is a tensor, or a list, tuple or dict of tensors, nested as you like. ``params`` gives leaves their
    names: a module, a mapping from names to tensors, or pairs such as ``model.named_parameters()``. ``inputs`` does the
    same for inputs, as a mapping or pairs.

    The drawing reads from the top: your output, the operations (under the name of their backward node), the leaves.
    Arrows point where the gradient goes. Boxes that carry the same letter hold the same memory. Up to 250 nodes
    everything is drawn; beyond, repeated blocks are collapsed, by module where the names of the parameters tell, and
    sentences say what was left out. ``nodes`` and ``edges`` are complete at any size.

    Reads attributes only: nothing is copied, unpacked, recomputed or synchronized, and no hook runs. Costs some 30 µs a
    node. A report holds no tensor and keeps no graph alive. Paths longer than 20,000 nodes are cut there
    (``is_complete`` is False, and a sentence says so): once Python has seen its nodes, PyTorch frees a chain
    recursively, and a longer one would overflow the stack.

    Raises TypeError where there is no tensor to draw or no name for one, ValueError where no graph is behind any
    output.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> drawing = draw_graph(model(torch.ones(4, 2)).sum(), params=model)
    >>> [node.label or node.name for node in drawing.nodes][:4]
    ['SumBackward0', 'AddmmBackward0', '2.bias', 'TBackward0']
    >>> drawing.num_nodes, len(drawing.edges)
    (10, 9)
    """
    reading = read(output, params, inputs)
    picture = draw(reading)
    return GraphDrawing(**_facts(reading, picture.notes), graph=picture.graph)


def graph_report(output: Any, params: Any = None, inputs: Any = None) -> GraphReport:
    """Report what the graph behind ``output`` keeps alive for backward, node by node, largest first.

    Arguments, cost and errors are those of :func:`draw_graph`. Memory counts once, however many nodes and views share
    it, and with the whole storage, since that is what stays allocated. Memory of leaves, and of what ``params`` and
    ``inputs`` name, is listed apart: it would be alive without the graph. Pass ``inputs`` even where they require no
    gradient: the first layer saves them. Attributes that a custom function puts on ``ctx`` count as well. What
    saved-tensor hooks packed (``checkpoint``, ``save_on_cpu``) is not unpacked; the tensors in what a hook returned
    count.

    Not counted: gradients, what hooks and C++ nodes hold elsewhere, and the allocator's rounding. Who holds the output,
    and so the graph, is a question for `trace_retained`.

    >>> import torch
    >>> x = torch.ones(1000, requires_grad=True)
    >>> report = graph_report(x.exp().square().sum(), inputs={"x": x})
    >>> report.saved_bytes  # `exp` saves its result, `square` its input: the same 4000 bytes
    4000
    """
    return GraphReport(**_facts(read(output, params, inputs)))


def measure_dropped(build: Callable[[], Any], params: Any = None, inputs: Any = None) -> DropReport:
    """Run ``build()``, drop what it returned, and compare what the allocator gets back with what the graph said.

    ``build`` runs the forward pass and returns its output; nothing else may hold the output or the graph. On the CPU
    the profiler's allocation events are read, on a GPU the allocator's statistics (bytes as requested, without
    rounding). Costs one forward pass, two collections of garbage, some milliseconds for the profiler, and a
    synchronization on a GPU. Raises what :func:`graph_report` raises.

    >>> import torch
    >>> x = torch.ones(1000, requires_grad=True)
    >>> report = measure_dropped(lambda: x.exp().sum(), inputs={"x": x})
    >>> report.saved_bytes, report.unsaved_bytes, report.freed_bytes
    (4000, 4, 4004)
    """
    report, freed, device = look_and_drop(build, lambda output: graph_report(output, params, inputs))
    return DropReport(report.saved_bytes, report.unsaved_bytes, freed, device)


def _facts(reading: Reading, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    sizes: Counter[bool] = Counter()
    for storage in reading.storages:
        sizes[storage.state == "alive anyway"] += storage.num_bytes
    return {
        "num_nodes": len(reading.nodes),
        "num_leaves": sum(node.kind == "leaf" for node in reading.nodes),
        "saved_bytes": sizes[False],
        "alive_bytes": sizes[True],
        "unsaved_bytes": reading.unsaved_bytes,
        "is_complete": reading.is_complete,
        "nodes": reading.nodes,
        "edges": reading.edges,
        "outputs": reading.outputs,
        "storages": reading.storages,
        "notes": reading.notes + notes,
    }


def _called(node: GraphNode) -> str:
    where = node.label or node.module
    return f"#{node.id} {node.name}" + (f" ({where})" if where else "")


def _held_by(storage: SavedStorage) -> str:
    first = ", ".join(f"#{node}" for node in storage.nodes[:4])
    return first if len(storage.nodes) <= 4 else f"{first} and {len(storage.nodes) - 4} more"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"
