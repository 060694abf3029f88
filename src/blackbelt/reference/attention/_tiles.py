"""How the matrix of scores is cut into tiles: what is held at any moment is a few tiles, whatever the length.

A tile is some heads of one batch element, a run of queries and a run of keys. The same cut serves forward and backward,
so the dropout noise of a tile can be drawn again from its number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

# Half a mebibyte of float32 scores, which is what PyTorch's own kernel holds per thread; and twice that, which halves
# what Python costs, where it is little beside the tensors of the call.
SMALL, WIDE = 1 << 17, 1 << 18
ROWS = 256  # under a causal mask, where half of the tile on the diagonal is wasted, and of small tiles


class Rows(NamedTuple):
    """One run of queries: batch element, heads of key and value, queries, and the number of its first tile."""

    batch: int
    heads: slice
    rows: slice
    number: int


class Plan(NamedTuple):
    """The cut of a problem of given sizes."""

    batch: int
    heads: int  # of key and value
    length: int
    keys: int
    heads_per_tile: int
    rows_per_tile: int
    columns_per_tile: int
    is_causal: bool

    def groups(self) -> Iterator[list[Rows]]:
        """Yield, for every batch element and every few heads, the runs of queries: they share keys and values."""
        number, step = 0, max(1, -(-self.keys // self.columns_per_tile))
        for batch in range(self.batch):
            for head in range(0, self.heads, self.heads_per_tile):
                heads = slice(head, min(head + self.heads_per_tile, self.heads))
                runs = [slice(i, min(i + self.rows_per_tile, self.length)) for i in self._starts()]
                yield [Rows(batch, heads, run, number + i * step) for i, run in enumerate(runs)]
                number += len(runs) * step

    def _starts(self) -> range:
        return range(0, self.length, self.rows_per_tile)

    def columns(self, rows: slice) -> Iterator[slice]:
        """Yield the runs of keys that these queries see: under a causal mask none beyond the last query's own."""
        end = min(self.keys, rows.stop) if self.is_causal else self.keys
        for column in range(0, end, self.columns_per_tile):
            yield slice(column, min(column + self.columns_per_tile, end))


def plan_tiles(batch: int, heads: int, group: int, length: int, keys: int, *, is_causal: bool, wide: bool) -> Plan:
    """Choose the cut: ``group`` query heads share each of the ``heads`` heads of key and value."""
    elements = WIDE if wide else SMALL
    most_rows = 2 * ROWS if wide and not is_causal else ROWS
    columns = max(1, min(keys, elements // most_rows))
    rows = max(1, min(length, most_rows, elements // (group * columns)))
    together = max(1, min(heads, elements // (group * rows * columns)))
    return Plan(batch, heads, length, keys, together, rows, columns, is_causal)


def mergeable(*tensors: Tensor | None) -> bool:
    """Tell whether in all of them the two first dimensions can be seen as one without a copy."""
    return all(t is None or t.size(0) == 1 or t.stride(0) == t.stride(1) * t.size(1) for t in tensors)


def merge(tensor: Tensor) -> Tensor:
    """Return the view with the two first dimensions as one, and a new first dimension of size 1."""
    return tensor.flatten(0, 1).unsqueeze(0)


def rows_of(tensor: Tensor, tile: Rows) -> Tensor:
    """Return the tile's part of (B, K, G, L, …) as (heads, G·rows, …): a view where there is one."""
    return tensor[tile.batch, tile.heads, :, tile.rows].flatten(1, 2)
