"""What `memory_efficient_attention` says when something does not fit: the argument, what it was, what is allowed."""

from __future__ import annotations

import pytest
import torch

from blackbelt.reference.attention import memory_efficient_attention


def t(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


Q, K = t(2, 4, 5, 8), t(2, 4, 6, 8)
WRONG = {
    "not a tensor": (TypeError, ([1.0], K, K), {}, "query is a list; memory_efficient_attention takes tensors"),
    "one dimension": (ValueError, (t(8), K, K), {}, r"query has shape \(8,\); at least two dimensions"),
    "integers": (TypeError, (Q.int(), K.int(), K.int()), {}, "query has dtype torch.int32; allowed are float32"),
    "complex": (TypeError, (Q.cfloat(), K, K), {}, "query has dtype torch.complex64; allowed are float32"),
    "dtypes": (TypeError, (Q, K.double(), K), {}, r"key has dtype torch.float64 and query.*key.to"),
    "devices": (ValueError, (Q, K, K.to("meta")), {}, "value is on meta and query on cpu"),
    "head sizes": (ValueError, (Q, t(2, 4, 6, 9), K), {}, "key has head size 9 and query 8"),
    "lengths": (ValueError, (Q, K, t(2, 4, 7, 8)), {}, "value has length 7 and key 6"),
    "batches": (ValueError, (Q, t(3, 4, 6, 8), t(3, 4, 6, 8)), {}, "batch dimensions .* do not broadcast"),
    "heads": (ValueError, (Q, t(2, 2, 6, 8), t(2, 2, 6, 8)), {}, "4, 2 and 2 heads .* enable_gqa=True"),
    "groups": (ValueError, (Q, t(2, 3, 6, 8), K), {"enable_gqa": True}, "key has 3 heads, which do not divide the 4"),
    "groups of none": (ValueError, (Q, K, t(2, 0, 6, 8)), {"enable_gqa": True}, "value has 0 heads"),
    "groups without heads": (ValueError, (t(5, 8),) * 3, {"enable_gqa": True}, "needs a dimension of heads"),
    "dropout of 1": (ValueError, (Q, K, K), {"dropout_p": 1.0}, "dropout_p is 1.0; it must be at least 0 and less"),
    "negative dropout": (ValueError, (Q, K, K), {"dropout_p": -0.1}, "dropout_p is -0.1"),
    "dropout of NaN": (ValueError, (Q, K, K), {"dropout_p": float("nan")}, "dropout_p is nan"),
    "negative scale": (ValueError, (Q, K, K), {"scale": -1.0}, "scale is -1.0; it must be a finite number"),
    "infinite scale": (ValueError, (Q, K, K), {"scale": float("inf")}, "scale is inf"),
    "mask and causal": (
        ValueError, (Q, K, K), {"attn_mask": t(5, 6), "is_causal": True}, "attn_mask was passed together"
    ),
    "mask is no tensor": (TypeError, (Q, K, K), {"attn_mask": True}, "attn_mask is a bool; it must be a"),
    "mask of integers": (TypeError, (Q, K, K), {"attn_mask": t(5, 6).int()}, "attn_mask has dtype torch.int32"),
    "mask of float64": (TypeError, (Q, K, K), {"attn_mask": t(5, 6).double()}, "attn_mask has dtype torch.float64"),
    "mask elsewhere": (ValueError, (Q, K, K), {"attn_mask": t(5, 6).to("meta")}, "attn_mask is on meta and query on"),
    "mask transposed": (ValueError, (Q, K, K), {"attn_mask": t(6, 5)}, r"attn_mask has shape \(6, 5\).*\(2, 4, 5, 6\)"),
    "mask of one dimension": (ValueError, (Q, K, K), {"attn_mask": t(6)}, r"attn_mask has shape \(6,\)"),
    "mask too deep": (ValueError, (Q, K, K), {"attn_mask": t(1, 1, 1, 5, 6)}, r"attn_mask has shape \(1, 1, 1, 5, 6\)"),
    "backend": (ValueError, (Q, K, K), {"backend": "cuda"}, "backend is 'cuda'; allowed are 'auto', 'eager'"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "inputs", "kwargs", "words"), WRONG.values(), ids=WRONG)
def test_error_names_the_argument_what_it_was_and_what_is_allowed(kind, inputs, kwargs, words):
    with pytest.raises(kind, match=words):
        memory_efficient_attention(*inputs, **kwargs)


@pytest.mark.parametrize("dimensions", [3, 4, 5])
@pytest.mark.parametrize("dim", [0, -3])
def test_batch_of_the_mask_may_not_be_larger_than_that_of_the_query(dimensions, dim):
    query, mask = torch.zeros((2,) * dimensions), list((2,) * dimensions)
    mask[dim] = 3
    with pytest.raises(ValueError, match="attn_mask has shape"):
        memory_efficient_attention(query, query, query, attn_mask=torch.zeros(mask))


def test_triton_without_a_gpu_says_so(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match=r"backend='triton' was asked for, but .*(GPU|not installed).*'eager' runs"):
        memory_efficient_attention(Q, K, K, backend="triton")


def test_compiled_without_a_compiler_says_so(monkeypatch, tmp_path):
    from blackbelt.reference.attention import _backends

    _backends.compiler_obstacle.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    try:
        with pytest.raises(RuntimeError, match=r"no C\+\+ compiler was found .*set CXX"):
            memory_efficient_attention(Q, K, K, backend="compiled")
    finally:
        _backends.compiler_obstacle.cache_clear()


def test_second_derivative_is_refused_in_words():
    query = torch.randn(1, 1, 4, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(memory_efficient_attention(query, query, query).sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative.*naive_attention"):
        grad.sum().backward()
