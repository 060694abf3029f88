"""Lines of the user's source that rules look up: where an attribute is set, what stands around a call."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
from collections.abc import Iterator

from blackbelt.places import Place


@functools.lru_cache(maxsize=32)
def _tree(file: str) -> ast.Module:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:  # a notebook cell with magics, or a file that changed under us
        return ast.Module(body=[], type_ignores=[])


def attribute_set_at(kind: type, name: str) -> Place | None:
    """Return the first line of a class, or of those it derives from, that says ``self.name = …``."""
    for owner in kind.__mro__:
        try:
            file = inspect.getsourcefile(owner) or ""
            first = None if owner.__module__ == "__main__" else inspect.getsourcelines(owner)[1]
        except (OSError, TypeError):
            continue
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.ClassDef) and node.name == owner.__name__ and first in (None, _first(node)):
                lines = sorted(line for line, attribute in _set_in(node) if attribute == name)
                if lines:
                    return Place(file, lines[0], owner.__name__)
    return None


def _first(node: ast.ClassDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _set_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets if isinstance(node, (ast.Assign, ast.AnnAssign)) else ():
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                yield target.lineno, target.attr


def statement(place: Place) -> str:
    """Return the statement at a place, as it was written."""
    return place.read().code


def conditions(place: Place) -> str:
    """Return the conditions that a line stands under in its function, and those within it, as one text."""
    branches = (node for node in ast.walk(_tree(place.file)) if isinstance(node, (ast.If, ast.IfExp)))
    around = (node for node in branches if node.lineno <= place.line <= (node.end_lineno or node.lineno))
    return " and ".join(ast.unparse(node.test) for node in around)


def function_source(place: Place) -> str:
    """Return the source of the innermost function around a line, of the whole file where it is in none."""
    functions = (n for n in ast.walk(_tree(place.file)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    around = [n for n in functions if n.lineno <= place.line <= (n.end_lineno or n.lineno)]
    lines = linecache.getlines(place.file)
    if around:
        innermost = max(around, key=lambda n: n.lineno)
        lines = lines[innermost.lineno - 1 : innermost.end_lineno]
    return "".join(lines)
