"""`memory_efficient_attention` against PyTorch's own function: all modes, shapes, precisions; forward and backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch.nn.functional import scaled_dot_product_attention

from blackbelt.reference.attention import (
    chunked_attention,
    memory_efficient_attention,
    naive_attention,
    recomputed_attention,
    skipping_attention,
)
from tests.reference.attention_cases import assert_accurate, assert_same, case, cases, run

MASK = torch.rand(70, 90, generator=torch.Generator().manual_seed(2)) < 0.6
MASK[5] = False  # a row that sees nothing
FLOAT_MASK = torch.randn(2, 1, 70, 90, generator=torch.Generator().manual_seed(3)).bfloat16().double()
FLOAT_MASK[:, :, 7] = -torch.inf

MODES = {
    "plain": case((2, 3, 70, 16), (2, 3, 90, 16)),
    "several tiles": case((1, 2, 600, 8), (1, 2, 1100, 8)),
    "causal": case((2, 2, 600, 8), (2, 2, 600, 8), is_causal=True),
    "causal, more queries": case((1, 1, 1300, 8), (1, 1, 700, 8), is_causal=True),
    "causal, more keys": case((1, 1, 300, 8), (1, 1, 1300, 8), is_causal=True),
    "bool mask with an empty row": case((2, 3, 70, 16), (2, 3, 90, 16), attn_mask=MASK),
    "float mask with an empty row": case((2, 3, 70, 16), (2, 3, 90, 16), attn_mask=FLOAT_MASK),
    "mask of one row": case((2, 3, 70, 16), (2, 3, 90, 16), attn_mask=MASK[None, None, :1]),
    "grouped heads": case((2, 6, 70, 16), (2, 2, 90, 16), enable_gqa=True),
    "grouped heads, causal": case((2, 6, 300, 8), (2, 2, 300, 8), enable_gqa=True, is_causal=True),
    "one head of keys for all": case((2, 4, 30, 16), (2, 1, 40, 16)),
    "one batch element of keys for all": case((2, 4, 30, 16), (1, 4, 40, 16)),
    "scale": case((2, 3, 30, 16), (2, 3, 40, 16), scale=0.7),
    "scale 0": case((2, 3, 30, 16), (2, 3, 40, 16), scale=0.0),
    "head size 13, value 5": case((2, 3, 30, 13), (2, 3, 40, 13), (2, 3, 40, 5)),
    "odd everything": case((5, 123, 123), (5, 123, 123)),
    "no heads": case((30, 16), (40, 16)),
    "five dimensions": case((2, 2, 3, 30, 8), (2, 2, 3, 40, 8)),
    "one query, one key": case((1, 1, 1, 4), (1, 1, 1, 4)),
    "no keys": case((2, 3, 4, 8), (2, 3, 0, 8)),
    "no queries": case((2, 3, 0, 8), (2, 3, 4, 8)),
    "no batch": case((0, 3, 4, 8), (0, 3, 4, 8)),
    "head size 0": case((2, 3, 4, 0), (2, 3, 5, 0), (2, 3, 5, 4)),
}


def large(mode):
    """Return the case with scores too large to go without a maximum."""
    from dataclasses import replace

    return replace(mode, query=mode.query * 8, key=mode.key * 8)


def test_no_heads_at_all_give_an_empty_result():  # PyTorch 2.9 divides by their number, which ends the process
    out, *grads = run(memory_efficient_attention, case((2, 0, 4, 8), (2, 0, 4, 8)), torch.float64)
    assert out.shape == (2, 0, 4, 8) and all(grad.shape == (2, 0, 4, 8) for grad in grads)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("size", ["bounded scores", "large scores"])
def test_equals_pytorch_in_float64(mode, size):
    assert_same(mode if size == "bounded scores" else large(mode))


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_at_most_twice_pytorchs(mode, dtype):
    assert_accurate(mode, dtype)


@pytest.mark.parametrize("name", ["several tiles", "causal", "bool mask with an empty row"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_of_large_scores_is_at_most_twice_pytorchs(name, dtype):
    assert_accurate(large(MODES[name]), dtype)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_equals_pytorch_whatever_the_shape_layout_and_mode(drawn):
    assert_same(drawn)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_naive_rung_equals_pytorch(mode):
    got, expected = run(naive_attention, mode, torch.float64), run(scaled_dot_product_attention, mode, torch.float64)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("lengths", [(40, 40), (1100, 600), (600, 1100)])
@pytest.mark.parametrize("rung", [recomputed_attention, skipping_attention])
def test_rungs_equal_pytorch(rung, lengths, is_causal):
    mode = case((2, lengths[0], 8), (2, lengths[1], 8), is_causal=is_causal)
    for a, b in zip(run(rung, mode, torch.float64), run(scaled_dot_product_attention, mode, torch.float64)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_chunked_rung_returns_the_log_sum_exp():
    mode = case((2, 1100, 8), (2, 600, 8))
    out, lse = chunked_attention(mode.query, mode.key, mode.value)
    torch.testing.assert_close(out, scaled_dot_product_attention(mode.query, mode.key, mode.value))
    torch.testing.assert_close(lse, (mode.query @ mode.key.mT / 8**0.5).logsumexp(-1))


GRADCHECK = {
    "plain": {},
    "causal": {"is_causal": True},
    "bool mask": {"attn_mask": torch.tensor([[1, 1, 0, 1, 0, 1], [0] * 6, [1] * 6, [0, 0, 0, 0, 0, 1]]).bool()},
    "float mask": {"attn_mask": torch.randn(4, 6, dtype=torch.float64)},
    "dropout": {"dropout_p": 0.4},
    "scale": {"scale": 0.3},
}


@pytest.mark.parametrize("kwargs", GRADCHECK.values(), ids=GRADCHECK)
@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_gradcheck(kwargs, factor):
    leaves = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 4, 4, 3), (2, 2, 6, 3), (2, 2, 6, 5))
    ]

    def attend(query, key, value):
        torch.manual_seed(0)  # the same dropout in every evaluation
        # A scale turned down as the query is turned up: the same scores, on the other way through the code.
        scale = kwargs.get("scale", 0.5)
        return memory_efficient_attention(
            query * factor, key * factor, value, enable_gqa=True, **{**kwargs, "scale": scale / factor}
        )

    assert torch.autograd.gradcheck(attend, leaves)


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (2, 1, 5, 6), (4, 1, 6), (5, 6), (1, 1, 5, 1)])
def test_gradcheck_of_the_mask(shape):
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 4, 5, 3), (2, 2, 6, 3))]
    mask = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q, k, m: memory_efficient_attention(q, k, k, attn_mask=m, enable_gqa=True), (*leaves, mask)
    )


def test_dropout_drops_the_share_asked_for_and_keeps_the_mean():
    query, value = torch.zeros(1, 2, 200, 4), torch.eye(1000).expand(1, 2, -1, -1)
    torch.manual_seed(0)
    out = memory_efficient_attention(query, torch.zeros(1, 2, 1000, 4), value, dropout_p=0.3)
    probabilities = out * 1000  # value is the identity: the result is the matrix of probabilities itself
    assert abs((probabilities == 0).double().mean() - 0.3) < 0.005
    torch.testing.assert_close(
        probabilities[probabilities > 0], torch.full((), 1 / 0.7).expand((probabilities > 0).sum())
    )
    assert (out[0, 0] != out[0, 1]).any() and (out[0, 0, 0] != out[0, 0, 1]).any()


def test_backward_uses_the_noise_of_the_forward():
    torch.manual_seed(0)
    query = torch.zeros(1, 1, 300, 4)
    value = torch.eye(600).expand(1, 1, -1, -1).clone().requires_grad_()
    out = memory_efficient_attention(query, torch.zeros(1, 1, 600, 4), value, dropout_p=0.5)
    grad = torch.randn_like(out)
    torch.testing.assert_close(torch.autograd.grad(out, value, grad)[0], out.detach().mT @ grad)


def test_dropout_follows_the_global_generator_and_nothing_else_moves_it():
    query = torch.randn(1, 2, 30, 8)
    torch.manual_seed(5)
    first, again = (memory_efficient_attention(query, query, query, dropout_p=0.5) for _ in range(2))
    torch.manual_seed(5)
    assert torch.equal(first, memory_efficient_attention(query, query, query, dropout_p=0.5))
    assert not torch.equal(first, again)
    state = torch.get_rng_state()
    memory_efficient_attention(query, query, query)
    assert torch.equal(state, torch.get_rng_state())


def test_nan_is_not_hidden():
    query, key = torch.randn(1, 1, 5, 8), torch.randn(1, 1, 5, 8)
    query[0, 0, 2, 3] = torch.nan
    out = memory_efficient_attention(query, key, key)
    assert out[0, 0, 2].isnan().all() and not out[0, 0, [0, 1, 3, 4]].isnan().any()


def test_a_later_key_cannot_reach_an_earlier_query():
    query, key, value = (torch.randn(1, 1, 600, 8, dtype=torch.float64) for _ in range(3))
    before = memory_efficient_attention(query, key, value, is_causal=True)
    key[0, 0, 400] = torch.nan
    after = memory_efficient_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(after[0, 0, :400], before[0, 0, :400])
    assert after[0, 0, 400:].isnan().all()


@pytest.mark.parametrize("layout", ["contiguous", "heads inside"])
def test_result_is_laid_out_as_the_query(layout):
    query = torch.randn(2, 4, 30, 8) if layout == "contiguous" else torch.randn(2, 30, 4, 8).transpose(1, 2)
    assert memory_efficient_attention(query, query, query).stride() == query.stride()


def test_inputs_are_left_alone():
    leaves = [torch.randn(2, 3, 300, 8, requires_grad=True) for _ in range(3)]
    versions = [t._version for t in leaves]
    memory_efficient_attention(*leaves, is_causal=True).sum().backward()
    assert [t._version for t in leaves] == versions
