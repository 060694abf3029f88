"""From facts to a drawing: which boxes there are, what each says, and how they are joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from blackbelt.autograd._graph_facts import GraphNode, SavedStorage, many
from blackbelt.autograd._graph_groups import SHORT, Stretch, stretches
from blackbelt.autograd._graph_reading import Reading
from blackbelt.report import Edge, Graph, Node, format_bytes

SAVES, PARAMETER, INPUT, CUSTOM = 1, 0, 2, 3
MOST_MARKS = 60


@dataclass(frozen=True)
class Picture:
    """A drawing and the sentences that belong to it: what was collapsed or left out."""

    graph: Graph
    notes: tuple[str, ...]


class _Sharing:
    """Letters for the memory that several of the boxes drawn hold."""

    def __init__(self, storages: Sequence[SavedStorage], box_of: Sequence[int]) -> None:
        self.marks: dict[int, list[str]] = {}
        self.legend: list[tuple[Node, str]] = []
        self.num_left_out = 0
        shared = []
        for storage in storages:
            boxes = list(dict.fromkeys(box_of[node] for node in storage.nodes))
            if len(boxes) > 1 and storage.state != "alive anyway":
                shared.append((storage, boxes))
        self.num_left_out = max(len(shared) - MOST_MARKS, 0)
        for number, (storage, boxes) in enumerate(shared[:MOST_MARKS]):
            mark = _letters(number)
            for box in boxes:
                self.marks.setdefault(box, []).append(mark)
            what = f"{storage.label + ' ' if storage.label else ''}{_shape(storage.shape)}"
            said = f"{what}, {format_bytes(storage.num_bytes)}: saved once, held by {len(boxes)} nodes"
            self.legend.append((Node("", marks=[mark]), said))


def draw(reading: Reading) -> Picture:
    """Make boxes for the outputs, the operations (collapsed where there are too many) and the leaves."""
    return _Painter(reading).paint()


class _Painter:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._dtype = Counter(node.dtype for node in reading.nodes).most_common(1)[0][0]
        self._boxes: list[Node] = []
        self._box_of = [-1] * len(reading.nodes)
        self._cut = stretches(reading.nodes, reading.edges)
        sizes = [self._kept([node]) for node in reading.nodes]
        self._most = max([*sizes, *(self._kept(self._members(s)) for s in self._cut if not s.is_open)], default=0)
        self._absorbed: dict[int, list[GraphNode]] = {}
        self._bytes = dict(zip((leaf.id for leaf in reading.nodes if leaf.kind == "leaf"), reading.leaf_bytes))
        opened = [s for s in self._cut if s.is_open and s.title and len(s.members) > SHORT]
        self._group_of = {member: stretch.title for stretch in opened for member in stretch.members}

    def paint(self) -> Picture:
        collapsed = self._place_operations()
        self._place_leaves(collapsed)
        sharing = _Sharing(self._reading.storages, self._box_of)
        num_outputs = len(self._reading.outputs)
        order = self._order()
        position = {box: num_outputs + place for place, box in enumerate(order)}
        boxes = [Node(output.name, [_shape(output.shape)], "source") for output in self._reading.outputs]
        boxes += [self._painted(box, collapsed, tuple(sharing.marks.get(box, ()))) for box in order]
        graph = Graph(
            boxes, self._edges(position), "The graph, gradients going down", [*self._forms(boxes), *sharing.legend]
        )
        return Picture(graph, tuple(self._notes(collapsed, sharing)))

    def _members(self, stretch: Stretch) -> list[GraphNode]:
        return [self._reading.nodes[member] for member in stretch.members]

    def _kept(self, nodes: Sequence[GraphNode]) -> int:
        if len(nodes) == 1:
            return nodes[0].saved_bytes
        ids = {number for node in nodes for item in node.saved for number in item.storages}
        return sum(s.num_bytes for s in (self._reading.storages[i] for i in ids) if s.state != "alive anyway")

    def _place_operations(self) -> dict[int, Stretch]:
        """Give every operation its box: its own, or that of its stretch. Boxes are numbered by their last node."""
        collapsed = {}
        for stretch in self._cut:
            first = stretch.members[-1]  # forward order ends where backward begins
            if not stretch.is_open and len(stretch.members) > 1:
                collapsed[first] = stretch
            for member in stretch.members:
                self._box_of[member] = first if first in collapsed else member
        return collapsed

    def _place_leaves(self, collapsed: dict[int, Stretch]) -> None:
        """A leaf that only one collapsed block leads to is part of it."""
        users: dict[int, set[int]] = {}
        for edge in self._reading.edges:
            if self._reading.nodes[edge.target].kind == "leaf":
                users.setdefault(edge.target, set()).add(self._box_of[edge.source])
        for node in self._reading.nodes:
            if node.kind == "leaf":
                boxes = users.get(node.id, set())
                box = next(iter(boxes)) if len(boxes) == 1 else node.id
                is_input = node.label in self._reading.input_labels
                self._box_of[node.id] = box if box in collapsed and not is_input else node.id
                groups = {self._group_of.get(box, "") for box in boxes}
                if len(groups) == 1 and not is_input:
                    self._group_of[node.id] = groups.pop()
                if self._box_of[node.id] != node.id:
                    self._absorbed.setdefault(box, []).append(node)

    def _order(self) -> list[int]:
        return sorted(set(self._box_of))

    def _edges(self, position: dict[int, int]) -> list[Edge]:
        counts: Counter[tuple[int, int]] = Counter()
        for number, output in enumerate(self._reading.outputs):
            counts[number, position[self._box_of[output.node]]] += 1
        for edge in self._reading.edges:
            source, target = self._box_of[edge.source], self._box_of[edge.target]
            if source != target:
                counts[position[source], position[target]] += 1
        return [Edge(*pair, label=f"{count}×" if count > 1 else "") for pair, count in counts.items()]

    def _painted(self, box: int, collapsed: dict[int, Stretch], marks: tuple[str, ...]) -> Node:
        if box in collapsed:
            return self._block(collapsed[box], box, marks)
        node = self._reading.nodes[box]
        size = " ".join(filter(None, (_shape(node.shape), node.dtype if node.dtype != self._dtype else "")))
        if node.kind == "leaf":
            owner = INPUT if node.label in self._reading.input_labels else PARAMETER
            return Node(node.label or node.name, [size], "pill", owner, group=self._group_of.get(box, ""))
        title = f"{node.label} = {node.name}" if node.label else node.name
        states = {item.state for item in node.saved}
        saves = [f"saves {format_bytes(node.saved_bytes)}"] if node.saved_bytes else []
        lines = [" · ".join(filter(None, (size, *saves)))]
        if "packed" in states:
            hooks = sorted({item.packed_by for item in node.saved if item.state == "packed"})
            lines.append(f"packed by {', '.join(hooks)}")
        if "freed" in states:
            lines.append("saved tensors freed")
        tone = CUSTOM if node.kind == "custom function" else SAVES if saves else None
        dashed = bool(states & {"freed", "packed"})
        share = node.saved_bytes / self._most if self._most else 0.0
        group = self._group_of.get(box, "")
        return Node(title, list(filter(None, lines)), "box", tone, share, marks, dashed=dashed, group=group)

    def _block(self, stretch: Stretch, box: int, marks: tuple[str, ...]) -> Node:
        members, leaves = self._members(stretch), self._absorbed.get(box, [])
        kept = self._kept(members)
        title = stretch.title or said(members)
        nodes = f"{len(members) + len(leaves):,} nodes"
        if stretch.repeats == len(members):
            title = f"{stretch.repeats:,} × {title}"
        elif stretch.repeats > 1:
            nodes = f"{nodes}: {stretch.repeats:,} times the same {len(members) // stretch.repeats:,} operations"
        elif stretch.like:
            nodes = f"{nodes}, like {stretch.like}"
        lines = [nodes]
        if stretch.title and not stretch.like and stretch.repeats != len(members):
            lines.append(said(members))
        if leaves:
            what = ("parameter",) if any(leaf.label for leaf in leaves) else ("leaf", "leaves")
            lines.append(f"{many(len(leaves), *what)}, {format_bytes(sum(self._bytes[leaf.id] for leaf in leaves))}")
        lines.append(f"saves {format_bytes(kept)}" if kept else "saves nothing")
        return Node(title, lines, "stack", SAVES if kept else None, kept / self._most if self._most else 0.0, marks)

    def _forms(self, boxes: list[Node]) -> list[tuple[Node, str]]:
        has = {(node.form, node.tone) for node in boxes}
        samples = [
            (Node("", form="source"), "your output", ("source", None)),
            (Node("", tone=None), "operation", ("box", None)),
            (Node("", tone=SAVES), "operation that saves tensors", ("box", SAVES)),
            (Node("", tone=CUSTOM), "custom function", ("box", CUSTOM)),
            (Node("", form="stack"), "collapsed block", ("stack", SAVES)),
            (Node("", form="pill", tone=PARAMETER), "parameter or other leaf (AccumulateGrad)", ("pill", PARAMETER)),
            (Node("", form="pill", tone=INPUT), "input (AccumulateGrad)", ("pill", INPUT)),
        ]
        return [(sample, said) for sample, said, key in samples if key in has]

    def _notes(self, collapsed: dict[int, Stretch], sharing: _Sharing) -> list[str]:
        notes = []
        if collapsed:
            inside = sum(len(s.members) for s in collapsed.values()) + sum(map(len, self._absorbed.values()))
            notes.append(
                f"{inside:,} of the {len(self._reading.nodes):,} nodes are drawn as "
                f"{many(len(collapsed), 'collapsed block')}; `nodes` and `edges` of this report hold all of them."
            )
        if sharing.num_left_out:
            notes.append(f"{sharing.num_left_out} more saved tensors are shared; `graph_report` lists them.")
        return notes


def said(members: Sequence[GraphNode]) -> str:
    """Return the operations that occur most among those that save something, else among all, with counts."""
    counts = Counter(node.name for node in members if node.saved_bytes) or Counter(node.name for node in members)
    names = [f"{count:,} × {name}" if count > 1 else name for name, count in counts.most_common(2)]
    return ", ".join(names) + (", …" if len(counts) > 2 else "")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else str(shape) if shape else "scalar"


def _letters(number: int) -> str:
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")
