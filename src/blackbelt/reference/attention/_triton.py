"""The Triton kernels: one for the forward, two for the backward. Imported only where they run: triton may be absent.

Letters: M rows (queries) of a block, N columns (keys), D head size, V head size of the value. A program has one block
of rows of one head and walks over the columns; in the backward of key and value it has a block of columns and walks
over the rows of every query head that shares them, so nothing needs atomics. Scores are in units of log 2.

``tl.dot`` is told "ieee": on float32 it would otherwise round its inputs to TF32.
"""

# Triton's own conventions: pointers and constants in capitals, no types on arguments, one flat function per kernel.
# ruff: noqa: N803, ANN001, ANN202, PLR0913, PLR0917
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634
NO_MASK, BOOL_MASK, FLOAT_MASK = 0, 1, 2


@triton.jit
def _load(pointer, rows, columns, stride, num_rows, num_columns):
    """Load rows × columns of a matrix whose columns are adjacent; 0 outside of it."""
    inside = (rows[:, None] < num_rows) & (columns[None, :] < num_columns)
    return tl.load(pointer + rows[:, None].to(tl.int64) * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store(pointer, values, rows, columns, stride, num_rows, num_columns):
    inside = (rows[:, None] < num_rows) & (columns[None, :] < num_columns)
    place = pointer + rows[:, None].to(tl.int64) * stride + columns[None, :]
    tl.store(place, values.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _scores(
    q, k, mask_pointer, rows, columns, mask_stride_l, mask_stride_s, length, keys, factor,
    MASK: tl.constexpr, IS_CAUSAL: tl.constexpr,
):  # fmt: skip
    """Return a block of scores in units of log 2, −inf where a query may not see a key."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor
    seen = (rows[:, None] < length) & (columns[None, :] < keys)
    if MASK != 0:
        place = mask_pointer + rows[:, None].to(tl.int64) * mask_stride_l + columns[None, :] * mask_stride_s
        if MASK == 1:
            scores = tl.where(tl.load(place, mask=seen, other=0) != 0, scores, float("-inf"))
        else:
            scores += tl.load(place, mask=seen, other=0.0).to(tl.float32) * 1.4426950408889634
    if IS_CAUSAL:
        seen = seen & (columns[None, :] <= rows[:, None])
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def _noise(seed, head, rows, columns, dropout_p):
    """Return 0 or 1 / (1 − p): a function of the seed, the head, the query and the key, whatever the blocks are."""
    zero = rows[:, None] * 0 + columns[None, :] * 0
    random, _, _, _ = tl.philox(seed, rows[:, None] + zero, columns[None, :] + zero, head + zero, zero)
    return tl.where(tl.uint_to_uniform_float(random) >= dropout_p, 1.0 / (1.0 - dropout_p), 0.0)


@triton.jit
def _forward_kernel(
    Q, K, V, MASK_POINTER, OUT, LSE,
    q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, m_b, m_h, m_l, m_s, o_b, o_h, o_l,
    heads, group, length, keys, head_size, value_size, factor, dropout_p, seed,
    MASK: tl.constexpr, IS_CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    batch = batch.to(tl.int64)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d, e = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    q = _load(Q + batch * q_b + head * q_h, rows, d, q_l, length, head_size)
    maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    result = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    end = keys
    if IS_CAUSAL:
        end = tl.minimum(keys, (tl.program_id(0) + 1) * BLOCK_M)
    for start in range(0, end, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        k = _load(K + batch * k_b + (head // group) * k_h, columns, d, k_l, keys, head_size)
        v = _load(V + batch * v_b + (head // group) * v_h, columns, e, v_l, keys, value_size)
        place = MASK_POINTER + batch * m_b + head * m_h
        scores = _scores(q, k, place, rows, columns, m_l, m_s, length, keys, factor, MASK, IS_CAUSAL)
        new_maximum = tl.maximum(maximum, tl.max(scores, 1))
        shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        p = tl.exp2(scores - shift[:, None])
        correction = tl.exp2(maximum - shift)
        total = total * correction + tl.sum(p, 1)
        if DROPOUT:
            p *= _noise(seed, tl.program_id(1), rows, columns, dropout_p)
        result = result * correction[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        maximum = new_maximum
    empty = total == 0.0
    result = result / tl.where(empty, 1.0, total)[:, None]
    lse = tl.where(empty, float("inf"), maximum + tl.log2(tl.where(empty, 1.0, total)))
    _store(OUT + batch * o_b + head * o_h, result, rows, e, o_l, length, value_size)
    tl.store(LSE + tl.program_id(1).to(tl.int64) * length + rows, lse, mask=rows < length)


@triton.jit
def _query_kernel(
    Q, K, V, MASK_POINTER, OUT, LSE, GRAD, DELTA, GRAD_Q,
    q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, m_b, m_h, m_l, m_s, o_b, o_h, o_l, g_b, g_h, g_l, dq_b, dq_h, dq_l,
    heads, group, length, keys, head_size, value_size, scale, factor, dropout_p, seed,
    MASK: tl.constexpr, IS_CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the query, and for the other kernel ``delta``, the sum of grad ∘ out of every row."""
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    batch = batch.to(tl.int64)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d, e = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    q = _load(Q + batch * q_b + head * q_h, rows, d, q_l, length, head_size)
    grad = _load(GRAD + batch * g_b + head * g_h, rows, e, g_l, length, value_size)
    out = _load(OUT + batch * o_b + head * o_h, rows, e, o_l, length, value_size)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    per_row = tl.program_id(1).to(tl.int64) * length + rows
    tl.store(DELTA + per_row, delta, mask=rows < length)
    lse = tl.load(LSE + per_row, mask=rows < length, other=float("inf"))
    grad_q = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    end = keys
    if IS_CAUSAL:
        end = tl.minimum(keys, (tl.program_id(0) + 1) * BLOCK_M)
    for start in range(0, end, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        k = _load(K + batch * k_b + (head // group) * k_h, columns, d, k_l, keys, head_size)
        v = _load(V + batch * v_b + (head // group) * v_h, columns, e, v_l, keys, value_size)
        place = MASK_POINTER + batch * m_b + head * m_h
        scores = _scores(q, k, place, rows, columns, m_l, m_s, length, keys, factor, MASK, IS_CAUSAL)
        p = tl.exp2(scores - lse[:, None])
        slope = tl.dot(grad, tl.trans(v), input_precision="ieee")
        if DROPOUT:
            slope *= _noise(seed, tl.program_id(1), rows, columns, dropout_p)
        slope = p * (slope - delta[:, None])
        grad_q += tl.dot(slope.to(k.dtype), k, input_precision="ieee")
    _store(GRAD_Q + batch * dq_b + head * dq_h, grad_q * scale, rows, d, dq_l, length, head_size)


@triton.jit
def _key_value_kernel(
    Q, K, V, MASK_POINTER, LSE, GRAD, DELTA, GRAD_K, GRAD_V,
    q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, m_b, m_h, m_l, m_s, g_b, g_h, g_l, dk_b, dk_h, dk_l, dv_b, dv_h, dv_l,
    heads, group, length, keys, head_size, value_size, scale, factor, dropout_p, seed,
    MASK: tl.constexpr, IS_CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a block of keys and values, from all query heads that share them."""
    key_heads = heads // group
    batch, key_head = tl.program_id(1) // key_heads, tl.program_id(1) % key_heads
    batch = batch.to(tl.int64)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d, e = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    k = _load(K + batch * k_b + key_head * k_h, columns, d, k_l, keys, head_size)
    v = _load(V + batch * v_b + key_head * v_h, columns, e, v_l, keys, value_size)
    grad_k = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    grad_v = tl.zeros([BLOCK_N, BLOCK_V], tl.float32)
    first = 0
    if IS_CAUSAL:  # the first rows that see these keys
        first = (tl.program_id(0) * BLOCK_N // BLOCK_M) * BLOCK_M
    for member in range(group):
        head = key_head * group + member
        per_head = (batch * heads + head) * length
        for start in range(first, length, BLOCK_M):
            rows = start + tl.arange(0, BLOCK_M)
            q = _load(Q + batch * q_b + head * q_h, rows, d, q_l, length, head_size)
            grad = _load(GRAD + batch * g_b + head * g_h, rows, e, g_l, length, value_size)
            lse = tl.load(LSE + per_head + rows, mask=rows < length, other=float("inf"))
            delta = tl.load(DELTA + per_head + rows, mask=rows < length, other=0.0)
            place = MASK_POINTER + batch * m_b + head * m_h
            scores = _scores(q, k, place, rows, columns, m_l, m_s, length, keys, factor, MASK, IS_CAUSAL)
            p = tl.exp2(scores - lse[:, None])
            slope = tl.dot(grad, tl.trans(v), input_precision="ieee")
            kept = p
            if DROPOUT:
                noise = _noise(seed, (batch * heads + head).to(tl.int32), rows, columns, dropout_p)
                slope *= noise
                kept = p * noise
            grad_v += tl.dot(tl.trans(kept.to(grad.dtype)), grad, input_precision="ieee")
            slope = p * (slope - delta[:, None])
            grad_k += tl.dot(tl.trans(slope.to(q.dtype)), q, input_precision="ieee")
    _store(GRAD_K + batch * dk_b + key_head * dk_h, grad_k * scale, columns, d, dk_l, keys, head_size)
    _store(GRAD_V + batch * dv_b + key_head * dv_h, grad_v, columns, e, dv_l, keys, value_size)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
    out: Tensor,
    lse: Tensor,
) -> None:
    """Write the result into ``out`` (B, H, L, V) and the log-sum-exp, in units of log 2, into ``lse`` (B, H, L)."""
    if not (out.numel() and key.size(2)):
        out.zero_()
        lse.fill_(float("inf"))
        return
    query, key, value = (_adjacent(t) for t in (query, key, value))
    mask_arguments, kind = _mask(query, key, mask)
    blocks = _blocks(_forward_kernel, query, value)
    target = out if out.stride(-1) == 1 else torch.empty(out.shape, dtype=out.dtype, device=out.device)
    grid = (triton.cdiv(query.size(2), blocks["BLOCK_M"]), query.size(0) * query.size(1))
    with torch.cuda.device_of(query):
        _forward_kernel[grid](
            query, key, value, mask_arguments[0], target, lse,
            *_strides(query), *_strides(key), *_strides(value), *mask_arguments[1], *_strides(target),
            *_sizes(query, key, value), scale * LOG2_E, dropout_p, _seed(seed),
            MASK=kind, IS_CAUSAL=is_causal, DROPOUT=dropout_p > 0, **blocks,
        )  # fmt: skip
    if target is not out:
        out.copy_(target)


def backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    seed: Tensor | None,
    out: Tensor,
    lse: Tensor,
    dropout_p: float,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    results = (torch.empty_like(query), torch.empty_like(key), torch.empty_like(value))
    if not (query.numel() or out.numel()) or not key.size(2):
        for result in results:
            result.zero_()
        return results
    grads = [t if t.stride(-1) == 1 else torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in results]
    query, key, value, out, grad_out = (_adjacent(t) for t in (query, key, value, out, grad_out))
    mask_arguments, kind = _mask(query, key, mask)
    rows, columns = _blocks(_query_kernel, query, value), _blocks(_key_value_kernel, query, value)
    delta = torch.empty_like(lse)
    pointers = (query, key, value, mask_arguments[0])
    strides = (*_strides(query), *_strides(key), *_strides(value), *mask_arguments[1])
    numbers = (*_sizes(query, key, value), scale, scale * LOG2_E, dropout_p, _seed(seed))
    constants: dict[str, Any] = {"MASK": kind, "IS_CAUSAL": is_causal, "DROPOUT": dropout_p > 0}
    with torch.cuda.device_of(query):
        _query_kernel[triton.cdiv(query.size(2), rows["BLOCK_M"]), query.size(0) * query.size(1)](
            *pointers, out, lse, grad_out, delta, grads[0],
            *strides, *_strides(out), *_strides(grad_out), *_strides(grads[0]), *numbers, **constants, **rows,
        )  # fmt: skip
        _key_value_kernel[triton.cdiv(key.size(2), columns["BLOCK_N"]), key.size(0) * key.size(1)](
            *pointers, lse, grad_out, delta, grads[1], grads[2],
            *strides, *_strides(grad_out), *_strides(grads[1]), *_strides(grads[2]), *numbers, **constants, **columns,
        )  # fmt: skip
    for result, grad in zip(results, grads):
        if result is not grad:
            result.copy_(grad)
    return results


def _adjacent(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _strides(tensor: Tensor) -> tuple[int, ...]:
    return tensor.stride()[:3]


def _sizes(query: Tensor, key: Tensor, value: Tensor) -> tuple[int, ...]:
    heads = query.size(1)
    return heads, heads // key.size(1), query.size(2), key.size(2), query.size(3), value.size(3)


def _seed(seed: Tensor | None) -> int:
    return 0 if seed is None else int(seed)


def _mask(query: Tensor, key: Tensor, mask: Tensor | None) -> tuple[tuple[Tensor, tuple[int, ...]], int]:
    if mask is None:
        return (query, (0, 0, 0, 0)), NO_MASK  # a pointer that is not read
    whole = mask.expand(*query.shape[:3], key.size(2))
    if mask.dtype == torch.bool:
        return (whole.view(torch.uint8), whole.stride()), BOOL_MASK
    return (whole, whole.stride()), FLOAT_MASK


# Rows, columns and stages of a block: in half precision with heads of at most 128, with larger ones, and in float32.
# Chosen by what ``ptxas`` says is spilled on sm_80 and sm_90, with no GPU at hand to measure on. The last kernel keeps
# two sums, and has room for fewer rows at a time.
_BLOCKS = {
    _forward_kernel: ((64, 64, 2), (32, 32, 2), (16, 32, 1)),
    _query_kernel: ((64, 64, 2), (32, 32, 2), (32, 32, 2)),
    _key_value_kernel: ((32, 64, 2), (32, 32, 2), (16, 32, 1)),
}


def _blocks(kernel: Any, query: Tensor, value: Tensor) -> dict[str, int]:
    head, value_head = (max(16, triton.next_power_of_2(max(t.size(-1), 1))) for t in (query, value))
    half, large, single = _BLOCKS[kernel]
    rows, columns, stages = single if query.dtype == torch.float32 else half if max(head, value_head) <= 128 else large
    blocks = {"BLOCK_M": rows, "BLOCK_N": columns, "BLOCK_D": head, "BLOCK_V": value_head}
    return blocks | {"num_warps": 8, "num_stages": stages}
