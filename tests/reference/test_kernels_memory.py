"""What the kernels hold: bytes allocated, bytes saved for the backward, and memory that is overwritten."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from blackbelt.measurement import allocation
from blackbelt.reference import kernels
from tests.reference.kernels_cases import available

R, C, D = 512, 4096, 64


@pytest.fixture(params=["eager", "cpp"])
def backend(request):
    return available(request.param)


@pytest.fixture(autouse=True)
def _one_thread():
    """The profiler sees what the calling thread allocates; with one thread that is everything."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def saved_beside(function, *own):
    """Return the bytes saved for the backward in memory that is none of ``own``, nor the result's."""
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    ):
        out = function()
    known = {t.untyped_storage().data_ptr() for t in (*own, out)}
    return sum(t.untyped_storage().nbytes() for pointer, t in saved.items() if pointer not in known)


def test_saved_are_inputs_results_and_one_number_per_row(backend):
    x, vector = torch.randn(R, C, requires_grad=True), torch.randn(C, requires_grad=True)
    target = torch.randint(C, (R,))
    assert saved_beside(lambda: kernels.bias_gelu(x, vector, backend=backend), x, vector) == 0
    assert saved_beside(lambda: kernels.softmax(x, backend=backend), x) == 0
    assert saved_beside(lambda: kernels.rms_norm(x, vector, backend=backend), x, vector) == 4 * R
    # Per row the log-sum-exp in float64; and the number of targets that count.
    assert saved_beside(lambda: kernels.cross_entropy(x, target, backend=backend), x, target) <= 8 * R + 16
    assert saved_beside(lambda: functional.cross_entropy(x, target), x, target) >= 4 * R * C


def test_cross_entropy_in_place_allocates_nothing_of_the_logits_size(backend):
    target = torch.randint(C, (R,))
    memory = torch.randn(R, C)

    def train(inplace):
        # The logits' memory is there before, as in a model; a view makes them a result and no leaf.
        logits = memory.clone().requires_grad_()

        def run():
            result = logits.view(-1, C) if not inplace else Passing.apply(logits)
            kernels.cross_entropy(result, target, inplace=inplace, backend=backend).mul(2).backward()

        return allocation(run).peak_bytes

    train(True)
    assert train(True) < R * C * 4 / 4  # rows at a time in eager, one number per row in the others
    assert train(False) >= R * C * 4


class Passing(torch.autograd.Function):
    """Makes a leaf a result with the same memory, as a layer's output is one: its gradient goes nowhere."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.detach().view(-1, C)

    @staticmethod
    def backward(ctx, grad):
        return None


def test_cross_entropy_in_place_leaves_the_gradient_where_the_logits_were(backend):
    x, target = torch.randn(6, 9, requires_grad=True), torch.randint(9, (6,))
    logits = 2 * x
    version = logits._version
    loss = kernels.cross_entropy(logits, target, inplace=True, backend=backend)
    assert logits._version > version
    plain = (2 * x).detach().requires_grad_()
    (expected,) = torch.autograd.grad(functional.cross_entropy(plain, target), plain)
    torch.testing.assert_close(logits.detach(), expected)
    (3 * loss).backward()
    torch.testing.assert_close(x.grad, 6 * expected)


def test_another_user_of_overwritten_logits_gets_autograds_error(backend):
    target = torch.randint(9, (6,))
    users = (
        lambda t: t * t,
        lambda t: kernels.bias_gelu(t, torch.zeros(9), backend=backend),
        lambda t: kernels.cross_entropy(t, target, backend=backend),
        lambda t: kernels.cross_entropy(t, target, inplace=True, backend=backend),
    )
    for user in users:
        logits = 2 * torch.randn(6, 9, requires_grad=True)
        before = user(logits).sum()
        loss = kernels.cross_entropy(logits, target, inplace=True, backend=backend)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            (loss + before).backward()


def test_the_operator_that_made_the_logits_gets_autograds_error_where_it_saved_them(backend):
    logits = torch.randn(6, 9, requires_grad=True).exp()
    loss = kernels.cross_entropy(logits, torch.randint(9, (6,)), inplace=True, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_logits_changed_after_the_loss_are_autograds_error(backend):
    logits = 2 * torch.randn(6, 9, requires_grad=True)
    loss = kernels.cross_entropy(logits, torch.randint(9, (6,)), inplace=True, backend=backend)
    with torch.no_grad():
        logits.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_grad_mode_in_place_overwrites_nothing(backend):
    logits, target = torch.randn(6, 9), torch.randint(9, (6,))
    before = logits.clone()
    kernels.cross_entropy(logits, target, inplace=True, backend=backend)
    with torch.no_grad():
        kernels.cross_entropy(logits.requires_grad_(), target, inplace=True, backend=backend)
    assert torch.equal(logits, before)


def linear_bytes(backend, wanted=(True, True), chunk_rows=64, backward=True):
    """Return the peak of the loss and its backward, in bytes."""
    x, weight = torch.randn(R, D, requires_grad=wanted[0]), torch.randn(C, D, requires_grad=wanted[1])
    target = torch.randint(C, (R,))

    def run():
        loss = kernels.linear_cross_entropy(x, weight, target, chunk_rows=chunk_rows, backend=backend)
        if backward:
            loss.backward()

    run()
    x.grad = weight.grad = None
    return allocation(run).peak_bytes


CHUNK, GRAD_X, GRAD_W = 64 * C * 4, R * D * 4, C * D * 4


def test_linear_cross_entropy_holds_one_chunk_and_the_gradients(backend):
    extra = 2**16 * 4 * 4 if backend == "eager" else 0  # the rows that the formula is at
    slack = 64 * 1024  # numbers per row
    assert linear_bytes(backend) <= CHUNK + GRAD_X + GRAD_W + extra + slack
    assert linear_bytes(backend, (True, False)) <= CHUNK + GRAD_X + extra + slack
    assert linear_bytes(backend, chunk_rows=16) <= CHUNK / 4 + GRAD_X + GRAD_W + extra + slack
    assert CHUNK + GRAD_X + GRAD_W + extra + slack < R * C * 4  # what the logits alone would take


def test_backward_of_linear_cross_entropy_allocates_nothing(backend):
    x, weight = torch.randn(R, D, requires_grad=True), torch.randn(C, D, requires_grad=True)
    loss = kernels.linear_cross_entropy(x, weight, torch.randint(C, (R,)), backend=backend)
    assert allocation(lambda: loss.mul(3).backward()).peak_bytes < 1024


def test_linear_cross_entropy_makes_no_gradient_that_nobody_wants(backend):
    extra = 64 * C * 4 * 3 if backend == "eager" else 0  # the formula, for a chunk
    assert linear_bytes(backend, (False, False), backward=False) <= CHUNK + extra + 64 * 1024
    x, weight = torch.randn(R, D, requires_grad=True), torch.randn(C, D, requires_grad=True)
    target = torch.randint(C, (R,))

    def evaluate():
        with torch.no_grad():
            kernels.linear_cross_entropy(x, weight, target, chunk_rows=64, backend=backend)

    evaluate()
    assert allocation(evaluate).peak_bytes <= CHUNK + extra + 64 * 1024
