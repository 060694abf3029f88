"""Reports: one set of facts, drawn as text at a fixed width, HTML, SVG and JSON-ready values."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

import pytest

from blackbelt.rendering import GROUND, TONES, to_html, to_text
from blackbelt.report import (
    Block,
    Cell,
    Code,
    Curves,
    Edge,
    Graph,
    Grid,
    Node,
    Prose,
    Report,
    Steps,
    Table,
    Verdict,
    format_bytes,
    format_seconds,
)

BLOCKS: tuple[Block, ...] = (
    Verdict("It holds: every `view` of this tensor works, and this sentence is long enough to be wrapped once", True),
    Verdict("It does not", False),
    Verdict("Look here", None),
    Prose("Words with `code`, <tags> & ampersands."),
    Steps(["first do this", "then that"], title="Do"),
    Code("x.view(2, 3)  # <kept>", title="Paste"),
    Table(("name", "bytes"), [("a", "1.5 KiB"), ("b", "20 B")], title="Sizes", marked=frozenset({1})),
    Grid(
        [[Cell("0", 0), Cell("17", 1, strong=True), Cell()]],
        ("row 0",),
        ("0", "1", "2"),
        "Cells",
        {0: "read", 1: "kept"},
    ),
    Graph(
        [
            Node("loss", ["scalar"], "source"),
            Node("Add <1>", ["(2, 3)", "saves 1.5 KiB"], tone=1, share=0.5, marks=["A"], group="block"),
            Node("layers.0", ["76 nodes"], "stack", tone=1, marks=["A"], dashed=True),
            Node("weight", ["(3,)"], "pill", tone=0),
        ],
        [Edge(0, 1), Edge(1, 2, "2×"), Edge(2, 3), Edge(1, 3)],
        "A graph",
        [(Node("", form="source"), "your output"), (Node("", marks=["A"]), "shared memory")],
    ),
    Curves(
        {"one": ([1, 2, 4], [1, 2, 4]), "two": ([1, 2, 4], [1, 4, 16])}, "n", "seconds", "Growth", limit=("limit", 8)
    ),
)


@dataclass(frozen=True)
class Sample(Report):
    size: tuple[int, ...]
    inner: dict[str, float]
    other: object = None

    def blocks(self) -> Iterator[Block]:
        yield from BLOCKS


def test_text_keeps_to_eighty_columns_and_says_everything():
    text = to_text(BLOCKS)
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "✓ It holds",
        "✗ It does not",
        "! Look here",
        "x.view(2, 3)",
        "1.5 KiB",
        "◀",
        "b: kept",
        "[b17]",
        "first do",
    ):
        assert words in text


def test_a_wide_grid_is_cut_into_bands():
    grid = Grid([[Cell(str(i), 0) for i in range(60)]], ("row",))
    text = to_text([grid])
    assert max(map(len, text.splitlines())) <= 80
    assert [word for word in text.split() if word != "row"] == [f"a{i}" for i in range(60)]


def test_html_is_self_contained_and_escaped():
    html = to_html(BLOCKS)
    assert "<script" not in html
    assert "<style" not in html
    assert "&lt;tags&gt; &amp; ampersands" in html
    assert "<code>code</code>" in html
    assert "&lt;kept&gt;" in html


def test_every_drawing_is_an_image_on_a_ground_of_its_own():
    """Inline SVG is stripped from notebooks that JupyterLab did not run itself, and its words stay behind."""
    html = to_html(BLOCKS)
    assert "<svg" not in html
    drawings = re.findall(r'<img alt="[^"]+" src="data:image/svg\+xml;base64,([^"]+)">', html)
    assert len(drawings) == 3
    for drawing in drawings:
        svg = base64.b64decode(drawing).decode()
        ElementTree.fromstring(svg)
        assert f'<rect width="100%" height="100%" rx="4" fill="{GROUND}"/>' in svg
        assert "<title>" in svg


GRAPH = next(block for block in BLOCKS if isinstance(block, Graph))
SVG = "{http://www.w3.org/2000/svg}"


def svg_of(graph: Graph) -> ElementTree.Element:
    data = re.search(r"base64,([^\"]+)", to_html([graph])).group(1)
    return ElementTree.fromstring(base64.b64decode(data))


def test_a_graph_as_svg_says_everything_inside_of_its_bounds():
    root = svg_of(GRAPH)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    for node in GRAPH.nodes:
        assert {node.title, *node.lines, *node.marks} <= set(texts)
    assert {"2×", "block", "your output", "shared memory"} <= set(texts)
    width, height = float(root.get("width")), float(root.get("height"))
    shift = root.find(f"{SVG}g").get("transform")
    dx, dy = map(float, re.findall(r"[\d.]+", shift))
    for parent, (x, y) in ((root, (0, 0)), (root.find(f"{SVG}g"), (dx, dy))):
        for rect in parent.findall(f"{SVG}rect"):
            if rect.get("width") != "100%":
                assert x + float(rect.get("x")) >= 0
                assert x + float(rect.get("x")) + float(rect.get("width")) <= width
                assert y + float(rect.get("y")) >= 0
                assert y + float(rect.get("y")) + float(rect.get("height")) <= height
    dashed = [rect for rect in root.iter(f"{SVG}rect") if rect.get("stroke-dasharray") == "5 3"]
    assert len(dashed) == 3  # the stack: one in front, two behind


def test_a_graph_as_svg_has_an_arrow_for_every_edge():
    root = svg_of(GRAPH)
    heads = [path for path in root.iter(f"{SVG}path") if path.get("class") == "a"]
    assert len(heads) == len({edge.target for edge in GRAPH.edges})
    assert len(to_html([Graph([Node("a"), Node("b")], [])])) > 0


def test_text_of_a_graph_fits_its_box_at_the_width_that_is_assumed():
    graph = Graph([Node("W" * 40, ["w" * 60]), Node("x")], [Edge(0, 1)])
    rect = next(r for r in svg_of(graph).iter(f"{SVG}rect") if r.get("width") != "100%")
    assert float(rect.get("width")) >= max(40 * 7.2, 60 * 6)


def test_a_graph_as_text():
    text = to_text([GRAPH])
    lines = [line.strip() for line in text.splitlines()]
    assert any(re.fullmatch(r"0 +loss · scalar +1", line) for line in lines)
    assert any(line.startswith("1   Add <1> · (2, 3) · saves 1.5 KiB · [A]") and "2× 2" in line for line in lines)
    assert any(line.startswith("2   layers.0 · 76 nodes · [A]") and line.endswith("weight (3,)") for line in lines)
    assert not any(line.startswith("3 ") for line in lines)  # what ends a path stands where the path comes from
    assert "[A] shared memory" in text


def test_a_frame_is_left_out_where_another_box_is_in_the_way():
    nodes = [Node("a", group="g"), Node("other"), Node("c", group="g")]
    assert "g" not in [text.text for text in svg_of(Graph(nodes, [Edge(0, 1), Edge(1, 2)])).iter(f"{SVG}text")]


def test_a_graph_with_a_cycle_is_an_error():
    with pytest.raises(ValueError, match="cycle"):
        to_html([Graph([Node("a"), Node("b")], [Edge(0, 1), Edge(1, 0)])])


@pytest.mark.parametrize("background", ["#ffffff", "#111111", GROUND])
def test_tones_stand_out_on_light_and_dark(background):
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for tone in TONES:
        bright, dark = sorted((luminance(tone), luminance(background)), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 3, tone


def test_to_dict_is_json_ready():
    report = Sample((2, 3), {"a": float("nan")}, other={1, 2})
    assert json.loads(json.dumps(report.to_dict())) == {"size": [2, 3], "inner": {"a": "nan"}, "other": [1, 2]}
    nested = Sample((1,), {}, other=Sample((2,), {}))
    assert nested.to_dict()["other"]["size"] == [2]


def test_a_report_without_blocks_says_so():
    with pytest.raises(TypeError, match="must define blocks"):
        list(Report().blocks())


def test_units():
    assert [format_bytes(n) for n in (1, 1024, 1_500_000, 2**40)] == ["1 B", "1 KiB", "1.431 MiB", "1 TiB"]
    assert [format_seconds(s) for s in (2, 0.0015, 3e-6, 5e-9)] == ["2 s", "1.5 ms", "3 µs", "5 ns"]


@pytest.mark.parametrize(("last", "named"), [(4, ["1", "2", "3", "4"]), (1000, ["1", "2", "4", "8", "16", "32"])])
def test_the_axis_of_a_plot_names_few_points_each_and_many_by_powers_of_two(last, named):
    points = list(range(1, last + 1))
    drawn = to_html([Curves({"one": (points, points)}, "step", "norm")])
    svg = base64.b64decode(drawn.split("base64,")[1].split('"')[0]).decode()
    labels = re.findall(r">(\d+)</text>", svg)
    assert labels[: len(named)] == named and len(labels) < 20


@pytest.mark.parametrize(
    "norms",
    [[0.71, 0.78, 0.75, 0.93], [2e-3] * 4, [1e-3, 0.99999e-3, 1e-3, 1e-3], [1.5, 3.0, 6.0, 40.0], [1.0, 1e3, 1e6, 1e8]],
)
def test_every_plot_has_numbers_at_its_side(norms):
    drawn = to_html([Curves({"one": ([1, 2, 3, 4], norms)}, "step", "norm")])
    svg = base64.b64decode(drawn.split("base64,")[1].split('"')[0]).decode()
    beside = svg[svg.index("matplotlib.axis_2") :]
    labels = re.findall(r">([^<>]+)</(?:text|tspan)>", beside[: beside.index("norm</text>")])
    assert len(labels) >= 3 and (len(set(labels)) == len(labels) or "tspan" in beside)
