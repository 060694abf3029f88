"""Why an in-place write is wrong and the code that puts it right: the words and the rewriting of `trace_inplace`."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

import torch

from blackbelt.places import Place

NATIVE = "one of the variables needed for gradient computation has been modified by an inplace operation"
NUMPY = "a write outside PyTorch"


@dataclass(frozen=True)
class Refusal:
    """Words of a refusal, what they mean, and the fix."""

    words: str
    why: str
    fix: str


UPDATE = "with torch.no_grad():  # an update of a weight\n    {line}"
EXPANDED = "The tensor is expanded: many of its elements are one place in memory, and it would be written many times."
# PyTorch's refusals, raised by the in-place operation itself: its words, why, and the fix, where {line} stands for the
# statement, {out} for the same out of place, {clone} for a copy first.
REFUSALS = (
    Refusal(
        "a leaf Variable that requires grad is being used in an in-place operation",
        "A leaf that requires grad is where a gradient arrives. Written in place, it would become the output of an "
        "operation, and the values you started from would be gone.",
        UPDATE,
    ),
    Refusal(
        "a view of a leaf Variable that requires grad is being used in an in-place operation",
        "A write to a view writes to its base, and the base is a leaf that requires grad.",
        UPDATE,
    ),
    Refusal(
        "is the output of a function that returns multiple views",
        "`unbind`, `split` and `chunk` return several views from one node; a write to one would have to rewrite the "
        "history of all.",
        "{out}",
    ),
    Refusal(
        "created in no_grad mode",
        "The view was taken under `no_grad`, so autograd cannot say how a write to it reaches its base.",
        "with torch.no_grad():\n    {line}",
    ),
    Refusal(
        "arguments don't support automatic differentiation",
        "`out=` writes into a tensor that exists already, and autograd would have nowhere to put the history.",
        "{out}",
    ),
    Refusal("refers to a single memory location", EXPANDED, "{clone}"),
    Refusal("refer to a single memory location", EXPANDED, "{clone}"),
)


@dataclass(frozen=True)
class Facts:
    """What is known about one finding before it is put into words."""

    saved_by: str
    changed_by: str
    changed_at: Place | None
    kind: str
    values_changed: bool
    is_leaf: bool
    exposed_at: Place | None = None


def refusal(message: str, place: Place | None) -> tuple[str, str] | None:
    """Return why PyTorch refused an in-place operation, and the fix; None where the message is about something else."""
    line = place.code if place else ""
    for one in REFUSALS:
        if one.words in message:
            return one.why, one.fix.format(line=_plain(line), out=out_of_place(line), clone=clone_first(line))
    return None


def explain(facts: Facts) -> tuple[str, str]:
    """Return why the write is wrong and the code that puts it right."""
    return _why(facts), _fix(facts)


def _why(facts: Facts) -> str:
    if facts.kind == "unseen":
        return f"{_unseen(facts)} Backward used the changed values, the gradient is wrong, and PyTorch said nothing."
    if not facts.values_changed:
        return (
            f"The saved values are intact: `{facts.changed_by}` wrote elsewhere in its storage, or the same values "
            "again. But autograd compares counters, not values, and all views of a storage share one counter."
        )
    if facts.kind == "argument":
        return "A write in place reaches every name of the tensor: the caller's, and every view's."
    if facts.is_leaf:
        return (
            f"`{facts.saved_by}` saved this leaf because the gradient of its other input needs the value it had then. "
            "It was updated before that backward ran."
        )
    saved, changed = facts.saved_by, facts.changed_by or "something that this trace did not see"
    return f"The gradient of `{saved}` is computed from the values it saved, and `{changed}` overwrote them."


def _unseen(facts: Facts) -> str:
    if facts.changed_by == NUMPY:
        shared = f" The memory was handed out at {facts.exposed_at}." if facts.exposed_at else ""
        return f"NumPy, DLPack or a raw pointer wrote to this memory, and no version counter moved.{shared}"
    if facts.changed_by.startswith("_fused_"):
        return "A fused optimizer updates weights without moving their version counters."
    if facts.changed_by == ".data =":
        return "Assigning to `.data` gives the tensor other memory and leaves its version counter as it was."
    return (
        "`.data` shares the storage but has a version counter of its own, so the one that backward checks did not move."
    )


def _fix(facts: Facts) -> str:
    place = facts.changed_at
    if place is None:
        return "x = x.clone()  # change the copy, not what backward needs"
    if facts.changed_by == NUMPY:
        return "array = tensor.detach().clone().numpy()  # an array with memory of its own"
    if "optim" in place.module.lower() or hasattr(torch.optim, place.module or " "):
        return f"loss.backward()  # first every backward that needs these weights\n{place.code}"
    if facts.is_leaf:
        first = "loss.backward()  # first every backward that needs this tensor"
        return f"{first}\nwith torch.no_grad():\n    {_update(place.code)}"
    if place.module and hasattr(torch.nn, place.module):
        return f"nn.{place.module}(inplace=False)"
    if not facts.values_changed and "[" in place.code:
        return f"{clone_first(place.code)}\n# in a loop: append to a list, then torch.stack(list)"
    return out_of_place(place.code)


def out_of_place(code: str) -> str:
    """Return a statement that computes the same into a new tensor.

    >>> out_of_place("y += 1")
    'y = y + 1'
    >>> out_of_place("y.data.clamp_(0)")
    'y = y.clamp(0)'
    >>> out_of_place("z = F.relu(y, inplace=True)")
    'z = F.relu(y, inplace=False)'
    >>> out_of_place("torch.mul(a, b, out=y)")
    'y = torch.mul(a, b)'
    >>> print(out_of_place("y[0] = 5"))
    new = 5
    y = y.clone()
    y[0] = new
    """
    statement = _parse(code)
    if isinstance(statement, ast.AugAssign) and not isinstance(statement.target, ast.Subscript):
        target = _Plain().visit(statement.target)
        value = ast.BinOp(_loaded(target), statement.op, statement.value)
        return _unparse(ast.Assign([target], value))
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
        return _unparse(ast.Assign([_Plain().visit(statement.targets[0])], statement.value))
    if isinstance(statement, (ast.Expr, ast.Assign, ast.Return)):
        rewritten = _rewrite_call(statement)
        if rewritten is not None:
            return rewritten
    return clone_first(code)


def clone_first(code: str) -> str:
    """Return the statement with the tensor that it writes to copied first.

    >>> print(clone_first("h[t + 1] = cell(h[t])"))
    new = cell(h[t])
    h = h.clone()
    h[t + 1] = new
    """
    statement = _parse(_plain(code))
    target: ast.expr | None = None
    if isinstance(statement, ast.AugAssign):
        target = statement.target
    elif isinstance(statement, ast.Assign):
        target = statement.targets[0]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
        if isinstance(call.func, ast.Attribute) and not ast.unparse(call.func).startswith(("torch.", "nn.", "F.")):
            target = call.func.value
        elif call.args:
            target = call.args[0]
    if target is None:
        return f"x = x.clone()  # before this line, for the tensor it writes to\n{code}".strip()
    target = _Plain().visit(_loaded(target))
    while isinstance(target, (ast.Subscript, ast.Call)):
        target = target.value if isinstance(target, ast.Subscript) else getattr(target.func, "value", ast.Name("x"))
    root = ast.unparse(target)
    if isinstance(statement, (ast.Assign, ast.AugAssign)):  # the value first: computing it may save what is written to
        place = statement.target if isinstance(statement, ast.AugAssign) else statement.targets[0]
        value: ast.expr = statement.value
        if isinstance(statement, ast.AugAssign):
            value = ast.BinOp(_loaded(place), statement.op, value)
        return f"new = {_unparse(value)}\n{root} = {root}.clone()\n{_unparse(place)} = new"
    return f"{root} = {root}.clone()\n{_plain(code)}"


def _rewrite_call(statement: ast.Expr | ast.Assign | ast.Return) -> str | None:
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
    for call in calls:
        names = {keyword.arg: keyword for keyword in call.keywords}
        if "out" in names:
            call.keywords.remove(names["out"])
            return _unparse(ast.Assign([names["out"].value], call))
        if "inplace" in names:
            names["inplace"].value = ast.Constant(value=False)
            return _unparse(statement)
        function = call.func
        if not isinstance(function, ast.Attribute) or not re.fullmatch(r"[a-z]\w*[^_]_", function.attr):
            continue
        is_function = ast.unparse(function.value) in ("torch", "F", "torch.nn.functional")
        plain = _Plain().visit(call.args[0] if is_function else function.value)
        if not hasattr(torch.Tensor, function.attr[:-1]) or not isinstance(plain, (ast.Name, ast.Attribute)):
            return None
        function.attr = function.attr[:-1]
        if not is_function:
            function.value = plain
        return _unparse(ast.Assign([plain], call)) if isinstance(statement, ast.Expr) else _unparse(statement)
    return None


class _Plain(ast.NodeTransformer):
    """Takes `.data` and `.detach()` off: the way round autograd is part of the mistake."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        return node.value if node.attr == "data" else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        return node.func.value if isinstance(node.func, ast.Attribute) and node.func.attr == "detach" else node


def _plain(code: str) -> str:
    statement = _parse(code)
    return code if statement is None else _unparse(_Plain().visit(statement))


def _update(code: str) -> str:
    """Return the update of a weight without `.data`, in place."""
    statement = _parse(code)
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
        target, value = (_unparse(_Plain().visit(node)) for node in (statement.targets[0], statement.value))
        return f"{target}.copy_({value})"
    return _plain(code)


def _parse(code: str) -> ast.stmt | None:
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return None
    return body[0] if len(body) == 1 else None


def _loaded(node: ast.expr) -> ast.expr:
    parsed = ast.parse(ast.unparse(node), mode="eval")
    return parsed.body


def _unparse(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node))
