"""What the doctor says of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from blackbelt.doctor.curves import Curve, plots
from blackbelt.doctor.finding import Finding, Severity
from blackbelt.report import Block, Code, Prose, Report, Table, Verdict


@dataclass(frozen=True)
class DoctorReport(Report):
    """The findings of one run, errors first; ``failures`` are rules that broke themselves, with their tracebacks.

    ``ranks`` are the processes that trained beside the one that tells, ``unfinished`` those that did not come to their
    end; ``num_steps`` are then those of the rank that made most. ``curves`` are drawn where the report is HTML.
    """

    findings: Sequence[Finding]
    num_steps: int
    failures: Sequence[tuple[str, str]] = ()
    ranks: Sequence[int] = ()
    unfinished: Sequence[int] = ()
    curves: Sequence[Curve] = ()

    @property
    def errors(self) -> list[Finding]:
        """The findings that are proved."""
        return [finding for finding in self.findings if finding.severity is Severity.ERROR]

    def blocks(self) -> Iterable[Block]:
        watched = f"{self.num_steps:,} optimizer {'step' if self.num_steps == 1 else 'steps'} observed"
        watched += f" on {len(self.ranks)} ranks" if len(self.ranks) > 1 else ""
        if not self.findings and not self.num_steps:
            yield Verdict("No optimizer step was made, so there was no training to examine.", ok=None)
        elif not self.findings:
            yield Verdict(f"Nothing found; {watched}.", ok=True)
        else:
            kinds = [(s, sum(f.severity is s for f in self.findings)) for s in sorted(Severity, reverse=True)]
            counted = ", ".join(f"{n} {s}{'s' if n > 1 else ''}" for s, n in kinds if n)
            yield Verdict(f"{counted}; {watched}.", ok=False if self.errors else None)
        for finding in self.findings:
            yield from finding_blocks(finding)
        if self.unfinished:
            yield Prose(f"{_ranks(self.unfinished)} did not come to the end; what was found until then is above.")
        for code, error in self.failures:
            yield Prose(f"Rule {code} failed and was switched off: {error.strip().splitlines()[-1]}")

    def _repr_html_(self) -> str:
        from blackbelt.rendering import to_html

        return to_html([*self.blocks(), *plots(self.curves)])


def assert_healthy(report: DoctorReport, severity: Severity = Severity.ERROR) -> None:
    """Raise AssertionError, with the report as its words, where there are findings of this severity or above.

    For tests: ``with doctor.watch() as observation: train(...)``, then ``assert_healthy(observation.report)``. A run in
    which no optimizer stepped is not healthy either: it shows nothing.
    """
    if any(finding.severity >= severity for finding in report.findings) or not report.num_steps:
        raise AssertionError(str(report))


def finding_blocks(finding: Finding) -> Iterable[Block]:
    """Lay out one finding."""
    where = f"{finding.place}: " if finding.place else ""
    rank = f" ({_ranks(finding.ranks).lower()})" if finding.ranks else ""
    yield Verdict(
        f"{finding.code} {where}{finding.message}{rank}", ok=False if finding.severity is Severity.ERROR else None
    )
    if finding.place and finding.place.code:
        yield Code(finding.place.code)
    if finding.evidence:
        yield Table(("evidence", ""), list(finding.evidence.items()))
    if finding.fix:
        yield Code(finding.fix, title="Write instead")
    if finding.lesson:
        yield Prose(f"Lesson: {finding.lesson}. `blackbelt doctor --explain {finding.code}` says more.")


def _ranks(ranks: Sequence[int]) -> str:
    return f"Rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
