"""The context of a custom `autograd.Function`: where it keeps tensors, and how many nodes it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any, ClassVar

import torch
from torch.autograd.function import BackwardCFunction

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, tensors_in

MOST_NODES = 10_000


@dataclass(frozen=True)
class NothingOnContext(Law):
    """No custom function in the result's graph keeps a tensor as an attribute of `ctx`, or in a closure."""

    why: ClassVar[str] = (
        "Only `save_for_backward` notices when a tensor is changed before backward, and only it makes no reference "
        "cycle."
    )

    def check(self, trial: Trial) -> None:
        for node in _nodes(trial.result):
            if not hasattr(node, "_forward_cls"):  # a node of PyTorch's own
                continue
            for name, value in vars(node).items():
                if any(True for _ in tensors_in(value)):
                    raise LawBroken(
                        f"It keeps a tensor as the attribute `ctx.{name}`", "ctx.save_for_backward(…)", f"ctx.{name}"
                    )
            for name in _captured(getattr(node._forward_cls, "backward", None)):  # noqa: SLF001
                raise LawBroken(
                    f"Its backward reaches a tensor, `{name}`, from outside", "ctx.save_for_backward(…)", f"`{name}`"
                )


@dataclass(frozen=True)
class OneNode(Law):
    """The result was made by one custom function, right behind the leaves."""

    why: ClassVar[str] = "The exercise is to write the node, forward and backward, not to record its pieces."

    def check(self, trial: Trial) -> None:
        for tensor in tensors_in(trial.result):
            node: Any = tensor.grad_fn
            if not isinstance(node, BackwardCFunction):
                got = "a leaf or a tensor without history" if node is None else f"`{node.name()}`"
                raise LawBroken("The result was not made by a custom function", "a Function of your own", got)
            behind = [following for following, _ in node.next_functions if following is not None]
            recorded = [following.name() for following in behind if not hasattr(following, "variable")]
            if recorded:
                raise LawBroken("Part of it is recorded before the custom function", "one node", f"`{recorded[0]}`")


def _nodes(value: Any) -> Iterator[Any]:
    waiting: list[Any] = [tensor.grad_fn for tensor in tensors_in(value) if tensor.grad_fn is not None]
    seen: set[Any] = set()
    while waiting and len(seen) < MOST_NODES:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(following for following, _ in node.next_functions if following is not None)


def _captured(function: Any, depth: int = 3) -> Iterator[str]:
    """Yield the names of tensors that a function, or one that it wraps, holds in its closure."""
    if isinstance(function, MethodType):
        function = function.__func__
    if not isinstance(function, FunctionType) or not depth:
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if isinstance(value, torch.Tensor):
            yield name
        yield from _captured(value, depth - 1)
