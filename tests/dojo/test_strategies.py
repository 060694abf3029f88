"""Shared strategies produce what they name, and values are described in few words."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blackbelt.dojo.describe import describe, size_of
from blackbelt.dojo.strategies import LAYOUTS, broadcastable_shapes, laid_out, numbers, shapes, tensors


@pytest.mark.parametrize("layout", [*LAYOUTS, "channels_last"])
@given(shape=shapes(0, 4))
def test_a_layout_changes_strides_and_never_the_shape(layout, shape):
    tensor = laid_out(numbers, shape, layout)
    assert tuple(tensor.shape) == shape
    if layout == "expanded" and shape and shape[-1] > 1 and tensor.numel():
        assert tensor.stride(-1) == 0
    if layout == "transposed" and len(shape) >= 2 and min(shape[-2:]) > 1 and tensor.numel():
        assert not tensor.is_contiguous()
    if layout == "channels_last" and len(shape) == 4:
        assert tensor.is_contiguous(memory_format=torch.channels_last)


@given(drawn=broadcastable_shapes(3))
def test_broadcastable_shapes_broadcast(drawn):
    assert len(torch.broadcast_shapes(*drawn)) == max(map(len, drawn))


@given(tensor=tensors((2, 3), dtypes=(torch.float16, torch.int64, torch.bool)), seed=st.integers(0, 99))
def test_tensors_keep_dtype_and_numbers_depend_on_the_seed_alone(tensor, seed):
    assert tensor.shape == (2, 3)
    assert tensor.dtype in (torch.float16, torch.int64, torch.bool)
    before = torch.get_rng_state()
    assert torch.equal(numbers((5,), seed=seed), numbers((5,), seed=seed))
    assert torch.equal(before, torch.get_rng_state())


def test_descriptions():
    small = torch.tensor([[1.0, 0.123456]])
    assert describe(small) == "tensor of shape (1, 2), float32: [[1.0, 0.1235]]"
    assert describe(torch.ones(2, 3).t()) == (
        "tensor of shape (3, 2), stride (1, 3), float32: [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]"
    )
    assert describe(torch.ones(100, requires_grad=True)) == "tensor of shape (100,), float32, requires grad"
    assert describe((1, [small], {"a": None})) == f"(1, [{describe(small)}], {{'a': None}})"
    assert describe((1,)) == "(1,)"
    large = torch.ones(100)
    assert describe([large] * 32 + [small]) == f"[32 × {describe(large)}, {describe(small)}]"
    assert describe([7] * 5) == "[7, 7, 7, 7, 7]"
    assert describe(object()) == "<object object>", "an address is another one in every run"
    assert "meta" in describe(torch.ones(2, device="meta"))
    assert len(describe("x" * 1000)) == 200


def test_size_grows_with_what_there_is_to_read():
    assert size_of((torch.ones(2),)) < size_of((torch.ones(3),)) < size_of((torch.ones(3, 1),))
    assert size_of({"a": (1, 2)}) == 3
