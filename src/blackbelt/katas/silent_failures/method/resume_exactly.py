"""Resume a training so that nobody can tell."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.silent_failures.method._shared import Process, inputs


def _case(number, stop):
    batches = [inputs(4, seed=10 + index) for index in range(number)]
    return functools.partial(Process, max(stop, number - stop)), batches, stop


@kata(
    minutes=20,
    belt="yellow",
    hints=(
        "What does step 6 need that step 5 has left behind? Walk through `step` in your mind, and list what changes.",
        (
            "Weights and running statistics, moments and step counts, the position in the schedule, the state of the "
            "generator, and the position in the data: five things."
        ),
        (
            "`torch.save` a dictionary of three `state_dict()`s and `generator.get_state()` to an `io.BytesIO`, "
            "`seek(0)`, `torch.load`, load each into what a second `start()` gives, and go on at `batches[stop]`."
        ),
    ),
    cases=st.integers(2, 5).flatmap(lambda n: st.integers(1, n - 1).map(lambda stop: _case(n, stop))),
    edge_cases=lambda: {
        "in the middle": _case(4, 2),
        "after the first": _case(3, 1),
        "before the last": _case(4, 3),
    },
    laws=[Value()],
)
def resume_exactly(start: Callable[[], Any], batches: list[torch.Tensor], stop: int) -> dict[str, torch.Tensor]:
    """Resume a training so that nobody can tell.

    `start()` begins a process: it has a `model` (with BatchNorm), an `optimizer` (Adam), a `scheduler` that steps with
    every batch, a `generator` that the noise on the inputs is drawn from, and `step(batch)`. A process lives for a
    while only: it makes the first `stop` steps, one for each of `batches[:stop]`, and then it is gone; `step` raises.

    Take a checkpoint in time, start a second process, restore everything, and make the other steps. Return the model's
    `state_dict()` at the end: bitwise that of a training that was never interrupted.

    ```python
    resume_exactly(start, batches, stop=2)  # {"0.weight": …}
    ```
    """
    first = start()
    for batch in batches[:stop]:
        first.step(batch)
    file = io.BytesIO()
    parts = ("model", "optimizer", "scheduler")
    states = {name: getattr(first, name).state_dict() for name in parts}
    torch.save({**states, "generator": first.generator.get_state()}, file)
    file.seek(0)
    checkpoint = torch.load(file)
    second = start()
    for name in parts:
        getattr(second, name).load_state_dict(checkpoint[name])
    second.generator.set_state(checkpoint["generator"])
    for batch in batches[stop:]:
        second.step(batch)
    return dict(second.model.state_dict())


ALL = ("model", "optimizer", "scheduler", "generator")


def _resumed(start, batches, stop, restored=ALL, also=lambda *_: None, rest=None):
    first = start()
    for batch in batches[:stop]:
        first.step(batch)
    second = start()
    for name in restored:
        if name == "generator":
            second.generator.set_state(first.generator.get_state())
        else:
            getattr(second, name).load_state_dict(copy.deepcopy(getattr(first, name).state_dict()))
    also(first, second)
    for batch in batches[stop:] if rest is None else rest:
        second.step(batch)
    return second.model.state_dict()


@resume_exactly.wrong(
    "It restores the model alone. Adam begins with empty moments, the schedule with the full learning rate, and the "
    "noise repeats: a training that was resumed in name only."
)
def model_alone(start, batches, stop):
    return _resumed(start, batches, stop, ("model",))


@resume_exactly.wrong(
    "It restores the model and the optimizer, as most checkpoints do. The schedule starts over, and the generator "
    "draws the same noise again. Look at all that `step` changes, or draws from."
)
def model_and_optimizer(start, batches, stop):
    return _resumed(start, batches, stop, ("model", "optimizer"))


@resume_exactly.wrong(
    "It forgets the optimizer's state. Adam's moments start from zero, so that the first step after the resume moves "
    "every weight by the full learning rate."
)
def without_the_optimizer(start, batches, stop):
    return _resumed(start, batches, stop, ("model", "scheduler", "generator"))


@resume_exactly.wrong(
    "It forgets the scheduler. The optimizer's state brings one learning rate along, good for one step; then the "
    "schedule sets its own, from a position that has started at 0 again."
)
def without_the_scheduler(start, batches, stop):
    return _resumed(start, batches, stop, ("model", "optimizer", "generator"))


@resume_exactly.wrong(
    "It forgets the generator. The second process draws the first one's noise again: the run is random, and yet not "
    "the run it would have been. Augmentation and dropout are such noise."
)
def without_the_generator(start, batches, stop):
    return _resumed(start, batches, stop, ("model", "optimizer", "scheduler"))


@resume_exactly.wrong(
    "It copies parameters, and BatchNorm's running statistics are buffers. Training goes on as before; evaluation uses "
    "statistics of the second half alone. `state_dict()` has both."
)
def parameters_without_buffers(start, batches, stop):
    def copy_parameters(first, second):
        with torch.no_grad():
            for old, new in zip(first.model.parameters(), second.model.parameters()):
                new.copy_(old)

    return _resumed(start, batches, stop, ("optimizer", "scheduler", "generator"), copy_parameters)


@resume_exactly.wrong(
    "It starts again at the first batch. The state is right and the data are not: the first batches are seen twice, "
    "and the last ones never."
)
def first_batches_again(start, batches, stop):
    return _resumed(start, batches, stop, rest=batches[: len(batches) - stop])


@resume_exactly.wrong("It goes on with the process that is gone. Take the checkpoint, then call `start()` again.")
def goes_on_with_the_first(start, batches, stop):
    process = start()
    for batch in batches:
        process.step(batch)
    return process.model.state_dict()


@resume_exactly.wrong(
    "It returns the first process's model. That one has made `stop` steps; what you trained on is the second one's."
)
def returns_the_first(start, batches, stop):
    kept = []
    _resumed(start, batches, stop, also=lambda first, _: kept.append(first))
    return kept[0].model.state_dict()


@resume_exactly.also_right
def without_a_file(start, batches, stop):
    return _resumed(start, batches, stop)
