"""What a top-level statement binds, loads and changes: read with :mod:`symtable` and :mod:`ast`, and never run."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator
from dataclasses import dataclass

_COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Statement:
    """A top-level statement and its names.

    ``partial``: bound, but an earlier value may stay. ``modifies``: objects it assigns into; ``calls``: objects whose
    methods it calls. ``eager``: loaded while it runs; ``deferred``: loaded when a function that it defines is called.
    """

    cell: int
    index: int
    binds: frozenset[str]
    partial: frozenset[str]
    modifies: frozenset[str]
    calls: frozenset[str]
    eager: frozenset[str]
    deferred: frozenset[str]
    is_import: bool = False
    is_star: bool = False
    is_future: bool = False


def read_statement(cell: int, index: int, node: ast.stmt) -> Statement:
    """Read the statement that stands at ``index`` in the cell of that number."""
    module = ast.Module([node], type_ignores=[])
    table = symtable.symtable(ast.unparse(module), "statement", "exec")
    eager, deferred = _loads(table)
    binds = frozenset(
        s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()
    )
    is_import = isinstance(node, (ast.Import, ast.ImportFrom))
    dotted = frozenset(
        alias.name.split(".")[0]
        for alias in getattr(node, "names", ())
        if is_import and "." in alias.name and not alias.asname
    )
    changed = set(_changed(node))
    augmented = {node.target.id} if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) else set()
    return Statement(
        cell,
        index,
        binds=binds,
        partial=(binds if isinstance(node, _COMPOUND) else frozenset()) | dotted,
        modifies=frozenset(name for name, is_call in changed if not is_call) - binds,
        calls=frozenset(name for name, is_call in changed if is_call) - binds,
        eager=frozenset(eager | augmented),
        deferred=frozenset(deferred),
        is_import=is_import,
        is_star=isinstance(node, ast.ImportFrom) and node.names[0].name == "*",
        is_future=isinstance(node, ast.ImportFrom) and node.module == "__future__",
    )


def _loads(table: symtable.SymbolTable) -> tuple[set[str], set[str]]:
    eager = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    deferred: set[str] = set()
    for child in table.get_children():
        for_child = _globals_of(child)
        runs_now = child.get_type() == "class" or child.get_name() in ("listcomp", "setcomp", "dictcomp", "genexpr")
        (eager if runs_now else deferred).update(for_child)
    return eager, deferred


def _globals_of(table: symtable.SymbolTable) -> set[str]:
    own = {s.get_name() for s in table.get_symbols() if s.is_global() and (s.is_referenced() or s.is_declared_global())}
    return own.union(*(_globals_of(child) for child in table.get_children()))


def _changed(node: ast.AST) -> Iterator[tuple[str, bool]]:
    """Yield names of objects that a statement changes (``t[0] = 1``: False) or may change (``t.append(1)``: True)."""
    targets: list[ast.expr] = []
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        targets = [node.target]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        targets = [node.value.func]
    for target in targets:
        root: ast.AST = target
        while isinstance(root, (ast.Attribute, ast.Subscript, ast.Call)):
            root = root.func if isinstance(root, ast.Call) else root.value
        if isinstance(root, ast.Name) and isinstance(target, (ast.Attribute, ast.Subscript)):
            yield root.id, is_call
    if isinstance(node, _COMPOUND):
        for child in ast.walk(node):
            if isinstance(child, ast.stmt) and child is not node and not isinstance(child, (*_SCOPES, *_COMPOUND)):
                yield from _changed(child)
