"""What every test gets: a learner's folders of its own, so that none touches the user's, and a way to make a course."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Before anything imports torch: workers share the cores, and more threads than cores wait for each other.
os.environ.setdefault(
    "OMP_NUM_THREADS",
    str(max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))),
)

import pytest
from hypothesis import settings

from blackbelt.dojo import catalog
from blackbelt.dojo.catalog import LessonEntry, katas, lessons
from blackbelt.dojo.notebooks import compose, write_notebook

# A test on a loaded machine is not a slower test: time is measured in benchmarks/, never asserted here.
settings.register_profile("suite", deadline=None, print_blob=True)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def learner_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress and workspace of this test, and of the commands it starts, in temporary folders."""
    folder = tmp_path_factory.mktemp("learner")
    monkeypatch.setenv("BLACKBELT_HOME", str(folder / "home"))
    monkeypatch.setenv("BLACKBELT_WORKSPACE", str(folder / "workspace"))
    for name in ("BLACKBELT_LEDGER", "BLACKBELT_HEADLESS", "BLACKBELT_SOURCE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make_course(tmp_path: Path) -> Callable[..., tuple[LessonEntry, ...]]:
    """Write lessons, ``name="source"``, as module ``1_tiny`` of ``tmp_path / "course"``, and return their entries."""

    def make(**sources: str) -> tuple[LessonEntry, ...]:
        root = tmp_path / "course"
        folder = root / "lessons" / "1_tiny"
        folder.mkdir(parents=True, exist_ok=True)
        for number, (name, source) in enumerate(sources.items(), 1):
            (folder / f"{number}_{name}.py").write_text(source, encoding="utf-8")
        lessons.cache_clear()
        return lessons(root)

    return make


CAN_FOLD = '''
@kata(minutes=5, belt="white", hints=("look at the strides", "multiply them", "the whole idea"), cases=st.tuples())
def can_fold(size: tuple[int, ...]) -> bool:
    """Decide whether it folds.

    Return True where `size` folds.
    """
    return len(size) > 1


@can_fold.wrong("Every size folds for you.")
def always(size):
    return True
'''

UNFOLD = '''
@kata(minutes=10, belt="yellow", hints=("one", "two", "three"), cases=st.tuples())
def unfold(size: tuple[int, ...]) -> int:
    """Unfold it."""
    return size[0]
'''


@pytest.fixture
def tiny_course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A whole course that stands in for ours: lessons 1.1, 1.2 and 2.1, two katas each in 1.2 and 2.1."""
    root = tmp_path / "tiny"
    for name, title in (
        ("1_paper/1_sheets", "Sheets"),
        ("1_paper/2_folds", "Folds of a sheet"),
        ("2_wood/1_planks", "Planks"),
    ):
        lesson = root / "lessons" / f"{name}.py"
        lesson.parent.mkdir(parents=True, exist_ok=True)
        lesson.write_text(f"# %% [markdown]\n# # {title}\n#\n# Text.\n\n# %%\n1 + 1\n\n# %%\n2 + 2\n", encoding="utf-8")
    package = root / "src" / "blackbelt"
    for folder, verb in (("paper/folds", "fold"), ("wood/planks", "saw")):
        for name, source in (("can_fold", CAN_FOLD), ("unfold", UNFOLD)):
            file = package / "katas" / folder / f"{name.replace('fold', verb)}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source.replace("fold", verb), encoding="utf-8")
    monkeypatch.setattr(catalog, "PACKAGE", package)
    for read in (lessons, katas):
        read.cache_clear()
    for entry in lessons():
        write_notebook(compose(entry), entry.notebook_path)
    yield root
    for read in (lessons, katas):
        read.cache_clear()
