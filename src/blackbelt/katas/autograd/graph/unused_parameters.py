"""Which parameters does this loss not reach."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.operators import Calls
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.graph._shared import Exactly, recorded


def _case(code: str, frozen: str = "", tied: bool = False, equal: bool = False) -> tuple[Any, ...]:
    """Return an output and the model of three layers, `m["a"]`, `m["b"]` and `m["c"]`, that made it."""
    model = nn.ModuleDict({name: nn.Linear(3, 3) for name in "abc"})
    for index, parameter in enumerate(model.parameters()):
        parameter.data.copy_(torch.full(parameter.shape, 0.5) if equal else numbers(parameter.shape, seed=index))
    for name in frozen:
        model[name].requires_grad_(False)
    if tied:
        model["b"].weight = model["a"].weight
    return (recorded(code, m=model, x=numbers((2, 3))), model)


def _layers(names: list[str], frozen: set[str]) -> tuple[Any, ...]:
    lines = [f'x = m["{name}"](x)' for name in names]
    return _case("; ".join([*lines, "out = x.sum()"]), "".join(sorted(frozen)))


@kata(
    minutes=20,
    belt="green",
    hints=(
        "Where does a gradient end its way? Which nodes of the graph are those, and what do they know?",
        (
            "A node that adds into `.grad` has an attribute `variable`: the parameter itself, the very object. Walk "
            "the graph and collect them."
        ),
        (
            "Compare by `is` (or `id`): two parameters may hold the same numbers. Of `model.named_parameters()` keep "
            "those that require grad and whose `id` you have not met."
        ),
    ),
    cases=st.builds(_layers, st.lists(st.sampled_from("abc"), max_size=4), st.sets(st.sampled_from("abc"), max_size=3)),
    edge_cases=lambda: {
        "all are used": _case('out = m["c"](m["b"](m["a"](x))).sum()'),
        "a layer is never called": _case('out = m["b"](m["a"](x)).sum()'),
        "two branches": _case('out = (m["a"](x) * m["b"](x)).sum()'),
        "a layer is frozen": _case('out = m["b"](m["a"](x)).sum()', frozen="ac"),
        "equal numbers": _case('out = m["b"](m["a"](x)).sum()', equal=True),
        "a weight used twice": _case('out = m["b"](x).sum()', tied=True),
        "detached": _case('out = m["b"](m["a"](x).detach()).sum()'),
        "one weight without its bias": _case('out = (m["a"].weight @ x.T).sum()'),
        "nothing recorded": _case("out = x.sum()"),
        "3,000 deep": _case('out = m["a"](x).sum()\nfor _ in range(3000): out = out * 1'),
    },
    laws=[Exactly(), Calls(at_most=0)],
    changes=(0,),
)
def unused_parameters(output: torch.Tensor, model: nn.Module) -> list[str]:
    """Which parameters does this loss not reach.

    Return the names of the parameters that want a gradient and would get none from `output.backward()`, in the order
    of `model.named_parameters()`. Frozen parameters want none. Read it off the graph: run no backward, which would
    change `.grad` and free the graph, and no other operation.

    ```python
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "spare": nn.Linear(3, 3)})
    unused_parameters(model["used"](x).sum(), model)  # ["spare.weight", "spare.bias"]
    ```

    `DistributedDataParallel` stops at such parameters, and its message gives their indices only.
    """
    reached, found, waiting = set(), set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            reached.add(id(getattr(node, "variable", None)))
            waiting += [following for following, _ in node.next_functions]
    named = model.named_parameters()
    return [name for name, parameter in named if parameter.requires_grad and id(parameter) not in reached]


def _reached(output: torch.Tensor, first_only: bool = False) -> list[torch.Tensor]:
    found, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            following = [each for each, _ in node.next_functions]
            waiting += [each for each in following if each is not None][:1] if first_only else following
    return [node.variable for node in found if hasattr(node, "variable")]


@unused_parameters.wrong(
    "It compares numbers. Two biases of zeros are equal and are two parameters: compare the objects, with `is`."
)
def by_value(output, model):
    reached = _reached(output)
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and not any(parameter.shape == each.shape and bool((parameter == each).all()) for each in reached)
    ]


@unused_parameters.wrong("It lists frozen parameters too. They want no gradient, so none is missing.")
def with_frozen_ones(output, model):
    reached = {id(each) for each in _reached(output)}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in reached]


@unused_parameters.wrong(
    "It runs backward and looks who has a `.grad`. The caller's gradients are changed and the graph is freed."
)
def after_backward(output, model):
    if output.requires_grad:
        output.backward()
    return [n for n, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]


@unused_parameters.wrong(
    "It runs a backward pass with `torch.autograd.grad`, which costs as much as training and frees the graph. Who is "
    "reached is written in the graph."
)
def by_gradients(output, model):
    wanting = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not output.requires_grad or not wanting:
        return list(wanting)
    gradients = torch.autograd.grad(output, list(wanting.values()), allow_unused=True)
    return [name for name, gradient in zip(wanting, gradients) if gradient is None]


@unused_parameters.wrong(
    "It follows one arrow of each node. An operation of two inputs has two, and a bias is one too."
)
def first_arrow(output, model):
    reached = {id(each) for each in _reached(output, first_only=True)}
    return [n for n, each in model.named_parameters() if each.requires_grad and id(each) not in reached]


@unused_parameters.wrong(
    "It calls itself for every node. Python stops that after a thousand levels: keep a list of nodes to visit."
)
def by_recursion(output, model):
    reached, seen = set(), set()

    def visit(node):
        if node is not None and node not in seen:
            seen.add(node)
            reached.add(id(getattr(node, "variable", None)))
            for following, _ in node.next_functions:
                visit(following)

    visit(output.grad_fn)
    return [n for n, each in model.named_parameters() if each.requires_grad and id(each) not in reached]


@unused_parameters.wrong(
    "It asks each parameter for `requires_grad`. That says that it wants a gradient, not that this output reaches it."
)
def by_flag(output, model):
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


@unused_parameters.also_right
def by_identity(output, model):
    reached = _reached(output)
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    return [name for name, parameter in named if not any(parameter is each for each in reached)]
