"""A reverse-mode engine on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from blackbelt.dojo.kata import kata
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.graph._engine import NeedsNoAutograd, PassesGradcheck, RightGradients, engine, expressions
from blackbelt.katas.autograd.graph._shared import Program


def _case(code: str, *shapes: tuple[int, ...]) -> tuple[Any, ...]:
    """Return a program and inputs of those shapes, by the names x, y, z."""
    inputs = [numbers(shape, torch.float64, seed=index) for index, shape in enumerate(shapes)]
    return (Program(" ".join("xyz"[: len(inputs)]), code), *inputs)


@kata(
    minutes=75,
    belt="blue",
    hints=(
        (
            "Let a `Variable` hold a tensor, and for every operand it was made from, a function that takes its own "
            "gradient to the operand's. Which order of creation do operands and results have?"
        ),
        (
            "Append every Variable to a list as it is made. Reversed, that list is an order for backward: when a "
            "Variable's turn comes, all who used it have had theirs. *Add* what arrives: several may have used it."
        ),
        (
            "Broadcasting: bring what you send back to the operand's shape with `sum_to_size`. For `a @ b`: `g @ b.mT` "
            "and `a.mT @ g`. For an index: `torch.arange(a.numel()).reshape(a.shape)[index]` says where each element "
            "came from; `index_add` puts the gradient there and adds where an element was taken twice."
        ),
    ),
    cases=expressions(),
    edge_cases=lambda: {
        "a sum": _case("out = x.sum()", (3,)),
        "a product": _case("out = (x * y).sum()", (3,), (3,)),
        "used twice": _case("out = (x * x + x).sum()", (3,)),
        "broadcast": _case("out = (x * y).sum()", (2, 3), (3,)),
        "broadcast over a size of 1": _case("out = (x * y).sum()", (2, 3), (2, 1)),
        "a difference": _case("out = (x - 2 * y).sum()", (3,), (3,)),
        "a number first": _case("out = (2 - 3 / (x * x + 1)).sum()", (3,)),
        "a quotient": _case("out = (x / (y * y + 1)).sum()", (3,), (3,)),
        "a power": _case("out = (x ** 3).sum()", (3,)),
        "exp, log, tanh": _case("out = (x.exp() + (x * x + 1).log() * x.tanh()).sum()", (3,)),
        "relu": _case("out = (x.relu() * y).sum()", (4,), (4,)),
        "relu at zero": (
            Program("x", "out = (x.relu() * 2).sum()"),
            torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64),
        ),
        "a square matrix product": _case("out = ((x @ y) ** 2).sum()", (3, 3), (3, 3)),
        "a matrix product": _case("out = ((x @ y) ** 2).sum()", (2, 3), (3, 4)),
        "a batch of matrix products": _case("out = ((x @ y) ** 2).sum()", (2, 2, 3), (3, 2)),
        "sums over a dimension": _case("out = (x / (x.exp()).sum(1, keepdim=True) * x.sum(0)).sum()", (2, 3)),
        "reshape and transpose": _case("out = (x.reshape(3, 2) * y.transpose(0, 1)).sum()", (2, 3), (2, 3)),
        "an index": _case("out = (x[0] * x[:, 1:]).sum()", (2, 2)),
        "an index that repeats": _case("i = torch.tensor([0, 2, 0]); out = (x[i] ** 2).sum()", (3,)),
        "one is not used": _case("out = (x * x).sum()", (3,), (2,)),
        "a shortcut": _case("a = x.tanh(); b = a * a; out = (a * b.exp()).sum()", (3,)),
        "a shortcut, the other way": _case("a = x.tanh(); b = a * a; out = (b.exp() * a).sum()", (3,)),
        "2,000 steps": _case("out = x.sum()\nfor _ in range(2000): out = out * 0.999 + 0.01", (3,)),
    },
    laws=[
        RightGradients(),
        NeedsNoAutograd(on=("a sum", "used twice")),
        PassesGradcheck(on=("a quotient", "a batch of matrix products", "sums over a dimension")),
    ],
)
def differentiate(function: Callable[..., Any], *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A reverse-mode engine on tensors.

    Write autograd. `function` takes as many `Variable`s (a class of yours) as there are `inputs` and returns one that
    holds a single number. Return the gradient of that number for each input: same shape, zeros where it was not used.

    A Variable needs:

    - `+  -  *  /` with a Variable or, on either side, a number; `-a`, `a ** number`, with broadcasting
    - `a @ b` for at least two dimensions each, leading ones broadcast
    - `.exp()`, `.log()`, `.tanh()`, `.relu()` (the derivative of `relu` at 0 is 0)
    - `.sum()`, `.sum(dim)`, `.sum(dim, keepdim=True)`
    - `.reshape(*shape)`, `.transpose(dim0, dim1)`, and `a[index]`, where an index tensor may name an element twice

    ```python
    differentiate(lambda x, y: (x * y).sum(), torch.ones(2, 3), torch.ones(3))  # (ones (2, 3), twos (3,))
    ```

    Use any operation of PyTorch on the values; leave its autograd alone. Ours takes some 60 lines; under 150 is a good
    engine. Graphs can be deep, and results can be used many times.
    """
    tape: list[Any] = []

    class Variable:
        def __init__(self, value: torch.Tensor, *edges: Any) -> None:
            self.value, self.edges = value, edges  # an edge: an operand, and how the gradient goes back to it
            tape.append(self)

    def operation(rule: Callable[..., Any]) -> Callable[..., Any]:
        """Turn a rule on tensors (value, one backward per operand) into an operation on Variables."""

        def record(*operands: Any, **options: Any) -> Variable:
            value, *backwards = rule(*(getattr(each, "value", each) for each in operands), **options)
            edges = zip(operands, backwards)
            return Variable(value, *(edge for edge in edges if isinstance(edge[0], Variable)))

        return record

    def reduce(a: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
        if dim is None:
            return a.sum(), lambda g: g.expand(a.shape)
        return a.sum(dim, keepdim), lambda g: (g if keepdim else g.unsqueeze(dim)).expand(a.shape)

    def pick(a: torch.Tensor, index: Any) -> Any:
        places = torch.arange(a.numel()).reshape(a.shape)[index].flatten()
        return a[index], lambda g: a.new_zeros(a.numel()).index_add(0, places, g.flatten()).reshape(a.shape)

    rules: dict[str, Callable[..., Any]] = {
        "__add__": lambda a, b: (a + b, lambda g: g, lambda g: g),
        "__radd__": lambda a, b: (b + a, lambda g: g),
        "__sub__": lambda a, b: (a - b, lambda g: g, lambda g: -g),
        "__rsub__": lambda a, b: (b - a, lambda g: -g),
        "__mul__": lambda a, b: (a * b, lambda g: g * b, lambda g: g * a),
        "__rmul__": lambda a, b: (b * a, lambda g: g * b),
        "__truediv__": lambda a, b: (a / b, lambda g: g / b, lambda g: -g * a / b**2),
        "__rtruediv__": lambda a, b: (b / a, lambda g: -g * b / a**2),
        "__pow__": lambda a, n: (a**n, lambda g: g * n * a ** (n - 1)),
        "__neg__": lambda a: (-a, lambda g: -g),
        "__matmul__": lambda a, b: (a @ b, lambda g: g @ b.mT, lambda g: a.mT @ g),
        "__getitem__": pick,
        "exp": lambda a: (a.exp(), lambda g: g * a.exp()),
        "log": lambda a: (a.log(), lambda g: g / a),
        "tanh": lambda a: (a.tanh(), lambda g: g * (1 - a.tanh() ** 2)),
        "relu": lambda a: (a.relu(), lambda g: g * (a > 0)),
        "sum": reduce,
        "reshape": lambda a, *shape: (a.reshape(*shape), lambda g: g.reshape(a.shape)),
        "transpose": lambda a, *dims: (a.transpose(*dims), lambda g: g.transpose(*dims)),
    }
    for name, rule in rules.items():
        setattr(Variable, name, operation(rule))

    variables = [Variable(value) for value in inputs]
    output = function(*variables)
    gradients = {output: torch.ones_like(output.value)}
    for node in reversed(tape):  # who used it was made after it, and has had its turn
        for operand, backward in node.edges if node in gradients else ():
            share = backward(gradients[node]).sum_to_size(operand.value.shape)  # undoes broadcasting
            gradients[operand] = gradients[operand] + share if operand in gradients else share
    return tuple(gradients.get(each, torch.zeros_like(each.value)) for each in variables)


@differentiate.wrong(
    "It overwrites a gradient that is there already. A value that was used twice gets two gradients: add them."
)
def overwrites(function, *inputs):
    return engine(function, inputs, add=False)


@differentiate.wrong(
    "It sends the gradient of the result back as it is. Where an operand was broadcast, each of its elements was used "
    "many times: sum over the copies."
)
def no_unbroadcast(function, *inputs):
    return engine(function, inputs, fit=lambda gradient, _: gradient)


@differentiate.wrong(
    "It undoes broadcasting where a dimension was added and forgets the dimensions of size 1 that were stretched."
)
def only_added_dimensions(function, *inputs):
    def fit(gradient, shape):
        added = gradient.dim() - len(shape)
        return gradient.sum(tuple(range(added))) if added > 0 else gradient

    return engine(function, inputs, fit=fit)


@differentiate.wrong(
    "It goes depth first from the output. A value is passed on before everyone who used it has sent its gradient: go "
    "through the Variables in the reverse of the order in which they were made."
)
def depth_first(function, *inputs):
    return engine(function, inputs, order="depth first")


@differentiate.wrong(
    "It finds its order by recursion, as micrograd does. Python stops that after a thousand operations: keep a list."
)
def by_recursion(function, *inputs):
    return engine(function, inputs, order="recursive")


@differentiate.wrong("It sends the same gradient to both sides of a difference. The right one gets it with a minus.")
def plus_for_minus(function, *inputs):
    return engine(function, inputs, __sub__=lambda a, b: (a - b, lambda g: g, lambda g: g))


@differentiate.wrong("It forgets the sign under a fraction: the gradient of `a / b` for `b` is `-a / b²`.")
def no_minus_below(function, *inputs):
    return engine(function, inputs, __truediv__=lambda a, b: (a / b, lambda g: g / b, lambda g: g * a / b**2))


@differentiate.wrong(
    "It forgets to transpose in a matrix product. For `a @ b` the gradients are `g @ b.mT` and `a.mT @ g`; square "
    "matrices hide it, others do not even fit."
)
def not_transposed(function, *inputs):
    return engine(function, inputs, __matmul__=lambda a, b: (a @ b, lambda g: g @ b, lambda g: a @ g))


@differentiate.wrong("It lets the gradient through where relu's input is 0. Its derivative there is taken as 0.")
def relu_at_zero(function, *inputs):
    return engine(function, inputs, relu=lambda a: (a.relu(), lambda g: g * (a >= 0)))


@differentiate.wrong(
    "It multiplies by `n` and forgets that the power falls: the derivative of `a ** n` is `n a ** (n - 1)`."
)
def power_stays(function, *inputs):
    return engine(function, inputs, __pow__=lambda a, n: (a**n, lambda g: g * n * a**n))


@differentiate.wrong(
    "It writes the gradient to the indexed elements. Where an index names an element twice, the last write wins: add, "
    "with `index_add` or `index_put(…, accumulate=True)`."
)
def index_writes(function, *inputs):
    def pick(a, index):
        def backward(g):
            gradient = torch.zeros_like(a)
            gradient[index] = g
            return gradient

        return a[index], backward

    return engine(function, inputs, __getitem__=pick)


@differentiate.wrong("It returns None for an input that was not used. The gradient is there, and it is zero.")
def none_where_unused(function, *inputs):
    used = [False] * len(inputs)
    gradients = engine(function, inputs)
    used = [bool(gradient.any()) for gradient in gradients]
    return tuple(gradient if is_used else None for gradient, is_used in zip(gradients, used))


@differentiate.wrong("It lets PyTorch's autograd do the work. Here you write the engine; PyTorch's is the judge.")
def calls_autograd(function, *inputs):
    leaves = [each.detach().requires_grad_() for each in inputs]
    with torch.inference_mode(False), torch.enable_grad():
        gradients = torch.autograd.grad(function(*leaves), leaves, allow_unused=True)
    return tuple(torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients))


@differentiate.also_right
def with_rules_in_a_table(function, *inputs):
    return engine(function, inputs)
