"""Attention as two operators of PyTorch's dispatcher, ``blackbelt::attention`` and ``blackbelt::attention_backward``.

To the compiler each is one opaque call with a known result (no graph break, whatever loops run inside); autograd is
told which operator is whose derivative; ``vmap`` folds its dimension into the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blackbelt.reference.attention import _cpp, _eager
from blackbelt.reference.attention._problem import Problem

Outputs = tuple[Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("blackbelt::attention", mutates_args=())
def attention(  # noqa: PLR0913, PLR0917  (an operator's schema is flat)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Return the result (B, H, L, V) and per query the log-sum-exp of its scores, in units of log 2, (B, H, L)."""
    out, lse = _allocate(query, value)
    if backend == "triton":
        from blackbelt.reference.attention import _triton

        _triton.forward(query, key, value, mask, seed, dropout_p, is_causal, scale, out, lse)
        return out, lse
    if backend == "cpp":
        _cpp.forward(query, key, value, is_causal, scale, out, lse)
        return out, lse
    problem = Problem(query, key, value, mask, seed, dropout_p, is_causal, scale, out)
    _eager.forward(problem, out, lse, _step(backend))
    return out, lse


@torch.library.custom_op("blackbelt::attention_backward", mutates_args=())
def attention_backward(  # noqa: PLR0913, PLR0917  (an operator's schema is flat)
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
    backend: str,
    mask_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of query, key, value and mask (empty where it is not wanted)."""
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    if backend == "triton":
        from blackbelt.reference.attention import _triton

        gradients = _triton.backward(grad_out, query, key, value, mask, seed, out, lse, dropout_p, is_causal, scale)
        return (*gradients, query.new_empty(0))
    if backend == "cpp" and _cpp.has_work_for_threads(key):
        return (*_cpp.backward(grad_out, query, key, value, out, lse, is_causal, scale), query.new_empty(0))
    grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
    grad_mask = None
    if mask_gradient:
        assert mask is not None
        grad_mask = torch.zeros_like(mask, dtype=wide)
    problem = Problem(
        query, key, value, mask, seed, dropout_p, is_causal, scale,
        *(grad_query, grad_key, grad_value, out, grad_out), is_backward=True, merging=not mask_gradient,
    )  # fmt: skip
    room = _eager.Gradients(problem, grad_query, grad_key, grad_value, grad_mask)
    _eager.backward(problem, grad_out, out, lse, room)
    if mask is None or grad_mask is None:
        return grad_query, grad_key, grad_value, query.new_empty(0)
    return grad_query, grad_key, grad_value, grad_mask.to(mask.dtype)


@attention.register_fake
def _(query: Tensor, _key: Tensor, value: Tensor, *_: Any) -> Outputs:
    return _allocate(query, value)


@attention_backward.register_fake
def _(_: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *rest: Any) -> Gradients:
    grad_mask = torch.empty_like(mask) if mask is not None and rest[-1] else query.new_empty(0)
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), grad_mask


def _allocate(query: Tensor, value: Tensor) -> Outputs:
    """Return the result, laid out as the query is, so that joining the heads afterwards is a view where it was one."""
    batch, heads, length, head_size = query.shape
    same = value.size(-1) == head_size
    out = torch.empty_like(query) if same else query.new_empty(batch, heads, length, value.size(-1))
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    return out, query.new_empty((batch, heads, length), dtype=wide)


def _step(backend: str) -> _eager.SoftmaxStep:
    if backend == "compiled":
        from blackbelt.reference.attention._compiled import compiled_step

        return compiled_step()
    return _eager.softmax_step


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    query, key, value, mask, seed, *rest = inputs
    ctx.save_for_backward(query, key, value, mask, seed, *output)
    ctx.rest = tuple(rest)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad_out: Tensor, _: Any) -> tuple[Any, ...]:
    query, key, value, mask, seed, out, lse = ctx.saved_tensors
    wanted = bool(ctx.needs_input_grad[3])
    query_grad, key_grad, value_grad, mask_grad = AttentionBackward.apply(
        grad_out, query, key, value, mask, seed, out, lse, *ctx.rest, wanted
    )
    return query_grad, key_grad, value_grad, mask_grad if wanted else None, *(None,) * 5


class AttentionBackward(torch.autograd.Function):
    """The derivative's operator, whose own derivative is refused in words."""

    generate_vmap_rule = True

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917  (named, for Dynamo of PyTorch 2.9 counts the parameters)
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
        backend: str,
        mask_gradient: bool,
    ) -> Gradients:
        """Run the operator."""
        tensors = (grad_out, query, key, value, mask, seed, out, lse)
        gradients: Gradients = attention_backward(*tensors, dropout_p, is_causal, scale, backend, mask_gradient)
        return gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        """Keep nothing: there is no second derivative."""

    @staticmethod
    def backward(_ctx: Any, *_: Any) -> tuple[Any, ...]:
        """Say so."""
        raise RuntimeError(
            "memory_efficient_attention has no second derivative: its backward keeps no graph. Differentiate twice "
            "through blackbelt.reference.attention.naive_attention, which is plain PyTorch, or drop create_graph=True"
        )


