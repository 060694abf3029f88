"""The laws on the backward pass: one answer that keeps each, one that breaks it."""

from __future__ import annotations

import pytest
import torch

from blackbelt.dojo.laws import LawBroken
from blackbelt.dojo.laws.backward import (
    BackwardIsRecorded,
    GradientOfSum,
    LeavesGradOutput,
    SkipsUnneeded,
    StepAllocates,
)
from blackbelt.dojo.trial import Case, Trial
from tests.dojo.exercise import kata_of


def _trial(function, *arguments, reference=None):
    return Trial(kata_of(reference or function, [], *arguments), function, Case(arguments))


def _leaf(*shape):
    return torch.arange(1.0, 1.0 + torch.Size(shape).numel()).reshape(shape).requires_grad_()


def _function(forward, backward):
    class Mine(torch.autograd.Function):
        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

    Mine.forward, Mine.backward = staticmethod(forward), staticmethod(backward)
    return Mine.apply


def _product(backward):
    return _function(lambda x, w: x * w, backward)


def test_what_a_step_allocates_includes_backward():
    x, nbytes = _leaf(64, 64), 64 * 64 * 4
    frugal = _trial(_function(lambda x: x * 2, lambda ctx, grad: grad * 2), x)
    wasteful = _trial(_function(lambda x: x * 2, lambda ctx, grad: grad.repeat(10, 1)[:64] * 2), x)
    law = StepAllocates(at_most=lambda _: 3 * nbytes)
    law.check(frugal)
    with pytest.raises(LawBroken) as broken:
        law.check(wasteful)
    assert broken.value.sentence.startswith("Forward and backward allocate ")
    assert broken.value.expected == "at most 48 KiB"


def test_the_gradient_of_a_frozen_tensor_is_to_be_skipped():
    def always(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w, (grad * x).sum(0)

    def if_needed(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w, (grad * x).sum(0) if ctx.needs_input_grad[1] else None

    x, w = _leaf(3, 4), _leaf(4)
    SkipsUnneeded(argument=1).check(_trial(_product(if_needed), x, w))
    SkipsUnneeded(argument=1).check(_trial(lambda x, w: x * w, x, w))  # autograd itself does
    with pytest.raises(LawBroken) as broken:
        SkipsUnneeded(argument=1).check(_trial(_product(always), x, w))
    assert broken.value.sentence == "Backward works as much when argument 1 needs no gradient"
    assert broken.value.expected == "fewer than 3 operators"


def test_the_engines_own_reduction_does_not_count_as_skipped():
    def too_large(ctx, grad):  # the engine sums what is too large, but only where somebody wants it
        x, w = ctx.saved_tensors
        return grad * w, grad * x

    with pytest.raises(LawBroken):
        SkipsUnneeded(argument=1).check(_trial(_product(too_large), _leaf(3, 4), _leaf(4)))


def test_grad_output_is_not_to_be_changed():
    kept = _function(lambda x: x * 2, lambda ctx, grad: grad * 2)
    changed = _function(lambda x: x * 2, lambda ctx, grad: grad.mul_(2))
    LeavesGradOutput().check(_trial(kept, _leaf(3)))
    LeavesGradOutput().check(_trial(changed, torch.ones(3)))  # nothing to differentiate
    with pytest.raises(LawBroken) as broken:
        LeavesGradOutput().check(_trial(changed, _leaf(3)))
    assert broken.value.sentence == "Its backward changed `grad_output` in place"


def test_the_gradient_of_the_sum_sees_factors_zeros_and_nan():
    def square(x):
        return x * x

    forgets = _function(square, lambda ctx, grad: 2 * ctx.saved_tensors[0])
    GradientOfSum().check(_trial(forgets, _leaf(3), reference=square))  # a sum sends in ones
    wrong = {
        "factor": _function(square, lambda ctx, grad: grad * ctx.saved_tensors[0]),
        "detached": lambda x: square(x).detach(),
        "nan": _function(square, lambda ctx, grad: grad * ctx.saved_tensors[0] * float("nan")),
    }
    for function in wrong.values():
        with pytest.raises(LawBroken, match="The gradient is wrong, even that of the sum of the result"):
            GradientOfSum().check(_trial(function, _leaf(3), reference=square))


def test_backward_is_to_be_recorded():
    def cube(x):
        return x * x * x

    def backward(ctx, grad):
        return grad * 3 * ctx.saved_tensors[0].square()

    BackwardIsRecorded().check(_trial(_function(cube, backward), _leaf(3)))
    with pytest.raises(LawBroken) as broken:
        BackwardIsRecorded().check(
            _trial(_function(cube, torch.autograd.function.once_differentiable(backward)), _leaf(3))
        )
    assert broken.value.sentence == "Backward cannot be differentiated"
    assert "once_differentiable" in broken.value.got
