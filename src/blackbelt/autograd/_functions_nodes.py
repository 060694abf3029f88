"""Looking over the shoulder of a custom backward: what it was given, what it returned before the engine mended it.

The engine casts a gradient to the dtype of its input, and sums one that is too large to the input's shape
(``validate_outputs`` in ``torch/csrc/autograd/engine.cpp``). What ``backward`` itself returned is seen at the node:
the engine looks up ``apply`` on the Python object of the node (``PyNode::apply`` in
``torch/csrc/autograd/python_function.cpp``), so a node can be given an ``apply`` of its own for one pass, while the
class stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

from blackbelt.autograd._functions_numbers import same_bits


@dataclass
class Observation:
    """One call of one custom backward."""

    node_name: str
    needs_input_grad: tuple[bool, ...]
    expected: dict[int, tuple[torch.Size, torch.dtype]]
    grad_outputs: tuple[Any, ...] = ()
    returned: tuple[Any, ...] = ()
    changed_grad_outputs: list[int] = field(default_factory=list)
    changed_saved: list[str] = field(default_factory=list)


def custom_nodes(outputs: Sequence[torch.Tensor]) -> list[Any]:
    """Return the nodes of custom ``autograd.Function``s in the graph of the outputs, nearest the outputs first."""
    seen: set[Any] = set()
    found = []
    todo: list[Any] = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while todo:
        node = todo.pop(0)
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            found.append(node)
        todo += [parent for parent, _ in node.next_functions if parent is not None]
    return found


def observe(nodes: Sequence[Any]) -> list[Observation]:
    """Give each node an ``apply`` of its own; the observations are filled in when backward runs."""
    observations = []
    for node in nodes:
        observation = Observation(node.name(), tuple(node.needs_input_grad), _expected(node))
        spy = _Spy(node, observation)
        if getattr(_function_of(node), "boxed_grads_call", False):  # since torch 2.15: gradients come in a list
            node.apply_boxed = spy
        else:
            node.apply = spy
        observations.append(observation)
    return observations


def stop_observing(nodes: Sequence[Any]) -> None:
    """Take the observers off again."""
    for node in nodes:
        node.__dict__.pop("apply", None)
        node.__dict__.pop("apply_boxed", None)


class _Spy:
    def __init__(self, node: Any, observation: Observation) -> None:
        self.node_type, self.observation = type(node), observation
        self.node = node

    def __call__(self, *arguments: Any) -> Any:
        seen = self.observation
        boxed = bool(arguments) and isinstance(arguments[0], list)
        grad_outputs = tuple(arguments[0]) if boxed else arguments
        before = [g.detach().clone() if isinstance(g, torch.Tensor) else None for g in grad_outputs]
        saved = {name: (t, t.detach().clone()) for name, t in held_tensors(self.node)}
        call = self.node_type.apply_boxed if boxed else self.node_type.apply
        returned = call(self.node, *arguments)
        seen.grad_outputs = grad_outputs
        seen.returned = tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)
        seen.changed_grad_outputs = [
            i for i, (g, b) in enumerate(zip(grad_outputs, before)) if b is not None and not same_bits(g.detach(), b)
        ]
        seen.changed_saved = [name for name, (t, b) in saved.items() if not same_bits(t.detach(), b)]
        return returned


def held_tensors(node: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Return every tensor that a custom node keeps for backward, with the name it has there."""
    if not getattr(_function_of(node), "clear_saved_tensors_on_access", False):  # there, looking would empty it
        for index, tensor in enumerate(node.saved_tensors):
            if tensor is not None:
                yield f"ctx.saved_tensors[{index}]", tensor
    yield from attributes(node)


def attributes(node: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Return the tensors that are plain attributes of a custom node, one level of containers deep."""
    for name, value in node.__dict__.items():
        if name in {"apply", "apply_boxed", "needs_input_grad"}:
            continue
        if isinstance(value, torch.Tensor):
            yield f"ctx.{name}", value
        elif isinstance(value, dict):
            yield from ((f"ctx.{name}[{k!r}]", v) for k, v in value.items() if isinstance(v, torch.Tensor))
        elif isinstance(value, (list, tuple)):
            yield from ((f"ctx.{name}[{i}]", v) for i, v in enumerate(value) if isinstance(v, torch.Tensor))


def _function_of(node: Any) -> Any:
    return node._forward_cls  # noqa: SLF001  # the Function that a node belongs to has no public name


def _expected(node: Any) -> dict[int, tuple[torch.Size, torch.dtype]]:
    """Return shape and dtype of the gradient that each input needs, by its position."""
    edges = [(parent, index) for parent, index in node.next_functions if parent is not None]
    positions = [position for position, needed in enumerate(node.needs_input_grad) if needed]
    expected = {}
    for position, (parent, index) in zip(positions, edges):
        variable = getattr(parent, "variable", None)
        if variable is not None:
            expected[position] = (variable.shape, variable.dtype)
        else:
            metadata = parent._input_metadata[index]  # noqa: SLF001  # what the engine itself compares with
            expected[position] = (torch.Size(metadata.shape), metadata.dtype)
    return expected
