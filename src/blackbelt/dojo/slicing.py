"""Cut the function of a kata, and everything it needs, out of a notebook or a Python file. Imports no torch.

A file is read as cells of top-level statements. Which names a statement binds and loads is read by ``dojo.statements``;
the slice is every statement that a name depends on, transitively, in the order of the document, the last definition
winning. Imports come along only when needed. Calls of ``check``, magics, and statements that only show something stay
behind.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import json
import re
import symtable
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from blackbelt.dojo.statements import Statement, read_statement

_RUNS_ITS_BODY = ("%%time", "%%capture", "%%prun")  # cell magics after which a cell's definitions exist
_KNOWN = frozenset(dir(builtins)) | {"__name__", "__file__", "get_ipython", "display"}


class WorkspaceFileError(ValueError):
    """A learner's file that cannot be graded: what was found in it, what was expected, what to do next."""


@dataclass(frozen=True)
class Piece:
    """The statements of one cell that a slice keeps. ``text`` is the whole cell: line numbers stay the learner's."""

    label: str
    text: str
    keep: tuple[int, ...]


@dataclass(frozen=True)
class Slice:
    """A kata's function and what it needs. Run the pieces in order in one namespace."""

    kata: str
    pieces: tuple[Piece, ...]

    @property
    def source(self) -> str:
        """The kept statements as one text, comments and layout normalized: equal text means equal behavior."""
        trees = [(ast.parse(piece.text), piece.keep) for piece in self.pieces]
        return "\n".join(ast.unparse(tree.body[index]) for tree, keep in trees for index in keep)

    @property
    def text(self) -> str:
        """The kept statements as the learner wrote them, comments between their lines included."""
        return "\n\n".join(
            "\n".join(piece.text.splitlines()[_first_line(node) - 1 : node.end_lineno])
            for piece in self.pieces
            for node in (ast.parse(piece.text).body[index] for index in piece.keep)
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of :attr:`source`: unchanged when only comments, layout or unrelated cells changed."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return what a worker needs to run the slice, JSON-ready."""
        return {
            "kata": self.kata,
            "pieces": [{"label": piece.label, "text": piece.text, "keep": list(piece.keep)} for piece in self.pieces],
        }


@dataclass(frozen=True)
class Cell:
    """One code cell as read. ``problem`` says why it cannot be parsed."""

    label: str
    text: str
    kata: str | None = None
    problem: SyntaxError | None = None


@dataclass(frozen=True)
class Document:
    """A learner's file, read once; :meth:`cut` takes one kata out of it."""

    path: Path
    cells: tuple[Cell, ...]

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """Every top-level statement of every cell that could be parsed, in order."""
        return tuple(_statements(self.cells))

    def defines(self, name: str) -> bool:
        """Say whether the file holds a definition of ``name``, broken cells included."""
        return any(name in statement.binds for statement in self.statements) or self._broken_cell(name) is not None

    def cut(self, kata: str) -> Slice:
        """Return the slice of ``kata``. Raises :class:`WorkspaceFileError` where it cannot be found or parsed."""
        broken = self._broken_cell(kata)
        last = max((s.cell for s in self.statements if kata in s.binds), default=-1)
        if broken is not None and broken > last:
            raise WorkspaceFileError(_syntax_message(kata, self.cells[broken]))
        if last < 0:
            raise WorkspaceFileError(
                f"{self.path.name} defines no `{kata}`: expected `def {kata}(...)` in a code cell. "
                f"If the cell was deleted or renamed, `blackbelt hint {kata}` shows the stub to paste back."
            )
        kept: set[int] = {number for number, statement in enumerate(self.statements) if statement.is_future}
        self._need(kata, len(self.statements), kata, kept, set())
        return Slice(kata, tuple(self._pieces(kept)))

    def _need(self, name: str, before: int, kata: str, kept: set[int], seen: set[tuple[str, int]]) -> None:
        """Keep what gives ``name`` its value just before statement number ``before`` runs."""
        if (name, before) in seen:
            return
        seen.add((name, before))
        binding = next((i for i in range(before - 1, -1, -1) if name in self.statements[i].binds), None)
        if binding is None:
            self._need_elsewhere(name, before, kata, kept)
            return
        self._keep(binding, before, kata, kept, seen)
        if name in self.statements[binding].partial:
            self._need(name, binding, kata, kept, seen)
        for number in range(binding + 1, before):
            statement = self.statements[number]
            called = name in statement.calls and not self.statements[binding].is_import
            if name in statement.modifies or called:
                self._keep(number, before, kata, kept, seen)

    def _keep(self, number: int, before: int, kata: str, kept: set[int], seen: set[tuple[str, int]]) -> None:
        kept.add(number)
        for name in sorted(self.statements[number].eager):
            self._need(name, number, kata, kept, seen)
        for name in sorted(self.statements[number].deferred):
            self._need(name, before, kata, kept, seen)

    def _need_elsewhere(self, name: str, before: int, kata: str, kept: set[int]) -> None:
        if name in _KNOWN:
            return
        stars = [i for i, statement in enumerate(self.statements[:before]) if statement.is_star]
        kept.update(stars)
        broken = None if stars else self._broken_cell(name)
        if broken is not None:
            raise WorkspaceFileError(_syntax_message(name, self.cells[broken], needed_by=kata))

    def _broken_cell(self, name: str) -> int | None:
        pattern = re.compile(
            rf"^\s*(?:async\s+)?(?:def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*(?::[^=]*)?=", re.MULTILINE
        )
        found = [
            i for i, cell in enumerate(self.cells) if cell.problem and (cell.kata == name or pattern.search(cell.text))
        ]
        return found[-1] if found else None

    def _pieces(self, kept: set[int]) -> Iterator[Piece]:
        for number, cell in enumerate(self.cells):
            keep = tuple(self.statements[i].index for i in sorted(kept) if self.statements[i].cell == number)
            if keep:
                yield Piece(cell.label, cell.text, keep)


def cut_out(path: Path, kata: str) -> Slice:
    """Read ``path`` and return the slice of ``kata``. Raises :class:`WorkspaceFileError`."""
    return read_document(path).cut(kata)


def read_document(path: Path) -> Document:
    """Read a notebook (``.ipynb``) or a Python file (percent format or plain). Raises :class:`WorkspaceFileError`."""
    if path.suffix not in (".ipynb", ".py"):
        raise WorkspaceFileError(
            f"{path.name} is neither a notebook (.ipynb) nor a Python file (.py): pass one of these."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise WorkspaceFileError(
            f"there is no file {path}: expected the saved notebook of a lesson. `blackbelt start LESSON` creates it."
        ) from None
    except OSError as error:
        raise WorkspaceFileError(
            f"{path} cannot be read ({error.strerror or error}): expected a readable file. "
            "Check the path and its permissions."
        ) from None
    except UnicodeDecodeError as error:
        raise WorkspaceFileError(
            f"{path.name} is not text in UTF-8 (byte {error.start}): expected a notebook or Python file. {_RESTORE}"
        ) from None
    cells = _notebook_cells(path, text) if path.suffix == ".ipynb" else _script_cells(path, text)
    if not cells:
        raise WorkspaceFileError(
            f"{path.name} holds no code: expected the cells of a lesson with its katas. {_RESTORE}"
        )
    return Document(path, tuple(cells))


# --- reading ----------------------------------------------------------------------------------------------------------

_RESTORE = (
    "Restore it (in JupyterLab: File > Revert Notebook to Checkpoint), or move it away and run "
    "`blackbelt start LESSON` for a fresh copy."
)


def _notebook_cells(path: Path, text: str) -> list[Cell]:
    if not text.strip():
        raise WorkspaceFileError(f"{path.name} is empty: expected a saved notebook. {_RESTORE}")
    try:
        notebook = json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        what = "is cut off" if cut else "is not valid JSON"
        raise WorkspaceFileError(
            f"{path.name} {what} at line {error.lineno} ({error.msg}): expected a complete notebook. {_RESTORE}"
        ) from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("nbformat"), int):
        raise WorkspaceFileError(f"{path.name} is JSON but no notebook: it has no `nbformat`. {_RESTORE}")
    version = notebook["nbformat"]
    if version > 4:
        raise WorkspaceFileError(
            f"{path.name} was written in notebook format {version}: this version of blackbelt reads format 4. "
            "Update blackbelt, or save the notebook in format 4."
        )
    if version < 4 or not isinstance(notebook.get("cells"), list):
        raise WorkspaceFileError(
            f"{path.name} has no list of cells in notebook format 4 (it says format {version}). "
            "Open it in JupyterLab and save it once; that converts it."
        )
    return [
        _cell(f"{path.name}, cell {number}", _text(raw.get("source", "")), _kata_of(raw))
        for number, raw in enumerate(notebook["cells"], 1)
        if isinstance(raw, dict) and raw.get("cell_type") == "code" and _text(raw.get("source", "")).strip()
    ]


def _text(source: Any) -> str:
    return "".join(map(str, source)) if isinstance(source, list) else str(source)


def _kata_of(raw: dict[str, Any]) -> str | None:
    metadata = raw.get("metadata")
    ours = metadata.get("blackbelt") if isinstance(metadata, dict) else None
    name = ours.get("kata") if isinstance(ours, dict) else None
    return name if isinstance(name, str) else None


def _script_cells(path: Path, text: str) -> list[Cell]:
    """Split at ``# %%`` lines, so that a broken cell does not take the others with it; line numbers stay the file's."""
    lines = text.splitlines(keepends=True)
    starts = [0, *(i for i, line in enumerate(lines) if re.match(r"# ?%%", line)), len(lines)]
    chunks = [(start, "".join(lines[start:end])) for start, end in pairwise(starts)]
    if len(chunks) > 1 and any(_parse_problem(chunk) for _, chunk in chunks) and not _parse_problem(text):
        chunks = [(0, text)]  # a `# %%` inside a string or a bracket is no cell
    return [_cell(path.name, "\n" * start + chunk) for start, chunk in chunks if chunk.strip()]


def _cell(label: str, text: str, kata: str | None = None) -> Cell:
    first = text.lstrip().split("\n", 1)[0]
    if first.startswith(_RUNS_ITS_BODY):
        text = text.replace(first, "", 1)
    elif first.startswith("%%"):
        return Cell(label, "", kata)
    problem = _parse_problem(text)
    if problem is None:
        return Cell(label, text, kata)
    plain = _without_magics(text)
    problem_then = _parse_problem(plain)
    return Cell(label, text if problem_then else plain, kata, problem_then)


def _without_magics(text: str) -> str:
    """Let IPython itself turn magics (``%time f()``, ``!ls``, ``f?``) into calls, which the slice then leaves out."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        return str(TransformerManager().transform_cell(text))
    except SyntaxError:
        return text


def _parse_problem(text: str) -> SyntaxError | None:
    try:
        symtable.symtable(text, "cell", "exec")
    except SyntaxError as error:
        return error
    except ValueError as error:  # null bytes
        return SyntaxError(str(error))
    return None


def _syntax_message(name: str, cell: Cell, needed_by: str | None = None) -> str:
    problem = cell.problem
    assert problem is not None
    line = problem.lineno or 1
    shown = (cell.text.splitlines() or [""])[min(line, len(cell.text.splitlines()) or 1) - 1].strip()
    role = f"`{needed_by}` needs `{name}`, whose cell" if needed_by else f"the cell of `{name}`"
    return (
        f"{role} is not valid Python: {cell.label}, line {line}: {problem.msg}: `{shown}`. "
        "Correct that line, save, and check again."
    )


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _statements(cells: tuple[Cell, ...]) -> Iterator[Statement]:
    for number, cell in enumerate(cells):
        if cell.problem is None:
            for index, node in enumerate(ast.parse(cell.text).body):
                yield read_statement(number, index, node)
