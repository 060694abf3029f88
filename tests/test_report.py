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
    Grid,
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
    assert len(drawings) == 2
    for drawing in drawings:
        svg = base64.b64decode(drawing).decode()
        ElementTree.fromstring(svg)
        assert f'<rect width="100%" height="100%" rx="4" fill="{GROUND}"/>' in svg
        assert "<title>" in svg


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
