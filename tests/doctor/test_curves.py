"""The curves of a run: what was measured, how many points, and how they are drawn."""

import itertools

import torch
from torch import nn

from blackbelt import doctor


def training(steps, *, with_schedule=False):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5) if with_schedule else None
    x, y = torch.randn(16, 4), torch.randn(16, 3)
    figures = []
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        figures.append((gradient.norm().item(), (rate * gradient.norm() / weights.norm()).item(), rate))
        if schedule:
            schedule.step()
    return figures


def test_the_figures_are_those_of_the_training():
    with doctor.watch() as observation:
        figures = training(6, with_schedule=True)
    (curve,) = observation.report.curves
    assert (curve.name, curve.steps) == ("SGD", [1, 2, 3, 4, 5, 6])
    measured = torch.tensor([curve.gradient_norms, curve.update_ratios, curve.rates]).mT
    torch.testing.assert_close(measured, torch.tensor(figures), rtol=1e-4, atol=0.0)


def test_later_steps_are_taken_ever_more_rarely():
    with doctor.watch() as observation:
        training(400)
    steps = observation.report.curves[0].steps
    assert steps[:20] == list(range(1, 21)) and steps[-1] > 350
    assert len(steps) < 65 and all(b >= 1.08 * a for a, b in itertools.pairwise(steps[20:]))


def test_they_are_drawn_in_a_notebook_and_not_in_text():
    with doctor.watch() as observation:
        training(6, with_schedule=True)
    report = observation.report
    assert report._repr_html_().count("<img") == 3
    assert "learning rate" not in str(report)


def test_a_run_without_steps_draws_nothing():
    with doctor.watch() as observation:
        pass
    assert "<img" not in observation.report._repr_html_()
