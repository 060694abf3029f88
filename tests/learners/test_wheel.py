"""The wheel carries the course: `pip install` and `blackbelt list` are enough, without a clone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from blackbelt.dojo.catalog import PACKAGE, lessons

CLONE = PACKAGE.parents[1]
PROBE = """\
import json
from blackbelt.dojo.catalog import katas, lessons
from blackbelt.dojo.notebooks import compose
found = {"lessons": {entry.slug: len(compose(entry).cells) for entry in lessons()},
         "notebooks": [entry.slug for entry in lessons() if entry.notebook_path.exists()],
         "katas": len(katas()), "where": __import__("blackbelt").__file__}
print(json.dumps(found))
"""

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="uv builds the wheel, and is not on the PATH")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = ["uv", "build", "--wheel", "--quiet", "--out-dir", str(folder), str(CLONE)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode and ("error sending request" in done.stderr or "Failed to fetch" in done.stderr):
        pytest.skip(f"offline: the build backend cannot be fetched ({done.stderr.strip().splitlines()[-1]})")
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel alone, unpacked as `pip install --no-deps --target` would; the dependencies are the environment's."""
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def run(installed, folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, text=True, env=environment, cwd=folder
    )


def test_the_wheel_holds_package_lessons_and_notebooks_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for entry in lessons():
        folder = entry.source_path.parent.name
        assert f"blackbelt/course/lessons/{folder}/{entry.source_path.name}" in names
        assert f"blackbelt/course/notebooks/{folder}/{entry.notebook_path.name}" in names
    top = {name.split("/")[0] for name in names}
    assert top == {"blackbelt", next(name for name in top if name.endswith(".dist-info"))}
    assert not [name for name in names if "__pycache__" in name or ".ipynb_checkpoints" in name]


def test_the_course_is_found_in_the_wheel_outside_the_clone(installed, tmp_path):
    found = json.loads(run(installed, tmp_path, "-c", PROBE).stdout)
    assert Path(found["where"]).is_relative_to(installed)
    assert sorted(found["lessons"]) == sorted(entry.slug for entry in lessons())
    assert sorted(found["notebooks"]) == sorted(found["lessons"])
    assert all(found["lessons"].values()) and found["katas"] >= len(found["lessons"])


def test_the_command_works_from_the_wheel(installed, tmp_path):
    listed = run(installed, tmp_path, "-c", "from blackbelt.cli import main; main()", "list").stdout
    for entry in lessons():
        assert entry.number in listed and entry.name in listed
