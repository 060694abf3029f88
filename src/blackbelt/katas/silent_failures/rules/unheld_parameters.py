"""What does the loss depend on that no optimizer will move?"""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value


class Loss:
    """Computes the loss of a model anew at every call, so that there is a graph to walk."""

    def __init__(self, model: nn.Module, inputs: torch.Tensor, hidden: Any = ()) -> None:
        self.model, self.inputs, self._hidden = model, inputs, hidden

    def __repr__(self) -> str:
        layers = f"{len(self._hidden)} layers in a list, then " if self._hidden else ""
        return f"<the loss of {layers}{type(self.model).__name__}>"

    def __call__(self) -> torch.Tensor:
        x = self.inputs
        for layer in self._hidden:
            x = layer(x).tanh()
        loss: torch.Tensor = self.model(x).square().mean()
        return loss


class Twice(nn.Module):
    """One layer, used twice, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(3, 3), nn.Linear(7, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(self.layer(x).tanh())
        return result


def _sgd(*groups):
    return torch.optim.SGD([{"params": list(group)} for group in groups], lr=0.1)


def _case(name, rows=2):
    x, head = torch.randn(rows, 3), nn.Linear(3, 2)
    layers = [nn.Linear(3, 3), nn.Linear(3, 3, bias=False)]
    if name == "a list of layers":
        return Loss(head, x, layers), _sgd(head.parameters())
    if name == "two groups":
        return Loss(nn.Sequential(*layers, head), x), _sgd(layers[0].parameters(), head.parameters())
    if name == "a frozen layer":
        layers[0].requires_grad_(False)
        return Loss(head, x, layers), _sgd(head.parameters())
    if name == "a layer used twice":
        return Loss(Twice(), x), _sgd(head.parameters())
    if name == "an input that requires a gradient":
        return Loss(head, x.requires_grad_()), _sgd([head.weight])
    return Loss(nn.Sequential(*layers, head), x), _sgd(nn.Sequential(*layers, head).parameters())


NAMES = (
    "a list of layers",
    "two groups",
    "a frozen layer",
    "a layer used twice",
    "an input that requires a gradient",
    "all are held",
)


@kata(
    minutes=15,
    belt="green",
    hints=(
        "The model is the wrong place to ask: what it does not know is what you are looking for. Ask the loss.",
        (
            "From `loss.grad_fn`, `next_functions` leads on. Where a node has an attribute `variable`, it is a leaf. "
            "Nodes and leaves can be reached on several ways: count each once."
        ),
        (
            "Compare by `id`: `in` asks tensors whether they are equal, element by element. All groups of the "
            "optimizer hold parameters, and a leaf that is no `nn.Parameter` is not meant."
        ),
    ),
    cases=st.tuples(st.sampled_from(NAMES), st.integers(1, 4)).map(lambda c: _case(*c)),
    edge_cases=lambda: {name: _case(name) for name in NAMES},
    laws=[Value()],
)
def unheld_parameters(compute_loss: Any, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """What does the loss depend on that no optimizer will move?

    `compute_loss()` returns a loss with its graph. Return how many `nn.Parameter`s it depends on that `optimizer` holds
    in none of its groups, and how many elements these have together. Each counts once, however often it is used; what
    requires no gradient is not in the graph and does not count. Fill no `.grad`.

    ```python
    unheld_parameters(lambda: model(x).mean(), torch.optim.SGD(model.parameters(), lr=0.1))  # (0, 0)
    ```
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    seen, waiting, leaves = set(), [compute_loss().grad_fn], {}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        if isinstance(getattr(node, "variable", None), nn.Parameter) and id(node.variable) not in held:
            leaves[id(node.variable)] = node.variable
    return len(leaves), sum(leaf.numel() for leaf in leaves.values())


def _leaves(compute_loss):
    seen, waiting = set(), [compute_loss().grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return [node.variable for node in seen if hasattr(node, "variable")]


def _held(optimizer):
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _counted(leaves):
    return len(leaves), sum(leaf.numel() for leaf in leaves)


@unheld_parameters.wrong(
    "It asks the model for its parameters. A layer in a list is not among them, and that is the failure in question. "
    "Walk from the loss."
)
def asks_the_model(compute_loss, optimizer):
    compute_loss()
    parameters = [p for p in compute_loss.model.parameters() if p.requires_grad]
    return _counted([p for p in parameters if id(p) not in _held(optimizer)])


@unheld_parameters.wrong(
    "It looks at the first group of the optimizer only. Groups with rates of their own are common; what the second "
    "holds is held."
)
def first_group_only(compute_loss, optimizer):
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    return _counted([p for p in _leaves(compute_loss) if isinstance(p, nn.Parameter) and id(p) not in held])


@unheld_parameters.wrong(
    "It follows every way through the graph anew. A layer that is used twice is counted twice, and in a deep network "
    "with skips the ways are too many to follow. Remember the nodes that you have seen."
)
def counts_every_way(compute_loss, optimizer):
    waiting, leaves = [compute_loss().grad_fn], []
    while waiting:
        node = waiting.pop()
        if node is not None:
            waiting += [following for following, _ in node.next_functions]
            leaves += [node.variable] if hasattr(node, "variable") else []
    return _counted([p for p in leaves if isinstance(p, nn.Parameter) and id(p) not in _held(optimizer)])


@unheld_parameters.wrong(
    "It counts every leaf. An input may require a gradient as well, for an adversarial example or a saliency map, and "
    "no optimizer is to hold it: only an `nn.Parameter` counts."
)
def counts_inputs(compute_loss, optimizer):
    return _counted([p for p in _leaves(compute_loss) if id(p) not in _held(optimizer)])


@unheld_parameters.wrong("It counts what the optimizer does hold. Those are fine: the question is for the others.")
def counts_the_held(compute_loss, optimizer):
    return _counted([p for p in _leaves(compute_loss) if id(p) in _held(optimizer)])


@unheld_parameters.also_right
def recursively(compute_loss, optimizer):
    found, seen = {}, set()

    def visit(node):
        if node is None or node in seen:
            return
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, nn.Parameter):
            found[id(variable)] = variable.numel()
        for following, _ in node.next_functions:
            visit(following)

    visit(compute_loss().grad_fn)
    for key in _held(optimizer):
        found.pop(key, None)
    return len(found), sum(found.values())
