"""BB113."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

from blackbelt.doctor.contents import digest
from blackbelt.doctor.events import Batch, Step
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._losses import source_mentions
from blackbelt.doctor.rules._passes import Pass, PassRule
from blackbelt.doctor.rules._sources import statement
from blackbelt.doctor.run import Run

CONFIRMED = 3  # steps in a row on the same batch
ON_PURPOSE = (
    "overfit",
    "one batch",
    "one_batch",
    "single batch",
    "single_batch",
    "sanity",
    "fast_dev",
    "dry_run",
    "memoriz",
)


@dataclass(eq=False)
class First:
    """The first batch of the passes that one line begins, as long as it is the same."""

    content: str
    steps: int = 0
    last: Pass | None = None


class SameBatch(PassRule):
    """An iterator of the data loader is made at each step, so that each step gets the first batch.

    `next(iter(loader))` begins a new pass and takes its first batch. Inside the training loop, with a loader that does
    not shuffle, that is the same batch at every step: the model learns these few samples by heart, the loss falls
    nicely, and the rest of the data is never seen. It also starts the workers anew each time.

    Observed: three steps in a row, each with the first and only batch of a new pass begun by the same line, and
    this batch is the same: the same indices, or the same content where the data set is a stream.

    Not reported: a loader that shuffles, which gives another batch each time; a loader that has one batch only; a `for`
    loop that breaks after its first batch, which nobody writes by mistake; lines near words such as "overfit" or
    "sanity", where one batch is meant; a batch that was drawn once and kept.

    The fix: `for batch in loader`, or one iterator that is kept, and made anew when it has ended.
    """

    code: ClassVar[str] = "BB113"
    title: ClassVar[str] = "each step is made on the loader's first batch"
    explains: ClassVar[tuple[str, ...]] = ("BB102", "BB104")

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._drawn: weakref.WeakKeyDictionary[Pass, str] = weakref.WeakKeyDictionary()
        self._firsts: dict[tuple[str, int, int], First] = {}

    def loads(self, current: Pass, batch: Batch) -> None:
        if batch.number > 1:
            self._drawn.pop(current, None)
        elif current.place is not None and _num_batches(batch.loader) != 1:
            key = (current.place.file, current.place.line, id(batch.loader.dataset))
            if (first := self._firsts.get(key)) is None or first.steps < CONFIRMED:
                is_stream = batch.indices is None or set(batch.indices) == {None}
                self._drawn[current] = digest(batch.data) if is_stream else repr(batch.indices)

    def trains(self, current: Pass, step: Step) -> Findings:  # noqa: ARG002 - any optimizer's
        content, loader, place = self._drawn.pop(current, None), current.loader(), current.place
        if not content or loader is None or place is None:
            return
        key = (place.file, place.line, id(loader.dataset))
        first = self._firsts.get(key)
        if first is None or first.content != content or (first.last is not None and first.last.num_batches > 1):
            first = self._firsts[key] = First(content)
        first.steps, first.last = first.steps + 1, current
        if first.steps != CONFIRMED or not _makes_iterator(statement(place)) or source_mentions(place, ON_PURPOSE):
            return
        of = _num_batches(loader)
        yield self.finding(
            f"each step trains on the first batch of {'the stream' if of is None else f'{of}'}, as this line begins a "
            f"new pass each time: the last {CONFIRMED} steps had the same samples",
            place,
            fix="for batch in loader:  # or, made once before the loop:\n"
            "batches = iter(loader)\nbatch = next(batches, None)  # None: the pass has ended, make a new one",
            evidence={"passes begun": current.number, "batches of a pass": "unknown" if of is None else of},
        )


def _num_batches(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:  # a stream without a length
        return None


def _makes_iterator(code: str) -> bool:
    return "iter(" in code.replace("__iter__", "iter") and not code.lstrip().startswith("for ")
