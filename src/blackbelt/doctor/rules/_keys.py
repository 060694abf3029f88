"""Which keys of a dict the user's source reads, and what for."""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from blackbelt.places import Place

PRINTING = ("print", "info", "debug", "warning", "log", "write", "set_description", "format")
STATEMENTS = (ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.Return, ast.Expr, ast.For, ast.While, ast.If)


@dataclass(frozen=True)
class Read:
    """One place where the source reads `owner["key"]`, `owner.get("key")` or `owner.pop("key")`."""

    key: str
    owner: str  # the name before the bracket, `checkpoint` or `self.checkpoint`
    is_parameter: bool  # of the function around
    is_printed: bool  # only to be shown
    is_passed: bool  # to a function that the file defines
    is_returned: bool
    names: tuple[str, ...]  # that it is assigned to, without what stands before a dot


@functools.lru_cache(maxsize=16)
def _tree(file: str) -> ast.Module:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:  # a notebook cell with magics
        return ast.Module(body=[], type_ignores=[])


@functools.lru_cache(maxsize=16)
def keys_read(file: str) -> tuple[Read, ...]:
    """Return every reading of a constant key in a file."""
    found: list[Read] = []
    defined = {n.name for n in ast.walk(_tree(file)) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    _collect(_tree(file), (), frozenset(defined), found)
    return tuple(found)


def _collect(node: ast.AST, around: tuple[ast.AST, ...], defined: frozenset[str], found: list[Read]) -> None:
    owner, key = _reading(node)
    if owner is not None and isinstance(key, ast.Constant) and isinstance(key.value, str):
        functions = [a for a in around if isinstance(a, (ast.FunctionDef, ast.AsyncFunctionDef))]
        name = ast.unparse(owner)
        parameters = {argument.arg for f in functions[-1:] for argument in (*f.args.args, *f.args.kwonlyargs)}
        inner = [a for a in around if isinstance(a, STATEMENTS)][-1:]
        inside = around[around.index(inner[0]) + 1 :] if inner else ()
        found.append(
            Read(
                key.value,
                name,
                name in parameters,
                is_printed=any(isinstance(a, ast.JoinedStr) or _called(a) in PRINTING for a in around),
                is_passed=any(_called(a) in defined for a in inside),
                is_returned=bool(inner) and isinstance(inner[0], ast.Return),
                names=tuple(_names(inner[0])) if inner else (),
            )
        )
    for child in ast.iter_child_nodes(node):
        _collect(child, (*around, node), defined, found)


def _reading(node: ast.AST) -> tuple[ast.AST | None, ast.AST | None]:
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        return node.value, node.slice
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("get", "pop")
        and node.args
    ):
        return node.func.value, node.args[0]
    return None, None


def _called(node: ast.AST) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "id", None) or getattr(function, "attr", None) or ""


def _targets(statement: ast.AST) -> list[ast.expr]:
    if isinstance(statement, ast.Assign):
        return statement.targets
    return [statement.target] if isinstance(statement, (ast.AnnAssign, ast.NamedExpr)) else []


def _names(statement: ast.AST) -> Iterator[str]:
    for target in _targets(statement):
        yield from _identifiers(target)


def _identifiers(node: ast.AST) -> Iterator[str]:
    """Yield the names in an expression, and of attributes the last part."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            yield part.attr
        elif isinstance(part, ast.Name) and part.id != "self":
            yield part.id


@functools.lru_cache(maxsize=16)
def counting_names(file: str) -> frozenset[str]:
    """Return the names that a file counts with: in `range(…)`, in the test of a `while`, before `+=`."""
    found: set[str] = set()
    for node in ast.walk(_tree(file)):
        if _called(node) in ("range", "count", "islice", "trange") and isinstance(node, ast.Call):
            for argument in node.args:
                found.update(_identifiers(argument))
        elif isinstance(node, ast.While):
            found.update(_identifiers(node.test))
        elif isinstance(node, ast.AugAssign):
            found.update(_identifiers(node.target))
    return frozenset(found)


def assigned_at(places: Iterable[Place]) -> list[str]:
    """Return what the innermost of these lines that assigns something assigns to; nothing where none does."""
    return next((found for place in places if (found := [ast.unparse(target) for target in _targets_at(place)])), [])


def names_at(places: Iterable[Place]) -> set[str]:
    """Return the names that any of these lines assigns to, without what stands before a dot."""
    return {name for place in places for target in _targets_at(place) for name in _identifiers(target)}


def _targets_at(place: Place) -> list[ast.expr]:
    for node in ast.walk(_tree(place.file)):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.lineno <= place.line <= (node.end_lineno or 0):
            return _targets(node)
    return []
