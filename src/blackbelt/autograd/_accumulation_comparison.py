"""What `explain_accumulation` found: relative errors by parameter, the verdict, and the reasons where it is a no."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from blackbelt.autograd._accumulation_batches import widen
from blackbelt.report import Block, Prose, Report, Steps, Table, Verdict

_MAX_ROWS = 8


@dataclass(frozen=True)
class GradientError:
    """Relative error ``‖g - g₀‖ / ‖g₀‖`` of one parameter's gradient, or of all together, for each way to it.

    Where a parameter's ``g₀`` is 0 but for rounding (a bias before BatchNorm) relative to that of all parameters.
    """

    name: str
    large_batch: float
    exact: float
    naive: float


@dataclass(frozen=True)
class AccumulationComparisonReport(Report):
    """The large batch, exact accumulation and the mean of means, by their errors against the reference.

    ``reference`` is ``"float64"``: the large batch's gradient in float64; or ``"large batch"``, in its own precision,
    where the model does not run in float64 (``why_no_float64`` says why). ``holds``: whether exact accumulation gives
    the large batch's gradient; None where it does in float64 but not to twice the large batch's rounding, and where
    there is no float64 to tell. ``large_batch`` tells what it was: ``"joined"``
    along dimension 0, ``"given"``, or ``"one graph"`` over micro-batches that do not concatenate.
    """

    holds: bool | None
    overall: GradientError
    parameters: tuple[GradientError, ...]
    counts: tuple[float, ...]
    weights: tuple[float, ...]
    mean_loss: float
    naive_mean_loss: float
    reasons: tuple[str, ...]
    eval_difference: float | None
    reference: str
    large_batch: str
    why_no_float64: str = ""

    @property
    def naive_is_right(self) -> bool:
        """Whether the mean of means is right too: all micro-batches count the same."""
        return all(math.isclose(weight, 1) for weight in self.weights)

    def blocks(self) -> Iterator[Block]:
        exact, large = _percent(self.overall.exact), _percent(self.overall.large_batch)
        if self.holds:
            yield Verdict(
                f"Exact accumulation gives the large batch's gradient: off by {exact} from float64, as the large batch "
                f"is by {large}.",
                ok=True,
            )
        elif self.holds is None and self.reference == "float64":
            yield Verdict(
                f"Exact accumulation is the large batch in float64; in its own precision it is off by {exact}, more "
                f"than twice the large batch's {large}.",
                ok=None,
            )
        elif self.holds is None:
            yield Verdict(f"Exact accumulation and the large batch differ by {exact}.", ok=None)
        else:
            yield Verdict(f"Even exact accumulation is off by {exact} from the large batch.", ok=False)
        yield self._naive()
        if self.reasons:
            yield Steps(self.reasons, "Why:")
        if self.eval_difference is not None:
            yield Prose(
                "In eval mode, where neither BatchNorm nor dropout acts, exact accumulation and the large batch differ "
                f"by {_percent(self.eval_difference)} in float64."
            )
        yield self._errors()
        yield self._weights()
        yield from self._notes()

    def _naive(self) -> Verdict:
        naive = "is NaN" if math.isnan(self.overall.naive) else f"is off by {_percent(self.overall.naive)}"
        if self.naive_is_right:
            return Verdict("The mean of means is the same here: all micro-batches have the same count.", ok=True)
        if math.isinf(max(self.weights)):
            empty = self.weights.index(math.inf) + 1
            return Verdict(
                f"The mean of means is NaN, because micro-batch {empty} is empty and 0 / 0 is its mean; its gradient "
                f"{naive}.",
                ok=False,
            )
        return Verdict(f"The mean of the micro-batches' means is another loss: its gradient {naive}.", ok=False)

    def _errors(self) -> Table:
        worst = [row for row in self.parameters if (row.large_batch, row.exact, row.naive) != (0, 0, 0)]
        worst.sort(key=lambda row: -row.naive if row.naive == row.naive else -math.inf)
        rows = [("all", self.overall), *((row.name, row) for row in worst[:_MAX_ROWS])]
        against = "float64" if self.reference == "float64" else "the large batch"
        title = f"Relative error of the gradient against {against}"
        if len(worst) > _MAX_ROWS:
            title += f"; the {_MAX_ROWS} parameters (of {len(worst)}) where the mean of means is worst"
        return Table(
            ("parameter", "large batch", "exact", "mean of means"),
            [(name, *(f"{value:.1e}" for value in (row.large_batch, row.exact, row.naive))) for name, row in rows],
            title,
            frozenset({0}),
        )

    def _weights(self) -> Table:
        pairs = list(enumerate(zip(self.counts, self.weights), 1))
        title = "In the mean of means (right: 1)"
        if len(pairs) > _MAX_ROWS:
            pairs = sorted(sorted(pairs, key=lambda pair: -abs(math.log(pair[1][1])))[:_MAX_ROWS])
            title += f"; the {_MAX_ROWS} of {len(self.counts)} farthest from it"
        rows = [(i, f"{count:g}", f"{weight:.3g}") for i, (count, weight) in pairs]
        return Table(("micro-batch", "count", "weight of one loss"), rows, title)

    def _notes(self) -> Iterator[Block]:
        if self.large_batch == "one graph":
            yield Prose(
                "The micro-batches do not concatenate, so the large batch was one graph over all of them, forward by "
                "forward. Pass `joined=` to compare with a batch of your own making."
            )
        if self.why_no_float64:
            yield Prose(
                f"No float64 reference, so rounding is not told from error: in float64 your loss raises "
                f"{self.why_no_float64}"
            )


def norm(tensors: Iterable[torch.Tensor]) -> float:
    """Return the 2-norm of all given tensors together, in float64."""
    return math.sqrt(math.fsum(float(_wide(tensor).abs().square().sum()) for tensor in tensors))


def distance(ones: Iterable[torch.Tensor], others: Iterable[torch.Tensor]) -> float:
    """Return the 2-norm of the differences of two sets of tensors, in float64."""
    return norm(_wide(one) - _wide(other) for one, other in zip(ones, others))


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.device.type == "mps" else widen(tensor)  # MPS has no float64


def naive_weights(counts: Sequence[float]) -> tuple[float, ...]:
    """Return N / (k n_i) for each of k counts n_i with sum N: 1 everywhere only where all are equal."""
    total = math.fsum(counts)
    return tuple(total / (len(counts) * count) if count else math.inf for count in counts)


def batch_norms(model: nn.Module) -> list[str]:
    """Return the names of the BatchNorm modules that use the statistics of the batch."""
    kind = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - the common base, SyncBatchNorm included
    return [
        name or type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, kind) and (module.training or module.running_mean is None)
    ]


def dropouts(model: nn.Module) -> list[str]:
    """Return the names of the modules that drop out now."""
    return [name or type(module).__name__ for name, module in model.named_modules() if _drops_out(module)]


def _drops_out(module: nn.Module) -> bool:
    rate = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0)  # noqa: SLF001
    return module.training and isinstance(rate, (int, float)) and rate > 0


def _percent(value: float) -> str:
    """Return a relative error: in percent from 0.1 % on, else as a power of ten."""
    if value >= 1:
        return f"{value:.0%}"
    return f"{value:.1%}" if value >= 0.001 else f"{value:.1e}"
