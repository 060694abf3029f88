"""One finding of `trace_inplace`, in facts and in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blackbelt.places import Place
from blackbelt.report import Block, Code, Prose, Table, Verdict
from blackbelt.tensors._inplace_fixes import NUMPY


@dataclass(frozen=True)
class InplaceFinding:
    """One tensor that was changed while something still relied on it.

    ``kind`` is ``"version"`` (backward stopped), ``"unseen"`` (backward went on with changed values: the gradient is
    wrong), ``"refused"`` (the operation itself raised) or ``"argument"`` (a tensor named in ``unchanged`` was
    changed). ``values_changed`` is False where only the shared version counter moved. ``message`` holds PyTorch's own
    words.
    """

    kind: str
    tensor: str
    saved_by: str
    node: str
    saved_at: Place | None
    changed_by: str
    changed_at: Place | None
    num_writes: int
    saved_version: int | None
    current_version: int | None
    values_changed: bool
    message: str
    why: str
    fix: str

    def headline(self) -> str:
        """Return the finding in one sentence."""
        changed = f"`{self.changed_by}`" if self.changed_by else "an operation that was not seen"
        changed = NUMPY if self.changed_by == NUMPY else changed
        if self.kind == "version" and not self.saved_by:
            return "Backward stopped on a tensor that was saved before the trace began."
        if self.kind == "version":
            more = f" and {self.num_writes - 1} more" * (self.num_writes > 1)
            versions = f"at version {self.saved_version}, {changed}{more} made it version {self.current_version}"
            return f"Backward stopped: `{self.saved_by}` saved this tensor {versions}."
        if self.kind == "unseen":
            return f"The gradient is wrong: `{self.saved_by}` saved this tensor, and {changed} changed it unseen."
        if self.kind == "argument":
            return f"`{self.tensor}` was to stay unchanged, and {changed} changed it."
        return f"PyTorch refused {changed}."

    def blocks(self) -> Iterator[Block]:
        """Lay out the finding: the conclusion, both operations, their lines, the reason, the fix."""
        yield Verdict(self.headline(), ok=False)
        rows = []
        if self.saved_by:
            operation = f"{self.saved_by} ({self.node})" if self.node else self.saved_by
            rows.append(("saved by", operation, self.saved_at or "?", _version(self.saved_version)))
        if self.kind == "argument":
            rows.append(("given", self.tensor, self.saved_at or "?", _version(self.saved_version)))
        more = f" (and {self.num_writes - 1} more)" if self.num_writes > 1 else ""
        rows.append(
            (
                "changed by",
                (self.changed_by or "not seen") + more,
                self.changed_at or "outside the trace",
                _version(self.current_version),
            )
        )
        yield Table(("", "operation", "where", "version"), rows, marked=frozenset({len(rows) - 1}))
        lines = [
            f"{f'{place.line}':>5}  " + place.code.replace("\n", "\n       ")
            for place in (self.saved_at, self.changed_at)
            if place is not None and place.code
        ]
        if lines:
            yield Code("\n".join(dict.fromkeys(lines)))
        yield Prose(self.why)
        yield Code(self.fix, title="Fix")


def _version(version: int | None) -> str:
    return "-" if version is None else str(version)
