"""Images to patches, as a vision transformer reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import einops
import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import Arguments, kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.operators import Calls
from blackbelt.dojo.laws.value import Value


def _images() -> Mapping[str, Arguments]:
    return {
        "not square": (torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6), 2),
        "square": (torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4), 2),
        "one channel": (torch.arange(16.0).view(1, 1, 4, 4), 2),
        "channels_last": (
            torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6).contiguous(memory_format=torch.channels_last),
            2,
        ),
        "one patch": (torch.arange(12.0).view(1, 3, 2, 2), 2),
    }


@st.composite
def _drawn_images(draw: st.DrawFn) -> Arguments:
    batch, channels, rows, columns, size = (draw(st.integers(1, 3)) for _ in range(5))
    shape = (batch, channels, rows * size, columns * size)
    return torch.arange(float(math.prod(shape))).view(shape), size


@kata(
    minutes=15,
    belt="yellow",
    hints=(
        (
            "Split the height into patches and rows of a patch, the width likewise. Which of the six axes "
            "belong to the grid?"
        ),
        "In einops, `(h p1)` on the left splits an axis: h is the slow part. On the right, parentheses merge.",
        '`einops.rearrange(images, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=size, p2=size)`',
    ),
    cases=_drawn_images(),
    edge_cases=_images,
    laws=[Value(), Calls(at_most=8), Allocates(at_most=lambda images, _: 4 * images.numel())],
)
def patchify(images: torch.Tensor, size: int) -> torch.Tensor:
    """Images to patches, as a vision transformer reads them

    `images` is (batch, channel, height, width); height and width are multiples of `size`. Return
    (batch, patches, size · size · channel): patches row by row from the top left, and within a patch the pixels row by
    row, the channel running fastest. One copy at most.

    ```python
    patchify(torch.arange(16.0).view(1, 1, 4, 4), 2)[0, 1]   # [2., 3., 6., 7.]: the patch at the top right
    ```
    """
    return einops.rearrange(images, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=size, p2=size)


@patchify.also_right
def with_views(images, size):
    batch, channels, height, width = images.shape
    split = images.unflatten(3, (width // size, size)).unflatten(2, (height // size, size))
    return split.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, size * size * channels)


@patchify.wrong(
    "`reshape` alone cuts the memory into pieces of equal length: strips of rows, not squares. The axes must be split, "
    "permuted and only then merged."
)
def cut_in_strips(images, size):
    return images.reshape(images.shape[0], -1, size * size * images.shape[1])


@patchify.wrong("Within a patch the channel runs slowest; it must run fastest: `(p1 p2 c)`, not `(c p1 p2)`.")
def channel_first(images, size):
    return einops.rearrange(images, "b c (h p1) (w p2) -> b (h w) (c p1 p2)", p1=size, p2=size)


@patchify.wrong("The patches run down the columns: `(w h)`. Row by row from the top left is `(h w)`.")
def column_by_column(images, size):
    return einops.rearrange(images, "b c (h p1) (w p2) -> b (w h) (p1 p2 c)", p1=size, p2=size)


@patchify.wrong("The pixels of a patch are transposed: `(p2 p1 c)`. Row by row is `(p1 p2 c)`.")
def pixels_transposed(images, size):
    return einops.rearrange(images, "b c (h p1) (w p2) -> b (h w) (p2 p1 c)", p1=size, p2=size)


@patchify.wrong(
    "The split is the wrong way round: `(p1 h)` takes every h-th row for a patch, so a patch is a coarse picture of "
    "the whole image. The grid is the slow part: `(h p1)`."
)
def split_reversed(images, size):
    return einops.rearrange(images, "b c (p1 h) (p2 w) -> b (h w) (p1 p2 c)", p1=size, p2=size)
