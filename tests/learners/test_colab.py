"""Colab: the badge's notebook runs from its first cell beside an older torch that stays as it is.

The stand-in for Colab is a virtual environment with what Colab has before a notebook runs: an older supported torch,
older Rich and Typer, and a module `google.colab` that is imported already. It is made once per content and kept in the
user's cache folder (about 1 GB); each test works on a copy made of hard links.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import platformdirs
import pytest

from blackbelt.dojo.catalog import PACKAGE, lessons

CLONE = PACKAGE.parents[1]
PREINSTALLED = (
    "torch==2.13.0",
    "rich==13.9.4",
    "typer==0.15.4",
    "numpy",
    "matplotlib",
    "ipykernel",
    "ipywidgets",
    "nbformat",
    "platformdirs",
    "psutil",
)
TO_FETCH = ("einops", "hypothesis", "hatchling")  # what the first cell will need; not to be had means offline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform == "win32", reason="Colab is Linux; the stand-in copies an environment by hard links"
    ),
]


@pytest.fixture(scope="module")
def preinstalled():
    """The environment as Colab has it, from the cache, else made now."""
    key = hashlib.sha256(repr((PREINSTALLED, sys.version)).encode()).hexdigest()[:12]
    kept = Path(platformdirs.user_cache_dir("pytorch-black-belt-tests"), f"colab-{key}")
    if not kept.exists():
        making = kept.with_name(f"{kept.name}.{os.getpid()}")
        venv.create(making, with_pip=True, symlinks=True)
        done = pip(making, "install", "--quiet", *PREINSTALLED)
        if done.returncode:
            shutil.rmtree(making)
            pytest.skip(f"offline: {PREINSTALLED[0]} cannot be installed ({last_line(done.stderr)})")
        stand_in(making)
        making.rename(kept)
    return kept


@pytest.fixture
def colab(preinstalled, tmp_path):
    """A copy of that environment which the test may change; what pip replaces there is not replaced in the cache."""
    fetched = pip(preinstalled, "download", "--quiet", "--no-deps", "--dest", str(tmp_path / "fetched"), *TO_FETCH)
    if fetched.returncode:
        pytest.skip(f"offline: {', '.join(TO_FETCH)} cannot be fetched ({last_line(fetched.stderr)})")
    copy = tmp_path / "colab"
    try:
        shutil.copytree(preinstalled, copy, symlinks=True, copy_function=os.link)
    except (OSError, shutil.Error):  # the cache is on another disk
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(preinstalled, copy, symlinks=True)
    return copy


def test_the_badges_notebook_runs_and_replaces_nothing(colab, tmp_path, monkeypatch):
    before, torch_before = distributions(colab), torch_of(colab)
    assert torch_before["version"].startswith("2.13.0")
    assert "einops" not in before and "hypothesis" not in before

    ledger = tmp_path / "ledger.json"
    monkeypatch.setenv("BLACKBELT_SOURCE", str(CLONE))
    monkeypatch.setenv("BLACKBELT_LEDGER", str(ledger))
    monkeypatch.setenv("BLACKBELT_HEADLESS", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    notebook = nbformat.read(lessons()[0].notebook_path, as_version=4)
    asyncio.run(execute(notebook, colab, tmp_path))

    after = distributions(colab)
    assert {name: after.get(name) for name in before} == before, "something that was there has been replaced"
    assert "pytorch-black-belt" in after and "einops" in after
    assert torch_of(colab) == torch_before
    assert "restart" not in "".join(said(notebook.cells[1])).lower()

    shown = json.loads(ledger.read_text(encoding="utf-8"))
    assert shown["torch_version"] == torch_before["version"]
    assert len(shown["claims"]) >= 10
    assert [claim["text"] for claim in shown["claims"] if claim["status"] == "false"] == []


async def execute(notebook, environment, folder):
    """Run the notebook's cells, in order, in a kernel of that environment. Raises where a cell does."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    spec = folder / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = [str(python(environment)), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}))
    manager = AsyncKernelManager(
        kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(spec.parent)])
    )
    content = folder / "content"
    content.mkdir()
    client = NotebookClient(notebook, km=manager, timeout=600, shutdown_kernel="immediate")
    await client.async_execute(cleanup_kc=True, cwd=str(content))


def stand_in(environment: Path) -> None:
    """Put a module `google.colab` there, imported at every start, as it is in Colab's kernels."""
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").write_text("")
    (packages / "colab.pth").write_text("import google.colab\n")


def distributions(environment):
    listed = pip(environment, "list", "--format=json")
    return {one["name"]: one["version"] for one in json.loads(listed.stdout)}


def torch_of(environment):
    """Version, place and time of torch's files, without importing it."""
    (folder,) = environment.glob("lib/python*/site-packages/torch")
    (dist_info,) = folder.parent.glob("torch-*.dist-info")
    return {
        "version": dist_info.name.removeprefix("torch-").removesuffix(".dist-info"),
        "files": {path.name: path.stat().st_mtime_ns for path in (folder / "__init__.py", *folder.glob("lib/*.so"))},
    }


def pip(environment, *arguments):
    command = [str(python(environment)), "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def python(environment: Path) -> Path:
    return environment / "bin" / "python"


def last_line(text):
    return (text.strip().splitlines() or ["no reason given"])[-1]


def said(cell):
    return [output.get("text", "") for output in cell.get("outputs", ())]
