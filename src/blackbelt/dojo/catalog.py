"""What the course holds, read from its folders without importing torch or any lesson.

Lessons are the percent-format files of ``lessons/<number>_<module>/<number>_<name>.py``, where the number of a module
that belongs to no belt is a capital letter (``R_reference``); katas are the functions
decorated with ``@kata(...)`` in ``blackbelt/katas/<module>/<lesson>/<kata>.py``, read with :mod:`ast`.
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
OWN = ("blackbelt.dojo", "blackbelt.katas")  # what a kata's file is made with, and a solution never


class CatalogError(ValueError):
    """A lesson or kata file that does not follow the conventions of the course."""


@dataclass(frozen=True)
class KataEntry:
    """A kata as its file declares it: ``stub`` and ``solution`` are source; ``lesson`` is like ``tensors/strides``."""

    name: str
    lesson: str
    title: str
    statement: str
    minutes: int
    belt: str
    hints: tuple[str, ...]
    stub: str
    solution: str
    num_wrong: int


@dataclass(frozen=True)
class LessonEntry:
    """A lesson as its file declares it: ``number`` like ``1.2`` or ``R.3``, ``slug`` like ``tensors/strides``."""

    number: str
    module: str
    name: str
    title: str
    source_path: Path
    notebook_path: Path

    @property
    def plain_title(self) -> str:
        """The title without Markdown, for a terminal."""
        return self.title.replace("`", "")

    @property
    def slug(self) -> str:
        return f"{self.module}/{self.name}"

    @property
    def katas(self) -> tuple[KataEntry, ...]:
        """The lesson's katas in the order in which it asks for them."""
        return tuple(entry for entry in katas() if entry.lesson == self.slug)


def course_root() -> Path:
    """Return the folder that holds ``lessons/`` and ``notebooks/``: inside an installed wheel, else the clone."""
    packaged = PACKAGE / "course"
    return packaged if packaged.is_dir() else PACKAGE.parents[1]


@functools.cache
def lessons(root: Path | None = None) -> tuple[LessonEntry, ...]:
    """Return every lesson under ``root`` (default: :func:`course_root`), in course order."""
    root = root or course_root()
    found = (_read_lesson(path, root) for path in root.glob("lessons/[0-9A-Z]_*/[0-9]_*.py"))
    return tuple(sorted(found, key=lambda entry: entry.number))


@functools.cache
def katas(root: Path | None = None) -> tuple[KataEntry, ...]:
    """Return every kata under ``root`` (default: ``blackbelt/katas``), in the order in which the lessons ask."""
    root = root or PACKAGE / "katas"
    asked = [name for entry in lessons() for name in _asked_for(entry)]
    place = {name: position for position, name in enumerate(asked)}
    found = (read_kata(path) for path in root.glob("*/*/[!_]*.py"))
    return tuple(sorted(found, key=lambda entry: (place.get(entry.name, len(asked)), entry.lesson, entry.name)))


def find_kata(name: str) -> KataEntry:
    """Return the kata of that exact name. Raises :class:`CatalogError` where there is none."""
    for entry in katas():
        if entry.name == name:
            return entry
    raise CatalogError(f"there is no kata named {name!r}; `blackbelt list` shows the names")


def read_kata(path: Path) -> KataEntry:
    """Return the kata that a file declares: the function of the file's own name, decorated with ``@kata(...)``."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, str(path))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    lesson = f"{path.parents[1].name}/{path.parent.name}"
    for function in functions:
        declaration = _declaration(function)
        if declaration is not None and function.name == path.stem:
            wrong = sum(_is_wrong_of(other, function.name) for other in functions)
            solution = "\n".join([*_imports(function, tree), _without_docstring(function, source)])
            return _entry(function, declaration, lesson, solution, wrong)
    raise CatalogError(f"kata file {lesson}/{path.name}: it must declare `@kata(…) def {path.stem}(…)`")


def _declaration(function: ast.FunctionDef) -> ast.Call | None:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "kata":
            return decorator
    return None


def _is_wrong_of(function: ast.FunctionDef, kata_name: str) -> bool:
    return any(
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr == "wrong"
        and isinstance(decorator.func.value, ast.Name)
        and decorator.func.value.id == kata_name
        for decorator in function.decorator_list
    )


def _entry(function: ast.FunctionDef, declaration: ast.Call, lesson: str, solution: str, num_wrong: int) -> KataEntry:
    literals = {}
    for keyword in declaration.keywords:
        if keyword.arg in ("minutes", "belt", "hints"):
            try:
                literals[keyword.arg] = ast.literal_eval(keyword.value)
            except ValueError:
                raise CatalogError(
                    f"kata {function.name}: `{keyword.arg}` must be a literal, so that it can be read without torch"
                ) from None
    statement = ast.get_docstring(function)
    if not statement or len(literals) != 3:
        raise CatalogError(f"kata {function.name}: it needs a docstring (the statement), minutes, belt and hints")
    title, _, rest = statement.partition("\n")
    return KataEntry(
        name=function.name,
        lesson=lesson,
        title=title.strip().rstrip("."),
        statement=rest.strip(),
        minutes=literals["minutes"],
        belt=literals["belt"],
        hints=tuple(literals["hints"]),
        stub=_stub(function, title.strip()),
        solution=solution,
        num_wrong=num_wrong,
    )


def _stub(function: ast.FunctionDef, title: str) -> str:
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    head = f"def {function.name}({ast.unparse(function.args)}){returns}:"
    return f'{head}\n    """{title}"""\n    raise NotImplementedError("your turn")'


def _imports(function: ast.FunctionDef, tree: ast.Module) -> list[str]:
    """Return the import lines that the function needs, in the file's order, and an empty line to set them off."""
    parts = (function.args, *filter(None, [function.returns]), *function.body)
    names = {node.id for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)}
    lines = []
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            used = [alias for alias in node.names if (alias.asname or alias.name).split(".")[0] in names]
            if used and not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OWN)):
                kept = ast.ImportFrom(node.module, used, 0) if isinstance(node, ast.ImportFrom) else ast.Import(used)
                lines.append(ast.unparse(kept))
    return [*lines, "", ""] if lines else []


def _without_docstring(function: ast.FunctionDef, source: str) -> str:
    lines = source.splitlines()[function.lineno - 1 : function.end_lineno]
    docstring = function.body[0]
    start, end = docstring.lineno - function.lineno, (docstring.end_lineno or 0) - function.lineno
    return "\n".join(lines[:start] + lines[end + 1 :])


def _asked_for(entry: LessonEntry) -> list[str]:
    return re.findall(r'^# %% kata="(\w+)"', entry.source_path.read_text(encoding="utf-8"), re.MULTILINE)


def _read_lesson(path: Path, root: Path) -> LessonEntry:
    module_number, module = path.parent.name.split("_", 1)
    lesson_number, name = path.stem.split("_", 1)
    heading = re.search(r"^# # (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    if heading is None:
        raise CatalogError(f"lesson {module}/{name}: the first Markdown cell needs a heading line `# # Title`")
    number = f"{module_number}.{lesson_number}"
    return LessonEntry(
        number=number,
        module=module,
        name=name,
        title=heading[1].strip().removeprefix(number).strip(),
        source_path=path,
        notebook_path=root / "notebooks" / path.parent.name / f"{path.stem}.ipynb",
    )
