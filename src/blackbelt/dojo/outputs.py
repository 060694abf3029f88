"""What a notebook's outputs may hold: nothing that belongs to one machine, nothing that only a live kernel can show."""

from __future__ import annotations

import functools
import re
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from blackbelt.dojo.catalog import PACKAGE, course_root

# Absolute paths below these are somebody's machine, whoever's it is. A web address or a longer path never starts there.
_ROOTS = "home|Users|root|tmp|private|var|mnt|opt|usr|work|workspace|content|media|srv"
_LOCAL_PATH = re.compile(rf"(?<![\w.:/~+=-])(?:/(?:{_ROOTS})/[^\s\"'<>)\],;]+|[A-Za-z]:\\{{1,2}}[A-Za-z][^\s\"'<>)]+)")
_COLOR = re.compile(r"(\x1b\[[0-9;]*m)")
_EMBEDDED = re.compile(r"base64,[A-Za-z0-9+/=\s]+")
_CELL_FILE = re.compile(r"[^\s\"'<>(]*[/\\]ipykernel_\d+[/\\]\d+\.py")
_WIDGET = "application/vnd.jupyter.widget-view+json"


def clean_outputs(notebook: Any) -> None:
    """Change ``notebook`` in place: local paths become what they mean anywhere, widget views and timestamps go."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
            for output in cell.outputs:
                _rewrite(output, shorten_paths)


def shorten_paths(text: str) -> str:
    """Return ``text`` with this machine's folders replaced: site-packages, the course, the home and temporary folders.

    >>> shorten_paths("/anywhere/ipykernel_4711/123.py:3")
    '<cell>:3'
    """
    text = _CELL_FILE.sub("<cell>", text)
    for pattern, name in _machine_folders():
        text = pattern.sub(name, text)
    return text


def local_paths(output: Any) -> list[str]:
    """Return the paths of one machine that an output names; images are not searched."""
    found: list[str] = []

    def search(text: str) -> str:
        found.extend(_LOCAL_PATH.findall(_EMBEDDED.sub("", text)))
        return text

    _rewrite(output, search)
    return found


@functools.cache
def _machine_folders() -> tuple[tuple[re.Pattern[str], str], ...]:
    """What to look for and what to write instead, longest first: a folder inside another is named by the inner one."""
    paths = sysconfig.get_paths()
    folders = {
        PACKAGE.parent: "",
        course_root(): "",
        Path(paths["purelib"]): "",
        Path(paths["platlib"]): "",
        Path(paths["stdlib"]): "",
        Path(sys.prefix): "<environment>",
        Path(sys.base_prefix): "<python>",
        Path(tempfile.gettempdir()): "<temporary>",
        Path.home(): "~",
    }
    spellings = {(str(form), name) for path, name in folders.items() for form in (path, path.resolve())}
    patterns = []
    for text, name in sorted(spellings, key=lambda pair: -len(pair[0])):
        if len(Path(text).parts) > 1:
            start = r"(?<![\w.:/~-])" + re.escape(text)
            if not name:
                patterns.append((re.compile(start + r"[\\/](?=\w)"), ""))
            patterns.append((re.compile(start + r"(?![\w-])"), name or "."))
    return tuple(patterns)


def _rewrite(output: Any, change: Callable[[str], str]) -> None:
    """Apply ``change`` to every text of an output: streams, tracebacks, and the textual kinds of rich data."""
    if output.output_type == "stream":
        output.text = _between_colors(output.text, change)
    elif output.output_type == "error":
        output.evalue = _between_colors(output.evalue, change)
        output.traceback = [_between_colors(line, change) for line in output.traceback]
    else:
        for kind in _textual(output.data):
            output.data[kind] = _changed(output.data[kind], change)


def _between_colors(text: str, change: Callable[[str], str]) -> str:
    """Apply ``change`` to the stretches between terminal color codes, whose letters would hide where a path begins."""
    return "".join(part if _COLOR.fullmatch(part) else change(part) for part in _COLOR.split(text))


def _textual(data: dict[str, Any]) -> Iterator[str]:
    return (kind for kind in list(data) if kind.startswith("text/") or kind.endswith(("xml", "json")))


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return _between_colors(value, change)
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    return value
