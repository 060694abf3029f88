"""`checkpoint`: gradients to the bit, memory, what is rerun and how far, and what is left behind."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from blackbelt.measurement import allocation
from blackbelt.reference.checkpointing import checkpoint
from tests.reference.checkpointing_zoo import ZOO, Operators, allocation_at_end, gradients, leaf, plain, same


def theirs(function, *args, **kwargs):
    return torch_checkpoint(function, *args, use_reentrant=False, **kwargs)


@pytest.mark.parametrize("name", ZOO)
def test_gradients_are_those_without_a_checkpoint(name):
    assert same(gradients(name, checkpoint), gradients(name, plain))


@pytest.mark.parametrize("name", [name for name in ZOO if name not in ("random_in_two_places", "custom_function")])
def test_gradients_are_those_of_pytorchs_checkpoint(name):
    """The two left out: PyTorch's restores no generator that is passed, and gives a saved tensor once."""
    assert same(gradients(name, checkpoint), gradients(name, theirs))


@pytest.mark.parametrize("drop", [1, 2])
def test_results_that_are_dropped(drop):
    assert same(gradients("several_outputs", checkpoint, drop=drop), gradients("several_outputs", plain, drop=drop))


def test_second_derivatives():
    def second(call):
        torch.manual_seed(0)
        module, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 1)), leaf(3, 4)
        (first,) = torch.autograd.grad(call(module, x).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, *module.parameters()], allow_unused=True)

    assert same(second(checkpoint), second(plain))


def test_gradcheck():
    def function(x, y):
        return checkpoint(lambda a, b: (a.sin() * b).exp(), x, y)

    inputs = tuple(torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_retained_graph_gives_the_same_gradient_again():
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Tanh()), leaf(3, 4)
    loss = checkpoint(module, x).sum()
    found = [torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(3)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    loss.backward()
    assert torch.equal(x.grad, found[0])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_gradient_of_one_input_leaves_nothing_behind_in_a_graph_that_is_kept():
    x, weight = leaf(1000), leaf(1000)
    recomputed = []

    def function(x, weight):
        y = x.exp()
        recomputed.append(weakref.ref(y))
        return (y * weight).sin() * weight

    loss = checkpoint(function, x, weight).sum()
    torch.autograd.grad(loss, weight, retain_graph=True)
    gc.collect()
    frame = loss.grad_fn.next_functions[0][0]._raw_saved_self  # a handle only; the loss keeps all tickets alive
    assert frame is not None
    assert allocation(lambda: torch.autograd.grad(loss, weight, retain_graph=True)).peak_bytes < 10 * 4000
    tickets = [o for o in gc.get_objects() if type(o).__name__ == "Ticket"]
    assert tickets and not any(ticket.tensors for ticket in tickets)


def test_without_grad_mode_it_is_a_plain_call():
    x = leaf(4)
    with torch.no_grad():
        assert not checkpoint(torch.sin, x).requires_grad
    with torch.inference_mode():
        assert checkpoint(torch.sin, x).is_inference()


def test_nothing_needs_grad():
    x = torch.ones(4)
    assert torch.equal(checkpoint(torch.sin, x), x.sin())


@pytest.mark.parametrize(("enabled", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_autocast_around_is_brought_back(enabled, dtype):
    module, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), leaf(3, 4)
    seen = []

    def function(x):
        y = module(x)
        seen.append(y.dtype)
        return y.exp().exp()

    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        result = checkpoint(function, x)
    with torch.autocast("cpu", torch.bfloat16, enabled=not enabled):
        result.float().sum().backward()
    assert seen == [dtype or torch.float32] * 2


def test_default_device_is_brought_back():
    def function(x):
        return torch.ones(3) if x is None else torch.ones(3, requires_grad=True).sin().exp() * x.to("meta")

    with torch.device("meta"):
        result = checkpoint(function, torch.ones(3, device="cpu"))
    result.sum().backward()
    assert torch.get_default_device().type == "cpu"


def test_random_numbers_of_the_caller_are_left_alone():
    generator, x = torch.Generator().manual_seed(3), leaf(8)
    result = checkpoint(lambda x, g: (x * torch.rand(8) * torch.rand(8, generator=g)).exp(), x, generator)
    torch.manual_seed(5)
    before = torch.get_rng_state(), generator.get_state()
    result.sum().backward()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(generator.get_state(), before[1])


def test_random_numbers_are_not_brought_back_unless_asked():
    drawn = []

    def function(x):
        drawn.append(torch.rand(8))
        return (x * drawn[-1]).exp()

    for preserve in (True, False):
        drawn.clear()
        checkpoint(function, leaf(8), preserve_rng_state=preserve).sum().backward()
        assert torch.equal(*drawn) is preserve


def test_batch_norm_counts_a_batch_twice_as_pytorchs_does():
    for call in (checkpoint, theirs):
        module = nn.Sequential(nn.BatchNorm1d(3), nn.Tanh())
        call(module, leaf(5, 3)).sum().backward()
        assert module[0].num_batches_tracked == 2


def test_holds_its_inputs_and_nothing_else():
    x = torch.randn(64, 256)

    def saves(call):
        weight = leaf(256, 256)

        def forward(x):
            return call(lambda x: (x @ weight).sin().exp().cos(), x)

        held = []

        def step():
            held.append(forward(x))

        # What is allocated when forward is over, the result included.
        return allocation_at_end(step) - held[0].nbytes

    assert saves(plain) >= 2 * x.nbytes
    assert saves(checkpoint) == 0


def test_unused_random_state_is_not_held():
    def held_after(function):
        results = []
        return allocation_at_end(lambda: results.append(checkpoint(function, leaf(4)))) - 2 * 16

    assert held_after(torch.sin) == 0
    assert held_after(lambda x: x * torch.rand(4)) >= torch.get_rng_state().nbytes


def test_peak_is_no_more_than_pytorchs():
    module = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64), nn.GELU())

    def peak(call):
        def step(x):
            for _ in range(4):
                x = call(module, x)
            x.sum().backward()

        for parameter in module.parameters():
            parameter.grad = None
        return allocation(step, leaf(128, 64)).peak_bytes

    assert peak(checkpoint) <= peak(theirs) < peak(plain)


