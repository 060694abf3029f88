"""The whole of attention, forward and backward, tile by tile with PyTorch's own operators, in every mode.

Scores are kept in units of log 2: the factor ``scale · log2(e)`` rides along in the matmul, and ``exp2`` is cheaper
than ``exp``. What the forward saves for a query is one number, ``log2`` of the sum of the exponentials of its scores;
with it the backward makes any tile of probabilities again: ``P = exp2(scores − lse)``.

The formulas are those of Dao et al., FlashAttention (arXiv:2205.14135), appendix B, and of its successor
(arXiv:2307.08691), section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from blackbelt.reference.attention._problem import Desk, Problem
from blackbelt.reference.attention._tiles import Rows, rows_of
from blackbelt.reference.attention._workers import share_out

SoftmaxStep = Callable[[Tensor, Tensor, Tensor], "tuple[Tensor, Tensor, Tensor, Tensor]"]


def softmax_step(scores: Tensor, maximum: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Turn scores into exponentials; return these, the new maximum and sum, and the factor of what came before.

    In place, as far as the scores go.

    ``maximum`` and ``total`` are (heads, rows, 1). A row that has seen nothing but −inf keeps the maximum −inf; its
    exponentials are 0, not the NaN of −inf − (−inf).
    """
    new_maximum = torch.maximum(maximum, scores.amax(-1, keepdim=True))
    shift = new_maximum.masked_fill(new_maximum == -math.inf, 0.0)
    scores.sub_(shift).exp2_()
    correction = torch.exp2(maximum - shift)
    return scores, new_maximum, torch.addcmul(scores.sum(-1, keepdim=True), total, correction), correction


def forward(problem: Problem, out: Tensor, lse: Tensor, step: SoftmaxStep = softmax_step) -> None:
    """Write the result into ``out`` (B, H, L, V) and the log-sum-exp, in units of log 2, into ``lse`` (B, H, L)."""
    grouped_out, grouped_lse = problem.grouped(out), problem.grouped(lse)
    tiles = [tile for group in problem.plan.groups() for tile in group]
    num_workers = problem.num_workers(len(tiles))
    desks = [Desk(problem, 1) for _ in range(num_workers)]

    def work(worker: int, tile: Rows) -> None:
        query = rows_of(problem.query, tile).to(problem.dtype)
        place, logarithm = rows_of(grouped_out, tile), rows_of(grouped_lse, tile)
        # Where the place of the result is a view of the right dtype, the result is added up there.
        direct = problem.group == 1 and place.dtype == problem.dtype
        result = place if direct else place.new_empty(place.shape, dtype=problem.dtype)
        if problem.bounded:
            maximum, total = None, _bounded_rows(desks[worker], query, tile, result)
        else:
            maximum, total = _online_rows(desks[worker], query, tile, result, step)
        sums = total.log2().squeeze(-1)
        if maximum is not None:
            sums.add_(maximum.squeeze(-1))
        if (
            problem.has_empty_rows
        ):  # a row that sees nothing is 0, as SDPA has it, and exp2(… − inf) is 0 in the backward
            empty = total == 0
            total.masked_fill_(empty, 1.0)
            sums.masked_fill_(empty.squeeze(-1), math.inf)
        result.div_(total)
        if problem.group == 1:
            logarithm.copy_(sums)
        else:
            grouped_lse[tile.batch, tile.heads, :, tile.rows] = sums.unflatten(1, (problem.group, -1))
        if not direct:
            grouped_out[tile.batch, tile.heads, :, tile.rows] = result.unflatten(1, (problem.group, -1))

    share_out(work, tiles[::-1] if problem.plan.is_causal else tiles, num_workers)  # the longest rows first


def _bounded_rows(desk: Desk, query: Tensor, tile: Rows, result: Tensor) -> Tensor:
    """Write ``exp2(scores) value`` into the result of these rows; return the sums of the exponentials (…, 1)."""
    problem = desk.problem
    total: Tensor | None = None
    for offset, columns in enumerate(problem.plan.columns(tile.rows)):
        strip = desk.strip(tile, columns)
        scores = desk.scores(query, strip, tile, columns).exp2_()
        sums = scores.sum(-1, keepdim=True)
        total = sums if total is None else total.add_(sums)
        if problem.dropout_p:
            scores.mul_(desk.noise(scores, tile.number + offset))
        result.baddbmm_(scores, strip.value, beta=min(offset, 1))
    if total is None:
        result.zero_()
        total = query.new_zeros((*query.shape[:2], 1))
    return total


def _online_rows(desk: Desk, query: Tensor, tile: Rows, result: Tensor, step: SoftmaxStep) -> tuple[Tensor, Tensor]:
    """Do the same relative to the largest score so far, and put right what came before when a larger one comes."""
    problem = desk.problem
    maximum = query.new_full((query.size(0), query.size(1), 1), -math.inf)
    total = torch.zeros_like(maximum)
    result.zero_()
    for offset, columns in enumerate(problem.plan.columns(tile.rows)):
        strip = desk.strip(tile, columns)
        scores = desk.scores(query, strip, tile, columns)
        scores, maximum, total, correction = step(scores, maximum, total)
        if problem.dropout_p:
            scores.mul_(desk.noise(scores, tile.number + offset))
        if offset:
            result.mul_(correction)
        result.baddbmm_(scores, strip.value)
    return maximum, total


