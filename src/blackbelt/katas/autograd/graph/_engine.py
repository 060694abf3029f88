"""What judges ``differentiate``: random programs, PyTorch's own autograd, finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.strategies import broadcastable_shapes, numbers
from blackbelt.dojo.trial import Trial, seeded
from blackbelt.katas.autograd.graph._shared import Program

TOLERANCE = 1e-9  # of the largest gradient: in float64, whatever the order in which a learner adds


@dataclass(frozen=True)
class RightGradients(Law):
    """Every gradient is the one that PyTorch's autograd gives for the same program."""

    why: ClassVar[str] = "A wrong gradient raises nothing; the model only learns something else."
    about_result: ClassVar[bool] = True

    def check(self, trial: Trial) -> None:
        program, *inputs = trial.case.fresh()
        expected, got = _by_autograd(program, inputs), trial.result
        if not isinstance(got, (tuple, list)) or len(got) != len(inputs):
            raise LawBroken(f"It should return a tuple of {len(inputs)} gradients", describe(expected), describe(got))
        for index, (wanted, given) in enumerate(zip(expected, got)):
            if type(given) is not torch.Tensor:
                sentence = f"The gradient of input {index} is {type(given).__name__}; a torch.Tensor was expected"
                raise LawBroken(sentence, describe(wanted), describe(given))
            if given.shape != wanted.shape or given.dtype != wanted.dtype:
                raise LawBroken(
                    f"The gradient of input {index} has another shape or dtype than the input",
                    describe(wanted),
                    describe(given),
                )
            scale = float(wanted.abs().max()) if wanted.numel() else 0.0
            if wanted.numel() and not float((given - wanted).abs().max()) <= TOLERANCE * max(scale, 1e-3):
                raise LawBroken(
                    f"The gradient of input {index} is not the one that PyTorch computes",
                    describe(wanted),
                    describe(given),
                )


@dataclass(frozen=True)
class NeedsNoAutograd(Law):
    """The answer is the same in inference mode, where PyTorch records nothing; and nothing leaves that mode."""

    why: ClassVar[str] = "The exercise is to build the engine, not to call it."

    def check(self, trial: Trial) -> None:
        arguments = trial.case.fresh()
        seen = [name for name in trial.functions if name.endswith(("requires_grad_", "requires_grad.__set__"))]
        try:
            with seeded(), torch.inference_mode():
                again = trial.function(*arguments)
        except Exception as error:
            raise LawBroken(
                "Where PyTorch records nothing it does not work: it uses PyTorch's own autograd",
                "gradients",
                f"{type(error).__name__}: {str(error).splitlines()[0]}",
            ) from None
        if seen or any(not torch.equal(one, other) for one, other in zip(again, trial.result)):
            raise LawBroken("It uses PyTorch's own autograd", "no `requires_grad`", ", ".join(seen) or "another result")


@dataclass(frozen=True)
class PassesGradcheck(Law):
    """Wrapped as the backward of a function, it passes ``torch.autograd.gradcheck`` in float64."""

    why: ClassVar[str] = "Finite differences know no rules of differentiation, so they share no mistake with yours."

    def check(self, trial: Trial) -> None:
        program, *inputs = trial.case.fresh()

        class Learned(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *values: torch.Tensor) -> torch.Tensor:
                ctx.save_for_backward(*values)
                return torch.as_tensor(program(*values))

            @staticmethod
            def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return tuple(grad * gradient for gradient in trial.function(program, *ctx.saved_tensors))

        leaves = tuple(each.detach().requires_grad_() for each in inputs)
        try:
            torch.autograd.gradcheck(Learned.apply, leaves)
        except Exception as error:
            words = "\n".join(str(error).strip().splitlines()[:8])
            raise LawBroken("It does not agree with finite differences", "analytical = numerical", words) from None


def _by_autograd(program: Callable[..., Any], inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    leaves = [each.detach().requires_grad_() for each in inputs]
    output = program(*leaves)
    if not output.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    gradients = torch.autograd.grad(output, leaves, allow_unused=True)
    return tuple(torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, gradients))


UNARY = (
    "{0} ** 3",
    "{0}.tanh()",
    "{0}.relu()",
    "{0}.tanh().exp()",
    "({0} * {0} + 1).log()",
    "-{0}",
    "2 - {0}",
    "3 * {0}",
    "1 / ({0} ** 2 + 2)",
)
BINARY = ("{0} + {1}", "{0} - {1}", "{0} * {1}", "{0} / ({1} * {1} + 1)")


def _moves(size: torch.Size) -> list[str]:
    """Return operations that need a tensor of at least one (two) dimensions."""
    last = len(size) - 1
    moves = [f"{{0}}.sum({last})", "{0}.sum(0, keepdim=True)", "{0}[0]", "{0}[-1:]", "{0}.reshape(-1)"]
    if last >= 1:
        moves += ["{0}.transpose(0, 1)", "{0} @ {0}.transpose(-2, -1)", "{0}[:, 0]"]
    return moves


