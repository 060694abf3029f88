"""What `check_function` returns: one `Check` for each question that was put to the function, and one verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blackbelt.report import Block, Code, Prose, Report, Table, Verdict

PASSED, WARNED, FAILED = "passed", "warned", "failed"
NOT_SUPPORTED, SKIPPED = "not supported", "skipped"


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    ``status`` is "passed", "failed", "warned" (right, but at a cost or a risk that nobody sees), "not supported" (the
    function refuses, with an error) or "skipped" (``sentence`` says why). ``cause`` is a key of
    :data:`blackbelt.autograd.functions.CAUSES`; it is empty where the check passed or failed for an earlier cause.
    """

    name: str
    status: str
    sentence: str
    cause: str = ""
    evidence: str = ""
    fix: str = ""


@dataclass(frozen=True)
class FunctionReport(Report):
    """The answers to all checks, in the order in which they were put: causes come before their symptoms."""

    function: str
    inputs: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no check failed. What is not supported or skipped is not a failure."""
        return not self._with(FAILED)

    @property
    def cause(self) -> str | None:
        """The key of the first thing that is wrong, from ``CAUSES``; None where nothing is."""
        return next((check.cause for check in self._with(FAILED) if check.cause), None)

    @property
    def causes(self) -> tuple[str, ...]:
        """The keys of everything that is wrong or deserves attention, what is wrong first."""
        keys = [check.cause for check in (*self._with(FAILED), *self._with(WARNED)) if check.cause]
        return tuple(dict.fromkeys(keys))

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"{name!r} is no check of this report; it has: {', '.join(check.name for check in self.checks)}")

    def _with(self, status: str) -> list[Check]:
        return [check for check in self.checks if check.status == status]

    def blocks(self) -> Iterator[Block]:
        failed, warned = self._with(FAILED), self._with(WARNED)
        refused = [check for check in self._with(NOT_SUPPORTED) if check.cause]
        named = [check for check in (*failed, *warned, *refused) if check.cause]
        if failed:
            first = named[0]
            others = len({check.cause for check in failed if check.cause} - {first.cause})
            yield Verdict(f"{self.function}: {first.cause}.", ok=False)
            yield from _details(first)
            if others:
                word = "cause" if others == 1 else "causes"
                yield Prose(f"{others} more {word} of failure, below. Fix the first one first.")
            named = named[1:]
        elif warned:
            yield Verdict(f"{self.function} is right wherever it was tried. Look at: {named[0].cause}.", ok=None)
        else:
            yield Verdict(f"{self.function} is right wherever it was tried.", ok=True)
        yield from self._all_checks()
        seen = {named_check.cause for named_check in failed[:1]}
        for check in named:
            if check.cause not in seen:
                seen.add(check.cause)
                yield Prose(f"`{check.name}`: {check.cause}.")
                yield from _details(check)
        for note in self.notes:
            yield Prose(note)

    def _all_checks(self) -> Iterator[Block]:
        told = [check for check in self.checks if check.status in {FAILED, WARNED, NOT_SUPPORTED}]
        if told:
            marked = frozenset(i for i, check in enumerate(told) if check.status != NOT_SUPPORTED)
            rows = [(check.name, check.status, check.cause or check.sentence) for check in told]
            yield Table(("check", "result", "what was found"), rows, marked=marked)
        passed = self._with(PASSED)
        yield Prose(f"{self.inputs} Passed ({len(passed)}): {', '.join(check.name for check in passed)}.")
        reasons: dict[str, list[str]] = {}
        for check in self._with(SKIPPED):
            reasons.setdefault(check.sentence, []).append(check.name)
        if reasons:
            yield Prose("Skipped: " + " ".join(f"{', '.join(names)} ({_inside(r)})." for r, names in reasons.items()))


def _details(check: Check) -> Iterator[Block]:
    yield Prose(check.sentence)
    if check.evidence:
        yield Code(check.evidence, title="Seen:")
    if check.fix:
        yield Code(check.fix, title="Try:")


def _inside(sentence: str) -> str:
    """Return a sentence as it stands in brackets."""
    first, rest = sentence[:1], sentence[1:].rstrip(".")
    keep = rest[:1].isupper() or rest[:1] in {"`", ""}
    return (first if keep else first.lower()) + rest
