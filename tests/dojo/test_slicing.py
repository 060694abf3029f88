from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blackbelt.dojo.slicing import WorkspaceFileError, cut_out, read_document


def notebook(path: Path, *cells: str, **top: Any) -> Path:
    """Write a notebook whose code cells have the given sources."""
    raw = [{"cell_type": "code", "metadata": {}, "source": c.splitlines(keepends=True), "outputs": []} for c in cells]
    path.write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": raw, **top}), encoding="utf-8"
    )
    return path


def sliced(tmp_path: Path, *cells: str, kata: str = "f") -> str:
    return cut_out(notebook(tmp_path / "n.ipynb", *cells), kata).source


def test_keeps_what_the_function_needs_and_nothing_else(tmp_path: Path) -> None:
    source = sliced(
        tmp_path,
        "import torch\nimport json\nimport math as m",
        "LIMIT = m.sqrt(4)\nunused = json.dumps({})\nprint(LIMIT)",
        "def helper(x):\n    return x * LIMIT",
        "def f(x):\n    return helper(x)\n\ncheck(f)",
        "f(3)",
    )
    assert source.splitlines() == [
        "import math as m",
        "LIMIT = m.sqrt(4)",
        "def helper(x):",
        "    return x * LIMIT",
        "def f(x):",
        "    return helper(x)",
    ]


def test_the_last_definition_wins_even_for_helpers(tmp_path: Path) -> None:
    source = sliced(
        tmp_path, "def f(): return g()", "def g(): return 1", "def f(): return g() + 0", "def g(): return 2"
    )
    assert source == "def f():\n    return g() + 0\ndef g():\n    return 2"


def test_a_value_computed_early_keeps_the_definition_it_was_computed_with(tmp_path: Path) -> None:
    cells = ("def g(): return 1", "TABLE = g()", "def g(): return 2", "def f(): return TABLE")
    namespace: dict[str, Any] = {}
    exec(sliced(tmp_path, *cells), namespace)
    assert namespace["f"]() == 1


def test_local_names_do_not_pull_in_cells_of_the_lesson(tmp_path: Path) -> None:
    assert "randn" not in sliced(
        tmp_path, "x = torch.randn(9)", "def f(x):\n    y = [x for x in x]\n    return y", "y = x + 1"
    )


@pytest.mark.parametrize(
    "change",
    [
        "t[0] = 5",
        "t.append(5)",
        "t += [5]",
        "t = t + [5]",
        "for i in range(1): t.append(5)",
        "if True:\n    t = [0, 5]",
    ],
)
def test_statements_that_change_a_needed_value_come_along(tmp_path: Path, change: str) -> None:
    namespace: dict[str, Any] = {}
    exec(sliced(tmp_path, "t = [0]", change, "def f(): return t"), namespace)
    assert 5 in namespace["f"]()


def test_calls_on_modules_stay_behind_but_assignments_into_them_do_not(tmp_path: Path) -> None:
    source = sliced(
        tmp_path, "import torch", "torch.manual_seed(0)", "torch.allclose = 1", "def f(): return torch.ones(1)"
    )
    assert "manual_seed" not in source and "torch.allclose = 1" in source


@pytest.mark.parametrize(
    ("cell", "kept"),
    [
        ("%time 1 + 1\ndef f(): return 1", True),
        ("%%time\ndef f(): return 1", True),
        ("!pip list\nfiles = !ls\ndef f(): return 1", True),
        ("f?\ndef f(): return 1", True),
        ("%%bash\necho f", False),
    ],
)
def test_magics_are_left_out(tmp_path: Path, cell: str, kept: bool) -> None:
    assert sliced(tmp_path, "def f(): return 0", cell) == (
        "def f():\n    return 1" if kept else "def f():\n    return 0"
    )


def test_decorators_defaults_annotations_classes_and_star_imports(tmp_path: Path) -> None:
    source = sliced(
        tmp_path,
        "from __future__ import annotations",
        "from math import *\nimport os.path\nimport os.environ",
        "def deco(g): return g\nDEFAULT = 3\nclass Base: size = DEFAULT\nclass Child(Base): pass\nclass Other: pass",
        "@deco\ndef f(x=DEFAULT): return Child.size + sqrt(os.path.sep)",
    )
    for wanted in ("annotations", "from math import *", "import os.path", "def deco", "DEFAULT = 3", "Base", "Child"):
        assert wanted in source
    assert "Other" not in source


