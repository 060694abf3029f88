"""What a lesson calls: ``begin``, ``predict``, ``claim``, ``error_of``, ``check`` and ``summary``.

Each shows its result where it is called, and the claims of a run are written to a ledger as they are made, so that an
error half way loses none of them.
"""

from __future__ import annotations

import datetime
import html
import inspect
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blackbelt.report import Block, Code, Prose, Report, Steps, Table, Verdict

if TYPE_CHECKING:
    from blackbelt.dojo.integrity import Guard
    from blackbelt.dojo.progress import Progress

SHOWN, NOT_SHOWN_HERE, FALSE = "shown", "not shown here", "false"


@dataclass(frozen=True)
class ClaimReport(Report):
    """One claim: its text, whether it held here, and the figures it rests on."""

    text: str
    status: str
    figures: dict[str, Any] = field(default_factory=dict)
    needs: str = ""

    def blocks(self) -> Iterator[Block]:
        ok = {SHOWN: True, NOT_SHOWN_HERE: None, FALSE: False}[self.status]
        word = {SHOWN: "Shown", NOT_SHOWN_HERE: f"Not shown here (needs {self.needs})", FALSE: "FALSE here"}[
            self.status
        ]
        yield Verdict(f"{word}: {self.text}", ok)
        if self.figures:
            yield Prose(", ".join(f"{name} = {_figure(value)}" for name, value in self.figures.items()))


@dataclass(frozen=True)
class PredictionReport(Report):
    """A prediction, settled by what PyTorch did."""

    question: str
    options: dict[str, str]
    answer: str | None
    actual: str
    because: dict[str, str]

    @property
    def right(self) -> bool | None:
        """None where no answer was given."""
        return None if self.answer is None else self.answer == self.actual

    def blocks(self) -> Iterator[Block]:
        settled = f"{self.actual}: {self.options[self.actual]}"
        if self.answer is None:
            yield Verdict(f"It is {settled} (you made no prediction)", None)
        elif self.right:
            yield Verdict(f"You predicted it: {settled}", True)
        else:
            yield Verdict(f"You said {self.answer}; it is {settled}", False)
            yield Prose(self.because[self.answer])


@dataclass(frozen=True)
class ErrorReport(Report):
    """An exception as PyTorch worded it."""

    type_name: str
    message: str

    def blocks(self) -> Iterator[Block]:
        yield Code(f"{self.type_name}: {self.message}")


@dataclass(frozen=True)
class SummaryReport(Report):
    """What a run of a lesson showed."""

    lesson: str
    claims: tuple[ClaimReport, ...]
    predictions: tuple[PredictionReport, ...]
    katas: dict[str, str]
    torch_version: str
    device: str

    def blocks(self) -> Iterator[Block]:
        counts = {status: sum(c.status == status for c in self.claims) for status in (SHOWN, NOT_SHOWN_HERE, FALSE)}
        right = sum(p.right is True for p in self.predictions)
        answered = sum(p.answer is not None for p in self.predictions)
        passed = sum(status == "passed" for status in self.katas.values())
        yield Verdict(
            f"{self.lesson}: {counts[SHOWN]} claims shown, {counts[NOT_SHOWN_HERE]} not shown here, "
            f"{counts[FALSE]} false; "
            f"{right} of {answered} predictions right; {passed} of {len(self.katas)} katas passed",
            None if not counts[FALSE] else False,
        )
        rows = [(number, claim.text, claim.status) for number, claim in enumerate(self.claims, 1)]
        marked = frozenset(index for index, claim in enumerate(self.claims) if claim.status == FALSE)
        yield Table(("", "claim", ""), rows, title=f"torch {self.torch_version}, {self.device}", marked=marked)
        still_open = [name for name, status in self.katas.items() if status != "passed"]
        if still_open:
            yield Steps([f"`{name}`" for name in still_open], title="Katas still open:")


class Prediction:
    """A question that the lesson has asked and not yet settled. Made by :func:`predict`."""

    def __init__(self, lesson: str, question: str, options: Mapping[str, str], answer: str | None) -> None:
        self.lesson = lesson
        self.question = question
        self.options = dict(options)
        self.answer = answer
        self.settled = False

    def choose(self, letter: str) -> None:
        """Take the answer, unless the question is settled already."""
        if letter not in self.options:
            raise ValueError(f"{letter!r} is not one of the options {', '.join(self.options)}; choose one of them")
        if not self.settled:
            self.answer = letter

    def settle(self, actual: str, because: Mapping[str, str]) -> None:
        """Show whether the prediction was right; ``actual`` is the letter that the lesson has just computed.

        ``because`` maps every other letter to the misconception behind it. Raises ValueError where one is missing.
        """
        missing = set(self.options) - {actual} - set(because)
        if actual not in self.options or missing:
            raise ValueError(
                f"settle() got {actual!r} with reasons for {sorted(because)}; the options are {sorted(self.options)}: "
                "every wrong one needs its reason"
            )
        self.settled = True
        report = PredictionReport(self.question, self.options, self.answer, actual, dict(because))
        _run.predictions.append(report)
        _write_ledger()
        _show(report)
        answer, right = self.answer, report.right
        if answer is not None and right is not None:
            key = self.question
            _record(lambda progress: progress.record_prediction(self.lesson, key, self.question, answer, right))


@dataclass
class _Run:
    lesson: str = ""
    claims: list[ClaimReport] = field(default_factory=list)
    predictions: list[PredictionReport] = field(default_factory=list)
    katas: dict[str, str] = field(default_factory=dict)
    guard: Guard | None = None  # what torch and Python looked like when the lesson began


_run = _Run()


