"""Do two tensors overlap in memory?."""

from __future__ import annotations

import itertools

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import shapes
from blackbelt.katas.tensors.strides._shared import count


@st.composite
def _two_views(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    base = count(draw(st.integers(24, 40)))
    views = []
    for _ in range(2):
        size = draw(shapes(0, 2, 0, 3))
        stride = tuple(draw(st.integers(0, 5)) for _ in size)
        views.append(base.as_strided(size, stride, draw(st.integers(0, 3))))
    if draw(st.booleans()):
        views[1] = views[1].clone()
    return views[0], views[1]


def _edge_pairs() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    a = count(12)
    return {
        "a tensor and itself": (a, a),
        "two halves that share the middle": (a[:8], a[4:]),
        "left and right": (a[:5], a[5:]),
        "even and odd places": (a[::2], a[1::2]),
        "every second and every third place": (a[::2], a[3::3]),
        "two columns of a matrix": (a.view(3, 4)[:, 1], a.view(3, 4)[:, 2]),
        "a row and a column": (a.view(3, 4)[1], a.view(3, 4)[:, 2]),
        "equal numbers elsewhere": (count(4), count(4)),
        "nothing, inside the other": (a[6:6], a),
        "one cell, stretched": (a[3:4].expand(5), a[::3]),
        "the same start, sideways": (a.view(3, 4)[:, 0], a.view(3, 4)[0, 1:]),
    }


@kata(
    minutes=20,
    belt="green",
    hints=(
        (
            "Two tensors of different storages never overlap. Two of the same storage may still be apart: think of "
            "`a[::2]` and `a[1::2]`."
        ),
        (
            "Where does element `(i, j)` lie, counted in cells from the start of the storage? Which cells does a "
            "tensor have in all?"
        ),
        (
            "Compare `untyped_storage().data_ptr()`. Then build each tensor's set of cells: start with "
            "`{storage_offset()}` and for every dimension replace it by `{cell + i * stride for …}`. No common cell, "
            "no overlap."
        ),
    ),
    cases=_two_views(),
    edge_cases=_edge_pairs,
    laws=[Value()],
)
def overlaps(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Do two tensors overlap in memory?

    Return whether writing into `a` can change `b`: whether at least one storage cell belongs to both. Both are strided,
    of the same dtype, of any layout, up to some thousand elements. Exactly: `a[::2]` and `a[1::2]` share a storage and
    no cell. Change nothing, not even for a moment.

    ```python
    a = torch.arange(12.)
    overlaps(a[:8], a[4:]), overlaps(a[::2], a[1::2])  # (True, False)
    ```
    """

    def cells(tensor: torch.Tensor) -> set[int]:
        found = {int(tensor.storage_offset())}
        for n, step in zip(tensor.size(), tensor.stride()):
            found = {cell + i * step for cell in found for i in range(n)}
        return found

    same_storage = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    return same_storage and not cells(a).isdisjoint(cells(b))


@overlaps.wrong(
    "It compares storages. Two tensors can live in one storage and never meet: the even and the odd places."
)
def same_storage(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@overlaps.wrong("It compares where the tensors start. Two that start apart can meet further on.")
def same_start(a, b):
    return a.data_ptr() == b.data_ptr() and a.numel() > 0 and b.numel() > 0


@overlaps.wrong(
    "It compares the first and the last cell of each. Inside that stretch a strided tensor leaves gaps, and the other "
    "may lie in them."
)
def stretches_meet(a, b):
    def stretch(tensor):
        last = sum((n - 1) * step for n, step in zip(tensor.size(), tensor.stride()))
        return tensor.storage_offset(), tensor.storage_offset() + last

    (a_first, a_last), (b_first, b_last) = stretch(a), stretch(b)
    in_one = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    return in_one and a.numel() > 0 and b.numel() > 0 and a_first <= b_last and b_first <= a_last


@overlaps.wrong(
    "It compares numbers. Equal numbers can lie in different places; whether memory is shared is no question of values."
)
def equal_numbers(a, b):
    return bool(torch.isin(a, b).any())


@overlaps.wrong("It counts both sets of cells from 0. A slice starts at its `storage_offset()`.")
def forgets_offsets(a, b):
    sets = []
    for tensor in (a, b):
        cells = {0}
        for n, step in zip(tensor.size(), tensor.stride()):
            cells = {cell + i * step for cell in cells for i in range(n)}
        sets.append(cells)
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() and bool(sets[0] & sets[1])


@overlaps.wrong(
    "It writes into `a` to see whether `b` changes. A question must not change what it asks about: compute the cells."
)
def writes_to_see(a, b):
    before = b.clone()
    for index in itertools.product(*map(range, a.shape)):
        a[index] = -1.0
    return not torch.equal(b, before)


@overlaps.also_right
def index_tensors(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False
    positions = torch.arange(a.untyped_storage().nbytes() // a.element_size())
    cells = [positions.as_strided(t.size(), t.stride(), t.storage_offset()) for t in (a, b)]
    return bool(torch.isin(cells[0], cells[1]).any())
