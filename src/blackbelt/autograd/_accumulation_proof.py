"""The runs behind `explain_accumulation`: the large batch, exact accumulation, the mean of means, each on a copy."""

from __future__ import annotations

import contextlib
import copy
import math
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from blackbelt.autograd import _accumulation_checks as checks
from blackbelt.autograd._accumulation_batches import devices_of, duplicate, to_double, widen
from blackbelt.autograd._accumulation_checks import LossSumAndCount
from blackbelt.autograd._accumulation_comparison import (
    AccumulationComparisonReport,
    GradientError,
    batch_norms,
    distance,
    dropouts,
    naive_weights,
    norm,
)

# Equal in float64 up to eight roundings in float32: many models compute a norm or a softmax in float32 whatever they
# are given, and a difference in mathematics is never that small.
SAME = 8 * torch.finfo(torch.float32).eps

Accumulate = Callable[[nn.Module, Iterable[Any], LossSumAndCount], Any]


@dataclass(frozen=True)
class Run:
    """One way to a gradient: the gradients by parameter name, each micro-batch's sum and count."""

    gradients: dict[str, torch.Tensor]
    sums: tuple[float, ...]
    counts: tuple[float, ...]
    draws_random_numbers: bool


class Laboratory:
    """Runs a loss on copies of a model and of the micro-batches, always from the same random state."""

    def __init__(self, model: nn.Module, function: LossSumAndCount, batches: Sequence[Any], joined: Any) -> None:
        self._model = model
        self._function = function
        self._batches = batches
        self._joined = joined  # a list of what the large batch is made of: one batch, or all that did not concatenate
        tensors = [*model.parameters(), *model.buffers()]
        self._devices = {tensor.device for tensor in tensors} | devices_of(list(batches))

    def large(self, *, double: bool = False, training: bool = True) -> Run:
        """One backward from the mean over everything.

        Draws a random number first: on a CPU, micro-batches after one another otherwise get the very masks that one
        dropout layer draws for the large batch, and no other machine or model repeats that.
        """

        def run(model: nn.Module, call: LossSumAndCount) -> None:
            for device in self._devices:
                if device.type != "meta":
                    torch.rand(1, device=device)
            pairs = [call(model, batch) for batch in self._joined]
            total = sum(count for _, count in pairs)
            (torch.stack([loss for loss, _ in pairs]).sum() / total).backward()

        return self._run(run, double=double, training=training)

    def exact(self, accumulate: Accumulate, *, double: bool = False, training: bool = True) -> Run:
        """What `accumulate` does."""
        return self._run(lambda model, call: accumulate(model, self._batches, call), double=double, training=training)

    def naive(self) -> Run:
        """The mean of the micro-batches' means, as in ``(loss / num_micro_batches).backward()``."""

        def run(model: nn.Module, call: LossSumAndCount) -> None:
            for batch in self._batches:
                loss, count = call(model, batch)
                mean = loss / torch.tensor(count, dtype=loss.dtype, device=loss.device)  # 0 / 0 is NaN, not an error
                (mean / len(self._batches)).backward()

        return self._run(run)

    def _run(
        self, body: Callable[[nn.Module, LossSumAndCount], Any], *, double: bool = False, training: bool = True
    ) -> Run:
        model = _copy(self._model)
        if double:
            model = model._apply(widen)  # noqa: SLF001 - model.double() for complex parameters too
        if not training:
            model = model.eval()
        parameters = checks.check_model(model)
        pairs: list[tuple[torch.Tensor, float]] = []

        def call(given: Any, batch: Any) -> tuple[torch.Tensor, float]:
            batch = duplicate(batch)
            loss, count = checks.check_pair(
                self._function(given, to_double(batch) if double else batch), len(pairs) + 1
            )
            checks.check_leaves(loss, parameters)
            pairs.append((loss.detach(), checks.check_value(float(count), len(pairs) + 1)))
            return loss, pairs[-1][1]

        with _random_state(self._devices) as is_moved:
            body(model, call)
            moved = is_moved()  # meant for what accumulates: the large batch draws a number of its own
        gradients = {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.to_dense()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        return Run(
            {name: gradient.detach() for name, gradient in gradients.items()},
            tuple(float(loss) for loss, _ in pairs), tuple(count for _, count in pairs), moved,
        )  # fmt: skip


def compare(model: nn.Module, laboratory: Laboratory, accumulate: Accumulate, how: str) -> AccumulationComparisonReport:
    """Run everything and put the errors side by side."""
    large, exact, naive = laboratory.large(), laboratory.exact(accumulate), laboratory.naive()
    reference, failure = large, ""
    difference: float | None = None
    try:
        reference = laboratory.large(double=True)
        difference = _error(laboratory.exact(accumulate, double=True), reference)
    except Exception as error:  # whatever it is: the same calls went well before; MPS has no float64
        reference, failure = large, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    rounding = max(torch.finfo(gradient.dtype).eps for gradient in large.gradients.values())
    size = norm(reference.gradients.values())

    def errors(name: str, names: Sequence[str]) -> GradientError:
        wanted = [reference.gradients[key] for key in names]
        scale = norm(wanted)
        scale = scale if scale > rounding * size else size  # 0 but for rounding: a bias before BatchNorm
        runs = [[run.gradients[key] for key in names] for run in (large, exact, naive)]
        return GradientError(name, *(distance(run, wanted) / scale if scale else 0.0 for run in runs))

    overall = errors("all", list(large.gradients))
    holds: bool | None = None
    reasons: tuple[str, ...] = ()
    eval_difference = None
    if difference is not None:
        is_double = rounding == torch.finfo(torch.float64).eps  # nothing wider to measure its rounding with
        is_close = is_double or overall.exact <= 2 * overall.large_batch + rounding
        holds = False if difference > SAME else True if is_close else None
        if difference > SAME:
            calm = _calm(laboratory, accumulate)
            eval_difference = _error(calm[1], calm[0]) if calm else None
            reasons = _reasons(model, calm, exact, (difference, eval_difference), how)
        elif not holds:
            reasons = (_ROUNDING.format(num=len(exact.counts)),)
    return AccumulationComparisonReport(
        holds, overall, tuple(errors(name, [name]) for name in large.gradients), exact.counts,
        naive_weights(exact.counts), math.fsum(exact.sums) / math.fsum(exact.counts), _mean_of_means(exact), reasons,
        eval_difference, "large batch" if failure else "float64", how, failure,
    )  # fmt: skip


def _calm(laboratory: Laboratory, accumulate: Accumulate) -> tuple[Run, Run] | None:
    """Return the large batch and exact accumulation in float64 and eval mode, where that runs."""
    try:
        return (
            laboratory.large(double=True, training=False),
            laboratory.exact(accumulate, double=True, training=False),
        )
    except RuntimeError:  # cuDNN's RNNs have no backward in eval mode
        return None


_NOT_ADDITIVE = (
    "The counts do not add up: {parts:g} in the micro-batches, {whole:g} in the large batch. A count that is not "
    "additive (a length, a maximum) leaves no mean to agree on."
)
_A_MEAN = (
    "Your loss is a mean, not a sum: those of the micro-batches, weighted by their counts, average to that of the "
    "large batch. Use reduction='sum', or multiply it by its count."
)
_ROUNDING = (
    "Rounding: in float64 they agree. {num} gradients added one after another round more often than one large batch "
    "does, and where a ReLU is within a rounding of 0, another rounding turns it."
)
_RANDOM = "Your model or loss draws random numbers, and others for micro-batches than for the large batch."
_COUPLED = (
    "The loss of a sample depends on the others in its batch (a contrastive loss, statistics of the batch), or the "
    "large batch holds other data than the micro-batches."
)
_JOINED = " The micro-batches were concatenated along dimension 0: is that your large batch?"


def _reasons(
    model: nn.Module,
    calm: tuple[Run, Run] | None,
    exact: Run,
    differences: tuple[float, float | None],
    how: str,
) -> tuple[str, ...]:
    """Say why exact accumulation is not the large batch, in training mode and in eval mode (``calm``)."""
    found = _of_the_loss(*calm) if calm else []
    in_training, in_eval = differences
    if calm and in_eval is not None and in_eval > SAME and not found:
        found.append(_RANDOM if calm[1].draws_random_numbers else _COUPLED + (_JOINED if how == "joined" else ""))
    if in_eval is not None and math.isclose(in_training, in_eval, rel_tol=1e-6):
        return tuple(found)  # eval mode changes nothing, so BatchNorm and dropout do not act here
    if names := batch_norms(model):
        found.append(f"BatchNorm normalizes by the statistics of the micro-batch: {_list(names)}.")
    if names := dropouts(model):
        found.append(f"Dropout draws other masks for micro-batches than for the large batch: {_list(names)}.")
    elif exact.draws_random_numbers and _RANDOM not in found:
        found.append(_RANDOM)
    return tuple(found)


def _of_the_loss(large: Run, parts: Run) -> list[str]:
    """Say what is wrong with sums and counts, in runs without BatchNorm and dropout."""
    found = []
    total, whole = math.fsum(parts.counts), math.fsum(large.counts)
    if not math.isclose(total, whole):
        found.append(_NOT_ADDITIVE.format(parts=total, whole=whole))
    summed, wanted = math.fsum(parts.sums), math.fsum(large.sums)
    weighted = math.fsum(loss * count for loss, count in zip(parts.sums, parts.counts)) / total
    if not math.isclose(summed, wanted, rel_tol=SAME) and math.isclose(weighted, wanted, rel_tol=SAME):
        found.append(_A_MEAN)
    return found


def _mean_of_means(run: Run) -> float:
    means = [loss / count if count else math.nan for loss, count in zip(run.sums, run.counts)]
    return math.fsum(means) / len(means)


def _error(run: Run, reference: Run) -> float:
    size = norm(reference.gradients.values())
    apart = distance(run.gradients.values(), reference.gradients.values())
    return apart / size if size else math.inf if apart else 0.0


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _copy(model: nn.Module) -> nn.Module:
    try:
        duplicate = copy.deepcopy(model)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be copied, and the comparison runs on copies so that yours stays as it is. "
            f"copy.deepcopy(model) says: {type(error).__name__}: {error}"
        ) from error
    for parameter in duplicate.parameters():
        parameter.grad = None
    return duplicate


@contextlib.contextmanager
def _random_state(devices: set[torch.device]) -> Iterator[Callable[[], bool]]:
    """Put every random state back at the end; the value tells whether one has moved since the start."""
    numpy = sys.modules.get("numpy")
    accelerators = [device for device in devices if device.type in ("cuda", "xpu", "mps")]

    def read() -> list[Any]:
        states: list[Any] = [torch.random.get_rng_state().tolist(), random.getstate()]
        if numpy is not None:
            kind, keys, *rest = numpy.random.get_state()
            states.append((kind, keys.tolist(), *rest))
        return states + [_backend(device).get_rng_state(*_index(device)).tolist() for device in accelerators]

    before = read()
    try:
        yield lambda: read() != before
    finally:
        torch.random.set_rng_state(torch.tensor(before[0], dtype=torch.uint8))
        random.setstate(before[1])
        if numpy is not None:
            kind, keys, *rest = before[2]
            numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), *rest))
        for device, state in zip(accelerators, before[2 if numpy is None else 3 :]):
            _backend(device).set_rng_state(torch.tensor(state, dtype=torch.uint8), *_index(device))


def _backend(device: torch.device) -> Any:
    return getattr(torch, device.type)


def _index(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)
