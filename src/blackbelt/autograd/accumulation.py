"""Gradient accumulation that gives the large batch's gradient for any partition of it: `accumulate`.

The mean over a batch is (sum of losses) / (number of losses). The mean of micro-batch means is something else unless
all have the same number of losses, and token-level losses never do. So sums are accumulated and divided once:

    grad = (grad of sum_1 + ... + grad of sum_k) / (count_1 + ... + count_k)

`explain_accumulation` compares that, and the mean of means, with the large batch, on your model and your loss.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from blackbelt.autograd import _accumulation_checks as checks
from blackbelt.autograd._accumulation_batches import CannotJoinError, join
from blackbelt.autograd._accumulation_checks import LossSumAndCount
from blackbelt.autograd._accumulation_comparison import AccumulationComparisonReport, naive_weights
from blackbelt.autograd._accumulation_gradients import Window
from blackbelt.autograd._accumulation_proof import Laboratory, compare
from blackbelt.autograd._accumulation_ranks import Ranks, unwrap, wide_sum
from blackbelt.report import Block, Prose, Report, Table, Verdict

_END = object()
_EXPLAINED = {
    "backward through the graph a second time": (
        "reaches into a graph that an earlier backward has freed. Compute everything that needs a gradient inside "
        "loss_sum_and_count, and detach() what one micro-batch hands to the next (a hidden state, a cache)"
    ),
    # pytorch/pytorch#143580, open in torch 2.15
    "expect_autograd_hooks_ INTERNAL ASSERT": (
        "is in DistributedDataParallel(static_graph=True), whose first backward cannot be under no_sync(). Accumulate "
        "a single micro-batch in the first step, or leave static_graph out"
    ),
}
_MAX_ROWS = 12


@dataclass(frozen=True)
class AccumulationReport(Report):
    """What was accumulated. Holds no graph: ``mean_loss`` and ``sums`` are detached 0-d tensors, not read yet.

    ``mean_loss`` and ``total_count`` are over all ranks; ``counts`` and ``sums``, one per micro-batch, are this
    rank's. Showing the report, or ``float(report.mean_loss)``, waits for the GPU where the losses are on one.
    """

    mean_loss: torch.Tensor
    total_count: float
    counts: tuple[float, ...]
    sums: tuple[torch.Tensor, ...]
    num_ranks: int = 1
    is_scaled: bool = False

    @property
    def num_micro_batches(self) -> int:
        """How many micro-batches this rank had."""
        return len(self.counts)

    @property
    def naive_weights(self) -> tuple[float, ...]:
        """What one loss of each micro-batch would weigh in a mean of means, relative to 1, the right weight.

        Infinite for an empty micro-batch, whose mean is NaN. On this rank's micro-batches alone.
        """
        return naive_weights(self.counts)

    def to_dict(self) -> dict[str, Any]:
        plain = super().to_dict()
        return {**plain, "mean_loss": float(self.mean_loss), "sums": [float(loss) for loss in self.sums]}

    def blocks(self) -> Iterator[Block]:
        ranks = f" on {self.num_ranks} ranks" if self.num_ranks > 1 else ""
        yield Verdict(
            f"`.grad` has the gradient of the mean of {_number(self.total_count)} losses{ranks} (mean loss "
            f"{float(self.mean_loss):.6g}).",
            ok=True,
        )
        rows = [
            (index, _number(count), f"{loss:.6g}", f"{loss / count:.6g}" if count else "none", f"{weight:.3g}")
            for index, (count, loss, weight) in enumerate(
                zip(self.counts, map(float, self.sums[:_MAX_ROWS]), self.naive_weights), 1
            )
        ]
        title = f"{self.num_micro_batches} micro-batches" + (" of this rank" if ranks else "")
        if len(self.counts) > _MAX_ROWS:
            title += f", the first {_MAX_ROWS}"
        yield Table(("micro-batch", "count", "sum", "mean", "weight in a mean of means"), rows, title)
        if self.is_scaled:
            yield Prose("The gradients are still scaled: `scaler.unscale_(optimizer)` comes before clipping.")


def accumulate(
    model: nn.Module, micro_batches: Iterable[Any], loss_sum_and_count: LossSumAndCount, *, scaler: Any = None
) -> AccumulationReport:
    """Add to ``.grad`` the gradient of the mean loss over all micro-batches, as one backward of the large batch would.

    ``loss_sum_and_count(model, micro_batch)`` returns the *sum* of the losses (a 0-d tensor with a graph) and how many
    there are: samples, tokens that are not ignored, or their total weight (an int, a float or a 0-d tensor without
    gradient; 0 for an empty micro-batch). The gradient is that of (sum of sums) / (sum of counts), whatever the
    partition. Every micro-batch's graph is freed before the next forward.

    >>> import torch
    >>> model = torch.nn.Linear(3, 1)
    >>> x, y = torch.randn(10, 3), torch.randn(10, 1)
    >>> def loss_sum_and_count(model, micro_batch):
    ...     x, y = micro_batch
    ...     return (model(x) - y).square().sum(), len(x)
    >>> report = accumulate(model, zip(x.split(4), y.split(4)), loss_sum_and_count)
    >>> report.counts, report.total_count
    ((4.0, 4.0, 2.0), 10.0)
    >>> exact = torch.autograd.grad((model(x) - y).square().mean(), model.weight)[0]
    >>> bool(torch.allclose(model.weight.grad, exact))
    True

    **What was in .grad before** is not divided: the result is added to it, as ``backward()`` does. After
    ``zero_grad()`` (gradients None) this costs nothing, else a second set of gradients while it runs. If anything
    raises, ``.grad`` is as it was before the call; buffers that the forward passes changed (BatchNorm) stay changed.

    **Memory**: two micro-batches, this one and the next, are held at a time; a generator is read lazily. Parameters in
    float16 and bfloat16 get float32 sums from the second micro-batch on (4 bytes per element).

    **scaler**, a ``torch.amp.GradScaler``: the losses are scaled and the gradients stay scaled until
    ``scaler.unscale_(optimizer)``; clip after that, and call ``scaler.update()`` once per ``accumulate``. So that sums
    do not overflow float16 where the mean would not, each sum is divided *before* its backward by a power of two, which
    is exact: the one nearest to the first count times ``len(micro_batches)`` (a generator has no ``len``: nearest to
    the first count). What is left of the division is one multiplication of the accumulated gradients before the last
    backward.

    **DistributedDataParallel**: all micro-batches but the last run under ``no_sync()``, so each bucket is all-reduced
    once; counts and losses are summed over ranks (one all-reduce of two numbers), and DDP's division by the number of
    ranks is undone. Ranks may have different numbers of micro-batches, but each at least one (an empty one, with count
    0, will do): otherwise the others wait for it. Give it the DDP model itself. A communication hook must average, as
    the default does. With ``static_graph=True`` the first step must have a single micro-batch (pytorch/pytorch#143580).

    **Synchronization** with an accelerator: none where counts are Python numbers or CPU tensors; one, before the last
    backward, where they are tensors on it, or under DDP.

    **Not the large batch** even so: BatchNorm in training mode (statistics of a micro-batch), dropout (other masks),
    losses that couple samples (contrastive), hooks on parameters that are not linear or that step an optimizer.

    Raises TypeError or ValueError, before any division, for what is not a module, a scalar loss with a graph or a
    count; no micro-batches; a total count of 0; a loss that depends on leaves which are not the model's parameters
    (checked on the first micro-batch by walking its graph). Raises RuntimeError where a micro-batch reaches into the
    freed graph of another.
    """
    parameters = checks.check_model(model)
    checks.check_micro_batches(micro_batches)
    checks.check_function(loss_sum_and_count)
    checks.check_scaler(scaler)
    ranks = Ranks(model)
    window = Window(parameters, may_be_overwritten=ranks.is_distributed)
    try:
        report = _run(model, micro_batches, loss_sum_and_count, scaler, parameters, ranks, window)
    except BaseException:
        window.restore()
        raise
    window.close()
    return report


def explain_accumulation(
    model: nn.Module, micro_batches: Iterable[Any], loss_sum_and_count: LossSumAndCount, *, joined: Any = None
) -> AccumulationComparisonReport:
    """Compare exact accumulation, and the mean of means, with one backward of the large batch: on your own loss.

    Takes what `accumulate` takes. The large batch is ``joined``, or else the micro-batches concatenated along
    dimension 0 (tensors, inside of tuples, lists and mappings), or else, where they do not concatenate, one graph over
    all of them. Each gradient's error is relative, ``‖g - g₀‖ / ‖g₀‖``, against the large batch in float64. Exact
    accumulation *holds* where its error is at most twice that of the large batch in your precision (plus one
    rounding), and where both agree in float64. Where it does not hold the report says why: BatchNorm, dropout, a mean
    returned for a sum, counts that do not add up, a loss that couples samples, or rounding alone.

    Runs on deep copies, from the same random state each time; model, gradients, buffers, micro-batches and random
    states (PyTorch's, NumPy's, Python's) stay as they are. Under DistributedDataParallel the model inside of it is
    compared, on this rank, without communication. Costs five forward and backward passes over everything, two of them
    in float64 (two more to find a reason), and the memory of the large batch's graph; holds all micro-batches; waits
    for the GPU.

    Raises what `accumulate` raises, and ValueError where there are fewer than two micro-batches, or the model cannot
    be copied.

    >>> import torch
    >>> from torch.nn.functional import cross_entropy
    >>> model = torch.nn.Linear(8, 5)
    >>> x, labels = torch.randn(12, 8), torch.randint(5, (12,))
    >>> labels[:3] = -100
    >>> def loss_sum_and_count(model, micro_batch):
    ...     x, labels = micro_batch
    ...     return cross_entropy(model(x), labels, reduction="sum", ignore_index=-100), (labels != -100).sum()
    >>> report = explain_accumulation(model, zip(x.split(4), labels.split(4)), loss_sum_and_count)
    >>> report.holds, report.weights
    (True, (3.0, 0.75, 0.75))
    >>> report.overall.exact < 1e-6, report.overall.naive > 0.01
    (True, True)
    """
    checks.check_model(model)
    batches = list(checks.check_micro_batches(micro_batches))
    checks.check_function(loss_sum_and_count)
    if len(batches) < 2:
        raise ValueError(
            f"micro_batches has {len(batches)} items; at least two were expected, because one micro-batch is the large "
            "batch itself. Split your batch, e.g. list(zip(x.split(8), y.split(8)))"
        )
    whole, how = [joined], "given"
    if joined is None:
        try:
            whole, how = [join(batches)], "joined"
        except CannotJoinError:
            whole, how = batches, "one graph"
    inside = unwrap(model)
    return compare(inside, Laboratory(inside, loss_sum_and_count, batches, whole), accumulate, how)


def _run(  # noqa: PLR0917 - one caller, in the order of `accumulate`
    model: nn.Module,
    micro_batches: Iterable[Any],
    loss_sum_and_count: LossSumAndCount,
    scaler: Any,
    parameters: list[nn.Parameter],
    ranks: Ranks,
    window: Window,
) -> AccumulationReport:
    expected = max(1, operator.length_hint(micro_batches, 1))  # a DataLoader may have a len() that raises
    counts: list[float | torch.Tensor] = []
    sums: list[torch.Tensor] = []
    pivot: float | torch.Tensor = 1.0
    last: torch.Tensor | None = None
    for micro_batch, is_last in _with_look_ahead(micro_batches):
        with ranks.silent(enabled=not is_last):
            loss, count = checks.check_pair(loss_sum_and_count(model, micro_batch), len(counts) + 1)
            if not counts:
                checks.check_leaves(loss, parameters)
                pivot = _power_of_two(count, expected)
            counts.append(count)
            sums.append(loss.detach().clone())  # a view would keep what it is a view of
            if is_last:
                last = loss
            else:
                _backward(loss / pivot, scaler, len(counts))
                window.fold()
        del loss, micro_batch  # before the next is read, so that two are held and not three
    if last is None:
        raise ValueError(
            "micro_batches is empty: there is no loss to differentiate. A generator that was iterated over before is "
            "exhausted; under DistributedDataParallel every rank needs a micro-batch, an empty one (count 0) will do"
        )
    known, pivot = _read(counts, pivot)
    total, loss_sum = ranks.total(math.fsum(known), wide_sum(sums))
    if total <= 0:
        if ranks.is_distributed:  # the last forward has made DDP wait for a backward; it would wait into the next step
            _backward(last * 0, None, len(counts))
        raise ValueError(
            f"the counts of all {len(counts)} micro-batches add up to 0: a mean over nothing is not defined. Skip this "
            "step (are all labels ignore_index?)"
        )
    window.scale(pivot * ranks.count / total)
    _backward(last * (ranks.count / total), scaler, len(counts))
    return AccumulationReport(loss_sum / total, total, known, tuple(sums), ranks.count, _is_on(scaler))


def _backward(loss: torch.Tensor, scaler: Any, position: int) -> None:
    try:
        (loss if scaler is None else scaler.scale(loss)).backward()
    except RuntimeError as error:
        explained = next((words for sign, words in _EXPLAINED.items() if sign in str(error)), None)
        if explained is None:
            raise
        raise RuntimeError(f"micro-batch {position} {explained}. PyTorch says: {error}") from error


def _is_on(scaler: Any) -> bool:
    is_enabled = getattr(scaler, "is_enabled", None)
    return scaler is not None and (is_enabled is None or bool(is_enabled()))


def _with_look_ahead(items: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Yield each item with whether it is the last, reading one ahead and holding no more."""
    iterator = iter(items)
    item = next(iterator, _END)
    while item is not _END:
        following = next(iterator, _END)
        yield item, following is _END
        item = following


def _power_of_two(count: float | torch.Tensor, times: int) -> float | torch.Tensor:
    if isinstance(count, torch.Tensor):
        near = (count * times).to(torch.float32).log2().round().exp2()
        return torch.where(count > 0, near, torch.ones_like(near))
    return 2.0 ** round(math.log2(count * times)) if count else 1.0


def _read(counts: list[float | torch.Tensor], pivot: float | torch.Tensor) -> tuple[tuple[float, ...], float]:
    """Return counts and pivot as numbers: one transfer for all that live on an accelerator."""
    values = [*counts, pivot]
    remote = [value for value in values if isinstance(value, torch.Tensor)]
    if remote:
        dtype = torch.float32 if remote[0].device.type == "mps" else torch.float64
        fetched = iter(torch.stack([value.to(dtype) for value in remote]).tolist())
        values = [next(fetched) if isinstance(value, torch.Tensor) else value for value in values]
    known = [float(value) for value in values]
    return tuple(checks.check_value(count, position) for position, count in enumerate(known[:-1], 1)), known[-1]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.6g}"
