"""What accumulate and explain_accumulation say about input that will not do; gradients stay as they were."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from blackbelt.autograd.accumulation import accumulate, explain_accumulation
from tests.autograd.accumulation_losses import (
    square_loss,
)


def fake(tool):
    with FakeTensorMode():
        tool(nn.Linear(2, 1), [torch.ones(3, 2)] * 2, square_loss)


LINEAR = nn.Linear(2, 1)
X = torch.ones(3, 2)
BAD = {
    "model is a function": (
        lambda: accumulate(lambda x: x, [X], square_loss), TypeError,
        "model is of type function; an nn.Module was expected"),
    "nothing to train": (
        lambda: accumulate(nn.ReLU(), [X], square_loss), ValueError, "no parameter that requires a gradient"),
    "meta parameters": (
        lambda: accumulate(nn.Linear(2, 1, device="meta"), [X], square_loss), ValueError, "on the meta device"),
    "fake parameters": (lambda: fake(accumulate), ValueError, "in FakeTensorMode: shapes without values"),
    "fake parameters to explain": (lambda: fake(explain_accumulation), ValueError, "in FakeTensorMode"),
    "one tensor": (lambda: accumulate(LINEAR, X, square_loss), TypeError, r"one tensor of shape \(3, 2\).*x.split"),
    "a dict": (lambda: accumulate(LINEAR, {"x": X}, square_loss), TypeError, "micro_batches is of type dict"),
    "a number": (lambda: accumulate(LINEAR, 3, square_loss), TypeError, "micro_batches is of type int"),
    "no function": (lambda: accumulate(LINEAR, [X], "sum"), TypeError, "loss_sum_and_count is of type str"),
    "no micro-batches": (lambda: accumulate(LINEAR, [], square_loss), ValueError, "micro_batches is empty"),
    "an exhausted generator": (lambda: accumulate(LINEAR, iter(()), square_loss), ValueError, "exhausted"),
    "a scaler that is none": (
        lambda: accumulate(LINEAR, [X], square_loss, scaler=2.0), TypeError,
        r"scaler is of type float without a method"),
    "only a loss": (
        lambda: accumulate(LINEAR, [X], lambda m, x: m(x).sum()), TypeError,
        "returned a Tensor for micro-batch 1; two were expected"),
    "three values": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum(), 3, 4)), TypeError, "returned 3 values"),
    "swapped": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (3, m(x).sum())), TypeError,
        r"the loss of micro-batch 1 is of type int.*The order is \(sum of losses, count\)"),
    "not a scalar": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (m(x), 3)), ValueError, r"has shape \(3, 1\); a 0-d tensor"),
    "integer loss": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (torch.tensor(3), 3)), TypeError, "dtype torch.int64"),
    "complex loss": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum() * 1j, 3)), TypeError, "dtype torch.complex64"),
    "meta loss": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (torch.ones((), device="meta", requires_grad=True), 3)),
        ValueError, "loss of micro-batch 1 is on the meta device"),
    "detached loss": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum().detach(), 3)), ValueError, "has no graph, so"),
    "no_grad": (
        lambda: torch.no_grad()(accumulate)(LINEAR, [X], lambda m, x: (m(x).sum(), 3)), ValueError,
        "has no graph; gradients are off here"),
    "negative count": (
        lambda: accumulate(LINEAR, [X, X], lambda m, x: (m(x).sum(), -1)), ValueError, "count of micro-batch 1 is -1"),
    "NaN count": (lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum(), math.nan)), ValueError, "is nan"),
    "infinite count": (lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum(), math.inf)), ValueError, "is inf"),
    "bool count": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum(), True)), TypeError, "is True of type bool"),
    "bool tensor count": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum(), torch.tensor(True))), TypeError, "torch.bool"),
    "complex count": (lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum(), 3j)), TypeError, "of type complex"),
    "complex tensor count": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum(), torch.tensor(3j))), TypeError, "torch.complex64"),
    "text count": (lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum(), "3")), TypeError, "is '3' of type str"),
    "no count": (lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum(), None)), TypeError, "is None of type"),
    "count with gradient": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum(), m(x).sum())), ValueError, "requires a gradient"),
    "count of many": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum(), torch.ones(3))), ValueError, r"has shape \(3,\)"),
    "meta count": (
        lambda: accumulate(LINEAR, [X], lambda m, x: (m(x).sum(), torch.ones((), device="meta"))), ValueError,
        "count of micro-batch 1 is on the meta device"),
    "nothing counted": (
        lambda: accumulate(LINEAR, [X, X], lambda m, x: (m(x).sum(), 0)), ValueError, "2 micro-batches add up to 0"),
    "another model": (
        lambda: accumulate(nn.Linear(2, 1), [X], lambda m, x: (LINEAR(x).sum(), 3)), ValueError,
        r"depends on a tensor of shape \(1, 2\)|depends on a tensor of shape \(1,\)"),
    "an input with a gradient": (
        lambda: accumulate(LINEAR, [X.clone().requires_grad_()], lambda m, x: (m(x).sum(), 3)), ValueError,
        r"shape \(3, 2\) that requires a gradient and is no parameter"),
    "one micro-batch to explain": (
        lambda: explain_accumulation(LINEAR, [X], square_loss), ValueError, "has 1 items; at least two"),
    "a model to explain that is none": (
        lambda: explain_accumulation("m", [X], square_loss), TypeError, "model is of type str"),
    "micro-batches to explain with a graph": (
        lambda: explain_accumulation(LINEAR, [LINEAR(X), X], lambda m, x: (m.bias.sum(), 1)), ValueError,
        "computed with a graph"),
    "another model to explain": (
        lambda: explain_accumulation(LINEAR, [X, X], lambda m, x: (LINEAR(x).sum(), 3)), ValueError,
        "Use the model that loss_sum_and_count is given"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_a_clear_answer(name):
    call, kind, words = BAD[name]
    with pytest.raises(kind, match=f"(?s){words}"):
        call()
    assert all(parameter.grad is None for parameter in LINEAR.parameters())


def test_a_graph_that_reaches_into_the_last_micro_batch():
    cell = nn.RNNCell(2, 3)
    states = [torch.zeros(3, 3)]

    def loss(model, x):
        states.append(model(x, states[-1]))
        return states[-1].sum(), len(x)

    with pytest.raises(RuntimeError, match=r"(?s)micro-batch 2 reaches into a graph.*detach\(\).*PyTorch says: Trying"):
        accumulate(cell, [X, X], loss)
    assert cell.weight_ih.grad is None

    def detached(model, x):
        states.append(model(x, states[-1].detach()))
        return states[-1].sum(), len(x)

    states[:] = states[:1]
    accumulate(cell, [X, X], detached)
    assert cell.weight_ih.grad is not None


def test_a_model_that_cannot_be_copied_is_not_explained():
    model = nn.Linear(2, 1)
    model.cache = model.weight * 2
    with pytest.raises(ValueError, match=r"Linear cannot be copied.*copy.deepcopy\(model\) says"):
        explain_accumulation(model, [X, X], lambda m, x: (m(x).sum(), 1))
