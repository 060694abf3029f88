"""Shapes and layouts of the kernels, the float64 oracle, and the numeric law: what the tests of every backend share.

    for name in OPERATORS:  assert_accurate(OPERATORS[name], case, torch.float32, backend="cpp")

holds the result and every gradient of the public function against PyTorch's in the same precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch.nn import functional

from blackbelt.reference import kernels
from blackbelt.reference.kernels._backends import obstacle

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Operator:
    """One public function, PyTorch's counterpart, and how to make its arguments from a shape."""

    name: str
    theirs: Callable[..., torch.Tensor]
    make: Callable[[tuple[int, ...], torch.Generator], list[torch.Tensor]]  # float64, and int64 targets
    terms: Callable[..., list[torch.Tensor]] | None = None  # for each output, what its sums are of, without their signs

    def ours(self, *arguments, **kwargs):
        return getattr(kernels, self.name)(*arguments, **kwargs)


def _normal(shape, generator, factor=2.0):
    return torch.randn(shape, generator=generator, dtype=torch.float64) * factor


def _targets(shape, classes, generator, ignored=0.2):
    target = torch.randint(max(classes, 1), shape, generator=generator)
    gone = torch.rand(shape, generator=generator) < (ignored if classes else 1.0)
    return target.masked_fill(gone, -100)


def _flat_cross_entropy(logits, target, **kwargs):
    flat = logits.reshape(target.numel(), logits.size(-1))
    losses = functional.cross_entropy(flat, target.reshape(-1), **kwargs)
    return losses.reshape(target.shape) if kwargs.get("reduction") == "none" else losses


def _linear_cross_entropy(inputs, weight, target, bias=None, **kwargs):
    return _flat_cross_entropy(functional.linear(inputs, weight, bias), target, **kwargs)


def _linear_terms(inputs, weight, target, bias=None, **_):
    """Return Σ|terms| of the loss and of each gradient: sums that cancel are no better than their terms' rounding."""
    rows, classes = inputs.reshape(target.numel(), inputs.size(-1)), target.reshape(-1)
    logits = functional.linear(rows, weight, bias).detach().requires_grad_()
    loss = functional.cross_entropy(logits, classes)
    slope = torch.autograd.grad(loss, logits)[0].abs()
    terms = [loss, slope @ weight.abs(), slope.mT @ rows.abs()]
    return [t.detach() for t in (terms if bias is None else [*terms, slope.sum(0)])]


OPERATORS = {
    operator.name: operator
    for operator in (
        Operator(
            "bias_gelu", lambda x, bias: functional.gelu(x + bias), lambda s, g: [_normal(s, g), _normal(s[-1:], g)]
        ),
        Operator("softmax", lambda x: torch.softmax(x, -1), lambda s, g: [_normal(s, g)]),
        Operator(
            "rms_norm",
            lambda x, weight, eps=None: functional.rms_norm(x, x.shape[-1:], weight, eps),
            lambda s, g: [_normal(s, g), _normal(s[-1:], g)],
        ),
        Operator(
            "cross_entropy", _flat_cross_entropy, lambda s, g: [_normal(s, g), _targets(s[:-1], s[-1], g)]
        ),
        Operator("matmul", torch.matmul, lambda s, g: [_normal(s, g), _normal((s[-1], 37), g)]),
        Operator(
            "linear_cross_entropy",
            _linear_cross_entropy,
            lambda s, g: [_normal(s, g, 1.0), _normal((77, s[-1]), g, 0.3), _targets(s[:-1], 77, g)],
            _linear_terms,
        ),
    )
}  # fmt: skip

SHAPES = {
    "odd": (5, 123, 123),
    "one dimension": (70,),
    "one column": (7, 1),
    "one row": (1, 333),
    "many short rows": (4099, 3),
    "powers of two": (64, 1024),
    "around a vector": (9, 17),
    "long rows": (3, 40_001),
    "no rows": (0, 123),
    "no rows of several dimensions": (3, 0, 5),
    "no columns": (4, 0),
    "nothing": (0, 0),
}


def shapes_of(name):
    """Return the shapes that an operator takes: a matrix product is of matrices, and a loss of no class is none."""
    if name == "matmul":
        return {k: s for k, s in SHAPES.items() if len(s) == 2}
    return SHAPES


def contiguous(tensor):
    return tensor


def transposed(tensor):
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor


def strided(tensor):
    """Every second column of a tensor twice as wide."""
    if not tensor.dim():
        return tensor
    room = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1])
    room[..., ::2] = tensor
    return room[..., ::2]


def expanded(tensor):
    """The first row, seen in every row through a stride of 0."""
    return tensor[:1].expand_as(tensor) if tensor.dim() > 1 else tensor


LAYOUTS = {f.__name__: f for f in (contiguous, transposed, strided, expanded)}


@dataclass(frozen=True)
class Case:
    """Arguments in float64 (and int64), the keyword arguments that both functions take, and a layout."""

    tensors: list[torch.Tensor]
    kwargs: dict[str, Any] = field(default_factory=dict)
    layout: Callable[[torch.Tensor], torch.Tensor] = contiguous
    device: str = "cpu"
    draws: tuple[list[torch.Tensor], ...] = ()  # other tensors of the same shapes: the law is of all draws together

    def arguments(self, dtype):
        """Return the arguments in a precision; those of floating point are leaves that require a gradient."""
        return [
            self._laid_out(i, t.to(self.device, dtype)).detach().requires_grad_()
            if t.is_floating_point()
            else self._laid_out(i, t.to(self.device))
            for i, t in enumerate(self.tensors)
        ]

    def _laid_out(self, i, tensor):
        # Equal rows in the input make a case; equal rows in a weight too make sums that cancel to nothing.
        return tensor if i and self.layout is expanded else self.layout(tensor)

    def held(self, tensors, dtype):
        """Return this case with other tensors, as the precision holds them."""
        return replace(self, tensors=[t.to(dtype).double() if t.is_floating_point() else t for t in tensors])


