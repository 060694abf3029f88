"""What every test gets: a learner's folders of its own, so that none touches the user's, and a way to make a course."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from blackbelt.dojo.catalog import LessonEntry, lessons

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