def test_line_numbers_are_the_learners(tmp_path: Path) -> None:
    script = tmp_path / "n.py"
    script.write_text(
        "# %% [markdown]\n# Title\n\n# %%\nimport math\n\n# %%\ndef f():\n    return 1 / 0\n", encoding="utf-8"
    )
    cut = cut_out(script, "f")
    (piece,) = cut.pieces
    assert cut.text == "def f():\n    return 1 / 0"
    assert piece.label == "n.py" and piece.text.splitlines()[7] == "def f():"
    (piece,) = cut_out(notebook(tmp_path / "n.ipynb", "x = 1", "%time x\n\ndef f():\n    return 1 / 0"), "f").pieces
    assert piece.label == "n.ipynb, cell 2" and piece.text.splitlines()[2] == "def f():"


def test_the_fingerprint_ignores_layout_and_other_cells(tmp_path: Path) -> None:
    first = cut_out(notebook(tmp_path / "a.ipynb", "def f():\n    return 1  # one"), "f")
    same = cut_out(notebook(tmp_path / "b.ipynb", "other = 1", "def f():\n\n    return 1"), "f")
    different = cut_out(notebook(tmp_path / "c.ipynb", "def f():\n    return 2"), "f")
    assert first.fingerprint == same.fingerprint != different.fingerprint


def test_a_broken_cell_elsewhere_does_not_matter(tmp_path: Path) -> None:
    assert sliced(tmp_path, "def g(:", "def f(): return 1") == "def f():\n    return 1"
    script = tmp_path / "n.py"
    script.write_text("# %%\ndef g(:\n\n# %%\ndef f(): return 1\n", encoding="utf-8")
    assert cut_out(script, "f").source == "def f():\n    return 1"


def test_a_percent_line_in_a_string_is_no_cell(tmp_path: Path) -> None:
    script = tmp_path / "n.py"
    script.write_text('TEXT = """\n# %%\n"""\n\n# %%\ndef f(): return TEXT\n', encoding="utf-8")
    assert "TEXT = " in cut_out(script, "f").source


def test_a_syntax_error_in_the_kata_shows_its_line(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "def f(): return 1", "def f():\n    return (1\n")
    with pytest.raises(
        WorkspaceFileError, match=r"(?s)cell of `f` is not valid Python: n.ipynb, cell 2, line 2.*return \(1"
    ):
        cut_out(path, "f")
    assert read_document(path).defines("f")


def test_a_syntax_error_in_what_the_kata_needs_names_both(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "def helper(:\n    return 1", "def f(): return helper()")
    with pytest.raises(
        WorkspaceFileError, match=r"`f` needs `helper`, whose cell is not valid Python: n.ipynb, cell 1, line 1"
    ):
        cut_out(path, "f")


GOOD = '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}'


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("n.ipynb", None, "there is no file .*blackbelt start"),
        ("n.ipynb", b"", "is empty: expected a saved notebook.*Revert Notebook"),
        ("n.ipynb", GOOD[:40].encode(), "is cut off at line 1 .*blackbelt start"),
        ("n.ipynb", b"\x89PNG\xff", "is not text in UTF-8"),
        ("n.ipynb", b"print('hello')", "is not valid JSON at line 1"),
        ("n.ipynb", b"[1, 2]", "is JSON but no notebook"),
        ("n.ipynb", b'{"nbformat": 5, "cells": []}', "notebook format 5: .*reads format 4.*Update blackbelt"),
        ("n.ipynb", b'{"nbformat": 3, "worksheets": []}', "format 3.*Open it in JupyterLab and save"),
        ("n.ipynb", GOOD.encode(), "holds no code"),
        ("n.py", b"x = 1", "n.py defines no `f`: expected `def f"),
        ("n.txt", b"x = 1", "neither a notebook .* nor a Python file"),
    ],
)
def test_files_that_cannot_be_graded_say_why(tmp_path: Path, name: str, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WorkspaceFileError, match=f"(?s){sentence}"):
        cut_out(tmp_path / name, "f")


def test_odd_notebooks_do_not_trip_the_reader(tmp_path: Path) -> None:
    cells = [
        None,
        {},
        {"cell_type": "code"},
        {"cell_type": "code", "metadata": [], "source": "def f(): return 1"},
        {"cell_type": 3},
    ]
    path = notebook(tmp_path / "n.ipynb", cells=cells)
    assert cut_out(path, "f").source == "def f():\n    return 1"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "n.ipynb").mkdir()
    with pytest.raises(WorkspaceFileError, match="cannot be read"):
        cut_out(tmp_path / "n.ipynb", "f")


def test_needs_no_torch() -> None:
    code = "import sys, blackbelt.dojo.slicing, blackbelt.dojo.isolation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
