"""Image patches without copying."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.sharing import SharesMemory
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import shapes, tensors
from blackbelt.katas.tensors.strides._shared import count


@kata(
    minutes=20,
    belt="green",
    hints=(
        (
            "It is `sliding_windows` in two directions at once. How many strides does the result have, and which of "
            "them repeat?"
        ),
        (
            "Six dimensions: image, channel, row in the patch, column in the patch, patch row, patch column. Inside a "
            "patch you step as `x` does; from patch to patch, `step` times as far."
        ),
        (
            "`n, c, h, w = x.stride()`; then sizes `(N, C, kernel, kernel, rows, columns)` and strides `(n, c, h, w, "
            "step * h, step * w)`, with `rows = (H - kernel) // step + 1`. Read the strides from `x`: it may be "
            "channels_last."
        ),
    ),
    cases=st.tuples(
        tensors(shapes(4, 4, 3, 5), layouts=("contiguous", "channels_last", "transposed", "sliced", "offset")),
        st.integers(1, 3),
        st.integers(1, 2),
    ),
    edge_cases=lambda: {
        "patches of 2 × 2": (count(1, 1, 3, 4), 2, 1),
        "patches of 1 × 1": (count(2, 3, 2, 2), 1, 1),
        "two steps at a time": (count(1, 2, 5, 7), 3, 2),
        "channels_last": (count(2, 3, 4, 4).to(memory_format=torch.channels_last), 2, 1),
        "a batch that starts late": (count(3, 2, 4, 4)[1:], 2, 2),
        "one patch": (count(2, 1, 3, 3), 3, 1),
    },
    laws=[Value(), SharesMemory()],
)
def im2col(x: torch.Tensor, kernel: int, step: int) -> torch.Tensor:
    """Image patches without copying.

    `x` is a batch of images `(N, C, H, W)` with any strides. Return every `kernel` × `kernel` patch, `step` apart, as a
    view of shape `(N, C, kernel, kernel, rows, columns)`. This is im2col up to its last line: `.reshape(N, C * kernel *
    kernel, rows * columns)` of your view equals `torch.nn.functional.unfold`, and is the only part of it that must
    copy.

    ```python
    im2col(torch.randn(1, 3, 32, 32), 5, 1).shape  # (1, 3, 5, 5, 28, 28): 25 × the size, 0 bytes
    ```
    """
    n, c, h, w = x.stride()
    rows, columns = ((size - kernel) // step + 1 for size in x.shape[2:])
    return x.as_strided((*x.shape[:2], kernel, kernel, rows, columns), (n, c, h, w, step * h, step * w))


@im2col.wrong("`F.unfold` writes every patch out: `kernel²` times the image. Only the strides of the image are needed.")
def calls_unfold(x, kernel, step):
    rows, columns = ((size - kernel) // step + 1 for size in x.shape[2:])
    return torch.nn.functional.unfold(x, kernel, stride=step).view(*x.shape[:2], kernel, kernel, rows, columns)


@im2col.wrong(
    "It steps `step` pixels inside the patch and one between patches. It is the other way round; that is dilation."
)
def dilates(x, kernel, step):
    n, c, h, w = x.stride()
    rows, columns = ((size - kernel) // step + 1 for size in x.shape[2:])
    return x.as_strided((*x.shape[:2], kernel, kernel, rows, columns), (n, c, step * h, step * w, h, w))


@im2col.wrong(
    "It computes strides from the sizes, as if `x` were contiguous. In channels_last the channel has stride 1."
)
def contiguous_patches(x, kernel, step):
    _, c, height, width = x.shape
    rows, columns = ((size - kernel) // step + 1 for size in x.shape[2:])
    stride = (c * height * width, height * width, width, 1, step * width, step)
    return x.as_strided((*x.shape[:2], kernel, kernel, rows, columns), stride)


@im2col.wrong(
    "The patches are right and their dimensions stand in another order: first the place in the patch, then the patch."
)
def patch_first(x, kernel, step):
    return x.unfold(2, kernel, step).unfold(3, kernel, step)


@im2col.wrong("It starts at the beginning of the storage. A batch cut from a larger one starts later: keep the offset.")
def patches_from_the_beginning(x, kernel, step):
    n, c, h, w = x.stride()
    rows, columns = ((size - kernel) // step + 1 for size in x.shape[2:])
    return x.as_strided((*x.shape[:2], kernel, kernel, rows, columns), (n, c, h, w, step * h, step * w), 0)


@im2col.also_right
def two_unfolds(x: torch.Tensor, kernel: int, step: int) -> torch.Tensor:
    return x.unfold(2, kernel, step).unfold(3, kernel, step).permute(0, 1, 4, 5, 2, 3)
