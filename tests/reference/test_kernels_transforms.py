"""The kernels inside what PyTorch wraps a function in: the dispatcher's own check, compiler, vmap, autocast."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from blackbelt.reference import kernels
from blackbelt.reference.kernels import _operators as operators
from tests.reference.kernels_cases import OPERATORS, available

close = torch.testing.assert_close


@pytest.fixture(params=["eager", "cpp"])
def backend(request):
    return available(request.param)


def leaf(*shape):
    return torch.randn(*shape, requires_grad=True)


def arguments_of_operators():
    x, vector, target = leaf(6, 9), leaf(9), torch.tensor([0, 8, -100, 3, 3, 1])
    plain, rows = x.detach(), torch.rand(6)
    lse = plain.logsumexp(-1).double()
    return {
        "bias_gelu": (x, vector),
        "bias_gelu_backward": (plain, plain, vector.detach()),
        "softmax": (x,),
        "softmax_backward": (plain, plain.softmax(-1)),
        "rms_norm": (x, vector, 1e-6),
        "rms_norm_backward": (plain, plain, vector.detach(), rows),
        "cross_entropy": (x, target, -100),
        "cross_entropy_backward": (rows, plain, target, lse, -100),
        "cross_entropy_": (plain, target, -100, torch.tensor(0.3)),
        "scale_": (plain, rows),
        "matmul": (x, leaf(9, 5)),
        "linear_cross_entropy": (x, leaf(11, 9), leaf(11), target, -100, True, 4, [True, True, True]),
    }


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:The .grad attribute")  # of what opcheck itself reads
@pytest.mark.parametrize("name", arguments_of_operators())
def test_operator_passes_pytorchs_own_check(name, backend):
    arguments = arguments_of_operators()[name]
    torch.library.opcheck(getattr(operators, name), (*arguments, *([] if name == "scale_" else [backend])))


def test_operators_are_named_in_the_dispatcher_and_can_be_differentiated_there(backend):
    x, bias = leaf(6, 9), leaf(9)
    out = torch.ops.blackbelt.bias_gelu(x, bias, backend)
    close(out, functional.gelu(x + bias))
    for a, b in zip(*(torch.autograd.grad(y.sum(), (x, bias)) for y in (out, functional.gelu(x + bias)))):
        close(a, b)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch 2.15 warns of its own use of torch.jit
@pytest.mark.slow
def test_compiles_without_a_graph_break(backend):
    target = torch.randint(11, (2, 5))

    def train(ours, x, bias, weight, matrix, head):
        k, f = kernels, functional
        hidden = k.bias_gelu(x, bias, backend=backend) if ours else f.gelu(x + bias)
        hidden = k.rms_norm(hidden, weight, 1e-6, backend=backend) if ours else f.rms_norm(hidden, (8,), weight, 1e-6)
        rows = hidden.flatten(0, 1)
        rows = k.matmul(rows, matrix, backend=backend) if ours else rows @ matrix
        rows = k.softmax(rows, backend=backend) if ours else rows.softmax(-1)
        logits, flat = rows @ head.mT, target.flatten()
        if not ours:
            return f.cross_entropy(logits, flat) + f.cross_entropy(3 * logits, flat) + f.cross_entropy(logits, flat)
        return (
            k.cross_entropy(logits, flat, backend=backend)
            + k.linear_cross_entropy(rows, head, flat, backend=backend)
            + k.cross_entropy(3 * logits, flat, inplace=True, backend=backend)
        )

    leaves = [leaf(2, 5, 8), leaf(8), leaf(8), leaf(8, 6), leaf(11, 6)]
    loss = torch.compile(lambda *a: train(True, *a), fullgraph=True)(*leaves)
    expected = train(False, *leaves)
    close(loss, expected)
    for a, b in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves)):
        close(a, b, rtol=1e-4, atol=1e-6)


def mapped(name, in_dims, tensors, backend, *, gradient):
    """Compare vmap of ours with a loop over ours in eager PyTorch: results, or gradients of every sample."""
    operator = OPERATORS[name]
    kwargs = {"eps": 1e-6} if name == "rms_norm" else {"reduction": "none"} if name == "cross_entropy" else {}

    def bind(function, **more):
        def value(*inputs):
            return function(*inputs, **kwargs, **more)

        floating = tuple(i for i, t in enumerate(tensors) if t.is_floating_point())
        return torch.func.grad(lambda *a: value(*a).sin().sum(), argnums=floating) if gradient else value

    got = torch.vmap(bind(operator.ours, backend=backend), in_dims=in_dims)(*tensors)
    samples = [
        bind(operator.theirs)(*(t if d is None else t.select(d, i) for t, d in zip(tensors, in_dims))) for i in range(3)
    ]
    expected = tuple(torch.stack(c) for c in zip(*samples)) if gradient else torch.stack(samples)
    close(got, expected)


@pytest.mark.parametrize("gradient", [False, True])
def test_vmap(gradient, backend):
    x, vectors, target = torch.randn(3, 4, 6), torch.randn(3, 6), torch.randint(6, (3, 4))
    for name in ("bias_gelu", "rms_norm"):
        mapped(name, (0, None), (x, vectors[0]), backend, gradient=gradient)
        mapped(name, (1, None), (x.movedim(0, 1), vectors[0]), backend, gradient=gradient)
        mapped(name, (0, 0), (x, vectors), backend, gradient=gradient)
        mapped(name, (None, 0), (x[0], vectors), backend, gradient=gradient)
    mapped("softmax", (0,), (x,), backend, gradient=gradient)
    mapped("softmax", (2,), (x.movedim(0, 2),), backend, gradient=gradient)
    mapped("cross_entropy", (0, 0), (x, target), backend, gradient=gradient)
    mapped("cross_entropy", (0, None), (x, target[0]), backend, gradient=gradient)
    mapped("cross_entropy", (None, 0), (x[0], target), backend, gradient=gradient)
    mapped("matmul", (0, None), (x, torch.randn(6, 5)), backend, gradient=gradient)
    mapped("matmul", (0, 0), (x, torch.randn(3, 6, 5)), backend, gradient=gradient)


def test_autocast_gives_what_pytorch_gives(backend):
    x, vector, matrix, target = leaf(6, 9), leaf(9), leaf(9, 7), torch.randint(7, (6,))
    with torch.autocast("cpu", torch.bfloat16):
        half = kernels.matmul(x, matrix, backend=backend)
        assert half.dtype == (x @ matrix).dtype == torch.bfloat16  # cast, as for every matrix product
        assert kernels.softmax(half, backend=backend).dtype == torch.softmax(half, -1).dtype
        loss = kernels.cross_entropy(half, target, backend=backend)
        assert loss.dtype == functional.cross_entropy(half, target).dtype == torch.float32
        close(loss, functional.cross_entropy(half, target))
        fused = kernels.linear_cross_entropy(x, matrix.mT, target, backend=backend)
        apart = functional.cross_entropy(functional.linear(x, matrix.mT), target)
        assert fused.dtype == apart.dtype == torch.float32
        close(fused, apart)
        # Where PyTorch promotes to float32 because a parameter is, ours stay in the precision of the activations.
        narrow = x.bfloat16()
        assert kernels.bias_gelu(narrow, vector, backend=backend).dtype == torch.bfloat16
        assert kernels.rms_norm(narrow, vector, backend=backend).dtype == torch.bfloat16
        assert kernels.bias_gelu(x, vector, backend=backend).dtype == torch.float32
    for a in torch.autograd.grad(loss + fused, (x, matrix)):
        assert a.dtype == torch.float32


def test_autocast_does_not_reach_into_the_kernels(backend):
    x, matrix = leaf(6, 9), leaf(9, 7)
    expected = kernels.matmul(x.double(), matrix.double(), backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        got = kernels.matmul(x.double(), matrix.double(), backend=backend)  # float64 stays what it is
        assert torch.equal(operators.matmul(x, matrix, backend), operators.matmul(x, matrix, backend).float())
    assert torch.equal(got, expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_forward_mode_is_refused_rather_than_wrong(backend):
    with pytest.raises(RuntimeError, match="forward mode AD"):
        torch.func.jvp(lambda t: kernels.softmax(t, backend=backend), (torch.randn(2, 3),), (torch.randn(2, 3),))