@st.composite
def expressions(draw: st.DrawFn) -> tuple[Any, ...]:
    """Argument tuples of a program and its inputs: shapes that broadcast, results that are used again."""
    shapes = draw(broadcastable_shapes(draw(st.integers(1, 3)), max_dims=3, max_size=3))
    names = "xyz"[: len(shapes)]
    inputs = tuple(numbers(shape, torch.float64, seed=index) for index, shape in enumerate(shapes))
    values = dict(zip(names, inputs))
    lines = []
    for name in "abcdef"[: draw(st.integers(1, 6))]:
        one = draw(st.sampled_from(sorted(values)))
        partners = [other for other in sorted(values) if _fit(values[one], values[other])]
        other = draw(st.sampled_from(partners))
        moves = _moves(values[one].shape) if values[one].dim() else []
        operation = draw(st.sampled_from([*BINARY, *UNARY, *moves])).format(one, other)
        result = eval(operation, dict(values))  # noqa: S307 - the lines above
        if float(result.abs().max()) > 20:  # keep numbers where float64 has digits to spare
            operation = f"({operation}).tanh()"
            result = result.tanh()
        lines.append(f"{name} = {operation}")
        values[name] = result
    lines.append(f"out = ({name} * {name}).sum() + {draw(st.sampled_from(sorted(values)))}.sum()")
    return (Program(" ".join(names), "; ".join(lines)), *inputs)


def _fit(one: torch.Tensor, other: torch.Tensor) -> bool:
    pairs = zip(reversed(one.shape), reversed(other.shape))
    return all(a == b or 1 in (a, b) for a, b in pairs)


def engine(
    function: Callable[..., Any],
    inputs: tuple[torch.Tensor, ...],
    *,
    add: bool = True,
    order: str = "tape",
    fit: Callable[[torch.Tensor, torch.Size], torch.Tensor] = torch.Tensor.sum_to_size,
    **rules: Callable[..., Any],
) -> tuple[torch.Tensor, ...]:
    """Run a reverse-mode engine whose parts can be taken out: how wrong solutions are made."""
    tape: list[Any] = []

    class Variable:
        def __init__(self, value: Any, *edges: Any) -> None:
            self.value, self.edges = value, edges
            tape.append(self)

        def __getattr__(self, name: str) -> Any:
            if name not in RULES:
                raise AttributeError(name)
            return lambda *rest, **named: record(name, self, *rest, **named)

    def record(name: str, *operands: Any, **named: Any) -> Any:
        given = [each.value if isinstance(each, Variable) else each for each in operands]
        result, *backwards = (rules.get(name) or RULES[name])(*given, **named)
        edges = [(each, rule) for each, rule in zip(operands, backwards) if isinstance(each, Variable)]
        return Variable(result, *edges)

    for special in [name for name in RULES if name.startswith("__")]:
        setattr(Variable, special, lambda *operands, special=special: record(special, *operands))
    variables = [Variable(each) for each in inputs]
    output = function(*variables)
    gradients = {output: torch.ones_like(output.value)}
    for node in _ordered(output, tape, order):
        for source, rule in node.edges if node in gradients else ():
            share = fit(rule(gradients[node]), source.value.shape)
            gradients[source] = gradients[source] + share if add and source in gradients else share
    return tuple(gradients.get(each, torch.zeros_like(each.value)) for each in variables)


def _ordered(output: Any, tape: list[Any], order: str) -> list[Any]:
    if order == "tape":
        return tape[::-1]
    if order == "depth first":
        return _depth_first(output)
    found: list[Any] = []

    def visit(node: Any) -> None:  # as micrograd does
        if node not in seen:
            seen.add(node)
            for source, _ in node.edges:
                visit(source)
            found.append(node)

    seen: set[Any] = set()
    visit(output)
    return found[::-1]


def _depth_first(output: Any) -> list[Any]:
    seen: dict[Any, bool] = {}
    waiting = [output]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen[node] = True
            waiting += [source for source, _ in reversed(node.edges)]
    return list(seen)


def _reduced(a: Any, dim: Any = None, keepdim: bool = False) -> Any:
    result = a.sum() if dim is None else a.sum(dim, keepdim=keepdim)
    kept = keepdim or dim is None
    return result, lambda g: (g if kept else g.unsqueeze(dim)).expand(a.shape)


def _picked(a: Any, index: Any) -> Any:
    places = torch.arange(a.numel()).reshape(a.shape)[index].reshape(-1)
    return a[index], lambda g: a.new_zeros(a.numel()).index_add(0, places, g.reshape(-1)).reshape(a.shape)


# What an operation returns: its value, and for each operand how the gradient goes back to it.
RULES: dict[str, Callable[..., Any]] = {
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
    "__getitem__": _picked,
    "exp": lambda a: (a.exp(), lambda g: g * a.exp()),
    "log": lambda a: (a.log(), lambda g: g / a),
    "tanh": lambda a: (a.tanh(), lambda g: g * (1 - a.tanh() ** 2)),
    "relu": lambda a: (a.relu(), lambda g: g * (a > 0)),
    "sum": _reduced,
    "reshape": lambda a, *shape: (a.reshape(*shape), lambda g: g.reshape(a.shape)),
    "transpose": lambda a, one, other: (a.transpose(one, other), lambda g: g.transpose(one, other)),
}
