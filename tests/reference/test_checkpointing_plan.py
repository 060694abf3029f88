"""`plan_checkpoints` and `checkpoint_chain`: bytes as predicted, values as without, and everything left as it was."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from torch import nn

from blackbelt.measurement import allocation
from blackbelt.reference.checkpointing import PlanReport, checkpoint_chain, plan_checkpoints, run_plan
from blackbelt.reference.checkpointing.plan import count_runs
from blackbelt.reference.checkpointing.schedule import Keep, Rerun
from blackbelt.reference.checkpointing.units import cut
from tests.reference.checkpointing_zoo import same

PLENTY = 2**40


def pyramid():
    stages, channels = [], 3
    for width, pools in ((8, False), (8, True), (16, False), (16, True), (32, False)):
        stages += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        stages += [nn.MaxPool2d(2)] if pools else []
        channels = width
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)), torch.randn(4, 3, 32, 32)


def uneven_mlp():
    widths = [64, 256, 64, 16, 128, 512, 32, 4]
    stages = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.GELU(), nn.Dropout(0.1))]
    return nn.Sequential(*stages), torch.randn(128, 64, requires_grad=True)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.heads = heads

    def forward(self, x):
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.mlp(self.norms[1](x))


def uneven_transformer():
    blocks = [Block(32, 4, hidden) for hidden in (64, 512, 64, 256, 32)]
    return nn.Sequential(nn.Embedding(50, 32), *blocks, nn.LayerNorm(32), nn.Linear(32, 50)), torch.randint(50, (4, 32))


MODELS = [pyramid, uneven_mlp, uneven_transformer]


def measured_peak(model, plan, x) -> int:
    gradient = torch.ones_like(model(x))

    def step(x):
        for parameter in model.parameters():
            parameter.grad = None
        x.grad = None
        run_plan(list(model), plan, x).backward(gradient)

    step(x)
    for parameter in model.parameters():
        parameter.grad = None
    x.grad = None
    return allocation(step, x).peak_bytes


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_peak_is_as_predicted(make, share):
    torch.manual_seed(0)
    model, x = make()
    sizes = [size for size, _ in plan_checkpoints(model, PLENTY, x, rounds=1).frontier]
    # Seconds differ from run to run, and with them the schedules; the least bytes do not.
    budget = sizes[0] + round(share * (sizes[-1] - sizes[0]))
    plan = plan_checkpoints(model, budget, x, rounds=1)
    peak = measured_peak(model, plan, x)
    assert plan.predicted_peak_bytes <= budget
    assert 0.95 * peak <= plan.predicted_peak_bytes <= 1.05 * peak
    assert share < 1 or plan.recomputed_seconds == 0


@pytest.mark.parametrize("make", MODELS)
def test_tight_budgets_are_kept_where_the_plain_chain_needs_more(make):
    torch.manual_seed(0)
    model, x = make()
    plain = plan_checkpoints(model, PLENTY, x, rounds=1)
    assert plain.predicted_peak_bytes == plain.plain_peak_bytes
    tight = plan_checkpoints(model, plain.frontier[0][0], x, rounds=1)
    assert measured_peak(model, tight, x) < 0.9 * measured_peak(model, plain, x)
    assert tight.recomputation_share > 0


@pytest.mark.parametrize("make", MODELS)
def test_gradients_are_those_of_the_plain_chain(make):
    torch.manual_seed(0)
    model, x = make()
    least = plan_checkpoints(model, PLENTY, x, rounds=1).frontier[0][0]
    chain = checkpoint_chain(model, least)
    found = []
    for call in (chain, model):
        torch.manual_seed(1)
        model.zero_grad()
        x.grad = None
        call(x).square().sum().backward()
        found.append([p.grad.clone() for p in (*model.parameters(), x) if p.grad is not None])
    assert same(*found)
    assert any(unit.num_runs > 1 for unit in chain.plan.units)


def test_planning_changes_nothing():
    torch.manual_seed(0)
    model, x = pyramid()
    model(x).sum().backward()
    x.requires_grad_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [(p.grad, p.grad.clone()) for p in model.parameters()]
    state, copy = torch.get_rng_state(), x.detach().clone()
    with torch.no_grad():
        plan_checkpoints(model, PLENTY, x, rounds=1)
        assert not torch.is_grad_enabled()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is g and torch.equal(g, c) for p, (g, c) in zip(model.parameters(), gradients))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, copy) and x.grad is None


def test_stages_that_cannot_begin_a_rerun_join_the_one_before():
    stages = [
        nn.Identity(),
        nn.Linear(4, 4),
        nn.ReLU(inplace=True),
        nn.Flatten(0),
        lambda x: x + 1,
        nn.Tanh(),
        nn.Linear(12, 2),
    ]
    assert cut(stages, torch.randn(3, 4)) == [(0, 1, 2, 3, 4), (5,), (6,)]


def test_a_frozen_beginning_costs_nothing_to_keep():
    stages = [nn.Linear(4, 4).requires_grad_(False), nn.Tanh(), nn.Linear(4, 4), nn.Tanh()]
    assert cut(stages, torch.randn(3, 4)) == [(0, 1, 2), (3,)]
    assert plan_checkpoints(stages, PLENTY, torch.randn(3, 4), rounds=1).recomputed_seconds == 0


def test_a_chain_without_anything_to_learn():
    assert plan_checkpoints([torch.sin, torch.cos], PLENTY, torch.randn(3), rounds=1).recomputed_seconds == 0


def test_chain_plans_anew_for_another_input():
    chain = checkpoint_chain([nn.Linear(4, 4), torch.tanh], PLENTY)
    assert chain.plan is None
    chain(torch.randn(3, 4))
    first = chain.plan
    chain(torch.randn(3, 4))
    assert chain.plan is first
    chain(torch.randn(5, 4))
    assert chain.plan is not first
    assert [name for name, _ in chain.named_parameters()] == ["model.0.weight", "model.0.bias"]


def test_chain_without_grad_mode_is_a_plain_call():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    chain, x = checkpoint_chain(model, 1), torch.randn(3, 4)
    with torch.no_grad():
        assert torch.equal(chain(x), model(x))
    assert chain.plan is None


def test_number_of_runs():
    items = (Keep(0), Rerun(1, 3, (Rerun(1, 2, (Keep(1), Keep(2))), Keep(3))), Keep(4))
    assert count_runs(items, 5) == [1, 3, 3, 2, 1]
    assert count_runs((Rerun(0, 1, (Keep(0), Rerun(1, 1, (Keep(1),)))),), 2) == [2, 2]


def test_report():
    torch.manual_seed(0)
    model, x = pyramid()
    report = plan_checkpoints(model, PLENTY, x, rounds=1)
    tight = plan_checkpoints(model, report.frontier[0][0], x, rounds=1)
    assert isinstance(report, PlanReport)
    text = str(tight)
    assert "at the peak" in text and "rerun" in text and "kept" in text and "MaxPool2d" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "kept" in str(report) and "rerun" not in str(report).split("Every budget")[0].split("does")[1]
    assert json.loads(json.dumps(tight.to_dict()))["predicted_peak_bytes"] == tight.predicted_peak_bytes
    assert tight.predicted_seconds == tight.plain_seconds + tight.recomputed_seconds
    assert "<table" in tight._repr_html_()


def test_budget_that_is_too_small_says_what_would_do():
    model, x = uneven_mlp()
    least = plan_checkpoints(model, PLENTY, x, rounds=1).frontier[0][0]
    with pytest.raises(ValueError, match=rf"memory_budget of {least - 1} bytes is too small .* needs is {least} bytes"):
        plan_checkpoints(model, least - 1, x, rounds=1)
    assert plan_checkpoints(model, least, x, rounds=1).predicted_peak_bytes == least


@pytest.mark.parametrize("budget", [1.5, "1", None, True])
def test_budget_must_be_an_int(budget):
    with pytest.raises(TypeError, match=r"memory_budget must be a whole number of bytes, e\.g\. 512"):
        plan_checkpoints([torch.sin], budget, torch.ones(2))
    with pytest.raises(TypeError, match="memory_budget must be a whole number"):
        checkpoint_chain([torch.sin], budget)


@pytest.mark.parametrize("budget", [0, -1])
def test_budget_must_be_above_zero(budget):
    with pytest.raises(ValueError, match=f"memory_budget must be above 0 bytes, not {budget}"):
        plan_checkpoints([torch.sin], budget, torch.ones(2))


@pytest.mark.parametrize(
    ("stages", "kind", "text"),
    [
        ([], ValueError, "stages is empty"),
        (nn.Sequential(), ValueError, "stages is empty"),
        (3, TypeError, "stages must be an nn.Sequential or a list of modules and functions, not 3"),
        (nn.Linear(2, 2), TypeError, "not a Linear: a chain hands one tensor"),
        ([torch.sin, 4], TypeError, r"stages\[1\] must be callable .* not 4"),
        ([torch.sin, nn.Linear(3, 3)], ValueError, r"stages\[1\] \(Linear\) failed on its input of shape \(2,\)"),
        ([lambda x: (x, x)], TypeError, r"stages\[0\] \(<lambda>\) must return one tensor, .* returned a tuple"),
        ([nn.ReLU(inplace=True), torch.sin], ValueError, r"stages\[0\] \(ReLU\) changes its input in place"),
    ],
)
def test_stages_that_are_no_chain(stages, kind, text):
    with pytest.raises(kind, match=text):
        plan_checkpoints(stages, PLENTY, torch.ones(2))


def test_example_input_and_rounds():
    with pytest.raises(TypeError, match=r"example_input must be a tensor, the input of stages\[0\], not 3"):
        plan_checkpoints([torch.sin], PLENTY, 3)
    for rounds in (0, 1.5, True):
        with pytest.raises(ValueError, match="rounds must be an int of at least 1"):
            plan_checkpoints([torch.sin], PLENTY, torch.ones(2), rounds=rounds)
