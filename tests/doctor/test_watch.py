"""The doctor in code."""

import contextlib
import gc
import subprocess
import sys
import threading
import weakref

import pytest
import torch
from torch import nn

from blackbelt.doctor import Rule, Severity, assert_healthy, watch
from blackbelt.doctor.observing import run_script
from blackbelt.doctor.rule import all_rules


def train(squeeze, steps=3):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(8, 3), torch.randn(8)
    for _ in range(steps):
        optimizer.zero_grad()
        predicted = model(x).squeeze(1) if squeeze else model(x)
        ((predicted - y) ** 2).mean().backward()
        optimizer.step()


def test_a_block_is_observed_and_nothing_after_it():
    with watch() as observation:
        train(squeeze=True)
    assert observation.report.findings == () and observation.report.num_steps == 3
    train(squeeze=False)
    assert observation.report.findings == () and observation.report.num_steps == 3


def test_findings_are_heard_at_once():
    heard = []
    with watch(on_finding=heard.append) as observation:
        train(squeeze=False)
    assert [finding.code for finding in heard] == ["BB301"]
    assert heard[0].step == 0 and heard[0].severity is Severity.ERROR
    assert list(observation.report.findings) == heard
    assert "BB301" in observation.report._repr_html_() and observation.report.to_dict()["num_steps"] == 3


def test_assert_healthy():
    with watch() as observation:
        train(squeeze=True)
    assert_healthy(observation.report)
    with watch() as observation:
        train(squeeze=False)
    with pytest.raises(AssertionError, match="BB301"):
        assert_healthy(observation.report)
    with watch() as observation:
        pass
    with pytest.raises(AssertionError, match="No optimizer step"):
        assert_healthy(observation.report)


class Broken(Rule):
    """Fails at its second event."""

    code = "BB999"
    title = "a rule that is broken"
    num_events = 0

    def step_ends(self, step):
        self.num_events += 1
        if self.num_events == 2:
            raise RuntimeError("a defect of the doctor's")
        return ()

    def run_ends(self):
        raise AssertionError("switched off at its first failure")


def test_a_rule_that_fails_is_switched_off_and_the_training_goes_on():
    with watch([Broken]) as observation:
        train(squeeze=True, steps=5)
    assert observation.report.num_steps == 5
    assert [code for code, _ in observation.report.failures] == ["BB999"]
    assert "a defect of the doctor's" in str(observation.report)


class Prying(Rule):
    """Computes, draws random numbers in a probe, and changes buffers and modes there."""

    code = "BB998"
    title = "a rule that tries things out"
    heard = 0

    def module_called(self, call):
        type(self).heard += 1
        if call.depth == 0:
            with self.run.probe(call.module):
                call.module.train()
                call.module(torch.randn_like(call.args[0])).sum()
        return ()


def test_a_probe_leaves_everything_as_it_was_and_is_not_observed_itself():
    def run():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)).eval()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            model(torch.randn(8, 4)).sum().backward()
            optimizer.step()
        return [*model.state_dict().values(), torch.get_rng_state(), torch.tensor(model.training)]

    alone = run()
    Prying.heard = 0
    with watch([Prying]) as observation:
        observed = run()
    assert observation.report.failures == ()
    assert Prying.heard == 15  # three steps of a model of four layers
    for a, b in zip(alone, observed, strict=True):
        assert torch.equal(a, b)


class Own(Rule):
    """Lies in the user's file, as the training does; asks for the place itself."""

    code = "BB997"
    title = "a rule of the user's own"

    def backward_begins(self, call):
        yield self.finding("backward", call.place)


def test_a_rule_in_the_users_own_file_is_told_the_line_of_the_training_and_not_its_own():
    with watch([Own]) as observation:
        train(squeeze=True)
    assert observation.report.failures == ()
    assert [finding.place.code for finding in observation.report.findings] == [
        "((predicted - y) ** 2).mean().backward()"
    ]


class Consequence(Rule):
    """Finds an error in every step."""

    code = "BB995"
    title = "a consequence"

    def step_ends(self, step):
        yield self.finding("a consequence", step.place)


class Cause(Consequence):
    """Warns of what leads there."""

    code = "BB996"
    title = "a cause"
    severity = Severity.WARNING
    explains = ("BB995",)


