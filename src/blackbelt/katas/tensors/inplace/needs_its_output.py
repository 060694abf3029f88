"""Does backward need the output?."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers


def _plus_one(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def _softmax(x: torch.Tensor) -> torch.Tensor:
    return x.softmax(-1)


def _exp_as_a_row(x: torch.Tensor) -> torch.Tensor:
    return x.exp().view(-1)


def _exp_and_more(x: torch.Tensor) -> torch.Tensor:
    return x.exp() * 2


def _clamp(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-99, 99)


_OPERATIONS = (
    torch.exp,
    torch.sin,
    torch.relu,
    torch.tanh,
    torch.abs,
    _plus_one,
    _softmax,
    _exp_as_a_row,
    _exp_and_more,
    _clamp,
)


def _positive(*shape: int) -> torch.Tensor:
    return (numbers(shape).abs() + 0.1).requires_grad_()


@kata(
    minutes=15,
    belt="green",
    hints=(
        "Whether a write breaks backward depends on what was saved. Autograd lets you watch it save.",
        (
            "`torch.autograd.graph.saved_tensors_hooks(pack, unpack)` calls `pack` with every tensor that is saved "
            "while the operation runs, by any node of the graph."
        ),
        (
            "Collect what `pack` gets, then compare storages: `t.untyped_storage().data_ptr()`. Equal values in other "
            "memory do not matter."
        ),
    ),
    cases=st.tuples(
        st.sampled_from(_OPERATIONS), st.sampled_from(((2,), (2, 3), (1, 2, 2))).map(lambda s: _positive(*s))
    ),
    edge_cases=lambda: {
        "exp": (torch.exp, _positive(2, 3)),
        "sin": (torch.sin, _positive(2, 3)),
        "relu": (torch.relu, _positive(3)),
        "softmax": (_softmax, _positive(2, 3)),
        "x + 1": (_plus_one, _positive(3)),
        "exp, then a view": (_exp_as_a_row, _positive(2, 3)),
        "exp, then times 2": (_exp_and_more, _positive(2, 3)),
        "clamp that changes nothing": (_clamp, _positive(2, 3)),
    },
    laws=[
        Value(),
        # `torch.overrides.resolve_name` knows no longer name for `torch.autograd.grad`.
        Forbids({"grad": "watch what is saved", "torch.Tensor.backward": "watch what is saved"}),
    ],
)
def needs_its_output(operation: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> bool:
    """Does backward need the output?

    Return whether writing in place to `operation(x)` would change a tensor that some node of its graph has saved. `x`
    requires grad. Do not find out by running backward.

    ```python
    needs_its_output(torch.exp, x)            # True: d exp(x)/dx is exp(x), so the output itself was saved
    needs_its_output(torch.sin, x)            # False: the input was saved
    needs_its_output(lambda x: x + 1, x)      # False: nothing was saved
    ```
    """
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.detach())
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = operation(x)
    memory = output.untyped_storage().data_ptr()
    return any(tensor.untyped_storage().data_ptr() == memory for tensor in saved)


def _saved_by(node: Any) -> list[torch.Tensor]:
    values = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
    return [value for value in values if isinstance(value, torch.Tensor)]


@needs_its_output.wrong("It looks at the last node only. A view of `exp(x)` is still the memory that `exp` saved.")
def last_node_only(operation, x):
    output = operation(x)
    memory = output.untyped_storage().data_ptr()
    return any(tensor.untyped_storage().data_ptr() == memory for tensor in _saved_by(output.grad_fn))


@needs_its_output.wrong("It asks whether anything was saved. `sin` saves its input; its output may be written to.")
def anything_saved(operation, x):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.detach()) or t.detach(), lambda t: t):
        operation(x)
    return bool(saved)


@needs_its_output.wrong("It compares values. Equal numbers in other memory are safe: compare storages.")
def compares_values(operation, x):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.detach()) or t.detach(), lambda t: t):
        output = operation(x)
    return any(t.numel() == output.numel() and torch.equal(t.reshape(-1), output.reshape(-1)) for t in saved)


@needs_its_output.wrong("It asks about the input. The question is whether the output's memory was saved.")
def asks_about_the_input(operation, x):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.detach()) or t.detach(), lambda t: t):
        operation(x)
    return any(t.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for t in saved)


@needs_its_output.wrong(
    "It tries a backward. That works, and you still do not know what was saved: watch it being saved."
)
def tries_it(operation, x):
    output = operation(x)
    with torch.no_grad():
        output += 1
    try:
        torch.autograd.grad(output.sum(), x)
    except RuntimeError:
        return True
    return False


@needs_its_output.also_right
def walks_the_graph(operation, x):
    output = operation(x)
    memory, nodes, found = output.untyped_storage().data_ptr(), [output.grad_fn], False
    while nodes:
        node = nodes.pop()
        found = found or any(t.untyped_storage().data_ptr() == memory for t in _saved_by(node))
        nodes += [parent for parent, _ in node.next_functions if parent is not None]
    return found
