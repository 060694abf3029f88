"""How reports look: text at a fixed width, HTML and SVG. Imports no torch.

HTML uses inline styles only, and its text takes the color of the page. A drawing is an SVG in an ``<img>``, on a light
ground of its own: JupyterLab (for a notebook it did not run itself) and GitHub strip inline SVG and leave its words
behind, and an image cannot know whether the page is dark. Color never carries meaning alone: every tone comes with a
letter, every verdict with a word.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Iterable
from typing import Any

from blackbelt.report import (
    Block,
    Cell,
    Code,
    Curves,
    Graph,
    Grid,
    Prose,
    Steps,
    Table,
    Verdict,
    format_bytes,
    format_seconds,
)

WIDTH = 80
# Middle tones: at least 3:1 against white and against JupyterLab's dark background (#111).
TONES = ("#0b84c6", "#c2570c", "#2a8f4f", "#a4508b", "#8a7a00", "#d0454c")
VERDICTS = {True: ("✓", "#2a8f4f"), False: ("✗", "#d0454c"), None: ("!", "#c2570c")}
MARK = "◀"
INK, GROUND = "#1a1a1a", "#fafafa"
MOST_MARKED = 12  # points that a plot marks and names on its axis one by one
NEARLY_CONSTANT = 1.01  # largest value over smallest, of a curve that is drawn as a straight line
FEWEST_NAMED = 3  # numbers at the side of a plot


def to_text(blocks: Iterable[Block], width: int = WIDTH) -> str:
    """Return the blocks as plain text, no line longer than ``width`` columns (code lines excepted)."""
    from rich.console import Console

    console = Console(
        width=width, file=io.StringIO(), color_system=None, force_terminal=False, force_jupyter=False, highlight=False
    )
    with console.capture() as capture:
        console.print(to_rich(blocks))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def to_rich(blocks: Iterable[Block]) -> Any:
    """Return the blocks as one Rich renderable, for a terminal that shows color."""
    from rich.console import Group

    return Group(*(_rich_block(block) for block in blocks))


def to_html(blocks: Iterable[Block]) -> str:
    """Return the blocks as one self-contained HTML fragment."""
    body = "".join(_html_block(block) for block in blocks)
    return f'<div style="line-height:1.45;max-width:60em">{body}</div>'


# --- text -------------------------------------------------------------------------------------------------------------


def _rich_block(block: Block) -> Any:
    from rich.text import Text

    if isinstance(block, Verdict):
        sign, color = VERDICTS[block.ok]
        return _hanging(sign, Text(block.text, style="bold"), sign_style=f"bold {color}")
    if isinstance(block, Prose):
        return Text(block.text)
    if isinstance(block, Steps):
        return _rich_steps(block)
    if isinstance(block, Code):
        title = [Text(block.title)] if block.title else []
        return _group(
            *title, *(Text("    " + line, no_wrap=True, overflow="ignore") for line in block.text.splitlines())
        )
    if isinstance(block, Table):
        return _rich_table(block)
    if isinstance(block, Grid):
        return _rich_grid(block)
    if isinstance(block, Graph):
        return _rich_graph(block)
    return _rich_table(_curves_table(block))


def _group(*items: Any) -> Any:
    from rich.console import Group

    return Group(*items)


def _hanging(sign: str, text: Any, sign_style: str = "") -> Any:
    from rich.table import Table as RichTable
    from rich.text import Text

    row = RichTable.grid(padding=(0, 1, 0, 0))
    row.add_column(no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(Text(sign, style=sign_style), text)
    return row


def _rich_steps(block: Steps) -> Any:
    from rich.text import Text

    title = [Text(block.title)] if block.title else []
    return _group(*title, *(_hanging(f"  {number}.", Text(item)) for number, item in enumerate(block.items, 1)))


def _rich_table(block: Table) -> Any:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(
        box=box.SIMPLE_HEAD, title=block.title or None, title_justify="left", title_style="", pad_edge=False
    )
    for index, column in enumerate(block.columns):
        right = all(_is_number(row[index]) for row in block.rows) and bool(block.rows)
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    if block.marked:
        table.add_column("")
    for number, row in enumerate(block.rows):
        marked = number in block.marked
        cells = [Text(str(value), style="bold" if marked else "") for value in row]
        table.add_row(*cells, *([MARK if marked else ""] if block.marked else []))
    return table


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) or bool(re.fullmatch(r"[-−]?[\d.,]+(e[-+]?\d+)?( ?\S{1,5})?", str(value)))


def _rich_grid(block: Grid) -> Any:
    from rich.text import Text

    columns = max((len(row) for row in block.rows), default=0)
    texts = [[_cell_text(cell) for cell in row] for row in block.rows]
    widths = [
        max([len(row[i]) for row in texts if i < len(row)] + [len(label) for label in block.column_labels[i : i + 1]])
        for i in range(columns)
    ]
    labels = list(block.row_labels) + [""] * (len(block.rows) - len(block.row_labels))
    indent = max((len(label) for label in labels), default=0)
    lines = [Text(block.title)] if block.title else []
    for band in _bands(widths, WIDTH - indent - 2):
        if block.column_labels:
            heads = " ".join(block.column_labels[i].center(widths[i]) for i in band if i < len(block.column_labels))
            lines.append(Text(" " * indent + "  " + heads))
        for label, row in zip(labels, texts):
            cells = " ".join(row[i].center(widths[i]) if i < len(row) else " " * widths[i] for i in band)
            lines.append(Text(f"{label:>{indent}}  {cells}", no_wrap=True, overflow="ignore"))
    if block.legend:
        lines.append(Text("; ".join(f"{_tone_name(tone)}: {meaning}" for tone, meaning in block.legend.items())))
    return _group(*lines)


def _rich_graph(block: Graph) -> Any:
    from rich.text import Text

    from blackbelt.drawing.graph import text_rows

    table = _rich_table(Table(("", "node", "goes to"), list(text_rows(block)), title=block.title))
    marks = [Text(f"[{sample.marks[0]}] {meaning}") for sample, meaning in block.legend if sample.marks]
    return _group(table, *marks)


def _cell_text(cell: Cell) -> str:
    name = "" if cell.tone is None else _tone_name(cell.tone)
    text = f"{name}{cell.text}" if cell.text != name else name
    return f"[{text}]" if cell.strong else f" {text or '·'} "


def _tone_name(tone: int) -> str:
    return "abcdef"[tone]


def _bands(widths: list[int], room: int) -> list[list[int]]:
    bands: list[list[int]] = [[]]
    used = 0
    for index, width in enumerate(widths):
        if bands[-1] and used + width + 1 > room:
            bands.append([])
            used = 0
        bands[-1].append(index)
        used += width + 1
    return bands


def _curves_table(block: Curves) -> Table:
    xs = sorted({x for curve_xs, _ in block.curves.values() for x in curve_xs})
    lookup = {name: dict(zip(*curve)) for name, curve in block.curves.items()}
    rows = [(f"{x:g}", *(f"{lookup[name][x]:.3g}" if x in lookup[name] else "" for name in lookup)) for x in xs]
    return Table((block.x_label, *lookup), rows, title=f"{block.title} ({block.y_label})".strip())


# --- HTML and SVG -----------------------------------------------------------------------------------------------------


def _html_block(block: Block) -> str:
    if isinstance(block, Verdict):
        sign, color = VERDICTS[block.ok]
        return (
            f'<div style="border-left:4px solid {color};padding:2px 0 2px 10px;margin:6px 0">'
            f'<b><span style="color:{color}">{sign}</span> {_inline(block.text)}</b></div>'
        )
    if isinstance(block, Prose):
        return f'<p style="margin:6px 0">{_inline(block.text)}</p>'
    if isinstance(block, Steps):
        items = "".join(f"<li>{_inline(item)}</li>" for item in block.items)
        return f'{_html_title(block.title)}<ol style="margin:4px 0">{items}</ol>'
    if isinstance(block, Code):
        frame = "margin:6px 0;padding:6px 10px;border:1px solid rgba(128,128,128,.35);border-radius:4px"
        text = "font-family:monospace;white-space:pre-wrap;word-break:normal"
        colors = f"background:transparent;color:inherit;overflow-x:auto;{text}"
        return f'{_html_title(block.title)}<pre style="{frame};{colors}">{html.escape(block.text)}</pre>'
    if isinstance(block, Table):
        return _html_table(block)
    if isinstance(block, Curves) and block.small:
        column = "display:inline-block;vertical-align:top;width:32%;min-width:280px;margin:6px 4px 6px 0"
        return f'<div style="{column}">{_html_title(block.title)}{_image(block, "width:100%")}</div>'
    return f'{_html_title(block.title)}<div style="overflow-x:auto;margin:6px 0">{_image(block)}</div>'


def _image(block: Grid | Curves | Graph, style: str = "") -> str:
    if isinstance(block, Graph):
        from blackbelt.drawing.graph import svg as svg_graph

        svg = svg_graph(block)
    else:
        svg = _svg_grid(block) if isinstance(block, Grid) else _svg_curves(block)
    start = svg.index(">") + 1
    svg = f'{svg[:start]}<rect width="100%" height="100%" rx="4" fill="{GROUND}"/>{svg[start:]}'
    data = base64.b64encode(svg.encode()).decode()
    style = f' style="{style}"' if style else ""
    return f'<img alt="{html.escape(block.title or "drawing")}"{style} src="data:image/svg+xml;base64,{data}">'


def _html_title(title: str) -> str:
    return f'<div style="margin:8px 0 2px">{_inline(title)}</div>' if title else ""


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False)).replace("\n", "<br>")


def _html_table(block: Table) -> str:
    frame = "border-bottom:1px solid rgba(128,128,128,.35);padding:3px 12px 3px 4px;vertical-align:top;"
    right = [bool(block.rows) and all(_is_number(row[i]) for row in block.rows) for i in range(len(block.columns))]
    aligned = [frame + f"text-align:{'right' if is_right else 'left'}" for is_right in right]
    arrow = f'<th style="{frame}"></th>' if block.marked else ""
    head = "".join(f'<th style="{style}">{_inline(c)}</th>' for c, style in zip(block.columns, aligned)) + arrow
    body = ""
    for number, row in enumerate(block.rows):
        bold = "font-weight:bold;" if number in block.marked else ""
        cells = "".join(f'<td style="{bold}{style}">{_inline(str(v))}</td>' for v, style in zip(row, aligned))
        if block.marked:
            cells += f'<td style="{frame}">{MARK if bold else ""}</td>'
        body += f"<tr>{cells}</tr>"
    return (
        f'{_html_title(block.title)}<div style="overflow-x:auto;margin:6px 0"><table style="border-collapse:collapse;'
        f'background:transparent;color:inherit"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _svg_grid(block: Grid) -> str:
    characters = max((len(cell.text) for row in block.rows for cell in row), default=1)
    heads = max((len(label) for label in block.column_labels), default=0)
    width, height = max(32, 8 * characters + (20 if len(block.legend) > 1 else 10), 7 * heads + 8), 28
    left = 8 * max((len(label) for label in block.row_labels), default=0) + 10
    top = 22 if block.column_labels else 4
    columns = max((len(row) for row in block.rows), default=0)
    parts = [
        _svg_text(left + i * width + width / 2, 15, label, size=11)
        for i, label in enumerate(block.column_labels[:columns])
    ]
    for r, row in enumerate(block.rows):
        y = top + r * height
        if r < len(block.row_labels):
            parts.append(_svg_text(left - 6, y + 18, block.row_labels[r], anchor="end", size=11))
        parts += [
            _svg_cell(left + c * width, y, width, height, cell, letter=len(block.legend) > 1)
            for c, cell in enumerate(row)
        ]
    bottom = top + len(block.rows) * height
    for number, (tone, meaning) in enumerate(block.legend.items()):
        y = bottom + 10 + number * 20
        parts.append(_svg_cell(left, y, 16, 16, Cell(_tone_name(tone), tone), size=10))
        parts.append(_svg_text(left + 24, y + 12, meaning, anchor="start", size=12))
    total_height = bottom + 8 + 20 * len(block.legend)
    total_width = max(left + columns * width + 4, left + 40 + 7 * max(map(len, block.legend.values()), default=0))
    return _svg(total_width, total_height, "".join(parts), title=block.title)


def _svg_cell(  # noqa: PLR0917  # x, y, width, height: in that order everywhere
    x: float, y: float, width: float, height: float, cell: Cell, size: int = 12, letter: bool = False
) -> str:
    fill = "none" if cell.tone is None else TONES[cell.tone]
    stroke = INK if cell.tone is None or cell.strong else TONES[cell.tone]
    weight = 2.5 if cell.strong else 1
    box = (
        f'<rect x="{x + 1}" y="{y + 1}" width="{width - 2}" height="{height - 2}" rx="2" fill="{fill}" '
        f'fill-opacity="0.25" stroke="{stroke}" stroke-width="{weight}" stroke-opacity="{1 if cell.strong else 0.6}"/>'
    )
    if letter and cell.tone is not None and cell.text != _tone_name(cell.tone):
        box += _svg_text(x + 4, y + 9, _tone_name(cell.tone), anchor="start", size=8)
    return box + _svg_text(x + width / 2, y + height / 2 + size * 0.36, cell.text, size=size, mono=True)


def _svg_text(x: float, y: float, text: str, anchor: str = "middle", size: int = 12, mono: bool = False) -> str:
    family = "ui-monospace,Menlo,Consolas,monospace" if mono else "system-ui,sans-serif"
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-family="{family}" text-anchor="{anchor}" '
        f'fill="{INK}">{html.escape(text)}</text>'
    )


def _svg(width: float, height: float, body: str, title: str = "") -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img"><title>{html.escape(title or "drawing")}</title>{body}</svg>'
    )


def _powers_of_two(first: float, last: float) -> list[float]:
    return [2.0**n for n in range(math.ceil(math.log2(first)), math.floor(math.log2(last)) + 1)]


def _name_a_few(axis: Any) -> None:
    """On a logarithmic axis, name powers of ten; within a decade or two 1, 2 and 5 times these; else round numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    low, high = sorted(axis.get_data_interval())
    if high < NEARLY_CONSTANT * low:
        axis.axes.set_ylim(low / 2, high * 2)
    low, high = sorted(axis.get_view_interval())
    if sum(low <= tick <= high for tick in LogLocator().tick_values(low, high)) < FEWEST_NAMED:
        subs = LogLocator(subs=(1, 2, 5))
        enough = sum(low <= tick <= high for tick in subs.tick_values(low, high)) >= FEWEST_NAMED
        axis.set_major_locator(subs if enough else MaxNLocator(4))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _svg_curves(block: Curves) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.2) if block.small else (6.4, 3.6))
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    points = sorted({x for xs, _ in block.curves.values() for x in xs})
    marked = len(points) <= MOST_MARKED
    for (name, (xs, ys)), color, marker, dash in zip(
        block.curves.items(), TONES, "osD^vP", ("-", "--", "-.", ":", "-", "--")
    ):
        axes.plot(xs, ys, color=color, marker=marker if marked else "", linestyle=dash, label=name, markersize=5)
    if block.limit:
        axes.axhline(block.limit[1], color=INK, linewidth=1, linestyle=(0, (1, 2)), label=block.limit[0])
    if block.log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    units = {"bytes": lambda value, _: format_bytes(value), "seconds": lambda value, _: format_seconds(value)}
    if block.log:
        ticks = points if marked else _powers_of_two(points[0], points[-1])
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        _name_a_few(axes.yaxis)
    if block.y_label in units:
        axes.yaxis.set_major_formatter(units[block.y_label])
    axes.set_xlabel(block.x_label, color=INK)
    axes.set_ylabel("" if block.y_label == block.title else block.y_label, color=INK)  # said above
    axes.tick_params(which="both", colors=INK)
    axes.grid(True, which="major", color="#808080", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.patch.set_alpha(0)
    axes.legend(frameon=False, labelcolor=INK)
    figure.patch.set_alpha(0)
    figure.tight_layout()
    out = io.StringIO()
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": block.title or "curves"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = re.sub(r"<metadata>.*?</metadata>", "", out.getvalue(), flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return svg.replace("</svg>", f"<title>{html.escape(block.title or 'curves')}</title></svg>")