def test_rerun_stops_at_the_last_tensor_saved():
    module, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), leaf(3, 4)
    result = checkpoint(module, x)
    with Operators() as operators:
        result.sum().backward()
    assert operators.names.count("addmm") == 1  # the last is not multiplied again
    assert operators.names.count("tanh") == 1


def test_rerun_stops_at_the_last_tensor_still_needed():
    """PyTorch's goes on for the dropped result."""

    def function(x):
        y = x.sin().exp()
        return y, y.cos().tanh().sigmoid()

    def reruns(call):
        used = call(function, leaf(3))[0]
        with Operators() as operators:
            used.sum().backward()
        return operators.names

    ours = reruns(checkpoint)
    assert "tanh" not in ours and "sigmoid" not in ours and ours.count("exp") == 1
    assert "tanh" in reruns(theirs)


def test_one_rerun_per_backward():
    calls = []

    def function(x):
        calls.append(1)
        return x.sin().exp().cos()

    loss = checkpoint(function, leaf(3)).sum()
    for count in (2, 3):
        loss.backward(retain_graph=True)
        assert len(calls) == count


def test_function_that_catches_exceptions_does_not_catch_the_stop():
    def function(x):
        try:
            y = x.sin().exp()
        except Exception:
            y = x
        return y

    x = leaf(3)
    checkpoint(function, x).sum().backward()
    assert torch.equal(x.grad, (x.sin().exp() * x.cos()).detach())


def test_nested_inputs_are_not_held():
    """Inside an outer checkpoint, an inner one's input is recomputed: only the outer input is held."""
    big = []

    def inner(x):
        return x.sin().exp()

    def outer(x):
        y = x.exp()
        big.append(weakref.ref(y))
        return checkpoint(inner, y)

    result = checkpoint(outer, leaf(100))
    assert big[0]() is None
    result.sum().backward()


def test_nothing_is_left_after_backward_or_when_dropped():
    class Marked(nn.Module):
        def forward(self, x):
            return x.sin().exp().cos()

    gc.collect()
    gc.disable()  # references alone must do it
    try:
        for runs_backward in (True, False):
            module = Marked()
            x = leaf(8).exp()
            result = checkpoint(module, x)
            watched = [weakref.ref(module), weakref.ref(x)]
            if runs_backward:
                result.sum().backward()
                del module, x
                assert [reference() for reference in watched] == [None, None], "result lives, its graph does not"
            else:
                del module, x
                assert all(reference() is not None for reference in watched)
            del result
            assert [reference() for reference in watched] == [None, None]
    finally:
        gc.enable()


def test_hooks_around_see_the_inputs():
    packed = []

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor

    x, y = leaf(3), leaf(5)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = checkpoint(lambda x, y: x.sin().sum() * y.exp(), x, y=y)
    assert packed == [x.shape, y.shape]
    result.sum().backward()
    assert packed == [x.shape, y.shape]


def test_save_on_cpu_around():
    x, module = leaf(3, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    with save_on_cpu():
        result = checkpoint(module, x)
    (found,) = torch.autograd.grad(result.sum(), x)
    assert torch.equal(found, torch.autograd.grad(module(x).sum(), x)[0])


def test_hooks_inside_see_everything_again():
    packed = []

    def function(x):
        with saved_tensors_hooks(lambda t: packed.append(1) or t, lambda t: t):
            y = x.sin()
        return y.exp()

    x = leaf(4)
    checkpoint(function, x).sum().backward()
    assert torch.equal(x.grad, (x.sin().exp() * x.cos()).detach())
    assert len(packed) == 2


def test_saved_tensors_can_be_read_outside_backward():
    x = leaf(4)
    result = checkpoint(lambda x: x.sin().exp(), x)
    assert torch.equal(result.grad_fn._saved_result, x.sin().exp())
    result.sum().backward()
    assert torch.equal(x.grad, (x.sin().exp() * x.cos()).detach())


def test_two_threads_run_backward_through_one_graph():
    torch.manual_seed(0)
    x = leaf(2000)
    loss = checkpoint(lambda x: (x.sin().exp().cos() * torch.rand(2000)).tanh(), x).sum()
    expected = torch.autograd.grad(loss, x, retain_graph=True)[0]
    found = []

    def run():
        found.extend(torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(10))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 30 and all(torch.equal(gradient, expected) for gradient in found)


def test_a_method_a_partial_and_a_result_that_is_no_tensor():
    x = leaf(4)
    assert checkpoint(lambda x: 3, x) == 3
    assert checkpoint(x.exp).requires_grad
