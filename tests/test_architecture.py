"""The house rules of ARCHITECTURE.md: which way imports point, and what must not import torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import blackbelt
from blackbelt.dojo import catalog

PACKAGE = Path(blackbelt.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
KATAS_MAY_USE = tuple(f"blackbelt.dojo.{name}" for name in ("kata", "laws", "strategies", "trial", "describe"))


def imported(path: Path) -> set[str]:
    """Return the blackbelt modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.split(".")[0] == "blackbelt"}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


TOOLS = {entry.module for entry in catalog.lessons()}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    names = imported(path)
    if room(path) in TOOLS:
        assert not {n for n in names if n.startswith(("blackbelt.dojo", "blackbelt.katas", "blackbelt.cli"))}
    if room(path) == "katas":
        assert all(n.startswith(KATAS_MAY_USE) or not n.startswith(("blackbelt.dojo", "blackbelt.cli")) for n in names)
    if room(path) == "dojo":
        assert not {n for n in names if n.startswith(("blackbelt.katas", "blackbelt.cli"))}
    if path in {PACKAGE / "report.py", PACKAGE / "rendering.py"} or room(path) == "drawing":
        assert all(n.startswith(("blackbelt.report", "blackbelt.rendering", "blackbelt.drawing")) for n in names)


def test_every_lesson_has_its_name_in_every_room():
    assert catalog.lessons()
    tests = PACKAGE.parents[1] / "tests"
    for entry in catalog.lessons():
        assert (PACKAGE / "katas" / entry.module / entry.name).is_dir()
        assert entry.notebook_path.is_file()
        if entry.module == "silent_failures":  # whose tool is the doctor, for both of its lessons
            assert (PACKAGE / "doctor").is_dir() and (tests / "doctor").is_dir()
            assert len(entry.katas) >= 4
            continue
        tool = PACKAGE / entry.module / entry.name  # a file, or a package of several
        assert tool.with_suffix(".py").is_file() or (tool / "__init__.py").is_file()
        assert (tests / entry.module / f"test_{entry.name}.py").is_file()
        assert len(entry.katas) >= 6


def test_lazy_exports_all_exist():
    for name in blackbelt.__all__:
        assert callable(getattr(blackbelt, name))
        assert name in dir(blackbelt)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = blackbelt.nonsense


def test_what_needs_no_tensor_imports_no_torch():
    modules = ["blackbelt", "blackbelt.report", "blackbelt.rendering", "blackbelt.drawing.graph"]
    modules += [
        f"blackbelt.dojo.{name}" for name in ("catalog", "progress", "workspace", "naming", "slicing", "lesson")
    ]
    program = (
        f"import importlib, sys; [importlib.import_module(m) for m in {modules!r}]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
