"""VS Code: opening the folder finds the environment that uv makes, and its kernel is that environment's."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from blackbelt.dojo.catalog import PACKAGE

CLONE = PACKAGE.parents[1]


def settings(name):
    return json.loads((CLONE / ".vscode" / name).read_text(encoding="utf-8"))


def test_the_extensions_that_run_notebooks_are_recommended():
    assert settings("extensions.json")["recommendations"] == ["ms-python.python", "ms-toolsai.jupyter"]


def test_the_interpreter_is_where_uv_puts_it():
    interpreter = settings("settings.json")["python.defaultInterpreterPath"]
    assert interpreter == "${workspaceFolder}/.venv/bin/python"
    assert "environment" not in _uv_settings(), "uv would put the environment elsewhere"
    if Path(sys.prefix) == CLONE / ".venv" and sys.platform != "win32":
        assert Path(interpreter.replace("${workspaceFolder}", str(CLONE))).samefile(sys.executable)


def test_a_notebook_opens_beside_its_own_files():
    """A notebook's folder is its working folder in VS Code as it is in JupyterLab and for ``blackbelt run``."""
    assert settings("settings.json")["jupyter.notebookFileRoot"] == "${fileDirname}"


def test_the_python3_kernel_is_the_environments_own():
    from jupyter_client.kernelspec import KernelSpecManager

    spec = KernelSpecManager(kernel_dirs=[]).get_kernel_spec("python3")
    assert Path(spec.argv[0]).samefile(sys.executable)
    assert spec.language == "python"


def test_every_notebook_asks_for_that_kernel():
    for path in sorted(CLONE.glob("notebooks/**/*.ipynb")):
        assert json.loads(path.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"] == "python3", path.name


def _uv_settings() -> str:
    text = (CLONE / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"^\[tool\.uv\]\n(.*?)(?=^\[)", text, re.MULTILINE | re.DOTALL)
    return section[1] if section else ""
