"""The kernels against PyTorch's own operators: shapes, layouts, precisions, special numbers; forward and backward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from blackbelt.reference import kernels
from tests.reference.kernels_cases import (
    DTYPES,
    LAYOUTS,
    OPERATORS,
    Case,
    assert_accurate,
    assert_same,
    available,
    case,
    drawn_cases,
    run,
    shapes_of,
)

close = torch.testing.assert_close
NAMES = pytest.mark.parametrize("name", OPERATORS)
ALL_SHAPES = [(name, shape) for name in OPERATORS for shape in shapes_of(name)]
WITH_SHAPES = pytest.mark.parametrize(("name", "shape"), ALL_SHAPES, ids=[f"{n}-{s}" for n, s in ALL_SHAPES])


@pytest.fixture(params=["eager", "cpp"])
def backend(request):
    return available(request.param)


@WITH_SHAPES
def test_equals_pytorch_in_float64(name, shape, backend):
    assert_same(OPERATORS[name], case(OPERATORS[name], shapes_of(name)[shape]), backend=backend)


@WITH_SHAPES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_is_at_most_twice_pytorchs(name, shape, dtype, backend):
    assert_accurate(OPERATORS[name], case(OPERATORS[name], shapes_of(name)[shape]), dtype, backend=backend)


@NAMES
@pytest.mark.parametrize("layout", list(LAYOUTS.values())[1:], ids=list(LAYOUTS)[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_strides_are_taken(name, layout, dtype, backend):
    shape = (123, 123) if name == "matmul" else (5, 123, 123)
    assert_accurate(OPERATORS[name], case(OPERATORS[name], shape, layout), dtype, backend=backend)


@pytest.mark.parametrize("name", ["bias_gelu", "softmax", "rms_norm", "cross_entropy"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [2])
def test_rows_of_a_million_columns(name, dtype, rows, backend):
    one_draw = replace(case(OPERATORS[name], (rows, 2**20)), draws=())
    assert_accurate(OPERATORS[name], one_draw, dtype, backend=backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear_layer_of_many_classes(dtype, backend):
    operator = OPERATORS["linear_cross_entropy"]
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((70, 16), (20_001, 16))]
    target = torch.randint(20_001, (70,), generator=generator)
    bias = torch.randn(20_001, generator=generator, dtype=torch.float64)
    for chunk_rows in (None, 33, 70):
        assert_accurate(
            operator, Case([*tensors, target, bias]), dtype, backend=backend, chunk_rows=chunk_rows
        )  # fmt: skip


@NAMES
def test_shape_layout_and_scale_may_be_any(name, backend):
    operator = OPERATORS[name]

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(drawn_cases(operator), st.sampled_from([*DTYPES, torch.float64]))
    def check(drawn, dtype):
        if dtype == torch.float64:
            assert_same(operator, drawn, backend=backend)
        else:
            assert_accurate(operator, drawn, dtype, backend=backend)

    check()


SPECIAL = {
    "a row of −inf only": [[-torch.inf] * 5, [1.0, 2, 3, 4, 5]],
    "some −inf": [[-torch.inf, 1, -torch.inf, 2, 3], [0, 0, -torch.inf, 0, 0]],
    "+inf": [[torch.inf, 1, 2, 3, 4], [1, 2, 3, 4, 5]],
    "two +inf": [[torch.inf, 1, torch.inf, 3, 4], [1, 2, 3, 4, 5]],
    "NaN": [[1, torch.nan, 2, 3, 4], [1, 2, 3, 4, 5]],
    "large": [[1e4, 1e4, 3e4, 1, 2], [-3e4, -3e4, -3e4, -3e4, -3e4]],
}


@pytest.mark.parametrize("name", ["softmax", "cross_entropy"])
@pytest.mark.parametrize("rows", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("target", [[0, 1], [2, -100], [3, 4]])
@pytest.mark.parametrize("repeated", [1, 40])
def test_nan_and_infinities_are_where_pytorch_has_them(name, rows, target, repeated, backend):
    logits = torch.tensor(rows, dtype=torch.float64).repeat_interleave(repeated, -1)
    arguments = [logits] if name == "softmax" else [logits, torch.tensor(target)]
    assert_same(OPERATORS[name], Case(arguments), backend=backend)
    if name == "cross_entropy":
        for reduction in ("none", "sum"):
            assert_same(OPERATORS[name], Case(arguments, {"reduction": reduction}), backend=backend)


@pytest.mark.parametrize("rows", [[-torch.inf] * 5, [torch.inf, 1, 2, 3, 4], [torch.nan, 1, 2, 3, 4]])
@pytest.mark.parametrize("name", ["bias_gelu", "rms_norm"])
def test_nan_is_not_hidden(name, rows, backend):
    operator = OPERATORS[name]
    made = case(operator, (2, 5))
    x = torch.stack([torch.tensor(rows, dtype=torch.float64), made.tensors[0][1]])
    ours = run(operator.ours, Case([x, made.tensors[1]], made.kwargs), torch.float32, backend=backend)
    theirs = run(operator.theirs, Case([x, made.tensors[1]], made.kwargs), torch.float32)
    for a, b in zip(ours, theirs):
        assert not (b.isnan() & ~a.isnan() & (a != torch.inf)).any()  # PyTorch's GELU of +inf is NaN in float32
        assert not (a.isnan() & ~b.isnan()).any()


REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


@REDUCTIONS
@pytest.mark.parametrize("ignore_index", [-100, 3])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_cross_entropy_options(reduction, ignore_index, inplace, factor, backend):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 9, 11, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(11, (4, 9), generator=generator)
    target[0, :5] = ignore_index
    options = {"reduction": reduction, "ignore_index": ignore_index}
    ours = kernels.cross_entropy(x.sin(), target, inplace=inplace, backend=backend, **options)
    theirs = functional.cross_entropy(x.sin().movedim(-1, 1), target, **options)
    close(ours, theirs)
    weights = torch.randn(theirs.shape, generator=generator, dtype=torch.float64) * factor
    for a, b in zip(*(torch.autograd.grad((loss * weights).sum(), x) for loss in (ours, theirs))):
        close(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 123, 123), (3, 40_001)])
@REDUCTIONS
def test_error_in_place_is_at_most_twice_pytorchs(dtype, shape, reduction, backend):
    operator = OPERATORS["cross_entropy"]
    made = case(operator, shape, reduction=reduction)

    class InPlace:
        terms = None

        @staticmethod
        def ours(logits, target, **kwargs):
            # The gradient arrives at the leaf unchanged: a clone's derivative is 1.
            return kernels.cross_entropy(logits.clone(), target, inplace=True, **kwargs)

    InPlace.theirs = staticmethod(operator.theirs)
    assert_accurate(InPlace, made, dtype, backend=backend)


@pytest.mark.parametrize("inplace", [False, True])
def test_all_targets_ignored(inplace, backend):
    x = torch.randn(3, 5, requires_grad=True)
    target = torch.full((3,), -100)
    for reduction in ("mean", "sum", "none"):
        ours = kernels.cross_entropy(2 * x, target, reduction=reduction, inplace=inplace, backend=backend)
        theirs = functional.cross_entropy(2 * x, target, reduction=reduction)
        close(ours, theirs, equal_nan=True)
        for a, b in zip(*(torch.autograd.grad(loss.sum(), x) for loss in (ours, theirs))):
            assert torch.equal(a, b)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("chunk_rows", [None, 1, 7, 36, 100])
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear_cross_entropy_options(reduction, chunk_rows, has_bias, backend):
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((4, 9, 6), (11, 6), (11,))]
    leaves = [t.requires_grad_() for t in leaves[: 2 + has_bias]]
    x, weight, *bias = leaves
    target = torch.randint(11, (4, 9), generator=generator)
    for ignored in (0, 10, 36):  # of 36: none, some, all
        target.view(-1)[:ignored] = 3
        options = {"reduction": reduction, "ignore_index": 3}
        ours = kernels.linear_cross_entropy(
            x, weight, target, *bias, chunk_rows=chunk_rows, backend=backend, **options
        )  # fmt: skip
        theirs = functional.cross_entropy(functional.linear(x, weight, *bias).movedim(-1, 1), target, **options)
        close(ours, theirs, equal_nan=True)
        for a, b in zip(*(torch.autograd.grad(-3 * loss, leaves) for loss in (ours, theirs))):
            close(a, b)


def test_gradients_arrive_only_where_they_are_wanted(backend):
    x, weight, bias = torch.randn(5, 4), torch.randn(7, 4), torch.randn(7)
    target = torch.randint(7, (5,))
    for wanted in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)):
        leaves = [t.clone().requires_grad_(bool(w)) for t, w in zip((x, weight, bias), wanted)]
        kernels.linear_cross_entropy(leaves[0], leaves[1], target, leaves[2], backend=backend).backward()
        assert [t.grad is not None for t in leaves] == [bool(w) for w in wanted]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_rms_norm_takes_pytorchs_defaults(dtype, backend):
    x = torch.full((3, 8), 1e-4, dtype=dtype)  # so small that eps decides
    close(kernels.rms_norm(x, backend=backend), functional.rms_norm(x, (8,)))
    weight = torch.randn(8, dtype=dtype)
    close(kernels.rms_norm(x, weight, backend=backend), functional.rms_norm(x, (8,), weight))
    close(kernels.rms_norm(x, weight, 0.5, backend=backend), functional.rms_norm(x, (8,), weight, 0.5))


GRADCHECK = {
    "bias_gelu": (kernels.bias_gelu, [(2, 3, 4), (4,)]),
    "softmax": (kernels.softmax, [(2, 3, 4)]),
    "rms_norm": (lambda x, w, **k: kernels.rms_norm(x, w, 0.1, **k), [(2, 3, 4), (4,)]),
    "cross_entropy": (lambda x, **k: kernels.cross_entropy(x, torch.tensor([1, -100, 3]), **k), [(3, 4)]),
    "cross_entropy of each": (
        lambda x, **k: kernels.cross_entropy(x, torch.tensor([1, -100, 3]), reduction="none", **k), [(3, 4)]
    ),
    "cross_entropy in place": (
        lambda x, **k: kernels.cross_entropy(3 * x, torch.tensor([1, -100, 3]), inplace=True, **k), [(3, 4)]
    ),
    "matmul": (kernels.matmul, [(3, 4), (4, 5)]),
    "linear_cross_entropy": (
        lambda x, w, b, **k: kernels.linear_cross_entropy(x, w, torch.tensor([1, -100, 3]), b, chunk_rows=2, **k),
        [(3, 4), (5, 4), (5,)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("function", "shapes"), GRADCHECK.values(), ids=GRADCHECK)
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_gradcheck(function, shapes, scale, backend):
    generator = torch.Generator().manual_seed(0)
    leaves = [
        (scale * torch.randn(s, generator=generator, dtype=torch.float64)).requires_grad_() for s in shapes
    ]  # fmt: skip

    class Fresh(torch.autograd.Function):
        """gradcheck goes backward several times; where the first one uses the gradients up, each needs its graph."""

        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return function(*inputs, backend=backend)

        @staticmethod
        def backward(ctx, grad):
            again = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            with torch.enable_grad():
                return torch.autograd.grad(function(*again, backend=backend), again, grad)

    assert torch.autograd.gradcheck(Fresh.apply, leaves, check_batched_grad=False)


def test_matmul_may_be_differentiated_twice(backend):
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 4), (4, 5))]
    assert torch.autograd.gradgradcheck(lambda a, b: kernels.matmul(a, b, backend=backend), leaves)


@NAMES
def test_inputs_are_left_alone(name, backend):
    operator = OPERATORS[name]
    arguments = case(operator, (6, 7)).arguments(torch.float32)
    copies, versions = [t.detach().clone() for t in arguments], [t._version for t in arguments]
    state = torch.get_rng_state()
    operator.ours(*arguments, backend=backend).sum().backward()
    assert [t._version for t in arguments] == versions
    assert all(torch.equal(a, b) for a, b in zip(arguments, copies))
    assert torch.equal(state, torch.get_rng_state())
