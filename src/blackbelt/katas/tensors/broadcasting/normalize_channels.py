"""Per-channel normalization that keeps channels_last."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.sharing import Strides
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import laid_out, numbers


def _images(
    shape: tuple[int, int, int, int], layout: str = "contiguous", dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images = laid_out(lambda size: numbers(size, dtype, seed=3), shape, layout)
    return images, numbers((shape[1],)), numbers((shape[1],), seed=1).abs() + 0.5


_SMALL = st.integers(1, 4)


@kata(
    minutes=15,
    belt="yellow",
    hints=(
        "`mean` has one number per channel. Which dimension of (N, C, H, W) does a shape (C,) meet?",
        "Give `mean` and `std` two dimensions of size 1 on the right; nothing has to happen to the images.",
        (
            "`mean[:, None, None]` is (C, 1, 1). An elementwise operator keeps the memory format of its large operand; "
            "`reshape`, `flatten` and `contiguous` do not."
        ),
    ),
    cases=st.builds(
        lambda n, c, h, w, layout: _images((n, c, h, w), layout),
        _SMALL,
        _SMALL,
        _SMALL,
        _SMALL,
        st.sampled_from(("contiguous", "channels_last", "transposed", "offset")),
    ),
    edge_cases=lambda: {
        "contiguous": _images((2, 3, 4, 5)),
        "channels_last": _images((2, 3, 4, 5), "channels_last"),
        "as wide as there are channels": _images((2, 3, 4, 3)),
        "bytes": _images((2, 3, 4, 5), "channels_last", torch.uint8),
        "no images": _images((0, 3, 4, 5)),
        "large": _images((2, 8, 64, 64), "channels_last"),
    },
    laws=[Value(), Strides(), Allocates(at_most=lambda images, mean, _: 2 * images.numel() * mean.element_size())],
)
def normalize_channels(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Per-channel normalization that keeps channels_last

    Return `(images - mean) / std` for `images` (N, C, H, W) with one mean and one deviation per channel, both (C,). The
    result has the strides of `images`: channels_last stays channels_last, without a conversion. At most two tensors of
    the size of the result may exist at once.
    """
    return (images - mean[:, None, None]) / std[:, None, None]


@normalize_channels.wrong(
    "(C,) meets the last dimension, the width. Where W equals C nothing fails and every number is wrong."
)
def _along_the_width(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    return (images - mean) / std


@normalize_channels.wrong("`contiguous()` rewrites channels_last images as NCHW: the numbers stay, the layout is lost.")
def _made_contiguous(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    return (images.contiguous() - mean[:, None, None]) / std[:, None, None]


@normalize_channels.wrong(
    "`repeat` writes mean and deviation out to the size of the images. Size-1 dimensions cost nothing."
)
def _repeated(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    n, _, h, w = images.shape
    return (images - mean[:, None, None].repeat(n, 1, h, w)) / std[:, None, None].repeat(n, 1, h, w)


@normalize_channels.wrong("The images belong to the caller: `sub_` and `div_` write into them.")
def _in_place(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    return images.sub_(mean[:, None, None]).div_(std[:, None, None])


@normalize_channels.wrong("Only the mean is taken off: divide by the deviation of each channel as well.")
def _centered_only(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    return images - mean[:, None, None]


@normalize_channels.also_right
def _viewed(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    return (images - mean.view(1, -1, 1, 1)).div_(std.view(1, -1, 1, 1))


@normalize_channels.also_right
def _channels_moved_last(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    return ((images.movedim(1, -1) - mean) / std).movedim(-1, 1)
