"""The same random numbers once more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.katas.reference.checkpointing._randomness import (
    AfterForward,
    AgainAndAgain,
    CallersNumbers,
    FromTheEntry,
    InForward,
    SameNumbers,
    StoppedEarly,
)


@kata(
    minutes=20,
    belt="green",
    hints=(
        "`torch.get_rng_state()` is a tensor that says where the generator stands. `set_rng_state` puts it there.",
        (
            "`first` must only remember where the generator stood when it was entered. `again` puts it there, and puts "
            "the caller's state back when it is left, by an exception too."
        ),
        (
            "A class with `__enter__` and `__exit__` can be entered as often as you like; a generator made by "
            "`contextlib.contextmanager` only once. `__exit__` also runs when the block raises."
        ),
    ),
    cases=st.just(()),
    edge_cases=lambda: {"dropout": ()},
    laws=[
        SameNumbers(),
        InForward(),
        AfterForward(),
        CallersNumbers(),
        FromTheEntry(),
        AgainAndAgain(),
        StoppedEarly(),
    ],
)
def same_dropout() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """The same random numbers once more.

    Return two context managers, as `torch.utils.checkpoint` takes them for its `context_fn`. Forward runs in the first,
    the recomputation in the second, and both draw the same random numbers (on the CPU):

    ```python
    first, again = same_dropout()
    with first:
        y = F.dropout(x)
    torch.rand(3)             # somebody draws in between
    with again:
        z = F.dropout(x)      # the same elements are dropped
    ```

    - In `first`, and after it, numbers are drawn as they would be without it.
    - After `again` the generator stands where it stood before, whatever happened in the block: a recomputation that
      has all it needs is stopped by an exception.
    - `again` may be entered several times: `backward(retain_graph=True)` recomputes at each backward.
    """
    states: list[torch.Tensor] = []

    class First:
        def __enter__(self) -> None:
            states[:] = [torch.get_rng_state()]

        def __exit__(self, *_: object) -> None:
            pass

    class Again:
        def __enter__(self) -> None:
            self.callers = torch.get_rng_state()
            torch.set_rng_state(states[0])

        def __exit__(self, *_: object) -> None:
            torch.set_rng_state(self.callers)

    return First(), Again()


class _Block:
    """A context manager of two functions; what ``enter`` returns is handed to ``leave``, with the exception if any."""

    def __init__(self, enter: Callable[[], Any], leave: Callable[[Any, Any], object] = lambda *_: None) -> None:
        self.enter, self.leave = enter, leave

    def __enter__(self) -> None:
        self.entered = self.enter()

    def __exit__(self, kind: object, *_: object) -> None:
        self.leave(self.entered, kind)


def _remember(states):
    return _Block(lambda: states.append(torch.get_rng_state()))


def _replay(states):
    callers = torch.get_rng_state()
    torch.set_rng_state(states[-1])
    return callers


@same_dropout.wrong(
    "Both blocks leave the generator alone. Dropout draws a new mask in the recomputation, and the gradient belongs to "
    "a loss that nobody computed."
)
def does_nothing():
    return contextlib.nullcontext(), contextlib.nullcontext()


@same_dropout.wrong(
    "It sets the same seed in both blocks. The numbers agree, and from now on every layer and every step draws the "
    "same mask: forward must draw as it would without you."
)
def seeds_both():
    return _Block(lambda: torch.manual_seed(0)), _Block(lambda: torch.manual_seed(0))


@same_dropout.wrong(
    "It puts the generator back after forward as well. Then the next layer draws the very numbers that this one drew."
)
def forks_in_forward():
    states = []

    def enter():
        states.append(torch.get_rng_state())
        return states[-1]

    back = lambda callers, _: torch.set_rng_state(callers)  # noqa: E731  # twice below
    return _Block(enter, back), _Block(lambda: _replay(states), back)


@same_dropout.wrong(
    "It leaves the generator where the recomputation ended. Whoever draws next, draws other numbers than without a "
    "checkpoint: the next step's masks are this step's."
)
def leaves_it_there():
    states = []
    return _remember(states), _Block(lambda: _replay(states))


@same_dropout.wrong(
    "It remembers the state when the two are made, not when forward begins. What is drawn in between shifts the mask."
)
def remembers_too_early():
    state = torch.get_rng_state()
    back = lambda callers, _: torch.set_rng_state(callers)  # noqa: E731  # reads better than a def here
    return contextlib.nullcontext(), _Block(lambda: _replay([state]), back)


@same_dropout.wrong(
    "Its second block can be entered once: a `contextlib.contextmanager` is used up after that, and a second backward "
    "fails."
)
def used_up():
    states = []

    @contextlib.contextmanager
    def again() -> Iterator[None]:
        callers = _replay(states)
        try:
            yield
        finally:
            torch.set_rng_state(callers)

    return _remember(states), again()


@same_dropout.wrong(
    "It puts the caller's state back only where the block ends well. A recomputation that stops early ends by an "
    "exception: use `finally`, or `__exit__`."
)
def not_after_an_exception():
    states = []
    back = lambda callers, kind: kind is None and torch.set_rng_state(callers)  # noqa: E731  # reads better here
    return _remember(states), _Block(lambda: _replay(states), back)


@same_dropout.also_right
def with_fork_rng():
    states = []

    class Again:
        def __enter__(self):
            self.fork = torch.random.fork_rng(devices=[])
            self.fork.__enter__()
            torch.set_rng_state(states[-1])

        def __exit__(self, *error):
            return self.fork.__exit__(*error)

    return _remember(states), Again()


@same_dropout.also_right
def with_blocks():
    states = []
    return _remember(states), _Block(lambda: _replay(states), lambda callers, _: torch.set_rng_state(callers))
