"""The C++ backend of attention: every shape and layout it takes, beside PyTorch's kernel and the formula in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from blackbelt.measurement import allocation
from blackbelt.reference.attention import _backends, _cpp, memory_efficient_attention
from blackbelt.reference.attention._operator import attention, attention_backward
from tests.reference.attention_cases import NAMES, case, largest, run

close = torch.testing.assert_close
pytestmark = pytest.mark.skipif(
    _cpp.obstacle(*[torch.zeros(1, 1, 1, 64)] * 3, None, 0.0) is not None, reason="no C++ compiler here"
)
SHAPES = {
    "one query, one key": ((1, 1, 1, 32), (1, 1, 1, 32)),
    "less than a panel": ((1, 2, 31, 64), (1, 2, 5, 64)),
    "a tile and one more": ((1, 1, 97, 64), (1, 1, 225, 64)),
    "several tiles": ((2, 2, 500, 64), (2, 2, 700, 64)),
    "more queries than keys": ((1, 2, 300, 128), (1, 2, 40, 128)),
    "head size 96": ((1, 3, 130, 96), (1, 3, 130, 96)),
    "head size 256": ((1, 1, 100, 256), (1, 1, 100, 256)),
}


def cpp(*tensors, **kwargs):
    return memory_efficient_attention(*tensors, **kwargs, backend="cpp")


def assert_accurate(one, factor=2.0, **kwargs):
    """Hold the numeric law: errors against float64 at most twice those of PyTorch's kernel, over three draws."""
    errors, baselines = [0.0] * 4, [0.0] * 4
    for draw in range(3):
        drawn = case(one.query.shape, one.key.shape, one.value.shape, seed=draw, **kwargs)
        exact = run(scaled_dot_product_attention, drawn, torch.float64)
        got, theirs = run(cpp, drawn, torch.float32), run(scaled_dot_product_attention, drawn, torch.float32)
        for i, right in enumerate(exact):
            errors[i] = max(errors[i], float(largest(got[i] - right)))
            unit = torch.finfo(torch.float32).eps * float(largest(right))
            baselines[i] = max(baselines[i], float(largest(theirs[i] - right)), unit)
    for name, error, baseline in zip(NAMES, errors, baselines):
        assert error <= factor * baseline, f"{name}: {error:.2e}, PyTorch's {baseline:.2e}"


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("is_causal", [False, True])
def test_error_is_at_most_twice_pytorchs(name, is_causal):
    query, key = SHAPES[name]
    assert_accurate(case(query, key), is_causal=is_causal)


@pytest.mark.parametrize("is_causal", [False, True])
def test_grouped_queries_and_values_of_another_size(is_causal):
    assert_accurate(case((2, 6, 120, 64), (2, 2, 150, 64)), is_causal=is_causal, enable_gqa=True)
    assert_accurate(case((1, 2, 120, 32), (1, 2, 150, 32), (1, 2, 150, 96)), is_causal=is_causal)
    assert_accurate(case((1, 2, 120, 32), (1, 2, 150, 32)), is_causal=is_causal, scale=3.0)


def test_scores_too_large_for_exp():
    drawn = case((1, 2, 200, 64), (1, 2, 200, 64))
    query, key, value = (30 * t.float() for t in (drawn.query, drawn.key, drawn.value))
    got, right = cpp(query, key, value), scaled_dot_product_attention(query.double(), key.double(), value.double())
    close(got, right.float(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("layout", ["heads beside features", "every second key", "features not side by side"])
def test_any_strides_are_taken(layout):
    query, key, value = torch.randn(3, 2, 3, 130, 64)
    if layout == "heads beside features":
        query, key, value = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (query, key, value))
    elif layout == "every second key":
        key, value = (torch.randn(2, 3, 260, 64)[:, :, ::2] for _ in range(2))
    else:
        query, value = (t.mT.contiguous().mT for t in (query, value))
    leaves = [t.requires_grad_() for t in (query, key, value)]
    ours, theirs = cpp(*leaves, is_causal=True), scaled_dot_product_attention(*leaves, is_causal=True)
    close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours.sum(), leaves), torch.autograd.grad(theirs.sum(), leaves)):
        close(a, b)


