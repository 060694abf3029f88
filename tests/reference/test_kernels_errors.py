"""What the kernels say when something does not fit: the argument, what it was, what is allowed."""

from __future__ import annotations

import warnings

import pytest
import torch

from blackbelt.reference import kernels
from blackbelt.reference.kernels import _backends


def t(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


def n(*shape):
    return t(*shape, dtype=torch.int64)


BIAS_GELU = {
    "not a tensor": (TypeError, ([1.0], t(1)), {}, "input is a list; it must be a tensor of shape"),
    "a number": (ValueError, (t(), t(1)), {}, r"input has shape \(\); at least one dimension is needed: \(..., C\)"),
    "integers": (TypeError, (n(2, 3), t(3)), {}, "input has dtype torch.int64; allowed are float32, float64, float16"),
    "complex": (TypeError, (t(2, 3).cfloat(), t(3)), {}, "input has dtype torch.complex64; allowed are"),
    "sparse": (TypeError, (t(2, 3).to_sparse(), t(3)), {}, "input has layout torch.sparse_coo.*to_dense"),
    "no bias": (TypeError, (t(2, 3), None), {}, "bias is a NoneType; it must be a tensor"),
    "bias of two dimensions": (ValueError, (t(2, 3), t(1, 3)), {}, r"bias has shape \(1, 3\); 1 dimension is needed"),
    "bias of other size": (ValueError, (t(2, 3), t(2)), {}, r"bias has 2 elements and the last dimension of input 3"),
    "bias of other dtype": (TypeError, (t(2, 3), t(3).half()), {}, r"bias has dtype torch.float16 and input torch.flo"),
    "bias elsewhere": (ValueError, (t(2, 3), t(3).to("meta")), {}, r"bias is on meta and input on cpu.*bias.to\("),
    "backend": (
        ValueError,
        (t(2, 3), t(3)),
        {"backend": "c++"},
        "backend is 'c\\+\\+'; allowed are 'auto', 'eager', 'cp",
    ),
}
SOFTMAX = {
    "integers": (TypeError, (n(2, 3),), {}, "input has dtype torch.int64"),
    "backend": (ValueError, (t(2, 3),), {"backend": None}, "backend is None; allowed are"),
}
RMS_NORM = {
    "weight of other size": (
        ValueError,
        (t(2, 3), t(4)),
        {},
        "weight has 4 elements and the last dimension of input 3",
    ),
    "weight of other dtype": (TypeError, (t(2, 3), t(3).double()), {}, "weight has dtype torch.float64 and input"),
    "weight elsewhere": (ValueError, (t(2, 3), t(3).to("meta")), {}, "weight is on meta and input on cpu"),
    "negative eps": (ValueError, (t(2, 3), None, -1e-6), {}, "eps is -1e-06; it must be a finite number of at least 0"),
    "eps of NaN": (ValueError, (t(2, 3), None, float("nan")), {}, "eps is nan"),
    "eps of text": (ValueError, (t(2, 3), None, "1"), {}, "eps is '1'"),
}
CROSS_ENTROPY = {
    "integers": (TypeError, (n(2, 3), n(2)), {}, "logits has dtype torch.int64"),
    "target of int32": (TypeError, (t(2, 3), n(2).int()), {}, r"target has dtype torch.int32.*target.long\(\)"),
    "probabilities": (TypeError, (t(2, 3), t(2, 3)), {}, "target has dtype torch.float32.*probabilities are not"),
    "target is a list": (TypeError, (t(2, 3), [0, 1]), {}, r"target is a list; it must be an int64 tensor of shape"),
    "target of other shape": (ValueError, (t(2, 3), n(3)), {}, r"target has shape \(3,\); it must be \(2,\)"),
    "classes second": (ValueError, (t(2, 7, 5), n(2, 5)), {}, r"classes are the last dimension.*movedim\(1, -1\)"),
    "target elsewhere": (ValueError, (t(2, 3), n(2).to("meta")), {}, "target is on meta and logits on cpu"),
    "target too large": (IndexError, (t(2, 3), n(2) + 3), {}, "target holds 3; allowed are 0 to 2 and ignore_index"),
    "negative target": (IndexError, (t(2, 3), n(2) - 1), {}, "target holds -1; allowed are 0 to 2"),
    "no classes": (IndexError, (t(2, 0), n(2)), {}, "target holds 0; allowed are none"),
    "reduction": (ValueError, (t(2, 3), n(2)), {"reduction": "avg"}, "reduction is 'avg'; allowed are 'mean', 'sum'"),
    "ignore_index": (TypeError, (t(2, 3), n(2)), {"ignore_index": None}, "ignore_index is None; it must be an int"),
    "a leaf in place": (
        ValueError, (t(2, 3).requires_grad_(), n(2)), {"inplace": True}, "overwrite logits, which is a leaf that"
    ),
    "expanded in place": (
        ValueError, (t(3).expand(2, 3), n(2)), {"inplace": True}, r"overwrite logits.*strides \(0, 1\).*contiguous"
    ),
    "transposed in place": (ValueError, (t(3, 2).T, n(2)), {"inplace": True}, r"strides \(1, 2\): it must be"),
    "overlapping in place": (
        ValueError, (t(9).as_strided((2, 3), (1, 1)), n(2)), {"inplace": True}, r"strides \(1, 1\): it must be"
    ),
}  # fmt: skip
X, W = t(2, 4), t(5, 4)
LINEAR_CROSS_ENTROPY = {
    "input of integers": (TypeError, (n(2, 4), W, n(2)), {}, "input has dtype torch.int64"),
    "weight of one dimension": (ValueError, (X, t(4), n(2)), {}, r"weight has shape \(4,\); 2 dimensions are needed"),
    "weight transposed": (ValueError, (X, t(4, 5), n(2)), {}, "weight has 5 columns and the last dimension of input 4"),
    "weight of other dtype": (TypeError, (X, W.bfloat16(), n(2)), {}, "weight has dtype torch.bfloat16 and input"),
    "weight elsewhere": (ValueError, (X, W.to("meta"), n(2)), {}, "weight is on meta and input on cpu"),
    "bias of other size": (ValueError, (X, W, n(2), t(4)), {}, "bias has 4 elements and weight 5 rows"),
    "bias of other dtype": (TypeError, (X, W, n(2), t(5).half()), {}, "bias has dtype torch.float16 and input"),
    "target of other shape": (ValueError, (X, W, n(3)), {}, r"target has shape \(3,\); it must be \(2,\)"),
    "target too large": (IndexError, (X, W, n(2) + 5), {}, "target holds 5; allowed are 0 to 4"),
    "reduction": (ValueError, (X, W, n(2)), {"reduction": "none"}, "reduction is 'none'; allowed are 'mean', 'sum'"),
    "no rows in a chunk": (ValueError, (X, W, n(2)), {"chunk_rows": 0}, "chunk_rows is 0; it must be an int of at lea"),
    "half a row in a chunk": (ValueError, (X, W, n(2)), {"chunk_rows": 1.5}, "chunk_rows is 1.5"),
}
MATMUL = {
    "three dimensions": (
        ValueError,
        (t(2, 3, 4), t(4, 5)),
        {},
        r"a has shape \(2, 3, 4\); 2 dimensions are needed: \(M",
    ),
    "sizes": (ValueError, (t(2, 3), t(4, 5)), {}, "b has 4 rows and a 3 columns; they must be equal"),
    "dtypes": (TypeError, (t(2, 3), t(3, 5).half()), {}, "b has dtype torch.float16 and a torch.float32"),
    "devices": (ValueError, (t(2, 3), t(3, 5).to("meta")), {}, "b is on meta and a on cpu"),
    "integers": (TypeError, (n(2, 3), n(3, 5)), {}, "a has dtype torch.int64"),
}
WRONG = [
    (function, name, *rest)
    for function, wrong in (
        (kernels.bias_gelu, BIAS_GELU),
        (kernels.softmax, SOFTMAX),
        (kernels.rms_norm, RMS_NORM),
        (kernels.cross_entropy, CROSS_ENTROPY),
        (kernels.linear_cross_entropy, LINEAR_CROSS_ENTROPY),
        (kernels.matmul, MATMUL),
    )
    for name, rest in wrong.items()
]


@pytest.mark.parametrize(
    ("function", "kind", "inputs", "kwargs", "words"),
    [(function, *rest) for function, _, *rest in WRONG],
    ids=[f"{function.__name__}-{name}" for function, name, *_ in WRONG],
)
def test_error_names_the_argument_what_it_was_and_what_is_allowed(function, kind, inputs, kwargs, words):
    with pytest.raises(kind, match=words):
        function(*inputs, **{"backend": "eager", **kwargs})


def test_a_tensor_on_a_device_without_kernels_is_refused():
    class Elsewhere(torch.Tensor):
        device = torch.device("mps")

    with pytest.raises(ValueError, match="input is on mps; the kernels run on the CPU and on CUDA GPUs"):
        kernels.softmax(torch.zeros(2, 3).as_subclass(Elsewhere))


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_backend_that_cannot_run_on_the_cpu_says_so(backend, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match=rf"backend='{backend}' was asked for, but .*'eager' runs everywhere"):
        kernels.softmax(t(2, 3), backend=backend)


def test_triton_does_not_take_float64(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(_backends, "_has_triton", lambda: True)
    with pytest.raises(RuntimeError, match="float64, which the Triton kernels do not take"):
        kernels.softmax(t(2, 3).double(), backend="triton")


@pytest.fixture
def without_compiler(monkeypatch):
    """Act as if `_build` had found no compiler: what it says then is asked of it alone."""
    monkeypatch.setattr(_backends, "_build_obstacle", lambda which: f"no compiler for {which} was found")
    _backends._warn_once.cache_clear()
    yield
    _backends._warn_once.cache_clear()


def test_without_a_compiler_pytorchs_formula_is_used_and_said_once(without_compiler):
    x = torch.randn(2, 3)
    with pytest.warns(RuntimeWarning, match=r"uses PyTorch's formulas .*'cpp': no compiler for cpu was found") as said:
        assert torch.equal(kernels.softmax(x), torch.softmax(x, -1))
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernels.softmax(x)


def test_backend_without_its_compiler_says_what_is_missing(without_compiler):
    with pytest.raises(
        RuntimeError, match="backend='cpp' was asked for, but no compiler for cpu was found; backend='ea"
    ):
        kernels.bias_gelu(t(2, 3), t(3), backend="cpp")


TWICE = {
    "bias_gelu": lambda x: kernels.bias_gelu(x, x[0], backend="eager"),
    "softmax": lambda x: kernels.softmax(x, backend="eager"),
    "rms_norm": lambda x: kernels.rms_norm(x, x[0], backend="eager"),
    "cross_entropy": lambda x: kernels.cross_entropy(x, torch.tensor([0, 1]), backend="eager"),
    "cross_entropy in place": lambda x: kernels.cross_entropy(
        2 * x, torch.tensor([0, 1]), inplace=True, backend="eager"
    ),
    "linear_cross_entropy": lambda x: kernels.linear_cross_entropy(x, x, torch.tensor([0, 1]), backend="eager"),
}


@pytest.mark.parametrize("function", TWICE.values(), ids=TWICE)
def test_second_derivative_is_refused_in_words(function):
    x = torch.randn(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(function(x).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"has no second derivative.*PyTorch's own function"):
        grad.sum().backward()


def test_second_backward_through_gradients_that_were_used_up_is_autograds_error():
    x, weight, target = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3), torch.tensor([0, 1, 2, 3])
    for loss in (
        kernels.linear_cross_entropy(x, weight, target, backend="eager"),
        kernels.cross_entropy(x @ weight.mT, target, inplace=True, backend="eager"),
    ):
        loss.mul(3).backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
