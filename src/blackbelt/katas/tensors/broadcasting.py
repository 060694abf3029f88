"""Katas of lesson 1.1: the rule, its backward, outer operations, and the traps of both."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from hypothesis import strategies as st

from blackbelt.dojo.describe import describe
from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.gradients import Gradcheck
from blackbelt.dojo.laws.operators import Calls, Forbids
from blackbelt.dojo.laws.sharing import SharesMemory, Strides
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import broadcastable_shapes, laid_out, numbers, shapes, tensors

if TYPE_CHECKING:
    from blackbelt.dojo.trial import Trial

Shape = tuple[int, ...]


# --- the rule ---------------------------------------------------------------------------------------------------------


@kata(
    minutes=15,
    belt="white",
    hints=(
        "Write two shapes under each other, the last sizes in one column. Which end is ragged?",
        "Pad every shape with ones on the left until all have the same rank. Now the columns stand alone.",
        "In one column, drop the ones. Nothing left: the size is 1. One size left: that is it, 0 too. Two: raise.",
    ),
    cases=st.one_of(
        st.lists(shapes(max_dims=4, max_size=3), min_size=1, max_size=4).map(tuple), broadcastable_shapes(3, max_size=3)
    ),
    edge_cases=lambda: {
        "one shape": ((2, 3),),
        "a column and a flat row": ((3, 1), (4,)),
        "different ranks": ((2, 3), (3,)),
        "equal at the left, different at the right": ((3, 4), (3,)),
        "a zero-sized dimension": ((0, 3), (1, 1)),
        "a conflict hidden behind a one": ((2,), (1,), (3,)),
        "0 against 2": ((0,), (2,)),
        "no shapes at all": (),
    },
    laws=[Value()],
)
def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape rule from scratch

    Return the shape that `shapes` broadcast to, as a tuple. Raise `ValueError` where they do not. Write the rule
    yourself: no `torch.broadcast_…`, no tensors.

    `broadcast_shape((3, 1), (4,))` is `(3, 4)`. Any number of shapes may come, also none.
    """
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        wide = set(sizes) - {1}
        if len(wide) > 1:
            raise ValueError(f"sizes {sizes} meet in one dimension and do not broadcast")
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def _merge(sizes: tuple[int, ...]) -> int:
    wide = set(sizes) - {1}
    if len(wide) > 1:
        raise ValueError
    return wide.pop() if wide else 1


@broadcast_shape.wrong("Shapes are aligned at the last dimension. You lined up the first ones and padded on the right.")
def _aligned_left(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes), default=0)
    return tuple(_merge(sizes) for sizes in zip(*(s + (1,) * (rank - len(s)) for s in shapes), strict=True))


@broadcast_shape.wrong("The larger size does not win, the 1 gives way: 0 against 1 is 0, and `max` says 1.")
def _larger_wins(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes), default=0)
    columns = list(zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True))
    return tuple(max(sizes) for sizes in columns if _merge(sizes) is not None)


@broadcast_shape.wrong(
    "`zip` stops at the shortest shape: the leading dimensions of the longer ones belong to the result."
)
def _cut_to_the_shortest(*shapes: Shape) -> Shape:
    return tuple(_merge(sizes) for sizes in zip(*(reversed(s) for s in shapes), strict=False))[::-1]


@broadcast_shape.wrong("You compare neighbors only. A 1 between 2 and 3 agrees with both; 2 and 3 still do not agree.")
def _neighbors_only(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes), default=0)
    columns = list(zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True))
    for sizes in columns:
        for pair in itertools.pairwise(sizes):
            _merge(pair)
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in columns)


@broadcast_shape.wrong("Two different sizes, neither of them 1, must raise ValueError; yours returns a shape.")
def _never_raises(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes), default=0)
    columns = zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True)
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in columns)


@broadcast_shape.wrong(
    "That is PyTorch's rule and PyTorch's RuntimeError. Here you write the rule, and raise ValueError."
)
def _borrowed(*shapes: Shape) -> Shape:
    return tuple(torch.broadcast_shapes(*shapes))


