"""`checkpoint` where something goes wrong: in forward, in the rerun, or between the two."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from blackbelt.reference.checkpointing import CheckpointError, checkpoint
from tests.reference.checkpointing_zoo import leaf


def test_exception_in_the_rerun_comes_through_and_leaves_a_usable_state():
    fails = [False]

    def function(x):
        y = x.sin() * torch.rand(4)
        if fails[0]:
            raise KeyError("no such thing")
        return y.exp()

    torch.manual_seed(0)
    x = leaf(4)
    result = checkpoint(function, x)
    state, fails[0] = torch.get_rng_state(), True
    with pytest.raises(KeyError, match="no such thing"):
        result.sum().backward(retain_graph=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
    fails[0] = False
    (found,) = torch.autograd.grad(result.sum(), x)
    torch.manual_seed(0)
    torch.randn(4)
    assert torch.equal(found, torch.autograd.grad(function(x).sum(), x)[0])


def test_exception_in_forward_comes_through():
    def function(x):
        raise KeyError("no such thing")

    with pytest.raises(KeyError, match="no such thing"):
        checkpoint(function, leaf(4))
    packed = []
    with saved_tensors_hooks(packed.append, lambda _: torch.zeros(4)):
        leaf(4).exp()
    assert len(packed) == 1  # our hooks are gone


def test_another_shape_is_named():
    short = [False]

    def function(x):
        y = x.sin()
        return (y[:2] if short[0] else y).cos()

    result = checkpoint(function, leaf(5))
    short[0] = True
    with pytest.raises(CheckpointError) as caught:
        result.sum().backward()
    text = str(caught.value)
    assert "saved tensor 1 (saved by CosBackward0) was torch.float32 (5,) on cpu" in text
    assert "is torch.float32 (2,) on cpu now" in text
    assert "train()`/`eval()" in text
    lines = [entry.lineno for entry in caught.traceback if entry.name == "function"]
    assert lines, "the traceback shows the line of the function that went another way"


def test_another_dtype_is_named():
    kind = [torch.float32]
    result = checkpoint(lambda x: x.to(kind[0]).sin().exp(), leaf(5))
    kind[0] = torch.float64
    with pytest.raises(CheckpointError, match=r"tensor 0 \(saved by SinBackward0\) was torch.float32 .* torch.float64"):
        result.sum().backward()


def test_fewer_tensors_are_named():
    module = nn.Sequential(nn.Tanh(), nn.Dropout(0.5))
    result = checkpoint(module, leaf(5))
    module.eval()
    with pytest.raises(CheckpointError) as caught:
        result.sum().backward()
    assert "it saved 1 tensors, and backward needs 2" in str(caught.value)
    assert "saved tensor 1 (saved by MulBackward0): torch." in str(caught.value)


def test_input_changed_in_place_is_an_error():
    x = leaf(4).exp()
    result = checkpoint(torch.sin, x)
    x.mul_(2)
    with pytest.raises(CheckpointError, match=r"an input of the checkpointed `.*` was changed in place"):
        result.sum().backward()


def test_function_that_changes_its_input_is_an_error():
    def double(x):
        return x.mul_(2).sin()

    with pytest.raises(CheckpointError, match=r"input of the checkpointed `.*double` was changed in place"):
        checkpoint(double, leaf(4).exp()).sum().backward()


@pytest.mark.parametrize("module", [nn.Linear(4, 4), nn.Sequential(nn.LayerNorm(4), nn.Tanh())])
def test_parameter_changed_in_place_is_an_error(module):
    """As without a checkpoint; PyTorch's own gives a gradient for the new values without a word."""
    result = checkpoint(module, leaf(3, 4))
    with torch.no_grad():
        next(module.parameters()).mul_(2)
    with pytest.raises(CheckpointError, match=r"was changed in place between .* \(version \d, now \d\)"):
        result.sum().backward()


@pytest.mark.parametrize("function", [None, 3, torch.ones(2)])
def test_function_must_be_callable(function):
    with pytest.raises(TypeError, match="function must be callable, not"):
        checkpoint(function, leaf(2))
