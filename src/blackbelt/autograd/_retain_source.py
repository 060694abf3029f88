"""Finds in the user's source the statement that stored a tensor under the name that holds it."""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blackbelt.places import Place

ADDING = frozenset(
    {"add", "append", "appendleft", "extend", "insert", "put", "put_nowait", "setdefault", "update", "register_buffer"}
)


@dataclass(frozen=True)
class Store:
    """A statement that stores something under a name, and the function it stands in."""

    node: ast.stmt
    file: str
    function: str

    def place(self) -> Place:
        """Return where the statement is, with its code."""
        return Place(self.file, self.node.lineno, self.function, code=ast.unparse(self.node)).read()


def find_store(name: str, files: Sequence[str], near: Place | None, *, inside: bool) -> Store | None:
    """Return the statement that stores under ``name``; ``inside``: that adds to the container of this name.

    Of several the one nearest to where the tensor was made, in the same function if there is one.
    """
    found = [
        Store(node, file, function)
        for file in dict.fromkeys(files)
        for node, function in _statements(file)
        if (_adds_to(node, name) if inside else _assigns(node, name))
    ]

    def distance(store: Store) -> tuple[bool, bool, int]:
        if near is None:
            return True, True, 0
        gap = abs(store.node.lineno - near.line)
        return store.file != near.file, store.function != near.function, gap

    return min(found, key=distance, default=None)


def find_call(part: str, files: Sequence[str], near: Place | None, of: str = "") -> Store | None:
    """Return the statement nearest to ``near`` that calls a method whose name contains ``part``, ``of`` some name."""
    found = [
        Store(node, file, function)
        for file in dict.fromkeys(files)
        for node, function in _statements(file)
        if any(part in called(call) and (not of or mentions(call.func, of)) for call in own_calls(node))
    ]
    return min(
        found,
        key=lambda s: (near is None or s.file != near.file, abs(s.node.lineno - (near.line if near else 0))),
        default=None,
    )


@functools.lru_cache(maxsize=64)
def _parse(source: str) -> tuple[tuple[ast.stmt, str], ...]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ()
    return tuple(_walk(tree, "<module>"))


def _statements(file: str) -> tuple[tuple[ast.stmt, str], ...]:
    return _parse("".join(linecache.getlines(file)))


def _walk(node: ast.AST, function: str) -> Iterator[tuple[ast.stmt, str]]:
    for child in ast.iter_child_nodes(node):
        inner = child.name if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
        if isinstance(child, ast.stmt):
            yield child, function
        yield from _walk(child, inner)


def own_calls(node: ast.stmt) -> Iterator[ast.Call]:
    """Yield the calls in a simple statement; those in the body of a compound one are other statements."""
    if not hasattr(node, "body"):
        yield from (child for child in ast.walk(node) if isinstance(child, ast.Call))


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def is_named(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == name
    return isinstance(node, ast.Name) and node.id == name


def mentions(node: ast.AST, name: str) -> bool:
    return any(is_named(child, name) for child in ast.walk(node))


def targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        flat: list[ast.expr] = []
        for target in node.targets:
            flat.extend(target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target])
        return flat
    if isinstance(node, (ast.AugAssign, ast.AnnAssign)) and node.value is not None:
        return [node.target]
    return []


def _assigns(node: ast.stmt, name: str) -> bool:
    if any(is_named(target, name) for target in targets(node)):
        return not isinstance(getattr(node, "value", None), ast.Constant)
    return any(
        called(call) in ("setattr", "register_buffer")
        and any(isinstance(a, ast.JoinedStr) or (isinstance(a, ast.Constant) and a.value == name) for a in call.args)
        for call in own_calls(node)
    )


def _adds_to(node: ast.stmt, name: str) -> bool:
    for target in targets(node):
        if isinstance(target, ast.Subscript) and mentions(target.value, name):
            return True
        if isinstance(node, ast.AugAssign) and is_named(target, name):
            return True
    return any(
        isinstance(call.func, ast.Attribute) and call.func.attr in ADDING and mentions(call.func.value, name)
        for call in own_calls(node)
    )
