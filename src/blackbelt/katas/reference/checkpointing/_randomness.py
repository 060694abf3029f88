"""What judges ``same_dropout``: one law for each thing that its two context managers must do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, seeded


def _draw() -> torch.Tensor:
    return torch.rand(4)


def _must_equal(got: torch.Tensor, wanted: torch.Tensor, sentence: str) -> None:
    if not torch.equal(got, wanted):
        raise LawBroken(sentence, describe(wanted), describe(got))


@dataclass(frozen=True)
class SameNumbers(Law):
    """The second block draws what the first one drew, also after others have drawn in between."""

    why: ClassVar[str] = "With another mask backward differentiates another function, and nothing is raised."

    def check(self, trial: Trial) -> None:
        with seeded():
            first, again = trial.function()
            with first:
                wanted = _draw()
            _draw()
            with again:
                got = _draw()
        _must_equal(got, wanted, "The second block draws other numbers than the first")


@dataclass(frozen=True)
class InForward(Law):
    """In the first block numbers are drawn as without it."""

    why: ClassVar[str] = "Turning checkpointing on must not change what a run computes."

    def check(self, trial: Trial) -> None:
        with seeded():
            wanted = _draw()
        with seeded():
            first, _ = trial.function()
            with first:
                got = _draw()
        _must_equal(got, wanted, "In the first block other numbers are drawn than without it")


@dataclass(frozen=True)
class AfterForward(Law):
    """After the first block numbers are drawn as if it had not been there."""

    why: ClassVar[str] = "Turning checkpointing on must not change what a run computes."

    def check(self, trial: Trial) -> None:
        with seeded():
            _draw()
            wanted = _draw()
        with seeded():
            first, _ = trial.function()
            with first:
                _draw()
            got = _draw()
        _must_equal(got, wanted, "After the first block other numbers are drawn than without it")


@dataclass(frozen=True)
class CallersNumbers(Law):
    """After the second block the generator stands where it stood before it."""

    why: ClassVar[str] = "Backward that moves the generator changes the data order and the masks of the next step."

    def check(self, trial: Trial) -> None:
        with seeded():
            first, again = trial.function()
            with first:
                _draw()
            _draw()
            before = torch.get_rng_state()
            with again:
                _draw()
            moved = not torch.equal(torch.get_rng_state(), before)
        if moved:
            raise LawBroken("The second block moves the caller's generator", "its state as before", "another state")


@dataclass(frozen=True)
class FromTheEntry(Law):
    """What counts is where the generator stands when the first block is entered, not when the two are made."""

    why: ClassVar[str] = "All that is drawn before forward begins belongs to somebody else."

    def check(self, trial: Trial) -> None:
        with seeded():
            first, again = trial.function()
            _draw()
            with first:
                wanted = _draw()
            with again:
                got = _draw()
        _must_equal(got, wanted, "Numbers drawn before the first block shift those of the second")


@dataclass(frozen=True)
class AgainAndAgain(Law):
    """The second block can be entered several times, with the same numbers each time."""

    why: ClassVar[str] = "With `retain_graph=True` there is a second backward, and a second recomputation."

    def check(self, trial: Trial) -> None:
        drawn = []
        with seeded():
            first, again = trial.function()
            with first:
                wanted = _draw()
            for _ in range(2):
                try:
                    with again:
                        drawn.append(_draw())
                except Exception as error:
                    words = f"{type(error).__name__}: {error}"
                    raise LawBroken("The second block cannot be entered twice", "the same numbers", words) from None
        _must_equal(drawn[-1], wanted, "Entered a second time, the second block draws other numbers")


@dataclass(frozen=True)
class StoppedEarly(Law):
    """An exception in the second block gets out, and the caller's generator is put back all the same."""

    why: ClassVar[str] = "A recomputation that stops early leaves its block by an exception, at every backward."

    def check(self, trial: Trial) -> None:
        got_out = None
        with seeded():
            first, again = trial.function()
            with first:
                _draw()
            _draw()  # else the recomputation would end just where the caller stands
            before = torch.get_rng_state()
            try:
                with again:
                    _draw_and_stop()
            except _EnoughError as error:
                got_out = error
            moved = not torch.equal(torch.get_rng_state(), before)
        if got_out is None:
            raise LawBroken("The second block swallows an exception", "the exception", "none")
        if moved:
            raise LawBroken("After an exception the caller's generator is not put back", "its state", "another state")


class _EnoughError(Exception):
    """Stops a recomputation that has what it needs."""


def _draw_and_stop() -> None:
    _draw()
    raise _EnoughError
