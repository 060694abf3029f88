"""BB102."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.utils.data import DistributedSampler

from blackbelt.doctor.events import Batch, Step
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._passes import Pass, PassRule
from blackbelt.doctor.run import Run

MIN_INDICES = 4  # that repeat by chance only once in thousands of passes


@dataclass(eq=False)
class Order:
    """How a pass began."""

    of: Pass
    indices: tuple[Any, ...]
    epoch: int


class EpochNotSet(PassRule):
    """A `DistributedSampler` shuffles, but nobody tells it the epoch: every epoch has the order of the first.

    The sampler draws its order from `seed + epoch`, so that all ranks agree without talking to one another. Its `epoch`
    stays 0 until `set_epoch` is called. Without that, each epoch is the same permutation: each batch has the same
    samples as in the epoch before, and each rank sees the same part of the data in all epochs.

    Observed: in two passes that the same optimizer was stepped on, the sampler had the same `epoch`, and handed out
    the same indices in the same order. Other samplers that have `set_epoch` and `epoch` are observed as well, where
    the order is not that of the data set. Found at the first step of the second pass.

    Not reported: samplers that do not shuffle; loaders that are only evaluated on; two models that are trained on the
    same order for comparison; passes of which one batch is drawn.

    The fix: `sampler.set_epoch(epoch)` before each pass. Reported at the loop over the loader. In a resumed training
    `epoch` goes on from where it was.
    """

    code: ClassVar[str] = "BB102"
    title: ClassVar[str] = "the same shuffled order in every epoch"
    lesson: ClassVar[str] = "silent_failures/rules"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._orders: weakref.WeakKeyDictionary[Pass, Order] = weakref.WeakKeyDictionary()
        self._earlier: dict[tuple[int, int], Order] = {}  # by data set and rank: the last pass that was trained on

    def loads(self, current: Pass, batch: Batch) -> None:
        if batch.number > 1 or batch.indices is None or (sampler := _sampler(batch.loader)) is None:
            return
        indices = tuple(batch.indices) if isinstance(batch.indices, (list, tuple)) else (batch.indices,)
        mixed = list(indices) != sorted(indices) and len(set(indices)) >= MIN_INDICES
        if type(sampler).__iter__ is DistributedSampler.__iter__ or mixed:
            self._orders[current] = Order(current, indices, sampler.epoch)

    def trains(self, current: Pass, step: Step) -> Findings:
        order = self._orders.pop(current, None)
        loader = current.loader()
        if order is None or loader is None:
            return
        key = (id(loader.dataset), getattr(_sampler(loader), "rank", 0))
        earlier, self._earlier[key] = self._earlier.get(key), order
        if earlier is None or (earlier.epoch, earlier.indices) != (order.epoch, order.indices):
            return
        enough = earlier.of.ended or earlier.of.num_batches > 1
        if not enough or not earlier.of.is_trained_by(step.optimizer):
            return
        first = ", ".join(map(str, order.indices[:4]))
        kind = type(_sampler(loader)).__name__
        yield self.finding(
            f"{kind} deals the samples in the same order in every epoch: it was not told that a new one begins, "
            f"and has epoch={order.epoch} again",
            current.place,
            fix=f"{_name(loader)}.set_epoch(epoch)  # before the loop over the loader",
            evidence={"both passes begin with samples": f"{first}, …", "sampler.epoch in both": order.epoch},
        )


def _sampler(loader: Any) -> Any:
    """Return the sampler that shuffles by epoch, None where there is none."""
    batches = getattr(loader, "batch_sampler", None)
    for sampler in (loader.sampler, batches, getattr(batches, "sampler", None)):
        if callable(getattr(sampler, "set_epoch", None)) and isinstance(getattr(sampler, "epoch", None), int):
            return sampler if getattr(sampler, "shuffle", True) else None
    return None


def _name(loader: Any) -> str:
    return "loader.sampler" if _sampler(loader) is loader.sampler else "loader.batch_sampler"
