"""The one judge: does a function solve a kata, and if not, what must its author be told?"""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, Verbosity
from platformdirs import user_cache_path

from blackbelt.dojo.describe import describe, size_of
from blackbelt.dojo.integrity import Guard
from blackbelt.dojo.kata import Arguments, Function, Kata
from blackbelt.dojo.laws import LawBroken
from blackbelt.dojo.laws.untouched import LeavesInputs, LeavesState
from blackbelt.dojo.ranks import kept_ranks
from blackbelt.dojo.trial import Case, Outcome, Trial, seeded
from blackbelt.dojo.verdict import FAILED, OPEN, PASSED, KataReport

GENERATED_CASES = 50
SHRINK_SECONDS = 0.6
SAME_WORDS = 40  # characters by which two error messages are the same one
ALWAYS = (LeavesInputs(), LeavesState())

hypothesis.configuration.set_hypothesis_home_dir(user_cache_path("blackbelt") / "hypothesis")


@dataclass(frozen=True)
class Failure:
    """One broken law on one case. ``law`` is the law's class name, ``runs`` or ``raises`` where it is about errors."""

    case: Case
    law: str
    sentence: str
    why: str
    expected: str
    got: str
    outcome: Outcome
    costly: bool = False
    about_result: bool = False
    trace: str = ""
    error: BaseException | None = None  # what was raised, by the function or while a law looked at it


def grade(kata: Kata, function: object) -> KataReport:
    """Judge ``function`` as a solution of ``kata``: edge cases, generated ones, then costly laws.

    Runs the function some hundred times on copies of the arguments. Never raises for what the function does, apart from
    KeyboardInterrupt. Global random state is the same afterwards.
    """
    start = time.perf_counter()
    if not callable(function):
        kind = type(function).__name__
        return KataReport(
            kata.name,
            FAILED,
            f"`{kata.name}` is {kind!r}, not a function",
            next_step=f"Define it: `def {kata.name}(…):`.",
        )
    with seeded(), _one_thread(), kept_ranks():
        cases = [Case(arguments, name) for name, arguments in kata.edge_cases().items()]
        failure, num_cases, replaced = _first_failure(kata, function, cases)
        if replaced:
            return tampered(kata, replaced)
        if failure is None:
            seconds = time.perf_counter() - start
            return KataReport(
                kata.name,
                PASSED,
                "every law holds",
                num_cases=num_cases,
                seconds=seconds,
                next_step=_after_pass(kata),
            )
        if _is_stub(failure):
            return KataReport(
                kata.name, OPEN, "it is still the stub", next_step="Write the body, then run this cell again."
            )
        mistake, failure = _known_mistake(kata, function, failure, cases)
    return _report(kata, failure, mistake, num_cases, time.perf_counter() - start)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: a kata's tensors are small, and several threads would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first_failure(kata: Kata, function: Function, cases: list[Case]) -> tuple[Failure | None, int, list[str]]:
    """Return the first failure, the number of cases tried, and the names of functions that were replaced."""
    guard = Guard()
    failure, num_cases = _cheap_failure(kata, function, cases)
    if failure is None and any(law.costly for law in kata.laws):
        costly = (judge(kata, function, case, costly=True) for case in cases)
        failure = next((found for found in costly if found is not None), None)
    return failure, num_cases, guard.restore()


def _cheap_failure(kata: Kata, function: Function, cases: list[Case]) -> tuple[Failure | None, int]:
    for number, case in enumerate(cases, 1):
        failure = judge(kata, function, case)
        if failure is not None:
            if _is_stub(failure):
                return failure, number
            smaller, tried = _search(kata, function, failure.law)
            if smaller is not None and size_of(smaller.case.arguments) < size_of(case.arguments):
                return smaller, number + tried
            return failure, number + tried
    failure, tried = _search(kata, function)
    return failure, len(cases) + tried