def case(operator, shape, layout=contiguous, seed=0, device="cpu", factor=1.0, **kwargs):
    """Build a case of an operator from the shape of its first argument, which is multiplied by ``factor``."""
    if operator.name == "rms_norm":
        # The default depends on the precision. And for a small eps a row of one number is ±weight whatever the number:
        # its gradient is 0, and what is computed is rounding only.
        kwargs.setdefault("eps", 1.0 if shape[-1] == 1 else 1e-6)
    several = 16 if math.prod(shape) < 10_000 else 4  # few numbers have lucky errors, PyTorch's as well as ours
    draws = [operator.make(shape, torch.Generator().manual_seed(seed + i)) for i in range(several)]
    for draw in draws:
        draw[0] *= factor
    return Case(draws[0], kwargs, layout, device, tuple(draws[1:]))


def run(function, case, dtype, **more):
    """Return the result and the gradients of the floating point arguments, for a fixed gradient of the result."""
    arguments = case.arguments(dtype)
    out = function(*arguments, **case.kwargs, **more)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()  # exact in every precision
    leaves = [t for t in arguments if t.is_floating_point()]
    return (out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.device, out.dtype)))


def largest_error(got, exact):
    """Return the largest error of a result; NaN and infinities must be where the exact result has them."""
    got = got.double()
    finite = exact.isfinite()
    torch.testing.assert_close(got[~finite], exact[~finite], equal_nan=True, rtol=0, atol=0)
    difference = (got - exact)[finite].abs()
    return difference.max().item() if difference.numel() else 0.0


def assert_law(name, exact, got, theirs, terms=None):
    """Largest error against float64 at most twice that of PyTorch in the same precision, or one unit in the last place.

    ``exact``, ``got`` and ``theirs`` are lists of results, one for each draw (PyTorch's: any number for each). The
    second limit is for results that PyTorch rounds exactly, by luck or because they are 0 or 1: an error there is
    still at most eps of the largest number of the results, which is what two roundings may come to; twice that where
    so few numbers are compared that luck decides.
    """
    error = max(largest_error(a, right) for a, right in zip(got, exact))
    baseline = max(largest_error(b, right) for several, right in zip(theirs, exact) for b in several)
    for a, several, right in zip(got, theirs, exact):
        assert a.dtype == several[0].dtype, f"{name}: {a.dtype}, PyTorch's {several[0].dtype}"
        assert a.shape == right.shape, f"{name}: {tuple(a.shape)}, not {tuple(right.shape)}"
    numbers = torch.cat([t[t.isfinite()].abs().flatten() for t in (terms or exact)])
    info = torch.finfo(got[0].dtype)
    unit = info.eps * numbers.max().item() + info.smallest_normal * info.eps if numbers.numel() else 0.0
    unit *= 2 if numbers.numel() < 100 else 1
    assert error <= max(2 * baseline, unit), f"{name}: error {error:.3e}, PyTorch's {baseline:.3e}, one unit {unit:.3e}"


def assert_accurate(operator, case, dtype, **ours):
    """The law, for the result and for every gradient, over all draws of the case.

    PyTorch goes other ways for other layouts (a transposed matrix, a vector of stride 2): where its error depends on
    the way, the larger one counts.
    """
    cases = [case.held(tensors, dtype) for tensors in (case.tensors, *case.draws)]
    exact = [run(operator.theirs, c, torch.float64) for c in cases]
    got = [run(operator.ours, c, dtype, **ours) for c in cases]
    terms = [operator.terms(*c.arguments(torch.float64), **c.kwargs) for c in cases] if operator.terms else None
    ways = [[run(operator.theirs, c, dtype), run(operator.theirs, _plain(c), dtype)] for c in cases]
    for i in range(len(exact[0])):
        theirs = [[way[i] for way in several] for several in ways]
        name = "result" if i == 0 else f"gradient {i}"
        sums = terms and [t[i] for t in terms]
        assert_law(name, [e[i] for e in exact], [g[i] for g in got], theirs, sums)


def _plain(case):
    """Return the case with the same values laid out contiguously."""
    tensors = [case._laid_out(i, t).contiguous() for i, t in enumerate(case.tensors)]
    return replace(case, tensors=tensors, layout=contiguous)


def assert_same(operator, case, rtol=1e-10, atol=1e-10, **ours):
    """In float64 both functions agree to a few units in the last place."""
    got, expected = run(operator.ours, case, torch.float64, **ours), run(operator.theirs, case, torch.float64)
    for i, (a, b) in enumerate(zip(got, expected)):
        torch.testing.assert_close(
            a, b, rtol=rtol, atol=atol, equal_nan=True, msg=lambda m, i=i: f"{operator.name}, output {i}: {m}"
        )


@st.composite
def drawn_cases(draw, operator):
    """Draw a shape, a layout and a scale for an operator."""
    lead = draw(st.lists(st.integers(0, 9), min_size=1 if operator.name == "matmul" else 0, max_size=3))
    shape = (*(lead[:1] if operator.name == "matmul" else lead), draw(st.integers(0, 70)))
    layout = draw(st.sampled_from(list(LAYOUTS.values())))
    seed, factor = draw(st.integers(0, 2**31)), draw(st.sampled_from([0.0, 0.1, 1.0, 8.0]))
    return case(operator, shape, layout, seed, factor=factor)


def available(backend):
    """Skip the test where a backend cannot run on the CPU: only where there is no compiler for it."""
    reason = obstacle(backend, torch.zeros(1))
    if reason is not None:
        pytest.skip(reason)
    return backend
