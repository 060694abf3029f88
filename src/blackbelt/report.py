"""What every tool returns: a frozen dataclass that *is* the explanation.

A report holds meaning. :meth:`Report.blocks` lays that meaning out as a short sequence of blocks; ``rendering`` decides
how blocks look as text, HTML and SVG. Nothing here imports torch, so a report can be read where torch is absent.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Verdict:
    """The conclusion in one sentence. ``ok``: True it holds, False it does not, None it needs your attention."""

    text: str
    ok: bool | None


@dataclass(frozen=True)
class Prose:
    """A paragraph. `Backticks` mark code."""

    text: str


@dataclass(frozen=True)
class Steps:
    """A list of things to do or to know, in order."""

    items: Sequence[str]
    title: str = ""


@dataclass(frozen=True)
class Code:
    """Lines to read or to paste, kept as they are."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under named columns. ``marked`` rows are the ones to look at: bold, and pointed at with an arrow."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Cell:
    """One square of a :class:`Grid`: ``tone`` 0–5 picks a color, None leaves it empty; ``strong`` frames it heavily."""

    text: str = ""
    tone: int | None = None
    strong: bool = False


@dataclass(frozen=True)
class Grid:
    """A drawing made of squares: memory cells, alignment of dimensions, blocks of a matrix."""

    rows: Sequence[Sequence[Cell]]
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()
    title: str = ""
    legend: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Curves:
    """Measured curves, ``{name: (xs, ys)}``, on log–log axes when ``log``; ``limit`` is a named horizontal line.

    ``small`` ones stand side by side, three on a page.
    """

    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    x_label: str
    y_label: str
    title: str = ""
    log: bool = True
    limit: tuple[str, float] | None = None
    small: bool = False


Form = Literal["box", "pill", "source", "stack"]


@dataclass(frozen=True)
class Node:
    """One box of a :class:`Graph`: a title and lines below it.

    ``form`` is how it is drawn: a "box"; a "pill" for what ends a path; a "source" for where paths begin; a "stack" for
    many in one. ``tone`` as in a :class:`Cell`; ``share`` (0–1) draws a bar that long; nodes with one of their
    ``marks`` in common have something in common, which the legend names; ``dashed`` outlines what is not quite there.
    The nodes of one ``group`` get a frame with its name, where no other box is in the way.
    """

    title: str
    lines: Sequence[str] = ()
    form: Form = "box"
    tone: int | None = None
    share: float = 0.0
    marks: Sequence[str] = ()
    dashed: bool = False
    group: str = ""


@dataclass(frozen=True)
class Edge:
    """An arrow of a :class:`Graph` between nodes, by their positions."""

    source: int
    target: int
    label: str = ""


@dataclass(frozen=True)
class Graph:
    """Boxes and arrows, laid out in layers from the top down. A cycle is a ValueError when it is drawn.

    ``legend`` explains what samples stand for; a sample with marks and no title explains those marks.
    """

    nodes: Sequence[Node]
    edges: Sequence[Edge]
    title: str = ""
    legend: Sequence[tuple[Node, str]] = ()


Block = Verdict | Prose | Steps | Code | Table | Grid | Curves | Graph


class Report:
    """Base of every report: subclass it as a frozen dataclass and say what there is to show in :meth:`blocks`."""

    def blocks(self) -> Iterable[Block]:
        """Lay out the report, most important block first (a :class:`Verdict` where there is one)."""
        raise TypeError(f"{type(self).__name__} must define blocks()")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values: dataclasses as dicts, sizes as lists, the rest as ``str``."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every report is a dataclass
        return {item.name: _plain(getattr(self, item.name)) for item in fields}

    def __str__(self) -> str:
        from blackbelt.rendering import to_text

        return to_text(self.blocks())

    def __rich__(self) -> Any:
        from blackbelt.rendering import to_rich

        return to_rich(self.blocks())

    def _repr_html_(self) -> str:
        from blackbelt.rendering import to_html

        return to_html(self.blocks())


@dataclass(frozen=True, init=False)
class Drawing(Report):
    """Blocks shown as they are: what a lesson draws for itself."""

    parts: tuple[Block, ...]

    def __init__(self, *parts: Block) -> None:
        object.__setattr__(self, "parts", parts)

    def blocks(self) -> Iterable[Block]:
        return self.parts


def format_bytes(num_bytes: float) -> str:
    """Return a size in binary units, e.g. ``1.5 KiB``.

    >>> format_bytes(0), format_bytes(1536), format_bytes(4 * 2**20)
    ('0 B', '1.5 KiB', '4 MiB')
    """
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"


def format_seconds(seconds: float) -> str:
    """Return a duration in the unit a reader expects, three digits.

    >>> format_seconds(0.0000021), format_seconds(0.25), format_seconds(12)
    ('2.1 µs', '250 ms', '12 s')
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Report):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=str)
    return str(value)
