"""A graph of boxes and arrows as SVG and as text. Layout comes from ``layered``; imports no torch."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from blackbelt.drawing.layered import GAP_X, GAP_Y, Box, Path, Placement, place
from blackbelt.rendering import INK, TONES
from blackbelt.report import Graph, Node

MONO, SANS = (
    "ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace",
    "system-ui,'Segoe UI',Helvetica,Arial,sans-serif",
)
TITLE_SIZE, LINE_SIZE, LEGEND_SIZE = 12, 11, 12
TITLE_WIDTH, LINE_WIDTH, LEGEND_WIDTH = (
    7.3,
    6.1,
    6.4,
)  # of one character; generous, since the reader's fonts are unknown
MARGIN, PADDING, STACK = 14.0, 11.0, 6.0
ARROW, FAINT = "#6b6b6b", "#8a8a8a"
STYLE = (
    f"text{{fill:{INK};text-anchor:middle}}.t{{font:600 {TITLE_SIZE}px {MONO}}}"
    f".l{{font:{LINE_SIZE}px {SANS};fill:#444}}"
    f".f{{fill:#efefec;stroke:#b9b9b3;stroke-dasharray:2 3;stroke-linejoin:round}}"
    f".g{{font:600 13px {MONO};text-anchor:start;fill:#555}}"
    f".k{{font:{LEGEND_SIZE}px {SANS};text-anchor:start}}.m{{font:700 10px {SANS}}}.s,.s.l{{fill:#fff}}"
    f".e{{fill:none;stroke:{FAINT};stroke-width:1.4}}.a{{fill:{ARROW}}}.b{{fill:#fff;stroke:{FAINT};stroke-width:1.2}}"
)


def svg(block: Graph) -> str:
    """Return the drawing as an SVG document with a size of its own; a few hundred bytes per node."""
    sizes = [_size(node) for node in block.nodes]
    placed = place(sizes, [(edge.source, edge.target) for edge in block.edges])
    forms = [entry for entry in block.legend if entry[0].form != "box" or not entry[0].marks]
    marks = [entry for entry in block.legend if entry not in forms]
    width = max(placed.width, 420.0 if block.legend else 0.0)
    head = _Legend(forms, width, column=False)
    foot = _Legend(marks, width, column=True)
    width = max(width, head.width, foot.width)
    x, y = MARGIN + (width - placed.width) / 2, MARGIN + head.height
    parts = [*head.draw(MARGIN, MARGIN), *foot.draw(MARGIN, y + placed.height + 12)]
    body = [
        *_groups(block, placed),
        *_edges(block, placed.paths),
        *(p for n, b in zip(block.nodes, placed.boxes) for p in _node(n, b)),
    ]
    total = y + placed.height + MARGIN + (foot.height + 12 if marks else 0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width + 2 * MARGIN)}" height="{_n(total)}" '
        f'viewBox="0 0 {_n(width + 2 * MARGIN)} {_n(total)}" role="img"><style>{STYLE}</style>'
        f"<title>{html.escape(block.title or 'graph')}</title>{''.join(parts)}"
        f'<g transform="translate({_n(x)} {_n(y)})">{"".join(body)}</g></svg>'
    )


def text_rows(block: Graph) -> Iterator[tuple[str, str, str]]:
    """Yield (number, what the node says, where its arrows go) per node, sources first.

    What ends a path is named where the arrow to it starts, and has no row of its own.
    """
    joined: list[list[tuple[int, str]]] = [[] for _ in block.nodes]
    reached = set()
    for edge in block.edges:
        joined[edge.source].append((edge.target, edge.label))
        reached.add(edge.target)
    inline = {i for i, node in enumerate(block.nodes) if node.form == "pill" and not joined[i] and i in reached}
    numbers = {i: str(n) for n, i in enumerate(i for i in range(len(block.nodes)) if i not in inline)}
    for index, number in numbers.items():
        node = block.nodes[index]
        said = " · ".join([node.title, *node.lines, *(f"[{mark}]" for mark in node.marks)])
        goes = [
            " ".join(filter(None, (label, numbers.get(target) or _inline(block.nodes[target]))))
            for target, label in joined[index]
        ]
        yield number, said, ", ".join(goes)


def _inline(node: Node) -> str:
    return " ".join([node.title, *node.lines])


def _size(node: Node) -> tuple[float, float]:
    width = max([len(node.title) * TITLE_WIDTH, *(len(line) * LINE_WIDTH for line in node.lines)])
    rounding = 8.0 if node.form == "pill" else 0.0
    height = 12.0 + 14.0 * (1 + len(node.lines)) + (7.0 if node.share else 0.0)
    behind = STACK if node.form == "stack" else 0.0
    return max(width + 2 * (PADDING + rounding), 56.0) + behind, height + behind


def _groups(block: Graph, placed: Placement) -> Iterator[str]:
    """Draw a frame around each group and the arrows in it. It stays clear of other boxes in its rows."""
    names = {node.group: None for node in block.nodes if node.group}
    for name in names:
        inside = [box for node, box in zip(block.nodes, placed.boxes) if node.group == name]
        edges = zip(block.edges, placed.paths)
        xs = [
            x
            for e, path in edges
            if block.nodes[e.source].group == block.nodes[e.target].group == name
            for x, _ in path.points
        ]
        left = min([*xs, *(box.x for box in inside)]) - 9
        right = max([*xs, *(box.x + box.width for box in inside)]) + 9
        others = [box for node, box in zip(block.nodes, placed.boxes) if node.group != name]
        sides = _sides(inside, others, left, right)
        if sides:
            yield _stepped(sides, name)


def _sides(inside: Sequence[Box], others: Sequence[Box], left: float, right: float) -> list[tuple[float, float, float]]:
    """Return (top, left, right) for every row of a frame and a last one for its end; nothing where boxes are mixed."""
    sides = []
    first, last = min(box.layer for box in inside), max(box.layer for box in inside)
    for layer in range(first, last + 1):
        own = [box for box in inside if box.layer == layer]
        foreign = [b for b in others if b.layer == layer and b.x < right and left < b.x + b.width]
        low, high = min((b.x for b in own), default=left), max((b.x + b.width for b in own), default=right)
        if any(b.x < high and low < b.x + b.width for b in foreign):
            return []
        row_left = max([left, *(b.x + b.width + GAP_X / 2 for b in foreign if b.x < low)])
        row_right = min([right, *(b.x - GAP_X / 2 for b in foreign if b.x > low)])
        top = min(b.y for b in (*own, *others) if b.layer == layer)
        sides.append((top - GAP_Y / 2 + 3, row_left, row_right))
    bottom = max(box.y + box.height for box in inside if box.layer == last)
    return [*sides, (bottom + GAP_Y / 2 - 3, *sides[-1][1:])]


def _stepped(sides: Sequence[tuple[float, float, float]], name: str) -> str:
    down, up = "", ""
    for (top, left, right), (bottom, _, _) in pairwise(sides):
        down += f"L{_n(right)} {_n(top)}V{_n(bottom)}"
        up = f"L{_n(left)} {_n(bottom)}V{_n(top)}{up}"
    start = f"M{_n(sides[0][1])} {_n(sides[0][0])}"
    return (
        f'<path class="f" d="{start}{down}{up}Z"/>'
        f'<text class="g" x="{_n(sides[0][1] + 10)}" y="{_n(sides[0][0] + 17)}">{html.escape(name)}</text>'
    )


def _node(node: Node, box: Box) -> Iterator[str]:
    if node.form == "stack":
        box = replace(box, width=box.width - STACK, height=box.height - STACK)
        yield from (_frame(node, box, shift) for shift in (STACK, STACK / 2))
    yield _frame(node, box, 0)
    style = " s" if node.form == "source" else ""
    y = box.y + 19
    yield f'<text class="t{style}" x="{_n(box.center)}" y="{_n(y)}">{html.escape(node.title)}</text>'
    for line in node.lines:
        y += 14
        yield f'<text class="l{style}" x="{_n(box.center)}" y="{_n(y)}">{html.escape(line)}</text>'
    if node.share:
        yield _bar(node, box, y + 6)
    for number, mark in enumerate(reversed(node.marks)):
        yield _mark(mark, box.x + box.width - 8 - 20 * number, box.y)


def _frame(node: Node, box: Box, shift: float) -> str:
    color = "#666" if node.tone is None else TONES[node.tone]
    fill = INK if node.form == "source" else "#fff" if node.tone is None else _tint(color)
    radius = min(box.height / 2, 17) if node.form in {"pill", "source"} else 5
    dash = ' stroke-dasharray="5 3"' if node.dashed else ""
    return (
        f'<rect x="{_n(box.x + shift)}" y="{_n(box.y + shift)}" width="{_n(box.width)}" height="{_n(box.height)}" '
        f'rx="{_n(radius)}" fill="{fill}" stroke="{INK if node.form == "source" else color}" stroke-width="1.3"{dash}/>'
    )


def _bar(node: Node, box: Box, y: float) -> str:
    color = "#666" if node.tone is None else TONES[node.tone]
    room = box.width - 2 * PADDING
    bar = f'<rect x="{_n(box.x + PADDING)}" y="{_n(y)}" height="4" rx="2"'
    return (
        f'{bar} width="{_n(room)}" fill="{color}" fill-opacity=".18"/>'
        f'{bar} width="{_n(max(room * min(node.share, 1.0), 3))}" fill="{color}"/>'
    )


def _mark(mark: str, x: float, y: float) -> str:
    return (
        f'<rect class="b" x="{_n(x - 9)}" y="{_n(y - 8)}" width="18" height="16" rx="8"/>'
        f'<text class="m" x="{_n(x)}" y="{_n(y + 3.5)}">{html.escape(mark)}</text>'
    )


def _tint(color: str, strength: float = 0.16) -> str:
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - part) * strength):02x}" for part in parts)


def _edges(block: Graph, paths: Sequence[Path]) -> Iterator[str]:
    """Draw every stretch once, also where edges share it, and one arrowhead per box that edges end at."""
    drawn: set[str] = set()
    for edge, path in zip(block.edges, paths):
        points = path.points
        for number, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
            is_last = number == len(points) - 2
            end = y1 - 6 if is_last else y1
            if number % 2 == 0 and x0 != x1:
                half = (end - y0) * 0.55
                curve = f"C{_n(x0)} {_n(y0 + half)} {_n(x1)} {_n(end - half)} {_n(x1)} {_n(end)}"
            else:
                curve = f"L{_n(x1)} {_n(end)}"
            parts = [f'<path class="e" d="M{_n(x0)} {_n(y0)}{curve}"/>']
            if is_last:
                parts.append(f'<path class="a" d="M{_n(x1 - 4)} {_n(end - 2)}h8l-4 8z"/>')
            for part in parts:
                if part not in drawn:
                    drawn.add(part)
                    yield part
        if edge.label:
            x, y = points[0]
            yield f'<text class="l" x="{_n(x + 12)}" y="{_n(y + 13)}">{html.escape(edge.label)}</text>'


@dataclass(frozen=True)
class _Entry:
    sample: Node
    text: str
    x: float
    y: float


class _Legend:
    """Samples with their meaning, side by side and wrapped at ``room``."""

    def __init__(self, entries: Sequence[tuple[Node, str]], room: float, *, column: bool) -> None:
        widths = [44 + len(text) * LEGEND_WIDTH for _, text in entries]
        if column and widths:
            widths = [max(widths)] * len(widths)
        x = y = self.width = 0.0
        self._entries = []
        for (sample, text), width in zip(entries, widths):
            if x and x + width > room:
                x, y = 0.0, y + 22
            self._entries.append(_Entry(sample, text, x, y))
            x += width
            self.width = max(self.width, x)
        self.height = y + 34 if entries else 0.0

    def draw(self, x: float, y: float) -> Iterator[str]:
        for entry in self._entries:
            left, top = x + entry.x, y + entry.y
            if entry.sample.marks and entry.sample.form == "box":
                yield _mark(entry.sample.marks[0], left + 13, top + 8)
            else:
                box = Box(left, top, 24.0, 15.0, 0)
                shifts = (4, 2, 0) if entry.sample.form == "stack" else (0,)
                yield from (_frame(entry.sample, box, shift) for shift in shifts)
            yield f'<text class="k" x="{_n(left + 32)}" y="{_n(top + 12)}">{html.escape(entry.text)}</text>'


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
