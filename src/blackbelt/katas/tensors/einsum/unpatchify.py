"""Patches back to images."""

from __future__ import annotations

import math

import einops
import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import Arguments, kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.operators import Calls
from blackbelt.dojo.laws.value import Value


def _patches(batch: int, channels: int, rows: int, columns: int, size: int) -> Arguments:
    shape = (batch, rows * columns, size * size * channels)
    return torch.arange(float(math.prod(shape))).view(shape), size, rows * size


@kata(
    minutes=10,
    belt="orange",
    hints=(
        "The pattern of `patchify`, read from right to left. What does it need to be told that it cannot infer?",
        "From the number of patches alone, 6 may be 2 × 3 or 3 × 2: the height decides.",
        "`h = height // size`, and both `p1` and `p2` are `size`; einops infers `w` and `c`.",
    ),
    cases=st.tuples(*(st.integers(1, 3) for _ in range(5))).map(lambda sizes: _patches(*sizes)),
    edge_cases=lambda: {
        "not square": _patches(2, 3, 2, 3, 2),
        "square": _patches(1, 2, 2, 2, 2),
        "one channel": _patches(1, 1, 2, 2, 2),
        "one patch": _patches(1, 3, 1, 1, 2),
        "one row of patches": _patches(1, 2, 1, 3, 2),
    },
    laws=[Value(), Calls(at_most=8), Allocates(at_most=lambda patches, *_: 4 * patches.numel())],
)
def unpatchify(patches: torch.Tensor, size: int, height: int) -> torch.Tensor:
    """Patches back to images

    The inverse of `patchify`: `patches` is (batch, patches, size · size · channel), with patches and pixels row by row
    and the channel fastest. Return (batch, channel, height, width). Infer the number of channels and the width.

    ```python
    unpatchify(patchify(images, 4), 4, images.shape[2])   # images
    ```
    """
    return einops.rearrange(patches, "b (h w) (p1 p2 c) -> b c (h p1) (w p2)", h=height // size, p1=size, p2=size)


@unpatchify.also_right
def views_again(patches, size, height):
    batch, count, length = patches.shape
    rows, columns = height // size, count // (height // size)
    split = patches.view(batch, rows, columns, size, size, length // size**2)
    return split.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, height, columns * size)


@unpatchify.wrong(
    "`reshape` alone lays the patches out one after the other as rows. Split, permute, then merge: as in `patchify`, "
    "backwards."
)
def laid_out_as_rows(patches, size, height):
    batch, count, length = patches.shape
    return patches.reshape(batch, length // size**2, height, count * size**2 // height)


@unpatchify.wrong("The channel is read as the slowest part of a patch; `patchify` let it run fastest: `(p1 p2 c)`.")
def channel_slowest(patches, size, height):
    return einops.rearrange(patches, "b (h w) (c p1 p2) -> b c (h p1) (w p2)", h=height // size, p1=size, p2=size)


@unpatchify.wrong("The patches are laid out column by column: `(w h)`. They come row by row: `(h w)`.")
def columns_first(patches, size, height):
    return einops.rearrange(patches, "b (w h) (p1 p2 c) -> b c (h p1) (w p2)", h=height // size, p1=size, p2=size)


@unpatchify.wrong("The pixels of each patch are transposed: `(p2 p1 c)` was read where `(p1 p2 c)` was written.")
def transposed_within(patches, size, height):
    return einops.rearrange(patches, "b (h w) (p2 p1 c) -> b c (h p1) (w p2)", h=height // size, p1=size, p2=size)


@unpatchify.wrong("The image is transposed: height and width have changed places on the right of the arrow.")
def image_transposed(patches, size, height):
    return einops.rearrange(patches, "b (h w) (p1 p2 c) -> b c (w p2) (h p1)", h=height // size, p1=size, p2=size)
