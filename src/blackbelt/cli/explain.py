"""``blackbelt explain``: the tools from a terminal."""

from __future__ import annotations

import ast
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from blackbelt.cli._output import say_json, show

if TYPE_CHECKING:
    from blackbelt.report import Report


class Tool(str, Enum):
    """What can be explained."""

    broadcast = "broadcast"
    view = "view"
    einsum = "einsum"


class ArgumentError(ValueError):
    """A size, or a number of arguments, that the tool cannot take."""

    exit_code = 2


def explain(
    tool: Annotated[Tool, typer.Argument(help="What to explain.")],
    arguments: Annotated[
        list[str], typer.Argument(help="Sizes such as '(32, 1)'; for einsum the equation comes first.")
    ],
    stride: Annotated[str | None, typer.Option(help="For view: the tensor's stride; contiguous without.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain a broadcast, view or einsum.

    Sizes are given as Python writes them, in quotes.

    Examples:
      blackbelt explain broadcast "(32, 1)" "(32,)"
      blackbelt explain view "(4, 6)" "(24,)" --stride "(1, 4)"
      blackbelt explain einsum "ij,jk->ik" "(3, 4)" "(4, 5)"
    """
    if stride is not None and tool is not Tool.view:
        raise ArgumentError(f"--stride {stride!r} was passed to {tool.value}; only view takes it")
    if tool is Tool.broadcast:
        report = _broadcast(arguments)
    elif tool is Tool.view:
        report = _view(arguments, stride)
    else:
        report = _einsum(arguments)
    if as_json:
        say_json(report.to_dict())
    else:
        show(report)


def _broadcast(arguments: list[str]) -> Report:
    sizes = [_size(argument) for argument in arguments]
    from blackbelt.tensors.broadcasting import explain_broadcast

    return explain_broadcast(*sizes)


def _view(arguments: list[str], stride: str | None) -> Report:
    if len(arguments) != 2:
        raise ArgumentError(
            f"view got {len(arguments)} of its sizes; expected two, the tensor's and the wanted one: "
            'blackbelt explain view "(4, 6)" "(24,)"'
        )
    size, shape = (_size(argument) for argument in arguments)
    steps = None if stride is None else _size(stride)
    if steps is not None and (len(steps) != len(size) or min(steps, default=0) < 0):
        raise ArgumentError(
            f"--stride {steps} for size {size}; expected {len(size)} steps of 0 or more, one per dimension"
        )
    if min(size, default=0) < 0:
        raise ArgumentError(
            f"the tensor's size is {size}; expected 0 or more in each dimension; only the second may hold -1"
        )
    import torch

    from blackbelt.tensors.strides import explain_view

    meta = torch.device("meta")  # sizes and strides, and no memory
    tensor = torch.empty(size, device=meta) if steps is None else torch.empty_strided(size, steps, device=meta)
    return explain_view(tensor, shape)


def _einsum(arguments: list[str]) -> Report:
    equation, *sizes = arguments
    if not sizes:
        raise ArgumentError(
            f"einsum got the equation {equation!r} and no size; expected one per operand: "
            'blackbelt explain einsum "ij,jk->ik" "(3, 4)" "(4, 5)"'
        )
    shapes = [_size(size) for size in sizes]
    from blackbelt.tensors.einsum import explain_einsum

    return explain_einsum(equation, *shapes)


def _size(text: str) -> tuple[int, ...]:
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    sizes = (value,) if isinstance(value, int) else value
    if not isinstance(sizes, (tuple, list)) or not all(isinstance(n, int) and not isinstance(n, bool) for n in sizes):
        raise ArgumentError(f"{text!r} is no size; expected whole numbers in parentheses, in quotes, such as '(32, 1)'")
    return tuple(sizes)
