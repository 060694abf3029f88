"""One finding of `trace_retained`, in facts and in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blackbelt.places import Place
from blackbelt.report import Block, Code, Prose, Verdict, format_bytes


@dataclass(frozen=True)
class RetainedFinding:
    """One reference that keeps tensors of every step.

    ``kind`` says how: ``"chain"`` (one tensor whose graph reaches back through all earlier steps), ``"collection"``
    (one more tensor in each step), ``"hook"``, ``"closure"``, ``"traceback"``, ``"generator"``, ``"cache"``,
    ``"default"``, ``"grad"``, ``"cycle"``, ``"unseen"``; in ``notes`` also ``"tensors"`` (a collection without a
    graph), ``"bounded"`` and ``"held"`` (the last step's graph only). ``made_at`` is the line that made the tensor,
    ``stored_at`` the line that put it where it is held, as far as the source tells.
    """

    kind: str
    held_by: str
    made_at: Place | None
    stored_at: Place | None
    operation: str
    num_tensors: int
    num_nodes: int
    num_bytes: int
    steps: tuple[int, ...]
    why: str
    fix: str

    @property
    def is_leak(self) -> bool:
        """Whether a graph of every step is kept; False for what is only noted."""
        return self.kind not in ("tensors", "bounded", "held") and len(self.steps) > 1

    def headline(self) -> str:
        """Return the finding in one sentence."""
        holder = self.held_by[:1].upper() + self.held_by[1:]
        if self.kind == "tensors":
            return f"{holder}: each step leaves a tensor without a graph."
        if self.kind == "bounded":
            return f"{holder} is still filling up, and bounded."
        if self.kind == "held":
            return f"{holder} keeps what the last step saved for backward: {format_bytes(self.num_bytes)}."
        if not self.is_leak:
            return f"{holder} is freed late."
        return f"{holder} keeps the graph of every step."

    def blocks(self) -> Iterator[Block]:
        """Lay out the finding: the conclusion, both lines, the reason, the fix."""
        if not self.is_leak:
            yield Prose(f"Note. {self.headline()} {self.why}")
            return
        yield Verdict(self.headline(), ok=False)
        lines: dict[str, list[str]] = {}
        for place, what in ((self.made_at, f"made here ({self.operation})"), (self.stored_at, "stored here")):
            if place is not None:
                lines.setdefault(f"{place!s:>16}  {_first_line(place.code)}", []).append(what)
        if lines:
            yield Code("\n".join(f"{line}\n{'':>18}^ {', '.join(what)}" for line, what in lines.items()))
        yield Prose(self.why)
        if self.fix:
            yield Code(self.fix, title="Fix")


def _first_line(code: str) -> str:
    lines = code.splitlines()
    return lines[0] + " …" * (len(lines) > 1) if lines else ""
