"""What a line of the user's says of the sizes that it asks for: names that a shape was unpacked to."""

from __future__ import annotations

import ast
import re
import textwrap

from blackbelt.doctor.rules._reshapes import Scrambled
from blackbelt.doctor.rules._sources import _tree, statement
from blackbelt.places import Place


def unpacked_sizes(place: Place) -> dict[str, tuple[str, int]]:
    """Return names in the function around a line that the sizes of a tensor were given, with its name and the dim.

    ``b, t, _ = x.shape`` gives ``{"b": ("x", 0), "t": ("x", 1), "_": ("x", 2)}``; ``x.size()`` counts as well.
    """
    functions = (n for n in ast.walk(_tree(place.file)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    around = [n for n in functions if n.lineno <= place.line <= (n.end_lineno or n.lineno)]
    scope: ast.AST = max(around, key=lambda n: n.lineno) if around else _tree(place.file)
    names: dict[str, tuple[str, int]] = {}
    for node in ast.walk(scope):
        if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Tuple):
            continue
        said = ast.unparse(node.value)
        owner = re.sub(r"\.(shape|size\(\))(\[:\d+\])?$", "", said)
        if owner != said:
            for i, target in enumerate(node.targets[0].elts):
                if isinstance(target, ast.Name):
                    names[target.id] = (owner, i)
    return names


def means_kept(place: Place, name: str, what: Scrambled, num_dims: int) -> bool | None:
    """Return whether the user's line means the dim of that size to be kept; None where it makes no such view itself."""
    try:
        tree = ast.parse(textwrap.dedent(statement(place)).rstrip(":"))
    except SyntaxError:  # the head of a loop or of a block
        return (what.sure and f"{name}(" in statement(place)) or None
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and _called(n) == name]
    if not calls or what.sure:
        return bool(calls) or None
    names = unpacked_sizes(place)
    for call in calls:
        owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        args = list(call.args)
        if owner == "torch" and args:
            owner, args = ast.unparse(args[0]), args[1:]
        if len(args) == 1 and isinstance(args[0], (ast.Tuple, ast.List)):
            args = list(args[0].elts)
        if len(args) == num_dims and not any(isinstance(a, ast.Starred) for a in args):
            wanted = ast.unparse(args[what.position])
            direct = wanted.startswith((f"{owner}.size(", f"{owner}.shape[")) and isinstance(
                args[what.position], (ast.Call, ast.Subscript)
            )
            if direct or names.get(wanted, ("", 0))[0] == owner:
                return True
        if any(isinstance(a, ast.BinOp) for a in args):  # `t // 2`, `2 * f`: rows are grouped
            return None
    return False


def names_reversed(place: Place, name: str) -> bool:
    """Return whether the line names two sizes of one tensor the other way round than they were in its shape."""
    try:
        tree = ast.parse(textwrap.dedent(statement(place)).rstrip(":"))
    except SyntaxError:
        return False
    names = unpacked_sizes(place)
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call) and _called(n) == name):
        first, second = (names.get(ast.unparse(a), ("", -1)) for a in [*call.args, *call.args][:2])
        if first[0] and first[0] == second[0] and (first[1], second[1]) == (1, 0):
            return True
    return False


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
