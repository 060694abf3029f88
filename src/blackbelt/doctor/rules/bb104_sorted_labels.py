"""BB104."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import BatchSampler, DistributedSampler, IterableDataset, SequentialSampler

from blackbelt.doctor.events import Batch, ModuleCall, Step
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._losses import source_mentions
from blackbelt.doctor.rules._passes import Pass, PassRule
from blackbelt.doctor.run import Run

MIN_BATCHES, MIN_SAMPLES, MIN_PER_CLASS = 4, 16, 4
PURITY, MAX_SHARE = 0.85, 0.8  # of a batch that is its most frequent class; of all samples that are one class
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
LABELS = ("label", "labels", "target", "targets", "y", "class", "cls")
ON_PURPOSE = (
    "continual",
    "incremental",
    "curriculum",
    "lifelong",
    "forgetting",
    "chronolog",
    "time series",
    "time-series",
)


@dataclass(eq=False)
class Labels:
    """The labels of a pass, in the order in which they came."""

    of: Pass
    blocks: list[float] = field(default_factory=list)  # the most frequent label of each batch, without repetitions
    counts: Counter[float] = field(default_factory=Counter)
    num_pure: int = 0  # samples of their batch's most frequent class
    are_mixed: bool = False

    def add(self, labels: Tensor) -> None:
        """Take the labels of the next batch, and see whether the order is mixed."""
        found, numbers = labels.unique(return_counts=True)
        most = int(numbers.argmax())
        label = float(found[most])
        self.counts.update(dict(zip(found.tolist(), numbers.tolist())))
        self.num_pure += int(numbers[most])
        if not self.blocks or self.blocks[-1] != label:
            self.are_mixed = label in self.blocks
            self.blocks.append(label)
        self.are_mixed |= self.of.num_batches >= MIN_BATCHES and self.purity < PURITY - 0.2

    @property
    def purity(self) -> float:
        """The share of samples that are of the most frequent class of their batch."""
        return self.num_pure / max(1, self.counts.total())

    @property
    def are_sorted(self) -> bool:
        """Whether this pass, which has ended, dealt one class after the other."""
        total = self.counts.total()
        enough = self.of.num_batches >= MIN_BATCHES and total >= max(MIN_SAMPLES, MIN_PER_CLASS * len(self.counts))
        mixed_otherwise = max(self.counts.values()) <= MAX_SHARE * total
        return not self.are_mixed and len(self.blocks) > 1 and enough and mixed_otherwise and self.purity >= PURITY


class SortedLabels(PassRule):
    """The training data come sorted by class, and the loader does not shuffle.

    A batch then has one class. Each step pulls the model to answer that class whatever the input, and the next class
    pulls it away: the loss jumps where the class changes, and at the end of the epoch the model has forgotten the first
    classes. Files listed folder by folder, positives before negatives, sorted tables, are all in such an order.

    Observed: a full pass that an optimizer was stepped on, over at least four batches in the data set's own order.
    Nearly every batch (85 % of the samples) is of one class and each class comes in one block, though no class has
    more than 80 % of the data. Found at the first step of the next pass.

    Not reported: loaders that shuffle or have a sampler of their own; targets that are no class indices; batches that
    hold several classes; single passes; recurrent networks that are handed a state from outside, for which order
    matters; code that names continual learning, a curriculum or a time series.

    The fix: `shuffle=True`. A stream needs a shuffle buffer, or shards that are mixed when they are written.
    """

    code: ClassVar[str] = "BB104"
    title: ClassVar[str] = "training data sorted by class"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._running: weakref.WeakKeyDictionary[Pass, Labels] = weakref.WeakKeyDictionary()
        self._earlier: dict[int, Labels] = {}  # by data set: of the last pass that was trained on
        self._stateless: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # recurrent layers that start from zero

    def module_called(self, call: ModuleCall) -> Findings:
        if isinstance(call.module, RECURRENT):
            handed = call.args[1] if len(call.args) > 1 else call.kwargs.get("hx")
            (self._stateless.add if handed is None else self._stateless.discard)(call.module)
        return super().module_called(call)

    def _carry_state(self) -> bool:
        modules = (module for model in self.run.models for module in model.modules())
        return any(isinstance(module, RECURRENT) and module not in self._stateless for module in modules)

    def loads(self, current: Pass, batch: Batch) -> None:
        if batch.number == 1 and _keeps_order(batch.loader):
            self._running[current] = Labels(current)
        if (labels := self._running.get(current)) is not None:
            values = _labels(batch)
            if values is not None:
                labels.add(values)
            if values is None or labels.are_mixed:
                labels.are_mixed = True
                del self._running[current]

    def trains(self, current: Pass, step: Step) -> Findings:
        labels, loader = self._running.get(current), current.loader()
        if labels is None or loader is None or current.num_steps > 1:
            return
        key = id(loader.dataset)
        earlier, self._earlier[key] = self._earlier.get(key), labels
        if earlier is None or not earlier.of.ended or not earlier.of.is_trained_by(step.optimizer):
            return
        place = self.run.made_at(loader) or current.place
        if not earlier.are_sorted or self._carry_state() or (place and source_mentions(place, ON_PURPOSE, 60)):
            return
        order = " → ".join(f"{label:g}" for label in earlier.blocks[:6]) + (" → …" if len(earlier.blocks) > 6 else "")
        yield self.finding(
            f"the training data come sorted by class and are not shuffled: in a pass of {earlier.of.num_batches} "
            f"batches the labels go {order}, with {earlier.purity:.0%} of a batch in one class",
            place,
            fix="DataLoader(…, shuffle=True)"
            if not isinstance(loader.dataset, IterableDataset)
            else "# mix the shards when they are written, or yield from a shuffle buffer",
            evidence={
                "samples per class": ", ".join(f"{k:g}: {n}" for k, n in sorted(earlier.counts.items())[:8]),
                "share of a batch in one class": f"{earlier.purity:.0%}",
                "share of the data in one class": f"{max(earlier.counts.values()) / earlier.counts.total():.0%}",
            },
        )


def _keeps_order(loader: Any) -> bool:
    if isinstance(loader.dataset, IterableDataset):
        return True
    batches, sampler = getattr(loader, "batch_sampler", None), loader.sampler
    if batches is not None and type(batches) is not BatchSampler:
        return False
    sampler = getattr(batches, "sampler", sampler)
    return type(sampler) is SequentialSampler or (isinstance(sampler, DistributedSampler) and not sampler.shuffle)


def _labels(batch: Batch) -> Tensor | None:
    """Return the class labels of a batch, flat; None where it has none."""
    data = batch.data
    if isinstance(data, Mapping):
        labels = next((value for name, value in data.items() if str(name).lower() in LABELS), None)
    else:
        labels = data[-1] if isinstance(data, (list, tuple)) and len(data) > 1 else None
    if not isinstance(labels, Tensor) or labels.device.type != "cpu" or labels.numel() != labels.shape[:1].numel():
        return None
    if labels.is_complex() or labels.dim() == 0 or not labels.numel():
        return None
    flat = labels.detach().flatten()
    return flat if not labels.is_floating_point() or bool(((flat == 0) | (flat == 1)).all()) else None