def judge(kata: Kata, function: Function, case: Case, *, costly: bool = False) -> Failure | None:
    """Check the laws of the kata on one case; ``costly`` checks the costly laws, and only those."""
    trial = Trial(kata, function, case)
    error, wanted = trial.outcome.error, trial.reference.error
    if wanted is not None or error is not None:
        return _judge_errors(trial, error, wanted)
    for law in (*ALWAYS, *kata.laws):
        if law.costly is not costly or not law.applies(case.name, costly=costly):
            continue
        try:
            law.check(trial)
        except LawBroken as broken:
            return Failure(
                case,
                type(law).__name__,
                broken.sentence,
                law.why,
                broken.expected,
                broken.got,
                trial.outcome,
                costly=law.costly,
                about_result=law.about_result,
            )
        except (Exception, SystemExit) as raised:
            return _crash(case, trial.outcome, raised, f"While {type(law).__name__} was checked, it raised")
    return None


def _judge_errors(trial: Trial, error: BaseException | None, wanted: BaseException | None) -> Failure | None:
    if wanted is None:
        assert error is not None
        return _crash(trial.case, trial.outcome, error, "It raised")
    if isinstance(error, type(wanted)):
        return None
    expected = f"{type(wanted).__name__}: {wanted}"
    got = describe(trial.result) if error is None else f"{type(error).__name__}: {error}"
    sentence = f"It should raise {type(wanted).__name__} here"
    return Failure(
        trial.case, "raises", sentence, "A clear error here saves a wrong number later.", expected, got, trial.outcome
    )


def _crash(case: Case, outcome: Outcome, error: BaseException, what: str) -> Failure:
    words = str(error).strip()
    first = words.splitlines()[0] if words else "no message"
    return Failure(
        case,
        "runs",
        f"{what} {type(error).__name__}: {first}",
        "",
        "",
        "",
        outcome,
        trace=_learner_trace(error),
        error=error,
    )


def _is_stub(failure: Failure) -> bool:
    return isinstance(failure.outcome.error, NotImplementedError) and str(failure.outcome.error) == "your turn"


def _learner_trace(error: BaseException) -> str:
    stack = getattr(error, "frames", None) or traceback.extract_tb(error.__traceback__)  # of a rank: its own frames
    frames = [frame for frame in stack if "blackbelt" not in frame.filename]
    own = [frame for frame in frames if "site-packages" not in frame.filename][:1] or frames[:1]
    return "\n".join(f"line {frame.lineno}: {frame.line}" for frame in own if frame.line)


class _Found(Exception):
    """Tells Hypothesis that a case fails, so that it shrinks it."""


def _search(kata: Kata, function: Function, law: str = "") -> tuple[Failure | None, int]:
    """Generate cases and shrink the first that fails (by that law, where one is named)."""
    best: Failure | None = None
    deadline = float("inf")
    tried = 0

    @hypothesis.settings(
        max_examples=GENERATED_CASES,
        database=None,
        derandomize=True,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
    )
    @hypothesis.given(kata.cases)
    def attempt(arguments: tuple[object, ...]) -> None:
        nonlocal best, deadline, tried
        if time.perf_counter() > deadline:
            return
        tried += 1
        failure = judge(kata, function, Case(arguments))
        if failure is None or (law and failure.law != law):
            return
        if best is None or size_of(arguments) < size_of(best.case.arguments):
            best = failure
        deadline = min(deadline, time.perf_counter() + SHRINK_SECONDS)
        raise _Found

    try:
        attempt()
    except Exception:
        if best is None:
            raise
    return best, tried


def _known_mistake(kata: Kata, function: Function, failure: Failure, edge_cases: list[Case]) -> tuple[str, Failure]:
    """Return the name of the wrong solution that this function behaves like, and the failure that shows it best.

    It must fail alike on the first edge case that fails. Where that proves little (a broken law without a number, a
    yes for a no), it must also fail alike on half of the failing ones. Of several, the one that agrees on most edge
    cases is taken. A failure that no edge case shows must be alike, and every edge case must pass.
    """
    cases = edge_cases
    mine = [judge(kata, function, case, costly=failure.costly) for case in cases]
    if not any(mine):
        cases, mine = [failure.case, *cases], [failure, *mine]
    failing = [index for index, found in enumerate(mine) if found]
    best, most = "", 0
    for name, wrong in kata.wrongs.items():
        first = judge(kata, wrong.function, cases[failing[0]], costly=failure.costly)
        if not _alike(mine[failing[0]], first):
            continue
        theirs = [judge(kata, wrong.function, case, costly=failure.costly) for case in cases]
        agree = [_alike(own, other) for own, other in zip(mine, theirs)]
        proven = _proves_much(mine[failing[0]]) or 2 * sum(agree[index] for index in failing) >= len(failing)
        if proven and sum(agree) > most:
            best, most = name, sum(agree)
    if best and not _alike(failure, judge(kata, kata.wrongs[best].function, failure.case, costly=failure.costly)):
        failure = mine[failing[0]] or failure  # the smaller case found shows another mistake of the same function
    return best, failure


