"""Find the leak."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from torch import nn

from blackbelt.dojo.kata import Function, kata
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.laws.requires_grad import RequiresGrad
from blackbelt.dojo.laws.synchronization import Synchronizes
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.dojo.trial import Trial, seeded, storage_key, tensors_in
from blackbelt.report import format_bytes


@dataclass(frozen=True)
class SavedAtOnce(Law):
    """At the worst moment, graphs keep as many bytes for backward as during the reference's run, and no more."""

    why: ClassVar[str] = "What an old graph keeps is gone only when nothing holds the graph; a long run dies of it."

    def check(self, trial: Trial) -> None:
        budget, most = _most_saved(trial.kata.reference, trial), _most_saved(trial.function, trial)
        if most > budget:
            raise LawBroken(
                f"At the worst moment its graphs keep {format_bytes(most)}; {format_bytes(budget)} are enough",
                f"at most {format_bytes(budget)}",
                format_bytes(most),
            )


def _most_saved(function: Function, trial: Trial) -> int:
    """Run the function and return the bytes saved for backward at the worst moment, those of arguments left out."""
    arguments = trial.case.fresh()
    holders: dict[int, int] = {storage_key(tensor): 1 for tensor in tensors_in(arguments)}
    now = most = 0

    class Held:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor.detach()  # the tensor itself would keep the graph that keeps it

    def pack(tensor: torch.Tensor) -> Held:
        nonlocal now, most
        held, key, nbytes = Held(tensor), storage_key(tensor), tensor.untyped_storage().nbytes()
        now += 0 if holders.get(key) else nbytes
        most = max(most, now)
        holders[key] = holders.get(key, 0) + 1
        weakref.finalize(held, release, key, nbytes)
        return held

    def release(key: int, nbytes: int) -> None:
        nonlocal now
        holders[key] -= 1
        now -= 0 if holders[key] else nbytes

    with seeded(), torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        function(*arguments)
    return most


def _case(num_batches: int, size: int = 4, width: int = 16) -> tuple[Any, ...]:
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, width))
    for index, parameter in enumerate(model.parameters()):
        parameter.data.copy_(numbers(parameter.shape, seed=index) / 2)
    batches = [(numbers((size, 3), seed=9 + i), numbers((size, width), seed=99 + i)) for i in range(num_batches)]
    return model, batches, 0.1


