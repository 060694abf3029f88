"""A softmax that reads its rows twice."""
# Triton's own conventions: pointers and constants in capitals, no types on a kernel's arguments.
# ruff: noqa: I001, N803, PLR0913, PLR0917
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.interpreted import Interpreted, Loads, LoadsInBlocks, must_interpret
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.reference.kernels import _triton  # noqa: F401  # before triton: it sets the interpreter up
from blackbelt.katas.reference.kernels._shared import Computes

import triton
import triton.language as tl

BLOCK = 64
_FIRST, _LONG = ("one block",), ("two blocks", "rows longer than any block")


def _hidden(rows: int, columns: int, hidden: slice) -> torch.Tensor:
    scores = numbers((rows, columns))
    scores[:, hidden] = -math.inf
    return scores


def _edge_cases() -> dict[str, tuple[Any, ...]]:
    must_interpret()
    return {
        "one block": (numbers((1, BLOCK)),),
        "two blocks": (numbers((2, 2 * BLOCK)),),
        "a growing maximum": (torch.linspace(0, 8, 150).expand(1, 150).contiguous(),),
        "a falling maximum": (torch.linspace(8, 0, 150).expand(1, 150).contiguous(),),
        "negative scores in a short block": (numbers((1, 5)) - 120.0,),
        "large scores": (numbers((1, 70)) + 100.0,),
        "a hidden first block": (_hidden(1, 150, slice(0, 70)),),
        "a hidden last block": (_hidden(1, 150, slice(100, 150)),),
        "every other column": (numbers((2, 160))[:, ::2],),
        "half precision": (numbers((1, 100), torch.float16),),
        "rows longer than any block": (numbers((1, 260)),),
    }


def _softmax(x: torch.Tensor) -> torch.Tensor:
    return x.softmax(-1)


@kata(
    minutes=30,
    belt="brown",
    hints=(
        (
            "Softmax needs the maximum before the sum, and the sum before the result: three passes. Which two of them "
            "can be one, if you may correct the sum when a larger maximum comes?"
        ),
        (
            "One program for a row. First loop: load a block, take the larger of the maxima, multiply the sum by "
            "exp(old − new), add the block's exponentials. Second loop: load it again, write exp(x − maximum) / sum."
        ),
        (
            'Columns outside of the row must count as `other=float("-inf")`. While all that was seen is −inf, subtract '
            '0 in place of the maximum: `shift = tl.where(larger == float("-inf"), 0.0, larger)`.'
        ),
    ),
    cases=st.sampled_from(((1, 3), (2, 65), (1, 130))).map(lambda shape: (30 * numbers(shape),)),
    edge_cases=_edge_cases,
    laws=[
        Forbids(dict.fromkeys(("aten::_softmax", "aten::exp"), "the kernel computes it"), on=_FIRST),
        Interpreted(on=_FIRST),
        Computes(_softmax),
        LoadsInBlocks(at_most=BLOCK, on=_LONG),
        Loads(at_most=lambda x: 2 * x.numel(), on=_LONG),
    ],
)
def online_softmax_kernel(x: torch.Tensor) -> torch.Tensor:
    """A softmax that reads its rows twice.

    Write softmax over the last dimension of `x` (rows, columns) as a Triton kernel, on Triton's interpreter. Rows may
    have any length, and a load may ask for 64 elements at most. The result has the dtype of `x`; compute in float32.

    ```python
    online_softmax_kernel(torch.zeros(1, 100))  # a hundred times 0.01
    ```

    Each element may be loaded twice: once for maximum and sum, once for the result. A score of −inf gets the
    probability 0, also where a row begins with a hundred of them. The columns of `x` need not be adjacent.
    """

    @triton.jit
    def kernel(X, OUT, columns, row_stride, column_stride, BLOCK: tl.constexpr):
        row = tl.program_id(0)
        maximum, total = tl.full([], float("-inf"), tl.float32), tl.full([], 0.0, tl.float32)
        shift = tl.full([], 0.0, tl.float32)
        for start in range(0, columns, BLOCK):
            c = start + tl.arange(0, BLOCK)
            x = tl.load(X + row * row_stride + c * column_stride, mask=c < columns, other=float("-inf")).to(tl.float32)
            larger = tl.maximum(maximum, tl.max(x, 0))
            shift = tl.where(larger == float("-inf"), 0.0, larger)
            total = total * tl.exp(maximum - shift) + tl.sum(tl.exp(x - shift), 0)
            maximum = larger
        for start in range(0, columns, BLOCK):
            c = start + tl.arange(0, BLOCK)
            x = tl.load(X + row * row_stride + c * column_stride, mask=c < columns, other=float("-inf")).to(tl.float32)
            result = tl.exp(x - shift) / total
            tl.store(OUT + row * columns + c, result.to(OUT.dtype.element_ty), mask=c < columns)

    out = x.new_empty(x.shape)
    kernel[x.size(0),](x, out, x.size(1), *x.stride(), BLOCK=64)
    return out


