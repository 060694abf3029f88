"""What trace_retained leaves behind (nothing), which steps it takes, and tensors and graphs of unusual kinds."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from blackbelt.autograd.retain import trace_retained
from tests.autograd.retain_leaks import LEAKS
from tests.autograd.retain_programs import CLEAN
from tests.autograd.test_retain import execute, marked

# --- what a trace leaves behind ---


def test_nothing_is_kept_alive_afterwards():
    weight = torch.ones(3, requires_grad=True)
    alive = []

    def step():
        loss = weight.exp().sum()
        alive.append(weakref.ref(loss))
        return loss

    def run():
        last = step()
        trace_retained(step)
        return weakref.ref(last)

    ref = run()
    assert ref() is None
    assert all(one() is None for one in alive)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="frames keep no snapshot of their locals (PEP 667)")
def test_locals_of_the_caller_are_not_kept_alive():
    weight = torch.ones(3, requires_grad=True)
    loss = weight.exp().sum()
    ref = weakref.ref(loss)
    trace_retained(lambda: weight.exp().sum().backward())
    loss = None
    assert loss is None
    assert ref() is None


def test_a_dict_of_locals_that_the_user_holds_stays_filled():
    weight = torch.ones(3, requires_grad=True)
    mine = locals()
    trace_retained(lambda: weight.exp().sum().backward())
    assert mine["weight"] is weight


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_collector_is_left_as_it_was(is_enabled):
    weight = torch.ones(3, requires_grad=True)
    was = gc.isenabled()
    try:
        gc.enable() if is_enabled else gc.disable()
        trace_retained(lambda: weight.exp().sum().backward())
        assert gc.isenabled() == is_enabled
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable() if was else gc.disable()


def test_objects_frozen_by_the_user_stay_frozen(tmp_path):
    names = execute(LEAKS["a list of outputs"].source, tmp_path)
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        assert count > 0
        report = trace_retained(names["step"])
        assert gc.get_freeze_count() > 0.9 * count
    finally:
        gc.unfreeze()
    assert report.nodes_growth == 3
    (finding,) = report.findings  # frozen objects are not listed, so the list is not found; that something holds, is
    assert finding.kind == "unseen"
    assert finding.made_at.line == marked(LEAKS["a list of outputs"].source, "made")


def test_an_error_in_a_step_is_raised_as_it_is():
    weight = torch.ones(3, requires_grad=True)

    def step(number):
        if number == 2:
            raise KeyError("the third batch")
        weight.exp().sum().backward()

    with pytest.raises(KeyError, match="the third batch"):
        trace_retained(step)
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()
    assert torch.overrides._get_current_function_mode_stack() == []


def test_the_error_of_a_second_backward_is_raised_as_it_is():
    weight = torch.ones(3, requires_grad=True)
    state = weight * 1

    def step():
        nonlocal state
        state = (state * weight).tanh()
        state.sum().backward()

    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        trace_retained(step)


def test_hooks_on_saved_tensors_are_not_run():
    weight = torch.ones(3, requires_grad=True)
    kept, calls = [], []

    def unpack(packed):
        calls.append(packed)
        return packed[0]

    def step():
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (tensor, "packed"), unpack):
            kept.append(weight.exp().exp())

    report = trace_retained(step)
    assert not report.ok
    assert calls == []


# --- what a step may be ---


def test_bad_input():
    with pytest.raises(TypeError, match=r"step is tensor.* of type Tensor; it takes a function .* without calling it"):
        trace_retained(torch.ones(2))
    with pytest.raises(TypeError, match=r"takes 2 arguments \(model, batch\); .*lambda: step\(model, batch\)"):
        trace_retained(lambda model, batch: None)
    with pytest.raises(ValueError, match=r"steps is 3; .* at least 4\. Try steps=6"):
        trace_retained(lambda: None, steps=3)
    with pytest.raises(TypeError, match=r"steps is 6\.0 of type float; it takes a whole number"):
        trace_retained(lambda: None, steps=6.0)
    with pytest.raises(TypeError, match="takes a whole number"):
        trace_retained(lambda: None, steps=True)

    def generator():
        yield 1

    with pytest.raises(TypeError, match=r"calling it runs nothing yet; .* next\(generator\)"):
        trace_retained(generator)


def test_steps_are_numbered_where_the_step_takes_a_number():
    seen = []
    trace_retained(seen.append, steps=4)
    trace_retained(lambda number=7: seen.append(number), steps=4)
    trace_retained(lambda *numbers: seen.append(numbers), steps=4)
    assert seen == [0, 1, 2, 3, 7, 7, 7, 7, (), (), (), ()]


def test_a_method_and_a_callable_object():
    class Trainer:
        def __init__(self):
            self.weight = torch.ones(3, requires_grad=True)
            self.losses = []

        def step(self):
            self.losses.append(self.weight.exp().sum())

        __call__ = step

    trainer = Trainer()
    for step in (trainer.step, trainer):
        (finding,) = trace_retained(step).findings
        assert "trainer.losses[" in finding.held_by
        assert finding.fix == "self.losses.append(self.weight.exp().sum().detach())"


@pytest.mark.parametrize("steps", [4, 5, 12])
def test_any_number_of_steps(steps, tmp_path):
    report = trace_retained(execute(LEAKS["a list of outputs"].source, tmp_path)["step"], steps)
    assert [finding.held_by for finding in report.findings] == [f"global `outputs[{steps - 1}]`"]
    assert len(report.nodes_per_step) == steps
    for name in ("a window of the last two", "a cache that stops growing"):
        assert trace_retained(execute(CLEAN[name], tmp_path)["step"], steps).ok


# --- tensors and graphs of other kinds ---


def test_meta_tensors_have_a_graph_and_no_bytes():
    weight = torch.ones(3, 3, device="meta", requires_grad=True)
    kept = []
    report = trace_retained(lambda: kept.append((weight @ weight).sum()))
    assert not report.ok
    assert report.nodes_growth == 2
    assert report.bytes_growth == 0


def test_fake_tensors():
    with FakeTensorMode():
        weight = torch.ones(3, 3, requires_grad=True)
        kept = []
        report = trace_retained(lambda: kept.append((weight @ weight).sum()))
    assert "kept[5]" in report.findings[0].held_by
    assert report.nodes_growth == 2


def test_subclasses_and_the_users_modes_see_nothing():
    calls = []

    class Loud(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            calls.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    weight = torch.ones(3).as_subclass(Loud).requires_grad_()
    kept = []

    def step():
        calls.clear()
        kept.append(weight.exp())
        step.calls = len(calls)

    report = trace_retained(step)
    assert not report.ok
    assert len(calls) == step.calls


def test_integers_sparse_and_no_tensors_at_all():
    kept = []
    report = trace_retained(lambda n: kept.append(torch.eye(3).to_sparse() if n % 2 else torch.ones(3).int()))
    assert report.ok
    assert trace_retained(lambda: sum(range(10))).nodes_per_step == (0,) * 6


def test_functional_transforms_run_in_a_step():
    weight = torch.ones(3, requires_grad=True)
    kept = []

    def step():
        gradient = torch.func.grad(lambda w: (w**3).sum())(weight.detach())
        rows = torch.func.vmap(lambda row: row.exp())(gradient)
        kept.append((rows * weight).sum())

    report = trace_retained(step)
    assert [finding.made_at.code for finding in report.findings] == ["kept.append((rows * weight).sum())"]


def test_a_chain_of_14_000_nodes_is_followed():
    weight = torch.ones(3, requires_grad=True)
    state = torch.zeros(3)
    length = 14_000 // 4

    def step():
        nonlocal state
        for _ in range(length):
            state = state + weight

    report = trace_retained(step, steps=4)
    assert report.nodes_per_step == tuple(length * n for n in range(1, 5))
    assert report.findings[0].kind == "chain"
    assert "state" in report.findings[0].held_by


@pytest.mark.parametrize("is_carried", [True, False])
def test_a_chain_of_50_000_nodes_is_neither_called_clean_nor_ends_the_process(is_carried):
    weight = torch.ones(3, requires_grad=True)
    state = torch.zeros(3)

    def step():
        nonlocal state
        state = state if is_carried else weight
        for _ in range(12_500 if is_carried else 50_000):
            state = state + weight

    report = trace_retained(step, steps=4)
    assert report.is_partial
    assert max(report.nodes_per_step) > 15_000
    assert "too deep to be looked at whole" in str(report)
    assert "lower bounds" in str(report)
    del state  # where more of it was looked at, the process ends here


def test_a_wide_graph_of_50_000_nodes_is_counted_whole():
    weight = torch.ones(3, requires_grad=True)
    kept = []
    report = trace_retained(lambda: kept.append(torch.stack([weight * 2 for _ in range(12_500)]).sum()), steps=4)
    assert report.nodes_per_step == tuple(12_502 * n for n in range(1, 5))
    assert not report.is_partial


def test_many_tensors_held_are_sampled(tmp_path):
    source = """
w = torch.randn(4, requires_grad=True)
kept = []
def step():
    for _ in range(1000):
        kept.append(w * 2)
"""
    report = trace_retained(execute(source, tmp_path)["step"])
    (finding,) = report.findings
    assert finding.held_by.startswith("global `kept[")
    assert report.nodes_per_step[-1] == 6000


@pytest.mark.slow
def test_compiled_steps_compile_whole_and_are_seen():
    weight = torch.ones(3, 3, requires_grad=True)
    kept = []
    compiled = torch.compile(lambda x: (x @ weight).tanh().sum(), backend="eager", fullgraph=True)
    report = trace_retained(lambda: kept.append(compiled(torch.ones(2, 3))))
    assert "kept[5]" in report.findings[0].held_by
    assert report.nodes_growth == 3
