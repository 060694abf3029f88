"""Gradients per sample, by `vmap` over `grad`."""

from __future__ import annotations

import pytest
import torch

from blackbelt.dojo.laws import LawBroken
from blackbelt.dojo.laws.transforms import PerSampleGradients
from blackbelt.dojo.trial import Case, Trial
from tests.dojo.exercise import kata_of

X = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)


def _trial(function):
    return Trial(kata_of(function, [], X), function, Case((X,)))


class _Old(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return grad * 3 * ctx.saved_tensors[0] ** 2


class _OwnRule(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return grad * 3 * ctx.saved_tensors[0] ** 2

    @staticmethod
    def vmap(info, in_dims, x):
        return (x**3).flip(0), in_dims[0]  # the samples in the wrong order


def test_recorded_operations_get_through():
    PerSampleGradients().check(_trial(lambda x: x**3))


def test_a_function_without_setup_context_does_not():
    with pytest.raises(LawBroken) as broken:
        PerSampleGradients().check(_trial(_Old.apply))
    assert broken.value.sentence == "`vmap(grad(…))` does not get through it"
    assert "setup_context" in broken.value.got


def test_another_gradient_under_vmap_is_found():
    def bad(x):
        return x**3 if not torch._C._functorch.is_functorch_wrapped_tensor(x) else x**2

    with pytest.raises(LawBroken) as broken:
        PerSampleGradients().check(_trial(bad))
    assert broken.value.sentence == "Under `vmap(grad(…))` it has another gradient"