@triton.jit
def _rows(
    X, OUT, columns, row_stride, column_stride,
    BLOCK: tl.constexpr, OTHER: tl.constexpr, CORRECT: tl.constexpr, GUARD: tl.constexpr, MAXIMUM: tl.constexpr,
):  # fmt: skip
    place = X + tl.program_id(0) * row_stride
    maximum, total = tl.full([], float("-inf"), tl.float32), tl.full([], 0.0, tl.float32)
    shift = tl.full([], 0.0, tl.float32)
    for start in range(0, columns, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(place + c * column_stride, mask=c < columns, other=OTHER).to(tl.float32)
        larger = tl.maximum(maximum, tl.max(x, 0)) if MAXIMUM else tl.full([], 0.0, tl.float32)
        shift = larger
        if GUARD:
            shift = tl.where(larger == float("-inf"), 0.0, larger)
        if CORRECT:
            total = total * tl.exp(maximum - shift)
        total = total + tl.sum(tl.exp(x - shift), 0)
        maximum = larger
    for start in range(0, columns, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(place + c * column_stride, mask=c < columns, other=OTHER).to(tl.float32)
        result = tl.exp(x - shift) / total
        tl.store(OUT + tl.program_id(0) * columns + c, result.to(OUT.dtype.element_ty), mask=c < columns)


def _launch(x, kernel=_rows, strides=None, block=BLOCK, **changed):
    out = x.new_empty(x.shape)
    options = {"OTHER": -math.inf, "CORRECT": True, "GUARD": True, "MAXIMUM": True} | changed
    options = options if kernel is _rows else {}
    kernel[(x.size(0),)](x, out, x.size(1), *(strides or x.stride()), BLOCK=block, **options)
    return out


@triton.jit
def _three_passes(X, OUT, columns, row_stride, column_stride, BLOCK: tl.constexpr):
    place = X + tl.program_id(0) * row_stride
    maximum, total = tl.full([], float("-inf"), tl.float32), tl.full([], 0.0, tl.float32)
    for start in range(0, columns, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(place + c * column_stride, mask=c < columns, other=float("-inf")).to(tl.float32)
        maximum = tl.maximum(maximum, tl.max(x, 0))
    for start in range(0, columns, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(place + c * column_stride, mask=c < columns, other=float("-inf")).to(tl.float32)
        total = total + tl.sum(tl.exp(x - maximum), 0)
    for start in range(0, columns, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(place + c * column_stride, mask=c < columns, other=float("-inf")).to(tl.float32)
        result = tl.exp(x - maximum) / total
        tl.store(OUT + tl.program_id(0) * columns + c, result.to(OUT.dtype.element_ty), mask=c < columns)


@online_softmax_kernel.wrong(
    "It goes over the row three times: maximum, sum, result. Maximum and sum fit in one pass: when a larger maximum "
    "comes, what was summed up before is multiplied by exp(old − new)."
)
def three_passes(x):
    return _launch(x, _three_passes)


@online_softmax_kernel.wrong(
    "It loads the whole row as one block. That is a good kernel for short rows; a row of a million does not fit into "
    "the registers of a program. Walk along the row in blocks of 64."
)
def whole_row(x):
    return _launch(x, block=triton.next_power_of_2(x.size(1)))


@online_softmax_kernel.wrong(
    "Where the mask is False it loads 0, and a 0 is a score: it can be the maximum, and counts exp(0 − maximum) in the "
    "sum. Outside of the row the score is −inf."
)
def outside_is_zero(x):
    return _launch(x, OTHER=0.0)


@online_softmax_kernel.wrong(
    "It leaves the sum as it was when the maximum grows. What was added before is relative to the old maximum: "
    "multiply it by exp(old − new)."
)
def not_corrected(x):
    return _launch(x, CORRECT=False)


@online_softmax_kernel.wrong(
    "It subtracts −inf from −inf. After a block of hidden scores the maximum is still −inf, the difference NaN, and so "
    "is the sum from then on: subtract 0 there."
)
def hidden_is_nan(x):
    return _launch(x, GUARD=False)


@online_softmax_kernel.wrong(
    "It takes exp of the scores as they are, without a maximum: exp(100) is infinite in float32, and exp(−120) is 0."
)
def without_a_maximum(x):
    return _launch(x, MAXIMUM=False)


@online_softmax_kernel.wrong(
    "It takes for granted that the columns are adjacent and rows follow one another. `x.stride()` says where they are."
)
def assumes_contiguous(x):
    return _launch(x, strides=(x.size(1), 1))


@online_softmax_kernel.wrong("It calls PyTorch's softmax, or its parts. Here you write the kernel that is behind it.")
def torch_computes(x):
    return x.softmax(-1)


@triton.jit
def _lanes(X, OUT, columns, row_stride, column_stride, BLOCK: tl.constexpr):
    place = X + tl.program_id(0) * row_stride
    maxima, totals = tl.full([BLOCK], float("-inf"), tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(place + c * column_stride, mask=c < columns, other=float("-inf")).to(tl.float32)
        larger = tl.maximum(maxima, x)
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        totals = totals * tl.exp(maxima - shift) + tl.exp(x - shift)
        maxima = larger
    maximum = tl.max(maxima, 0)
    total = tl.sum(totals * tl.exp(maxima - maximum), 0)
    for start in range(0, columns, BLOCK):
        c = start + tl.arange(0, BLOCK)
        x = tl.load(place + c * column_stride, mask=c < columns, other=float("-inf")).to(tl.float32)
        result = tl.exp(x - maximum) / total
        tl.store(OUT + tl.program_id(0) * columns + c, result.to(OUT.dtype.element_ty), mask=c < columns)


@online_softmax_kernel.also_right
def a_maximum_for_each_lane(x):
    return _launch(x, _lanes)


@online_softmax_kernel.also_right
def smaller_blocks(x):
    return _launch(x, block=32)
