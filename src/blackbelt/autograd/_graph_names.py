"""What a caller passes to `draw_graph` and `graph_report`: outputs in any nesting, parameters and inputs with names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

HOW = "Pass the tensor that your forward pass returned, such as the loss."


@dataclass(frozen=True)
class Named:
    """A tensor that the caller gave a name to: what it is, "parameter", "buffer" or "input", and its names."""

    tensor: torch.Tensor
    what: str
    label: str


def flatten_outputs(output: Any) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors in ``output`` with the place of each, e.g. ``output["loss"]``. Walks without recursion.

    Inside of a sequence or mapping, values that are no tensors are passed over. Raises TypeError where there is no
    tensor.
    """
    found: list[tuple[str, torch.Tensor]] = []
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [("output", output)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, torch.Tensor):
            found.append((name, value))
        elif id(value) in seen:
            continue
        elif isinstance(value, Mapping):
            seen.add(id(value))
            stack.extend((f"{name}[{key!r}]", item) for key, item in reversed(list(value.items())))
        elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            seen.add(id(value))
            stack.extend((f"{name}[{index}]", value[index]) for index in reversed(range(len(value))))
    if not found:
        raise TypeError(
            f"output is of type {type(output).__name__} and holds no tensor; expected a tensor, or a list, tuple or "
            f"dict of tensors. {HOW}"
        )
    return found


def named_tensors(params: Any, inputs: Any) -> list[Named]:
    """Return what ``params`` and ``inputs`` name; a tensor that has several names gets them all in its label."""
    pairs: list[tuple[str, str, torch.Tensor]] = []
    if isinstance(params, nn.Module):
        pairs += [("parameter", name, value) for name, value in params.named_parameters(remove_duplicate=False)]
        pairs += [("buffer", name, value) for name, value in params.named_buffers(remove_duplicate=False)]
    elif params is not None:
        pairs += [("parameter", name, value) for name, value in _pairs(params, "params", "model.named_parameters()")]
    if inputs is not None:
        pairs += [("input", name, value) for name, value in _pairs(inputs, "inputs", '{"x": x}')]
    merged: dict[int, Named] = {}
    for what, name, tensor in pairs:
        before = merged.get(id(tensor))
        if before is None:
            merged[id(tensor)] = Named(tensor, what, name)
        elif name not in before.label.split(" = "):
            merged[id(tensor)] = Named(tensor, before.what, f"{before.label} = {name}")
    return list(merged.values())


def _pairs(values: Any, argument: str, example: str) -> Iterable[tuple[str, torch.Tensor]]:
    expected = f"expected names with tensors, e.g. {argument}={example}"
    if argument == "params":
        expected = f"expected a module, or names with tensors, e.g. params=model or params={example}"
    if isinstance(values, (torch.Tensor, nn.Module, str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{argument} is of type {type(values).__name__}; {expected}")
    for item in values.items() if isinstance(values, Mapping) else values:
        if not (isinstance(item, Sequence) and len(item) == 2 and isinstance(item[0], str)):
            raise TypeError(f"{argument} holds an item of type {type(item).__name__} without a name; {expected}")
        name, tensor = item
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{argument}[{name!r}] is of type {type(tensor).__name__}; {expected}")
        yield name, tensor
