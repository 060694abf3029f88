"""Rewrites the statement that stored a tensor, so that what is stored holds no graph."""

from __future__ import annotations

import ast
import copy

from blackbelt.autograd._retain_source import ADDING, Store, called, is_named, mentions, own_calls, targets
from blackbelt.places import Place


def detached(
    store: Store, name: str, last: str, *, suffix: str = "detach()", depth: int = 0, made_at: Place | None = None
) -> str:
    """Return the statement with ``.detach()`` on what it stores.

    Where the old value goes into a larger expression (a recurrent state), the old one is detached in a line before, so
    that the gradient inside the step stays. ``last`` is the innermost index on the way to the tensor, ``depth`` the
    number of indices; ``made_at`` tells the name of the tensor, for stores inside of a call.
    """
    node = copy.deepcopy(store.node)
    target = next((one for one in targets(node) if is_named(one, name)), None)
    value = getattr(node, "value", None)
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and value is not None and target is not None:
        return _assigned(node, value, target, name, last, suffix)
    stored, covered = _stored(node)
    if stored is None:
        return ast.unparse(node)
    if depth > covered and isinstance(stored, ast.Name):
        return f"{stored.id} = {_each(stored.id, last, suffix)}\n{ast.unparse(node)}"
    tensor = _name_made(made_at)
    if isinstance(stored, (ast.Call, ast.Lambda)) and tensor and mentions(stored, tensor):
        new: ast.expr = _Suffix(tensor, suffix).visit(stored)
    else:
        new = _cut(stored, last, suffix)
    _replace(node, stored, new)
    return ast.unparse(node)


def _assigned(
    node: ast.Assign | ast.AnnAssign, value: ast.expr, target: ast.expr, name: str, last: str, suffix: str
) -> str:
    text = ast.unparse(target)
    if mentions(value, name):
        sides = (value.left, value.right) if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add) else ()
        if any(is_named(side, name) for side in sides):  # a sum: what is added needs no graph
            _replace(node, value, _SumSuffix(name, suffix).visit(value))
            return ast.unparse(node)
        cut = f"tuple(state.{suffix} for state in {text})" if last.isdigit() else f"{text}.{suffix}"
        return f"{text} = {cut}\n{ast.unparse(node)}"
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Tuple, ast.List)):
        return f"{ast.unparse(node)}\n{text} = {text}.{suffix}"
    _replace(node, value, _cut(value, last, suffix))
    return ast.unparse(node)


def _each(name: str, last: str, suffix: str) -> str:
    if last.isdigit():
        return f"[value.{suffix} for value in {name}]"
    return f"{{key: value.{suffix} for key, value in {name}.items()}}"


def _stored(node: ast.stmt) -> tuple[ast.expr | None, int]:
    """Return what a statement stores, and how many indices it stores it under."""
    if not isinstance(node, ast.Expr):
        return getattr(node, "value", None), sum(_num_indices(one) for one in targets(node))
    calls = [call for call in own_calls(node) if called(call) in ADDING | {"setattr"} and call.args]
    return (calls[0].args[-1], _num_indices(calls[0].func) + 1) if calls else (None, 0)


def _num_indices(node: ast.expr) -> int:
    return sum(isinstance(child, (ast.Subscript, ast.Call)) for child in ast.walk(node))


def _name_made(made_at: Place | None) -> str:
    """Return the variable that the statement which made the tensor assigns."""
    try:
        tree = ast.parse(made_at.code if made_at is not None else "")
    except SyntaxError:
        return ""
    names = [one.id for statement in tree.body for one in targets(statement) if isinstance(one, ast.Name)]
    return names[0] if len(names) == 1 else ""


def _cut(value: ast.expr, last: str, suffix: str) -> ast.expr:
    if isinstance(value, (ast.Tuple, ast.List)) and value.elts:
        chosen = int(last) if isinstance(value, ast.Tuple) and last.isdigit() and int(last) < len(value.elts) else 0
        value.elts[chosen] = _cut(value.elts[chosen], "", suffix)
        return value
    if isinstance(value, ast.Dict):
        keys = [repr(key.value) if isinstance(key, ast.Constant) else "" for key in value.keys]
        if last in keys:
            value.values[keys.index(last)] = _cut(value.values[keys.index(last)], "", suffix)
        return value
    return _with(value, suffix)


def _with(value: ast.expr, suffix: str) -> ast.expr:
    text = ast.unparse(value)
    plain = isinstance(value, (ast.Name, ast.Attribute, ast.Call, ast.Subscript))
    return ast.parse(f"{text}.{suffix}" if plain else f"({text}).{suffix}", mode="eval").body


def _replace(node: ast.AST, old: ast.expr, new: ast.expr) -> None:
    for parent in ast.walk(node):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
            elif isinstance(value, list):
                value[:] = [new if item is old else item for item in value]


class _Suffix(ast.NodeTransformer):
    """Adds the suffix to every use of a name."""

    def __init__(self, name: str, suffix: str) -> None:
        self._name = name
        self._suffix = suffix

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Rewrite one use of a name."""
        return _with(node, self._suffix) if node.id == self._name else node


class _SumSuffix(ast.NodeTransformer):
    """Adds the suffix to the side of a sum that is not the name."""

    def __init__(self, name: str, suffix: str) -> None:
        self._name = name
        self._suffix = suffix

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Rewrite the outermost sum."""
        if is_named(node.left, self._name):
            node.right = _with(node.right, self._suffix)
        else:
            node.left = _with(node.left, self._suffix)
        return node