def test_a_warning_that_explains_an_error_is_said_as_an_error_alone():
    with watch([Consequence, Cause]) as observation:
        train(squeeze=True)
    assert {(f.code, f.severity) for f in observation.report.findings} == {("BB996", Severity.ERROR)}
    with watch([Cause]) as observation:
        train(squeeze=True)
    assert {(f.code, f.severity) for f in observation.report.findings} == {("BB996", Severity.WARNING)}


class Nameless(Rule):
    """Has no code."""


@pytest.mark.parametrize("rule", [Nameless, nn.Linear, "BB301", None])
def test_what_is_no_rule_is_refused_before_anything_is_observed(rule):
    with pytest.raises(TypeError, match=r"classes that derive from Rule and have a `code`"), watch([rule]):
        pass


def test_other_threads_are_not_observed():
    with watch() as observation:
        thread = threading.Thread(target=train, args=(False,))
        thread.start()
        thread.join()
    assert observation.report.num_steps == 0 and observation.report.findings == ()


def test_an_exception_passes_and_everything_is_put_back():
    original = torch.autograd.backward
    with pytest.raises(ValueError, match="mine"), watch():
        raise ValueError("mine")
    assert torch.autograd.backward is original
    assert torch._C._len_torch_function_stack() == 0


def test_a_mode_of_the_users_is_left_on_the_stack():
    with watch() as observation, torch.device("cpu"):
        train(squeeze=False, steps=25)  # longer than everything is looked at
    assert torch._C._len_torch_function_stack() == 0
    assert [finding.code for finding in observation.report.findings] == ["BB301"]


@pytest.mark.parametrize("context", [contextlib.nullcontext, lambda: torch.device("cpu")])
def test_a_training_after_another_is_looked_at_as_the_first_was(context):
    with watch() as observation:
        train(squeeze=True, steps=50)
        with context():
            train(squeeze=True, steps=2)
        train(squeeze=False)
        assert torch._C._len_torch_function_stack() == 1
        train(squeeze=True, steps=50)
        assert torch._C._len_torch_function_stack() == 0
    assert [finding.code for finding in observation.report.findings] == ["BB301"]


def test_an_optimizer_that_waits_is_looked_at_when_it_begins():
    first, second = nn.Linear(3, 1), nn.Linear(3, 1)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (first, second)]
    x, y = torch.randn(8, 3), torch.randn(8)
    with watch() as observation:
        for model, optimizer, steps in zip((first, second), optimizers, (50, 5)):
            for _ in range(steps):
                optimizer.zero_grad()
                predicted = model(x).squeeze(1) if model is first else model(x)
                ((predicted - y) ** 2).mean().backward()
                optimizer.step()
    assert [finding.code for finding in observation.report.findings] == ["BB301"]


def test_who_makes_an_optimizer_in_every_iteration_is_not_looked_at_for_ever():
    with watch() as observation:
        for _ in range(60):
            train(squeeze=True, steps=2)
        assert torch._C._len_torch_function_stack() == 0
    assert observation.report.num_steps == 120


def test_no_model_is_kept_alive():
    with watch():
        model = nn.Linear(3, 1)
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.randn(8, 3)).sum().backward()
        optimizer.step()
        weights = weakref.ref(model.weight)
        del model, optimizer
        gc.collect()
        assert weights() is None


@pytest.mark.parametrize("last", ["", "raise SystemExit(0)", "raise ValueError"])
def test_the_models_of_a_script_live_until_the_last_conclusions(tmp_path, last):
    counted = []

    class Counting(Rule):
        code = "BB998"

        def run_ends(self):
            counted.append(len(self.run.models))
            return ()

    script = tmp_path / "train.py"
    script.write_text(f"import torch\nmodel = torch.nn.Linear(2, 1)\nmodel(torch.ones(1, 2))\n{last}\n")
    with watch([Counting, *all_rules().values()]) as observation:
        error = run_script(observation, str(script))
    assert counted == [1] and isinstance(error, ValueError) == (last == "raise ValueError")


def test_watching_does_not_import_the_compiler():
    """It takes seconds, and the start-up of the doctor is to be below half of one."""
    code = (
        "import sys; from blackbelt.doctor import watch\nwith watch(): pass\nsys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
