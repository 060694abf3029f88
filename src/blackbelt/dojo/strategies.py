"""Hypothesis strategies that katas share: shapes, layouts, tensors. All shrink toward the small and the plain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st

LAYOUTS = ("contiguous", "transposed", "sliced", "offset", "expanded")


def shapes(
    min_dims: int = 0, max_dims: int = 4, min_size: int = 0, max_size: int = 5
) -> st.SearchStrategy[tuple[int, ...]]:
    """Tuples of sizes."""
    return st.lists(st.integers(min_size, max_size), min_size=min_dims, max_size=max_dims).map(tuple)


def broadcastable_shapes(
    num_shapes: int, max_dims: int = 4, max_size: int = 5
) -> st.SearchStrategy[tuple[tuple[int, ...], ...]]:
    """Tuples of ``num_shapes`` shapes that broadcast together: dimensions dropped from the left or set to 1."""

    @st.composite
    def draw_shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], ...]:
        full = draw(shapes(0, max_dims, 1, max_size))
        drawn = []
        for _ in range(num_shapes):
            start = draw(st.integers(0, len(full)))
            drawn.append(tuple(size if draw(st.booleans()) else 1 for size in full[start:]))
        return tuple(drawn)

    return draw_shapes()


def tensors(
    shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] | None = None,
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    layouts: Sequence[str] = LAYOUTS,
    fill: Callable[[tuple[int, ...], torch.dtype, int], torch.Tensor] | None = None,
) -> st.SearchStrategy[torch.Tensor]:
    """Tensors of a shape (or of a strategy of shapes) in the given dtypes and layouts, numbers from a drawn seed.

    ``fill(shape, dtype, seed)`` makes the contiguous numbers; by default standard normal, or integers in [-4, 4] for
    integer dtypes.
    """

    @st.composite
    def draw_tensor(draw: st.DrawFn) -> torch.Tensor:
        size = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
        size = draw(shapes()) if size is None else size
        dtype = draw(st.sampled_from(list(dtypes)))
        layout = draw(st.sampled_from(list(layouts)))
        seed = draw(st.integers(0, 999))
        return laid_out(lambda s: (fill or numbers)(s, dtype, seed), tuple(size), layout)

    return draw_tensor()


def numbers(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Return numbers that depend on the seed alone and leave the global generator as it was."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.randint(-4, 5, shape, generator=generator).to(dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def laid_out(fill: Callable[[tuple[int, ...]], Any], shape: tuple[int, ...], layout: str) -> torch.Tensor:
    """Return a tensor of that shape in one of :data:`LAYOUTS` (or ``channels_last`` for four dimensions).

    ``fill(shape)`` makes contiguous tensors. ``expanded`` gives the last dimension stride 0; where a layout does not
    fit the shape, the tensor is contiguous.
    """
    if layout == "transposed" and len(shape) >= 2:
        return torch.as_tensor(fill((*shape[:-2], shape[-1], shape[-2]))).transpose(-1, -2)
    if layout == "sliced" and shape:
        return torch.as_tensor(fill((*shape[:-1], 2 * shape[-1])))[..., ::2]
    if layout == "offset" and shape:
        return torch.as_tensor(fill((shape[0] + 1, *shape[1:])))[1:]
    if layout == "expanded" and shape:
        return torch.as_tensor(fill((*shape[:-1], 1))).expand(shape)
    if layout == "channels_last" and len(shape) == 4:
        return torch.as_tensor(fill(shape)).contiguous(memory_format=torch.channels_last)
    return torch.as_tensor(fill(shape))