def begin(lesson: str) -> None:
    """Start the lesson of that name (``tensors/strides``): an empty ledger, and plots as SVG."""
    global _run  # noqa: PLW0603  # one process runs one lesson
    _run = _Run(lesson)
    if "torch" in sys.modules:
        from blackbelt.dojo.integrity import Guard

        _run.guard = Guard()
    _write_ledger()


def predict(question: str, options: Mapping[str, str], answer: str | None = None) -> Prediction:
    """Ask a question before the cell that settles it runs.

    The learner clicks an option; where there are no widgets, passes ``answer="A"``. Raises ValueError for an answer
    that is not among the options.
    """
    prediction = Prediction(_run.lesson, question, options, None)
    if answer is not None:
        prediction.choose(answer)
    if _in_notebook() and not _headless():
        _show_choices(prediction)
    else:
        _show(_Question(question, dict(options)))
    return prediction


def claim(
    text: str, holds: bool | Callable[[], bool], *, figures: Mapping[str, Any] | None = None, needs: str = ""
) -> None:
    """State something and check it here and now.

    ``holds`` is the condition, or a function that computes it. ``needs="cuda"`` marks a claim that takes a GPU:
    without one it is reported as *not shown here* and ``holds`` is not called. A false claim is shown as false and
    fails every headless run.
    """
    if needs and not _available(needs):
        status = NOT_SHOWN_HERE
    else:
        status = SHOWN if bool(holds() if callable(holds) else holds) else FALSE
    report = ClaimReport(text, status, dict(figures or {}), needs)
    _run.claims.append(report)
    _write_ledger()
    _show(report)


def error_of(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> ErrorReport:
    """Run ``function`` and return the exception it raises, word by word.

    Raises ValueError where nothing is raised: the lesson's claim that this fails would be false.
    """
    try:
        result = function(*arguments, **keywords)
    except Exception as error:
        return ErrorReport(type(error).__name__, str(error).strip())
    raise ValueError(
        f"an exception was expected, and the call returned {type(result).__name__}: this PyTorch accepts it"
    )


def check(function: Any) -> None:
    """Grade the kata that ``function`` is named after, show the verdict, and record it (not in headless runs)."""
    from blackbelt.dojo.grader import grade, tampered
    from blackbelt.dojo.kata import load_kata

    if not hasattr(function, "__name__"):
        raise TypeError(f"check() got {type(function).__name__}; pass the function itself, e.g. check(can_view)")
    kata = load_kata(function.__name__)
    replaced = _run.guard.restore() if _run.guard else []
    report = tampered(kata, replaced) if replaced else grade(kata, function)
    _run.katas[kata.name] = report.status
    _write_ledger()
    _show(report)
    if report.status != "open":
        attempt = (kata.name, report.passed, report.sentence, _source(function), "notebook")
        _record(lambda progress: progress.record_attempt(*attempt))


def summary() -> None:
    """Show what this run of the lesson showed: claims, predictions, katas still open."""
    _show(_summary())


@dataclass(frozen=True)
class Note(Report):
    """One sentence that needs attention."""

    text: str

    def blocks(self) -> Iterator[Block]:
        yield Verdict(self.text, None)


@dataclass(frozen=True)
class _Question(Report):
    question: str
    options: dict[str, str]

    def blocks(self) -> Iterator[Block]:
        yield Verdict(f"Predict: {self.question}", None)
        yield Table(("", ""), [(letter, text) for letter, text in self.options.items()])


def _record(write: Callable[[Progress], object]) -> None:
    """Write to the learner's progress; where that fails, what was shown stays shown and the learner is told."""
    if _headless():
        return
    from blackbelt.dojo.progress import ProgressError, open_progress

    try:
        with open_progress() as progress:
            write(progress)
    except ProgressError as error:
        _show(Note(f"The result above is not saved: {error}"))


def _summary() -> SummaryReport:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    return SummaryReport(
        _run.lesson, tuple(_run.claims), tuple(_run.predictions), dict(_run.katas), torch.__version__, device
    )


def _write_ledger() -> None:
    path = os.environ.get("BLACKBELT_LEDGER")
    if not path:
        return
    ledger = _summary().to_dict()
    ledger["date"] = datetime.date.today().isoformat()
    ledger["python"] = platform.python_version()
    partial = Path(f"{path}.partial")
    partial.write_text(json.dumps(ledger, indent=1), encoding="utf-8")
    partial.replace(path)


def _available(needs: str) -> bool:
    import torch

    if needs != "cuda":
        raise ValueError(f"claim() got needs={needs!r}; 'cuda' is what a claim may need")
    return torch.cuda.is_available()


def _source(function: Any) -> str | None:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return None


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _headless() -> bool:
    return bool(os.environ.get("BLACKBELT_HEADLESS"))


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def _show(report: Report) -> None:
    if _in_notebook():
        from IPython.display import display

        display(report)
    else:
        print(report, end="\n\n")  # noqa: T201  # a lesson run as a script in a terminal


def _show_choices(prediction: Prediction) -> None:
    from IPython.display import display
    from ipywidgets import HTML, Button, Layout, VBox

    chosen = HTML()
    buttons = []
    for letter, text in prediction.options.items():
        label = f"{letter}: {text}".replace("`", "")
        button = Button(description=label, layout=Layout(width="auto", max_width="60em"))
        button.style.text_align = "left"

        def take(_: Any, letter: str = letter) -> None:
            if prediction.settled:
                chosen.value = "This question is settled already; your first answer counts."
                return
            prediction.choose(letter)
            chosen.value = f"Your prediction: <b>{html.escape(letter)}</b>. Now run the cells that settle it."

        button.on_click(take)
        buttons.append(button)
    display(Note(f"Predict: {prediction.question}"), VBox([*buttons, chosen]))