@broadcast_shape.also_right
def _folded(*shapes: Shape) -> Shape:
    result: Shape = ()
    for shape in shapes:
        rank = max(len(result), len(shape))
        pairs = zip((1,) * (rank - len(result)) + result, (1,) * (rank - len(shape)) + shape, strict=True)
        result = tuple(_merge(pair) for pair in pairs)
    return result


# --- its backward -----------------------------------------------------------------------------------------------------


def _gradient(shape: Shape, original: Shape, layout: str = "contiguous") -> tuple[torch.Tensor, Shape]:
    return laid_out(numbers, shape, layout), original


@st.composite
def _stretched(draw: st.DrawFn) -> tuple[torch.Tensor, Shape]:
    full, original = draw(broadcastable_shapes(2))
    shape = torch.broadcast_shapes(full, original)
    return draw(tensors(tuple(shape))), original


@kata(
    minutes=20,
    belt="yellow",
    hints=(
        "An element that was read k times in forward gets k gradients. What does the chain rule do with them?",
        "There are two kinds of stretched dimensions: those the operand did not have, and those it had with size 1.",
        (
            "Collect both kinds in one list and reduce once with `sum(dims, keepdim=True)`; a reshape drops the "
            "missing ones. An empty list needs care: `sum(dim=[])` adds up everything."
        ),
    ),
    cases=_stretched(),
    edge_cases=lambda: {
        "a missing dimension": _gradient((4, 3), (3,)),
        "a size-1 dimension": _gradient((4, 3), (4, 1)),
        "both": _gradient((2, 4, 3), (4, 1)),
        "nothing was stretched": _gradient((2, 3), (2, 3)),
        "a square": _gradient((3, 3), (3,), "transposed"),
        "down to one number": _gradient((2, 3), ()),
        "a one that stayed a one": _gradient((2, 1, 3), (1, 3)),
        "an empty gradient": _gradient((0, 3), (1, 3)),
    },
    laws=[
        Value(),
        SharesMemory(on=("nothing was stretched",)),
        Calls(each={"aten::sum": 1}),
        Forbids({"torch.Tensor.sum_to_size": "it is the answer under another name"}),
    ],
)
def unbroadcast(gradient: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The backward of a broadcast

    In forward an operand of `shape` was broadcast to `gradient.shape`. Return the gradient of that operand, of shape
    `shape`. Read the gradient once: one reduction, however many dimensions. Where nothing was stretched, copy nothing.

    A bias of shape `(3,)` added to a batch `(4, 3)` gets `gradient.sum(0)`. Not allowed: `sum_to_size`.
    """
    missing = gradient.dim() - len(shape)
    ones = [missing + dim for dim, size in enumerate(shape) if size == 1 and gradient.shape[missing + dim] != 1]
    stretched = [*range(missing), *ones]
    return gradient.sum(stretched, keepdim=True).reshape(shape) if stretched else gradient


@unbroadcast.wrong("Every copy of the element contributes to the loss: gradients add up. A mean divides them away.")
def _averaged(gradient: torch.Tensor, shape: Shape) -> torch.Tensor:
    missing = gradient.dim() - len(shape)
    stretched = [*range(missing), *(missing + dim for dim, size in enumerate(shape) if size == 1)]
    return gradient.mean(stretched, keepdim=True).reshape(shape) if stretched else gradient


@unbroadcast.wrong("You summed the missing dimensions and forgot those that the operand had with size 1.")
def _missing_only(gradient: torch.Tensor, shape: Shape) -> torch.Tensor:
    missing = gradient.dim() - len(shape)
    return gradient.sum(list(range(missing))) if missing else gradient


@unbroadcast.wrong(
    "Reshape regroups by order in memory, not by dimension: it sums elements that never belonged together."
)
def _regrouped(gradient: torch.Tensor, shape: Shape) -> torch.Tensor:
    return gradient if gradient.shape == shape else gradient.reshape(-1, *shape).sum(0)


@unbroadcast.wrong("`sum(dim=[])` does not sum nothing: an empty list of dimensions means all of them.")
def _summed_nothing(gradient: torch.Tensor, shape: Shape) -> torch.Tensor:
    missing = gradient.dim() - len(shape)
    ones = [missing + dim for dim, size in enumerate(shape) if size == 1 and gradient.shape[missing + dim] != 1]
    return gradient.sum([*range(missing), *ones], keepdim=True).reshape(shape)


@unbroadcast.wrong("Right numbers, read once per dimension: pass all stretched dimensions to a single `sum`.")
def _one_at_a_time(gradient: torch.Tensor, shape: Shape) -> torch.Tensor:
    while gradient.dim() > len(shape):
        gradient = gradient.sum(0)
    for dim, size in enumerate(shape):
        if size == 1 and gradient.shape[dim] != 1:
            gradient = gradient.sum(dim, keepdim=True)
    return gradient


@unbroadcast.also_right
def _squeezed(gradient: torch.Tensor, shape: Shape) -> torch.Tensor:
    if gradient.shape == shape:
        return gradient
    padded = (1,) * (gradient.dim() - len(shape)) + tuple(shape)
    dims = [dim for dim in range(gradient.dim()) if gradient.shape[dim] != padded[dim]]
    return (gradient.sum(dims, keepdim=True) if dims else gradient).view(shape)


# --- an outer operation -----------------------------------------------------------------------------------------------


def _boxes(count: int, seed: int = 0, shrink: float = 1.0) -> torch.Tensor:
    corner, size = numbers((count, 2), seed=seed), numbers((count, 2), seed=seed + 1).abs() * shrink
    return torch.cat([corner, corner + size], 1)


_SQUARE = torch.tensor([[0.0, 0.0, 2.0, 2.0]])


@kata(
    minutes=25,
    belt="green",
    hints=(
        "You need every pair. Which two size-1 dimensions turn (N, 4) and (M, 4) into something that meets as (N, M)?",
        (
            "The overlap begins at the larger of the two lower corners and ends at the smaller of the two upper ones; "
            "`torch.maximum` and `torch.minimum` broadcast."
        ),
        (
            "`(end - begin).clamp(min=0).prod(-1)` is the overlap, (N, M). The areas are (N, 1) and (M,): their sum "
            "minus the overlap is the union. Where it is 0, answer 0."
        ),
    ),
    cases=st.builds(
        lambda n, m, seed: (_boxes(n, seed), _boxes(m, seed + 7)),
        st.integers(0, 5),
        st.integers(0, 5),
        st.integers(0, 99),
    ),
    edge_cases=lambda: {
        "half overlapping": (_SQUARE, _SQUARE + 1),
        "apart in both directions": (_SQUARE, _SQUARE + 5),
        "two against three": (_boxes(2), _boxes(3, 5)),
        "as many as there are": (_boxes(3), _boxes(3, 5)),
        "boxes without area": (torch.zeros(2, 4), torch.ones(1, 4)),
        "no boxes": (_boxes(0), _boxes(3)),
        "a hundred": (_boxes(100), _boxes(90, 5)),
    },
    laws=[Value(), Calls(at_most=60)],
)
def pairwise_iou(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """An outer operation without loops

    `boxes` (N, 4) and `others` (M, 4) hold rectangles `x1, y1, x2, y2` with `x1 <= x2`, `y1 <= y2`. Return the (N, M)
    intersection over union of every pair: the shared area divided by the area that the two cover together, and 0 where
    they cover none. No Python loop: at most 60 operators, whatever N and M.

    `[0, 0, 2, 2]` and `[1, 1, 3, 3]` share 1 of 7: 0.1429.
    """
    begin = torch.maximum(boxes[:, None, :2], others[:, :2])  # (N, M, 2)
    end = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    shared = (end - begin).clamp(min=0).prod(-1)  # (N, M)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    other_area = (others[:, 2:] - others[:, :2]).prod(-1)
    union = area[:, None] + other_area - shared
    return torch.where(union > 0, shared / union, 0.0)


def _iou(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    overlap = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    shared = overlap.clamp(min=0).prod(-1)
    union = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1) - shared
    return torch.where(union > 0, shared / union, 0.0)


@pairwise_iou.wrong(
    "Two boxes apart in both directions have two negative sides, and their product is positive. Clamp first."
)
def _not_clamped(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    boxes = boxes[:, None]
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    shared = sides.prod(-1).clamp(min=0)
    union = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1) - shared
    return torch.where(union > 0, shared / union, 0.0)


@pairwise_iou.wrong("You pair box i with box i. Without a new dimension nothing meets all others.")
def _side_by_side(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return _iou(boxes, others)


@pairwise_iou.wrong(
    "Rows are `boxes`, columns are `others`; yours is the transpose. The new dimension went to the wrong one."
)
def _transposed(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return _iou(boxes, others[:, None])


@pairwise_iou.wrong("The shared area lies in both boxes: adding the two areas counts it twice. Subtract it once.")
def _counted_twice(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    boxes = boxes[:, None]
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1)
    return torch.where(areas > 0, sides.clamp(min=0).prod(-1) / areas, 0.0)


@pairwise_iou.wrong("Boxes without area make 0/0. A NaN here spreads through every later mean and maximum.")
def _divided_by_nothing(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    boxes = boxes[:, None]
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    shared = sides.clamp(min=0).prod(-1)
    return shared / ((boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1) - shared)


@pairwise_iou.wrong("A Python loop dispatches operators for every box. One size-1 dimension does it in one pass.")
def _looped(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    rows = [_iou(box, others) for box in boxes]
    return torch.stack(rows) if rows else boxes.new_zeros(0, len(others))


@pairwise_iou.also_right
def _both_unsqueezed(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return _iou(boxes.unsqueeze(1), others.unsqueeze(0))


# --- distances under a budget -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NeverNegative(Law):
    """No element of the result is below 0."""

    why: ClassVar[str] = "The square root of a distance of -1e-7 is NaN, and it comes from points that coincide."

    def check(self, trial: Trial) -> None:
        if trial.result.numel() and trial.result.min() < 0:
            raise LawBroken("A squared distance is negative", "0 or more", describe(trial.result.min()))


def _budget(x: torch.Tensor, y: torch.Tensor) -> int:
    return x.element_size() * (4 * len(x) * len(y) + 4 * (len(x) + len(y)) * (x.shape[1] + 1))


@kata(
    minutes=30,
    belt="blue",
    hints=(
        "Expand the square: |x - y|² = |x|² + |y|² - 2 x·y. Which of the three terms needs both N and M?",
        (
            "x·y for all pairs is one matrix product, (N, D) by (D, M): nothing of size N·M·D exists. Far from the "
            "origin the three terms are huge and their difference small; move the points before you multiply."
        ),
        (
            "Subtract the mean of `x` from both. `torch.addmm(squares, x, y.mT, alpha=-2)` adds the product to the "
            "broadcast sum of squares; rounding may leave -1e-7, so clamp at 0."
        ),
    ),
    cases=st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 4)).flatmap(
        lambda n: st.tuples(tensors((n[0], n[2])), tensors((n[1], n[2])))
    ),
    edge_cases=lambda: {
        "three against two": (numbers((3, 2)), numbers((2, 2), seed=1)),
        "against itself": (numbers((40, 16)), numbers((40, 16))),
        "few points far from the origin": (numbers((8, 3)) + 1000, numbers((9, 3), seed=1) + 1000),
        "many points far from the origin": (numbers((40, 3)) + 1000, numbers((30, 3), seed=1) + 1000),
        "many features": (numbers((96, 16)), numbers((64, 16), seed=1)),
        "no points": (numbers((0, 3)), numbers((4, 3))),
    },
    laws=[Value(), NeverNegative(), Allocates(at_most=_budget)],
)
def squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Pairwise squared distances under a memory budget

    Return the (N, M) squared Euclidean distances between the rows of `x` (N, D) and of `y` (M, D). The budget is four
    results, 4·N·M elements, and four copies of the inputs: an (N, M, D) intermediate does not fit. Distances are never
    negative, and stay right for points around (1000, 1000).
    """
    center = x.mean(0)
    x, y = x - center, y - center
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.addmm(squares, x, y.mT, alpha=-2).clamp_(min=0)


@squared_distances.wrong(
    "`x[:, None] - y` is an (N, M, D) tensor: D times the memory of the answer. Expand the square."
)
def _cube(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x[:, None] - y).square().sum(-1)


@squared_distances.wrong(
    "Far from the origin |x|² is a million and the distance is 2: float32 keeps 7 digits. Center first."
)
def _not_centered(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.addmm(x.square().sum(1)[:, None] + y.square().sum(1), x, y.mT, alpha=-2).clamp_(min=0)


@squared_distances.wrong(
    "From 26 rows on `torch.cdist` expands the square too, without centering: right for few points, wrong for many."
)
def _by_cdist(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cdist(x, y).square()


@squared_distances.wrong("Rounding leaves tiny negative distances where points coincide: clamp at 0.")
def _negative(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    center = x.mean(0)
    x, y = x - center, y - center
    return torch.addmm(x.square().sum(1)[:, None] + y.square().sum(1), x, y.mT, alpha=-2)


@squared_distances.wrong("These are distances; the squared ones were asked for.")
def _rooted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


@squared_distances.also_right
def _feature_by_feature(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    total = x.new_zeros(len(x), len(y))
    for column, other in zip(x.T, y.T, strict=True):
        total += (column[:, None] - other).square_()
    return total


@squared_distances.also_right
def _row_by_row(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    result = x.new_empty(len(x), len(y))
    for row, out in zip(x, result, strict=True):
        torch.sum((row - y).square_(), -1, out=out)
    return result


# --- per-channel normalization ----------------------------------------------------------------------------------------


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


# --- masked softmax ---------------------------------------------------------------------------------------------------


def _masked(scores: torch.Tensor, *rows: str) -> tuple[torch.Tensor, torch.Tensor]:
    return scores, torch.tensor([[letter == "1" for letter in row] for row in rows])


@kata(
    minutes=25,
    belt="green",
    hints=(
        "What does softmax return for a row of nothing but -inf, and what does its backward make of that?",
        "Fill with a finite number so low that `exp` gives exactly 0 beside any allowed score. The dtype knows it.",
        (
            "`scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)` is right but for rows without any "
            "allowed place, which come out uniform. A second `masked_fill` settles those, and its gradient is 0."
        ),
    ),
    cases=st.builds(
        lambda scores, seed: (scores, numbers(tuple(scores.shape[-1:]), torch.bool, seed)),
        tensors(shapes(1, 3, 1, 4)),
        st.integers(0, 99),
    ),
    edge_cases=lambda: {
        "some masked": _masked(numbers((2, 3)), "110", "011"),
        "a row fully masked": _masked(numbers((2, 3)), "110", "000"),
        "one mask for a batch": _masked(numbers((2, 2, 3)), "101", "000"),
        "a masked score that dominates": _masked(torch.tensor([[1.0, 2.0, 300.0]]), "110"),
        "large scores": _masked(numbers((1, 3)) + 200, "110"),
        "half precision": _masked(numbers((2, 3), torch.float16), "110", "000"),
        "everything allowed": _masked(numbers((2, 3)), "111", "111"),
    },
    laws=[Value(), Gradcheck(on=("a row fully masked",))],
)
def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Masked softmax with fully masked rows

    Return the softmax over the last dimension of `scores`, taken over the places where `mask` is True and 0 elsewhere.
    `mask` broadcasts to `scores`. A row with no place allowed is all zeros. No NaN, neither in the result nor in the
    gradient; any floating-point dtype.
    """
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(-1).masked_fill(~mask, 0)


@masked_softmax.wrong(
    "A row of nothing but -inf has no largest score: -inf minus -inf is NaN, and so is the whole row."
)
def _minus_infinity(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return scores.masked_fill(~mask, float("-inf")).softmax(-1)


@masked_softmax.wrong("The NaN is wiped from the result and not from the gradient: 0 times NaN is NaN on the way back.")
def _wiped_afterwards(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    bias = torch.zeros_like(scores).masked_fill(~mask, float("-inf"))
    return (scores + bias).softmax(-1).nan_to_num(0.0)


@masked_softmax.wrong(
    "A low finite fill turns a fully masked row into a uniform one: it attends everywhere it may not."
)
def _uniform(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)


@masked_softmax.wrong("Masking after the softmax leaves rows that do not add up to 1: masked scores took their share.")
def _masked_afterwards(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return scores.softmax(-1) * mask


@masked_softmax.wrong(
    "Renormalizing after the softmax fails when a masked score takes all of it: what is left rounds to 0."
)
def _renormalized(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = scores.softmax(-1) * mask
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


@masked_softmax.wrong("Here True means allowed. In yours it means hidden.")
def _inverted(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return scores.masked_fill(mask, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(mask, 0)


@masked_softmax.wrong(
    "`exp` of a score above 88 is infinite in float32. Softmax subtracts the row's maximum first; so must you."
)
def _not_shifted(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = scores.exp() * mask
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


@masked_softmax.also_right
def _empty_rows_opened(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    opened = mask | ~mask.any(-1, keepdim=True)
    return scores.masked_fill(~opened, float("-inf")).softmax(-1) * mask


@masked_softmax.also_right
def _chosen_by_where(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask, scores, float("-inf")).softmax(-1).nan_to_num(0.0)


# --- the trap ---------------------------------------------------------------------------------------------------------


@kata(
    minutes=10,
    belt="white",
    hints=(
        "When do two shapes describe the same list of examples? Look at what is left of each without its ones.",
        "If the sizes other than 1 are not the same, in the same order, raise ValueError before you subtract.",
        "After that test, `prediction.reshape(target.shape)` cannot fail and cannot mix examples up.",
    ),
    cases=st.one_of(
        st.tuples(tensors(shapes(0, 3, 1, 3)), tensors(shapes(0, 3, 1, 3))),
        st.integers(1, 4).map(lambda n: (numbers((n, 1)), numbers((n,), seed=1))),
    ),
    edge_cases=lambda: {
        "equal shapes": (numbers((3,)), numbers((3,), seed=1)),
        "a column against a flat target": (numbers((3, 1)), numbers((3,), seed=1)),
        "a flat prediction against a column": (numbers((3,)), numbers((3, 1), seed=1)),
        "one target for all": (numbers((3,)), numbers((1,), seed=1)),
        "same number of elements, other shape": (numbers((2, 3)), numbers((3, 2), seed=1)),
        "different lengths": (numbers((3,)), numbers((4,), seed=1)),
    },
    laws=[Value()],
)
def squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss that cannot broadcast

    Return the mean of the squared differences, as a tensor without dimensions. Shapes that differ only in dimensions of
    size 1, such as (N, 1) and (N,), hold the same N examples: compare example with example. Everything else, also a
    single target for all, is a mistake of the caller: raise `ValueError`.
    """
    if [size for size in prediction.shape if size != 1] != [size for size in target.shape if size != 1]:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} hold different examples"
        )
    return (prediction.reshape(target.shape) - target).square().mean()


@squared_error.wrong("(N, 1) minus (N,) is (N, N): every prediction against every target. This is the trap itself.")
def _trapped(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    try:
        return (prediction - target).square().mean()
    except RuntimeError:
        raise ValueError from None


@squared_error.wrong("You flatten the prediction only: a column of targets against a flat prediction is (N, N) again.")
def _one_sided(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    try:
        return (prediction.flatten() - target).square().mean()
    except RuntimeError:
        raise ValueError from None


@squared_error.wrong(
    "Without their ones the shapes may still broadcast: a single target meets every prediction, unnoticed."
)
def _squeezed_both(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    try:
        return (prediction.squeeze() - target.squeeze()).square().mean()
    except RuntimeError:
        raise ValueError from None


@squared_error.wrong("As many elements is not the same examples: (2, 3) flattened against (3, 2) compares strangers.")
def _counted(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if prediction.numel() != target.numel():
        raise ValueError
    return (prediction.flatten() - target.flatten()).square().mean()


@squared_error.wrong(
    "(N, 1) and (N,) hold the same examples and are to be accepted; only real differences are refused."
)
def _too_strict(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if prediction.shape != target.shape:
        raise ValueError
    return (prediction - target).square().mean()


@squared_error.also_right
def _squeezed_and_compared(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    prediction, target = prediction.squeeze(), target.squeeze()
    if prediction.shape != target.shape:
        raise ValueError
    return torch.nn.functional.mse_loss(prediction, target)