class Gradients:
    """Room for the gradients while they add up: the results themselves where their dtype allows it."""

    def __init__(self, problem: Problem, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        self.results = (key, value)
        self.query = problem.grouped(query)
        self.wide = [t if t.dtype == problem.dtype else torch.zeros_like(t, dtype=problem.dtype) for t in (key, value)]
        self.key, self.value = (problem.whole(t) for t in self.wide)
        self.mask = mask  # (B or 1, H or 1, L or 1, S or 1), in the dtype of the computation

    def finish(self) -> None:
        """Round what was added up in a wider dtype."""
        for result, wide in zip(self.results, self.wide):
            if result is not wide:
                result.copy_(wide)

    def add_to_mask(self, group: int, slope: Tensor, tile: Rows, columns: slice) -> None:
        """Add a tile of the scores' gradient to the mask's, summed over the dimensions it was broadcast along."""
        assert self.mask is not None
        heads = slice(tile.heads.start * group, tile.heads.stop * group)
        place = (slice(tile.batch, tile.batch + 1), heads, tile.rows, columns)
        room = self.mask[tuple(slice(0, 1) if n == 1 else p for n, p in zip(self.mask.shape, place))]
        room.add_(slope.unflatten(1, (group, -1)).flatten(0, 1)[None].sum_to_size(room.shape))


def backward(problem: Problem, grad_out: Tensor, out: Tensor, lse: Tensor, gradients: Gradients) -> None:
    """Add up the gradients. Per tile: the scores again, then four matmuls.

    A worker has whole heads, since all rows of a head add to the same keys and values. Where scores are bounded, the
    factor ``exp2(−lse)`` of a row is taken out of the probabilities and into the row of ``grad_out``.
    """
    grouped = [problem.grouped(t) for t in (grad_out, out, lse)]
    groups = list(problem.plan.groups())
    num_workers = 1 if gradients.mask is not None else problem.num_workers(len(groups))
    desks = [Desk(problem, 2, gradients.key, gradients.value) for _ in range(num_workers)]

    def work(worker: int, rows: list[Rows]) -> None:
        for tile in rows:
            query, grad, result = (rows_of(t, tile).to(problem.dtype) for t in (problem.query, *grouped[:2]))
            logarithm = rows_of(grouped[2], tile)[..., None]
            delta = (grad * result).sum(-1, keepdim=True)  # sum of P ∘ dP over the keys, without either of them
            if problem.bounded:
                factor = torch.exp2(-logarithm)
                grad, delta = grad * factor, delta * factor
            place = rows_of(gradients.query, tile)
            direct = problem.group == 1 and place.dtype == problem.dtype
            grad_query = place if direct else place.new_empty(place.shape, dtype=problem.dtype)
            grad_query.zero_()
            _backward_rows(
                desks[worker], query, grad, None if problem.bounded else logarithm, delta, tile, grad_query, gradients
            )
            if not direct:
                gradients.query[tile.batch, tile.heads, :, tile.rows] = grad_query.unflatten(1, (problem.group, -1))

    share_out(work, groups, num_workers)
    gradients.finish()


def _backward_rows(  # noqa: PLR0917  (one row of the loop above, taken out of it)
    desk: Desk,
    query: Tensor,
    grad: Tensor,
    logarithm: Tensor | None,
    delta: Tensor,
    tile: Rows,
    grad_query: Tensor,
    gradients: Gradients,
) -> None:
    """Add what these rows give to the gradients of query, key, value and mask."""
    problem = desk.problem
    for offset, columns in enumerate(problem.plan.columns(tile.rows)):
        strip = desk.strip(tile, columns)
        scores = desk.scores(query, strip, tile, columns)
        if logarithm is not None:
            scores.sub_(logarithm)
        probabilities = scores.exp2_()
        slope, slope_t = desk.room(1, *scores.shape)
        torch.bmm(grad, strip.value_t, out=slope)
        kept_t = desk.room(0, *scores.shape)[1]
        if problem.dropout_p:
            noise = desk.noise(scores, tile.number + offset)
            slope.mul_(noise)
            kept_t = noise.mul_(probabilities).mT
        assert strip.grad_key is not None
        assert strip.grad_value is not None
        strip.grad_value.baddbmm_(kept_t, grad)
        slope.sub_(delta).mul_(probabilities)  # the gradient of the scaled and masked scores
        if gradients.mask is not None:
            gradients.add_to_mask(problem.group, slope, tile, columns)
        strip.grad_key.baddbmm_(slope_t, query, alpha=problem.scale)
        grad_query.baddbmm_(slope, strip.key, alpha=problem.scale)