def _proves_much(failure: Failure | None) -> bool:
    return failure is not None and failure.about_result and not isinstance(failure.outcome.value, (bool, type(None)))


def _alike(one: Failure | None, other: Failure | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.law != other.law:
        return False
    if one.law == "runs":
        return _same_error(one.error, other.error)
    if one.law == "raises" or one.about_result:
        return _same_result(one.outcome, other.outcome)
    return True


def _same_error(one: BaseException | None, other: BaseException | None) -> bool:
    """Compare by type and by how the words begin: one type stands for many mistakes."""
    return type(one) is type(other) and str(one)[:SAME_WORDS] == str(other)[:SAME_WORDS]


def _same_result(one: Outcome, other: Outcome) -> bool:
    """Compare by what a reader would see, numbers to four digits: two spellings of one mistake round differently."""
    if one.error is not None or other.error is not None:
        return type(one.error) is type(other.error)
    if isinstance(one.value, torch.Tensor) and isinstance(other.value, torch.Tensor) and one.value.is_floating_point():
        if one.value.shape != other.value.shape or one.value.dtype != other.value.dtype:
            return False
        return torch.allclose(one.value.double(), other.value.double(), rtol=1e-3, atol=1e-5, equal_nan=True)
    return _shown(one.value) == _shown(other.value) and describe(one.arguments) == describe(other.arguments)


def _shown(value: object) -> str:
    """Describe a value, a dictionary by the order of its keys: who filled it in another order made the same mistake."""
    return describe(dict(sorted(value.items(), key=str)) if isinstance(value, dict) else value)


def _report(kata: Kata, failure: Failure, mistake: str, num_cases: int, seconds: float) -> KataReport:
    sentence = kata.wrongs[mistake].sentence if mistake else failure.sentence
    return KataReport(
        kata=kata.name,
        status=FAILED,
        sentence=sentence.rstrip("."),
        law=failure.law,
        why=failure.why,
        case=failure.case.name,
        given=_given(kata, failure.case.arguments),
        expected=failure.expected,
        got=failure.got,
        observed=(failure.sentence if mistake else "") or "",
        mistake=mistake,
        next_step=_after_failure(kata, failure),
        num_cases=num_cases,
        seconds=seconds,
    )


def _given(kata: Kata, arguments: Arguments) -> str:
    """Return what the function was called with, a line for each argument (of each rank)."""
    lines = []
    for rank, given in enumerate(arguments if kata.ranks else [arguments]):
        bound = inspect.signature(kata.reference).bind(*given).arguments
        where = f"rank {rank}: " if kata.ranks else ""
        lines += [f"{where}{name} = {describe(value)}" for name, value in bound.items()]
    return "\n".join(lines)


def _after_failure(kata: Kata, failure: Failure) -> str:
    if failure.trace:
        return f"Look at your {failure.trace}"
    return f"Call `{kata.name}` on this input yourself and compare; `blackbelt hint {kata.name}` gives a nudge."


def _after_pass(kata: Kata) -> str:
    return f"`blackbelt solution {kata.name}` shows ours."


def tampered(kata: Kata, replaced: list[str]) -> KataReport:
    """Return the verdict on code that replaced functions which the grade rests on."""
    names = ", ".join(f"`{name}`" for name in replaced[:4])
    return KataReport(
        kata.name,
        FAILED,
        f"The code replaced {names}, which the grader or the program relies on",
        law="integrity",
        why="A verdict reached with patched tools says nothing about the solution.",
        next_step="Remove the assignment; the originals are back in place.",
    )