def test_number_of_threads_changes_no_bit():
    drawn = case((2, 4, 300, 64), (2, 4, 300, 64))
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(run(lambda *t: cpp(*t, is_causal=True), drawn, torch.float32))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_too_few_heads_for_the_threads_take_the_other_backward(monkeypatch):
    drawn = case((1, 1, 200, 64), (1, 1, 200, 64))
    right = run(cpp, drawn, torch.float32)
    monkeypatch.setattr(_cpp, "has_work_for_threads", lambda _: False)
    for a, b in zip(run(cpp, drawn, torch.float32), right):
        close(a, b)
    monkeypatch.undo()
    threads = torch.get_num_threads()
    assert _cpp.has_work_for_threads(drawn.key) == (threads <= 2)


@pytest.mark.parametrize("where", ["query", "key", "value"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_hidden(where, number):
    tensors = dict(zip(("query", "key", "value"), torch.randn(3, 1, 1, 150, 32)))
    tensors[where][0, 0, 70, 3] = number
    exact = scaled_dot_product_attention(*(t.double() for t in tensors.values()))
    got = cpp(*tensors.values())
    hidden = exact.isnan() & ~got.isnan()
    assert not hidden.any()
    assert (got.isfinite() == exact.isfinite())[exact.isfinite()].all()


def test_forward_alone_takes_no_more_bytes_than_pytorchs():
    tensors = torch.randn(3, 1, 4, 2048, 64)
    with torch.no_grad():
        cpp(*tensors)
        ours = allocation(lambda: cpp(*tensors)).peak_bytes
        theirs = allocation(lambda: scaled_dot_product_attention(*tensors)).peak_bytes
    assert ours <= theirs


@pytest.mark.parametrize(
    ("shape", "kwargs", "words"),
    [
        ((1, 1, 4, 40), {}, r"head sizes 40 and 40 are no multiples of"),
        ((1, 1, 4, 32), {"attn_mask": torch.ones(4, 4).bool()}, "attn_mask and dropout_p are not among"),
        ((1, 1, 4, 32), {"dropout_p": 0.5}, "attn_mask and dropout_p are not among"),
        ((1, 1, 0, 32), {}, "a tensor is empty"),
    ],
)
def test_what_it_does_not_take_is_said_and_auto_computes_it(shape, kwargs, words):
    tensors = [torch.randn(shape) for _ in range(3)]
    with pytest.raises(RuntimeError, match=rf"backend='cpp' was asked for, but .*{words}.*; backend='eager' runs"):
        cpp(*tensors, **kwargs)
    assert memory_efficient_attention(*tensors, **kwargs).shape == shape


def test_other_dtypes_are_refused_and_computed_by_auto():
    tensors = [torch.randn(1, 1, 4, 32, dtype=torch.float64) for _ in range(3)]
    with pytest.raises(RuntimeError, match=r"query is torch\.float64, and the kernels take float32"):
        cpp(*tensors)
    close(memory_efficient_attention(*tensors), scaled_dot_product_attention(*tensors))


def test_without_a_compiler_auto_is_eager(monkeypatch):
    monkeypatch.setattr(_cpp, "_found", lambda: (32, "no C++ compiler was found"))
    tensors = torch.randn(3, 1, 1, 8, 64)
    assert _backends.choose_backend("auto", *tensors, None, 0.0) == "eager"
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler was found; backend='eager' runs everywhere"):
        cpp(*tensors)


def test_opcheck():
    query, key, value = (torch.randn(1, 2, 40, 32, requires_grad=True) for _ in range(3))
    rest = (None, None, 0.0, True, 0.2, "cpp")
    # Gradients of the operator itself go through autograd.Function.
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(attention, (query, key, value, *rest), test_utils=tests)
    out, lse = attention(query.detach(), key.detach(), value.detach(), *rest)
    arguments = (torch.randn_like(out), query, key, value, None, None, out, lse, 0.0, True, 0.2, "cpp", False)
    torch.library.opcheck(attention_backward, arguments, test_utils=tests)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch 2.15 warns of its own use of torch.jit
@pytest.mark.slow
def test_compiles_without_a_graph_break():
    tensors = [torch.randn(2, 3, 70, 64, requires_grad=True) for _ in range(3)]
    ours = torch.compile(lambda *t: memory_efficient_attention(*t, is_causal=True).sin(), fullgraph=True)(*tensors)
    theirs = scaled_dot_product_attention(*tensors, is_causal=True).sin()
    close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours.sum(), tensors), torch.autograd.grad(theirs.sum(), tensors)):
        close(a, b)


def test_vmap_and_checkpointing():
    tensors = [torch.randn(3, 2, 2, 50, 32) for _ in range(3)]
    close(torch.vmap(cpp)(*tensors), scaled_dot_product_attention(*tensors))
