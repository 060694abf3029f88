"""An outer operation without loops."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.operators import Calls
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers


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
