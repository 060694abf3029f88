"""A cross-entropy that leaves its gradient behind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st

from blackbelt.dojo.describe import describe
from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.in_place import KeepsStorage, MovesVersion
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.dojo.trial import Trial

_WIDE = "a wide vocabulary"


@dataclass(frozen=True)
class Overwrites(Law):
    """The logits do not stay as they were."""

    why: ClassVar[str] = "Who called you reads the gradient in the tensor that was passed."

    def check(self, trial: Trial) -> None:
        before, after, wanted = trial.case.arguments[0], trial.arguments[0], trial.reference.arguments[0]
        if torch.equal(before, after) and not torch.equal(before, wanted):
            raise LawBroken("The logits are as they were before", describe(wanted), describe(after))


@dataclass(frozen=True)
class MovesProbability(Law):
    """Every row of the gradient adds up to 0: what one class gains, the others lose."""

    why: ClassVar[str] = "To add a number to all logits of a row changes nothing, so the slope in that direction is 0."

    def check(self, trial: Trial) -> None:
        total = trial.arguments[0].float().sum(1).abs().max()
        if total > 0.5:
            raise LawBroken("A row of the gradient does not add up to 0", "0", f"{total:.4g}")


def _case(
    rows: int, classes: int, dtype: torch.dtype = torch.float32, factor: float = 1.0, ignored: int = 0
) -> tuple[Any, ...]:
    target = numbers((rows,), torch.int64, seed=1).remainder(classes)
    target[:ignored] = -100
    return factor * numbers((rows, classes), dtype), target, -100


def _budget(logits: torch.Tensor, target: torch.Tensor, _: int) -> int:
    return logits.numel() * logits.element_size() // 4 + 64 * len(target)


@kata(
    minutes=25,
    belt="brown",
    hints=(
        (
            "The gradient of a row needs that row and nothing else. How many rows must be there in a second copy at "
            "any time?"
        ),
        (
            "Take eight rows at a time. Their log-softmax in float32 gives the losses, its `exp_()` the softmax; "
            "subtract 1 at the targets and copy it over the logits."
        ),
        (
            "`part = logits[start : start + 8]` is a view, and `part.copy_(…)` writes into the logits. For ignored "
            "rows `gather` needs some index that exists: `index.where(kept, 0)`, and their loss and gradient are 0."
        ),
    ),
    cases=st.tuples(
        st.integers(1, 10), st.integers(1, 6), st.just(torch.float32), st.sampled_from((1.0, 30.0)), st.integers(0, 3)
    ).map(lambda drawn: _case(*drawn)),
    edge_cases=lambda: {
        "two rows": _case(2, 3),
        "large logits": _case(3, 4, factor=200.0),
        "an ignored row": _case(4, 3, ignored=1),
        "another ignored number": (numbers((3, 4)), torch.tensor([1, 0, 3]), 0),
        "hidden classes": (torch.tensor([[0.5, -math.inf, 1.0], [-math.inf, 0.0, 2.0]]), torch.tensor([0, 2]), -100),
        "half precision": _case(4, 512, torch.float16),
        _WIDE: _case(64, 1024),
    },
    laws=[
        Overwrites(),
        MovesProbability(),
        Value(roundings=8),
        KeepsStorage(),
        MovesVersion(),
        Allocates(at_most=_budget, on=(_WIDE,)),
    ],
    changes=(0,),
)
def cross_entropy_in_place(logits: torch.Tensor, target: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """A cross-entropy that leaves its gradient behind.

    Return the cross-entropy of each row of `logits` (rows, classes) with `target` (rows,), in float32 at least, and
    overwrite `logits` with the gradient of the sum of these losses. Where `target` is `ignore_index`, loss and gradient
    are 0. No autograd takes part.

    ```python
    logits = torch.zeros(1, 2)
    cross_entropy_in_place(logits, torch.tensor([0]), -100)  # tensor([0.6931])
    logits  # tensor([[-0.5000, 0.5000]])
    ```

    With a vocabulary of 100,000 the logits are the largest tensor of a language model, so there is no room for another
    of their size: a quarter of their bytes is granted. In half precision the sums must be in float32 all the same.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    losses = logits.new_zeros(len(target), dtype=wide)
    for start in range(0, len(target), 4):
        part, index = logits[start : start + 4], target[start : start + 4]
        kept = index != ignore_index
        place = index.where(kept, 0)[:, None]
        logarithms = part.log_softmax(1, dtype=wide)
        losses[start : start + 4] = -logarithms.gather(1, place)[:, 0].where(kept, 0.0)
        gradient = logarithms.exp_().scatter_add_(1, place, -torch.ones_like(place, dtype=wide))
        part.copy_(gradient.masked_fill_(~kept[:, None], 0.0))
    return losses


def _rows(logits, target, ignore_index, *, dtype=None, hot=1.0, zero=True, size=4):
    """Walk over the rows as the solution does, with one thing changed."""
    wide = dtype or torch.promote_types(logits.dtype, torch.float32)
    losses = []
    for part, index in zip(logits.split(size), target.split(size)):
        kept = index != ignore_index
        place = index.where(kept, 0)[:, None]
        logarithms = part.log_softmax(1, dtype=wide)
        losses.append(-logarithms.gather(1, place)[:, 0].where(kept, 0.0))
        gradient = logarithms.exp().scatter_add(1, place, torch.full_like(place, -hot, dtype=wide))
        part.copy_(gradient.where(kept[:, None], 0.0) if zero else gradient)
    return torch.cat(losses)


