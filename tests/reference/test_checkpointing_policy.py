"""`checkpoint(…, policy=…)`: what is kept is not computed again, and is what it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # as everybody writes it

from blackbelt.reference.checkpointing import CheckpointError, checkpoint, keep_matmuls
from tests.reference.checkpointing_zoo import ZOO, Operators, allocation_at_end, gradients, leaf, plain, same


def keep_all(operator) -> bool:
    return True


def keep_none(operator) -> bool:
    return False


def keep_random(operator) -> bool:
    return torch.Tag.nondeterministic_seeded in operator.tags


@pytest.mark.parametrize("policy", [keep_matmuls, keep_none, keep_random])
@pytest.mark.parametrize("name", [name for name in ZOO if name != "in_place_relu"])
def test_gradients_are_those_without_a_checkpoint(name, policy):
    def call(function, *args, **kwargs):
        return checkpoint(function, *args, policy=policy, **kwargs)

    assert same(gradients(name, call), gradients(name, plain))


def rerun_names(function, x, policy):
    result = checkpoint(function, x, policy=policy)
    with Operators() as operators:
        result.sum().backward()
    return operators.names


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4), nn.GELU())


def test_matmuls_are_not_computed_again():
    assert rerun_names(mlp(), leaf(3, 4), keep_none).count("addmm") == 2
    names = rerun_names(mlp(), leaf(3, 4), keep_matmuls)
    assert "addmm" not in names and names.count("gelu") == 1  # the last is no longer needed


def test_a_policy_is_asked_for_operators_once_each_call():
    asked = []
    checkpoint(mlp(), leaf(3, 4), policy=lambda operator: asked.append(operator.name()) or False).sum().backward()
    assert asked.count("aten::addmm") == asked.count("aten::gelu") == 2


def test_holds_the_kept_outputs_and_nothing_else():
    x, module = leaf(32, 4), mlp()

    def held(policy):
        results = []
        size = allocation_at_end(lambda: results.append(checkpoint(module, x, policy=policy)))
        return size - results[0].nbytes

    assert held(None) == held(keep_none) == 0
    assert held(keep_matmuls) == 32 * 8 * 4 + 32 * 4 * 4


def test_kept_outputs_serve_every_backward():
    x, module = leaf(3, 4), mlp()
    loss = checkpoint(module, x, policy=keep_matmuls).sum()
    found = [torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(3)]
    assert all(torch.equal(gradient, torch.autograd.grad(module(x).sum(), x)[0]) for gradient in found)


def test_second_derivatives():
    x, module = leaf(3, 4), mlp()

    def second(call):
        (first,) = torch.autograd.grad(call(module, x).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, *module.parameters()], allow_unused=True)

    assert same(second(lambda f, x: checkpoint(f, x, policy=keep_matmuls)), second(plain))


def test_random_numbers_after_a_kept_random_operator_are_the_same():
    """The rerun skips the first draw, so it must find the generator where the draw left it."""
    drawn = []

    def function(x):
        first = torch.bernoulli(torch.full((8,), 0.5))
        drawn.append((first, torch.rand(8)))
        return (x * first * drawn[-1][1]).exp()

    checkpoint(function, leaf(8), policy=lambda operator: "bernoulli" in operator.name()).sum().backward()
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])


def test_views_and_writes_are_always_run():
    def function(x):
        y = x.sin()
        y[0].mul_(2)
        return y.t().exp().tanh()

    x = leaf(3, 3)
    with pytest.raises(CheckpointError, match=r"keeps the output of aten.sin.default, and an operator that came later"):
        checkpoint(function, x, policy=keep_all).sum().backward()
    kept = checkpoint(function, x, policy=lambda operator: "sin" not in operator.name()).sum()
    assert torch.equal(torch.autograd.grad(kept, x)[0], torch.autograd.grad(function(x).sum(), x)[0])


def test_kept_output_that_is_changed_in_place_is_an_error():
    def function(x):
        return F.relu(x @ x, inplace=True).sin()

    with pytest.raises(CheckpointError) as caught:
        checkpoint(function, leaf(3, 3), policy=keep_matmuls).sum().backward()
    assert "the policy keeps the output of aten.mm.default" in str(caught.value)
    assert "`relu` for `relu_`" in str(caught.value)
    x = leaf(3, 3)
    checkpoint(function, x, policy=keep_none).sum().backward()


def test_changing_the_result_does_not_reach_what_is_kept_unnoticed():
    x = leaf(3, 3)
    result = checkpoint(lambda x: (x @ x).sin() @ x, x, policy=keep_matmuls)
    result.mul_(2)  # the last product: kept, and never asked for
    result.sum().backward()
    assert torch.equal(x.grad, torch.autograd.grad(2 * ((x @ x).sin() @ x).sum(), x)[0])


def test_another_operator_is_named():
    other = [False]

    def function(x):
        return (x.cos() if other[0] else x.sin()).exp()

    result = checkpoint(function, leaf(3), policy=keep_matmuls)
    other[0] = True
    with pytest.raises(CheckpointError, match=r"operator 0 was aten.sin.default, and is aten.cos.default now"):
        result.sum().backward()


def test_no_dynamo_is_imported():
    import subprocess
    import sys

    program = (
        "import torch, sys; from blackbelt.reference.checkpointing import checkpoint, keep_matmuls;"
        "x = torch.ones(2, 2, requires_grad=True);"
        "checkpoint(lambda x: (x @ x).sin(), x, policy=keep_matmuls).sum().backward();"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("policy", [3, "matmuls", [torch.ops.aten.mm.default]])
def test_policy_must_be_callable(policy):
    with pytest.raises(TypeError, match="policy must be None or a callable that takes an operator"):
        checkpoint(torch.sin, leaf(2), policy=policy)


@pytest.mark.parametrize(
    ("operator", "kept"),
    [
        (torch.ops.aten.mm.default, True),
        (torch.ops.aten.bmm.default, True),
        (torch.ops.aten.convolution.default, True),
        (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default, True),
        (torch.ops.aten.mul.Tensor, False),
        (torch.ops.aten.native_dropout.default, False),
        (torch.ops.prims.mul.default, False),
    ],
)
def test_keep_matmuls(operator, kept):
    assert keep_matmuls(operator) is kept