@kata(
    minutes=15,
    belt="orange",
    hints=(
        "Backward frees what the loss needed. Who else made nodes in this loop, and does anyone run backward on them?",
        "Of what you keep from step to step, keep the numbers only. What cuts a tensor from its graph?",
        (
            "`outputs.detach()` for the size, `loss.detach()` for the list. `.item()` cuts too, and makes the GPU wait "
            "in every step: stack the detached losses at the end."
        ),
    ),
    cases=st.integers(1, 3).map(_case),
    edge_cases=lambda: {"one batch": _case(1), "two batches": _case(2), "five batches": _case(5, 32)},
    laws=[
        Value(roundings=4),
        RequiresGrad(),
        SavedAtOnce(on=("two batches", "five batches")),
        Synchronizes(at_most=0),
    ],
    changes=(0,),
)
def train_and_log(
    model: nn.Module, batches: Sequence[tuple[torch.Tensor, torch.Tensor]], rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the leak.

    This loop trains, and needs more memory with every step:

    ```python
    losses, average = [], torch.zeros(())
    for inputs, targets in batches:
        outputs = model(inputs)
        loss = (outputs - targets).square().mean()
        average = 0.9 * average + 0.1 * outputs.square().mean()  # how large the outputs are, for the log
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad
        losses.append(loss)
    return torch.stack(losses), average
    ```

    Return the same numbers, and leave the model with the same weights. The results carry no graph, no step's graph
    outlives the step, and nothing in the loop makes the host wait for a GPU.
    """
    losses, average = [], torch.zeros((), dtype=batches[0][0].dtype)
    for inputs, targets in batches:
        outputs = model(inputs)
        loss = (outputs - targets).square().mean()
        average = 0.9 * average + 0.1 * outputs.detach().square().mean()
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(rate * parameter.grad)  # type: ignore[operator]
        losses.append(loss.detach())
    return torch.stack(losses), average


def _step(model: nn.Module, loss: torch.Tensor, rate: float, zero: bool = True, **options: Any) -> None:
    if zero:
        model.zero_grad()
    loss.backward(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(rate * parameter.grad)  # type: ignore[operator]


@train_and_log.wrong(
    "What it returns carries a graph: every step's average is computed from the last one, and so every step's outputs "
    "stay alive. Keep numbers, not histories: `detach()`."
)
def as_it_was(model, batches, rate):
    losses, average = [], torch.zeros((), dtype=batches[0][0].dtype)
    for inputs, targets in batches:
        outputs = model(inputs)
        loss = (outputs - targets).square().mean()
        average = 0.9 * average + 0.1 * outputs.square().mean()
        _step(model, loss, rate)
        losses.append(loss)
    return torch.stack(losses), average


@train_and_log.wrong(
    "It detaches at the end. What is returned carries no graph, and until then every step's graph stayed alive: detach "
    "in the loop."
)
def detaches_at_the_end(model, batches, rate):
    losses, average = as_it_was(model, batches, rate)
    return losses.detach(), average.detach()


@train_and_log.wrong(
    "It calls `.item()` in every step: that cuts the graph, and makes the host wait for the GPU each time. Keep "
    "detached tensors and look at them at the end."
)
def item_every_step(model, batches, rate):
    losses, average = [], 0.0
    dtype = batches[0][0].dtype
    for inputs, targets in batches:
        outputs = model(inputs)
        loss = (outputs - targets).square().mean()
        average = 0.9 * average + 0.1 * outputs.square().mean().item()
        _step(model, loss, rate)
        losses.append(loss.item())
    return torch.tensor(losses, dtype=dtype), torch.tensor(average, dtype=dtype)


@train_and_log.wrong(
    "It records nothing at all, so backward has no graph to run through. Only what is kept for the log must be cut off."
)
def nothing_recorded(model, batches, rate):
    losses = []
    for inputs, targets in batches:
        with torch.no_grad():
            loss = (model(inputs) - targets).square().mean()
        _step(model, loss, rate)
        losses.append(loss)
    return torch.stack(losses), losses[-1]


@train_and_log.wrong(
    "It runs the model a second time for the log. That costs another forward pass, and after the step it is another "
    "model: the numbers are not those of the outputs trained on."
)
def runs_the_model_again(model, batches, rate):
    losses, average = [], torch.zeros((), dtype=batches[0][0].dtype)
    for inputs, targets in batches:
        loss = (model(inputs) - targets).square().mean()
        _step(model, loss, rate)
        with torch.no_grad():
            average = 0.9 * average + 0.1 * model(inputs).square().mean()
        losses.append(loss.detach())
    return torch.stack(losses), average


@train_and_log.wrong("It lost `model.zero_grad()`: every step adds the gradients of all steps before.")
def gradients_pile_up(model, batches, rate):
    losses, average = [], torch.zeros((), dtype=batches[0][0].dtype)
    for inputs, targets in batches:
        outputs = model(inputs)
        loss = (outputs - targets).square().mean()
        average = 0.9 * average + 0.1 * outputs.detach().square().mean()
        _step(model, loss, rate, zero=False)
        losses.append(loss.detach())
    return torch.stack(losses), average


@train_and_log.also_right
def with_an_optimizer(model, batches, rate):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    losses = torch.empty(len(batches), dtype=batches[0][0].dtype)
    average = torch.zeros((), dtype=losses.dtype)
    for step, (inputs, targets) in enumerate(batches):
        outputs = model(inputs)
        loss = nn.functional.mse_loss(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            average.mul_(0.9).add_(0.1 * outputs.square().mean())
            losses[step] = loss
    return losses, average