class Attention(torch.autograd.Function):
    """The operator with its derivative, in the form that ``torch.func`` understands as well."""

    generate_vmap_rule = True

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917  (likewise)
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        seed: Tensor | None,
        dropout_p: float,
        is_causal: bool,
        scale: float,
        backend: str,
    ) -> Outputs:
        """Run the operator."""
        outputs: Outputs = attention(query, key, value, mask, seed, dropout_p, is_causal, scale, backend)
        return outputs

    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_differentiate)


def _one_by_one(operator: Any, info: Any, in_dims: tuple[int | None, ...], args: tuple[Any, ...]) -> tuple[Any, Any]:
    """Call the operator for every sample: where the noise, or the gradient of the mask, is each sample's own."""
    samples = [
        operator(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims))) for i in range(info.batch_size)
    ]
    outputs = tuple(torch.stack(column) for column in zip(*samples))
    return outputs, (0,) * len(outputs)


def _folded(
    operator: Any, mask_at: int, info: Any, in_dims: tuple[int | None, ...], args: tuple[Any, ...]
) -> tuple[Any, Any]:
    """Call the operator once, with the mapped dimension as part of the batch."""
    batch = next(
        a.movedim(d, 0).size(1) for i, (a, d) in enumerate(zip(args, in_dims)) if d is not None and i != mask_at
    )
    folded: list[Any] = []
    for i, (argument, dim) in enumerate(zip(args, in_dims)):
        whole_batch = i == mask_at and isinstance(argument, Tensor) and dim is None and argument.size(0) == 1
        if not isinstance(argument, Tensor) or whole_batch:
            folded.append(argument)
            continue
        moved = argument.expand(info.batch_size, *argument.shape) if dim is None else argument.movedim(dim, 0)
        folded.append(moved.expand(-1, batch, *moved.shape[2:]).flatten(0, 1))
    outputs = operator(*folded)
    batched = tuple(0 if t.dim() > 1 else None for t in outputs)  # no gradient of the mask: an empty placeholder
    return tuple(
        t if b is None else t.unflatten(0, (info.batch_size, batch)) for t, b in zip(outputs, batched)
    ), batched


@attention.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
    if args[4] is not None:
        return _one_by_one(attention, info, in_dims, args)
    if in_dims[0] is None and in_dims[1] is None and in_dims[2] is None:  # only the mask is mapped
        return _one_by_one(attention, info, in_dims, args)
    return _folded(attention, 3, info, in_dims, args)


@attention_backward.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
    if args[5] is not None or args[-1] or all(d is None for i, d in enumerate(in_dims) if i != 4):
        return _one_by_one(attention_backward, info, in_dims, args)
    return _folded(attention_backward, 4, info, in_dims, args)
