"""One call of attention, seen as tiles: the views, the scores of a tile, its dropout noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from blackbelt.reference.attention._tiles import Plan, Rows, merge, mergeable, plan_tiles

LOG2_E = math.log2(math.e)
SAFE_EXPONENT = 40.0  # 2^±40, summed over any number of keys that fits in memory, is far inside the range of float32


class Problem:
    """The views of one call: query (B, K, G, L, D), key (B, K, S, D), value (B, K, S, V), mask (B, K, G, L, S).

    ``bounded`` says that no score can leave ±40 in units of log 2, by Cauchy–Schwarz: |q · k| ≤ |q| |k|. Then ``exp2``
    of the scores themselves neither overflows nor underflows, and subtracting the maximum changes nothing.
    """

    def __init__(  # noqa: PLR0913, PLR0917  (in the order of the operator's)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        seed: Tensor | None,
        dropout_p: float,
        is_causal: bool,
        scale: float,
        *others: Tensor,
        is_backward: bool = False,
        merging: bool = True,
    ) -> None:
        self.group = max(query.size(1) // max(key.size(1), 1), 1)
        if mask is not None:
            mask = mask.expand(*query.shape[:3], key.size(2))
        self.merged = merging and mergeable(query, key, value, mask, *others)
        self.query, self.key, self.value = self.grouped(query), self.whole(key), self.whole(value)
        self.mask = None if mask is None else self.grouped(mask)
        batch, heads, _, length, _ = self.query.shape
        # The backward holds two tiles a thread, and is where memory peaks. Noise asks for the same tiles in both.
        wide = not is_backward or dropout_p > 0 or query.numel() >= 1 << 20
        self.plan: Plan = plan_tiles(batch, heads, self.group, length, key.size(2), is_causal=is_causal, wide=wide)
        self.dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
        self.scale, self.factor = scale, scale * LOG2_E
        self.ceiling = self._ceiling()
        self.dropout_p = dropout_p
        self.seed = 0 if seed is None else int(seed)
        self.has_empty_rows = mask is not None or key.size(2) == 0
        self.bounded = (mask is None or mask.dtype == torch.bool) and self._bound() <= SAFE_EXPONENT

    def whole(self, tensor: Tensor) -> Tensor:
        """Return (B, K, …) with batch and heads as one dimension, where that costs no copy."""
        return merge(tensor) if self.merged else tensor

    def grouped(self, tensor: Tensor) -> Tensor:
        """Return (B, H, …) as (B, K, G, …)."""
        whole = self.whole(tensor)
        heads: Tensor = whole.unflatten(1, (whole.size(1) // self.group, self.group))
        return heads

    def _ceiling(self) -> Tensor:
        """Return what a score on the diagonal of a causal tile may be at most: ∞, and −∞ above the diagonal.

        The minimum with it costs a fifth of ``masked_fill_``, and a NaN, which it would let pass, is not ``bounded``.
        """
        size = self.plan.rows_per_tile if self.plan.is_causal else 0
        above = self.query.new_ones((size, size), dtype=torch.bool).triu_(1)
        return self.query.new_full((size, size), math.inf, dtype=self.dtype).masked_fill_(above, -math.inf)

    def _bound(self) -> float:
        """Return the most a score can be, in units of log 2. Reads query and key once; waits for a GPU."""
        if not (self.query.numel() and self.key.numel()):
            return 0.0
        longest = [torch.linalg.vector_norm(t, dim=-1, dtype=self.dtype).amax(-1) for t in (self.query, self.key)]
        return float((longest[0] * longest[1].unsqueeze(-1)).amax()) * self.factor  # NaN compares false: the other way

    def num_workers(self, num_items: int) -> int:
        """Return how many threads share the work: one where the operators run on a GPU, or where there is little."""
        threads = torch.get_num_threads()
        return threads if self.query.device.type == "cpu" and num_items >= threads else 1


class Strip(NamedTuple):
    """A run of keys of some heads, with the values and, in the backward, the places of their gradients."""

    key_t: Tensor  # (heads, D, columns)
    key: Tensor
    value: Tensor  # (heads, columns, V)
    value_t: Tensor
    grad_key: Tensor | None = None
    grad_value: Tensor | None = None


class Desk:
    """What one worker needs of its own: room for tiles of scores, a generator for the noise, and views it made before.

    The views matter: making one takes a microsecond alone, but each operator gives Python's lock away and asks for it
    back, and beside a second thread that asks as well it takes many times that.
    """

    def __init__(self, problem: Problem, num_buffers: int, *gradients: Tensor) -> None:
        plan = problem.plan
        size = plan.heads_per_tile * problem.group * plan.rows_per_tile * plan.columns_per_tile
        self.problem = problem
        self.buffers = [problem.query.new_empty(size, dtype=problem.dtype) for _ in range(num_buffers)]
        self.generator = torch.Generator(problem.query.device) if problem.dropout_p else None
        self._gradients = gradients
        self._rooms: dict[tuple[int, int, int, int], tuple[Tensor, Tensor]] = {}
        self._strips: dict[tuple[int, int], Strip] = {}
        self._strips_of: tuple[int, int] | None = None

    def room(self, number: int, heads: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Return one of the buffers in the shape of a tile, and its transpose."""
        place = (number, heads, rows, columns)
        if place not in self._rooms:
            tile = self.buffers[number][: heads * rows * columns].view(heads, rows, columns)
            self._rooms[place] = (tile, tile.mT)
        return self._rooms[place]

    def strip(self, tile: Rows, columns: slice) -> Strip:
        """Return the tile's keys and values in the dtype of the computation."""
        problem = self.problem
        if self._strips_of != (tile.batch, tile.heads.start):
            self._strips, self._strips_of = {}, (tile.batch, tile.heads.start)
        place = (columns.start, columns.stop)
        if place in self._strips:
            return self._strips[place]
        where = (tile.batch, tile.heads, columns)
        key, value = problem.key[where].to(problem.dtype), problem.value[where].to(problem.dtype)
        gradients = [gradient[where] for gradient in self._gradients]
        strip = Strip(key.mT, key, value, value.mT, *gradients)
        if key.dtype == problem.key.dtype:  # a view; converted copies of all strips would be a matrix of their own
            self._strips[place] = strip
        return strip

    def scores(self, query: Tensor, strip: Strip, tile: Rows, columns: slice) -> Tensor:
        """Return the tile of scores in units of log 2, masked."""
        problem = self.problem
        scores, _ = self.room(0, query.size(0), query.size(1), strip.key.size(1))
        torch.baddbmm(scores, query, strip.key_t, beta=0, alpha=problem.factor, out=scores)
        if problem.mask is not None:
            grouped = scores.unflatten(1, (problem.group, -1))  # (heads, G, rows, columns)
            mask = problem.mask[tile.batch, tile.heads, :, tile.rows, columns]
            if mask.dtype == torch.bool:
                grouped.masked_fill_(mask.logical_not(), -math.inf)
            else:
                grouped.add_(mask, alpha=LOG2_E)
        elif problem.plan.is_causal and columns.stop > tile.rows.start + 1:  # below the diagonal no mask is needed
            first = max(columns.start, tile.rows.start)
            ceiling = problem.ceiling[: tile.rows.stop - tile.rows.start, first - tile.rows.start :]
            grouped = scores.unflatten(1, (problem.group, -1))[..., first - columns.start :]
            ceiling = ceiling[:, : grouped.size(-1)]
            if problem.bounded:
                torch.minimum(grouped, ceiling, out=grouped)
            else:  # a NaN of a later key must not come through
                grouped.masked_fill_(ceiling == -math.inf, -math.inf)
        return scores

    def noise(self, scores: Tensor, number: int) -> Tensor:
        """Return the dropout factors of a tile, 0 or 1 / (1 − p): a function of the seed and the tile's number."""
        assert self.generator is not None
        self.generator.manual_seed(self.problem.seed + number)
        kept = 1 - self.problem.dropout_p
        return torch.empty_like(scores).bernoulli_(kept, generator=self.generator).mul_(1 / kept)