@cross_entropy_in_place.wrong(
    "It computes all rows at once: the softmax is a second tensor of the logits' size. A few rows at a time will do."
)
def all_rows_at_once(logits, target, ignore_index):
    return _rows(logits, target, ignore_index, size=len(target))


@cross_entropy_in_place.wrong(
    "It leaves the logits as they were. `logits = …` only binds a name, and the caller still holds the old tensor: "
    "write into that one, `part.copy_(…)`."
)
def rebinds_the_name(logits, target, ignore_index):
    new = logits.clone()
    return _rows(new, target, ignore_index)


@cross_entropy_in_place.wrong(
    "It exchanges the logits' memory for new memory (`set_` or `.data =`). The point is to need no second one."
)
def exchanges_the_memory(logits, target, ignore_index):
    new = logits.clone()
    losses = _rows(new, target, ignore_index)
    logits.data = new
    return losses


@cross_entropy_in_place.wrong(
    "It writes through `.data`, which the version counter does not see: a backward that still needs the logits would "
    "compute with your gradient and say nothing."
)
def writes_through_data(logits, target, ignore_index):
    return _rows(logits.data, target, ignore_index)


@cross_entropy_in_place.wrong(
    "It leaves the softmax in the logits. Their gradient is the softmax minus 1 at the target: otherwise no step ever "
    "raises the right class."
)
def softmax_without_the_target(logits, target, ignore_index):
    return _rows(logits, target, ignore_index, hot=0.0)


@cross_entropy_in_place.wrong(
    "It gives ignored rows a loss of 0, and a gradient all the same. A padded token then pushes the model toward class "
    "0."
)
def ignored_rows_push(logits, target, ignore_index):
    return _rows(logits, target, ignore_index, zero=False)


@cross_entropy_in_place.wrong(
    "It looks up class −100. An ignored row has no class: give `gather` an index that exists, and set the row to 0 "
    "after."
)
def looks_up_what_is_ignored(logits, target, ignore_index):
    losses = -logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    _rows(logits, target, ignore_index)
    return losses.where(target != ignore_index, 0.0)


@cross_entropy_in_place.wrong(
    "It takes −100 for the number that is ignored, whatever it was told: `ignore_index` is an argument."
)
def always_ignores_minus_100(logits, target, ignore_index):
    return _rows(logits, target, -100)


@cross_entropy_in_place.wrong(
    "It takes exp of the logits as they are. exp(89) is infinite in float32: subtract the row's maximum first."
)
def overflows(logits, target, ignore_index):
    kept = target != ignore_index
    place = target.where(kept, 0)[:, None]
    picked, wide = logits.gather(1, place)[:, 0].float(), torch.promote_types(logits.dtype, torch.float32)
    total = logits.to(wide).exp().sum(1)
    logits.copy_((logits.to(wide).exp() / total[:, None]).scatter_add(1, place, -torch.ones_like(place, dtype=wide)))
    logits.masked_fill_(~kept[:, None], 0.0)
    return (total.log() - picked).where(kept, 0.0)


@cross_entropy_in_place.wrong(
    "It computes in half precision and returns the losses in it. The loss is one number among thousands that are added "
    "up: float32 at least."
)
def stays_in_half(logits, target, ignore_index):
    return _rows(logits, target, ignore_index, dtype=logits.dtype)


@cross_entropy_in_place.wrong(
    "It works in the logits' own memory from the first step, and in half precision every step rounds there: the "
    "shifted logits, their exponentials, the quotient. Take a few rows to float32 and round once, at the end."
)
def rounds_at_every_step(logits, target, ignore_index):
    kept = target != ignore_index
    place = target.where(kept, 0)[:, None]
    logits.sub_(logits.amax(1, keepdim=True))
    wide = torch.promote_types(logits.dtype, torch.float32)
    picked = logits.gather(1, place)[:, 0].to(wide)
    total = logits.exp_().sum(1, dtype=wide)
    logits.div_(total[:, None]).scatter_add_(1, place, -torch.ones_like(place, dtype=logits.dtype))
    logits.masked_fill_(~kept[:, None], 0.0)
    return (total.log() - picked).where(kept, 0.0)


@cross_entropy_in_place.wrong(
    "It makes the softmax first and reads the target's logit from the same memory afterwards: there is a probability "
    "by then. Read what you need before you overwrite it."
)
def reads_what_it_overwrote(logits, target, ignore_index):
    losses = logits.logsumexp(1).to(torch.promote_types(logits.dtype, torch.float32))
    kept = target != ignore_index
    _rows(logits, target, ignore_index)
    return (losses - logits.gather(1, target.where(kept, 0)[:, None])[:, 0]).where(kept, 0.0)


@cross_entropy_in_place.wrong(
    "It divides the gradient by the number of rows. That belongs to the mean; asked for is the gradient of the sum."
)
def gradient_of_the_mean(logits, target, ignore_index):
    losses = _rows(logits, target, ignore_index)
    logits.div_(max(int((target != ignore_index).sum()), 1))
    return losses


@cross_entropy_in_place.also_right
def row_by_row(logits, target, ignore_index):
    losses = []
    for row, index in zip(logits, target.tolist()):
        if index == ignore_index:
            row.zero_()
            losses.append(torch.zeros((), dtype=torch.promote_types(row.dtype, torch.float32)))
            continue
        wide = row.to(torch.promote_types(row.dtype, torch.float32))
        total = wide.logsumexp(0)
        losses.append(total - wide[index])
        gradient = (wide - total).exp()
        gradient[index] -= 1
        row.copy_(gradient)
    return torch.stack(losses)
