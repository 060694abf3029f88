"""The operators under ``vmap``: rows are rows, whichever sample they are of, so a batch is folded into them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blackbelt.reference.kernels import _operators as operators

InDims = tuple["int | None", ...]


def _one_by_one(operator: Any, info: Any, in_dims: InDims, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """Call the operator for every sample: where a vector is each sample's own, or a sum over its rows is wanted."""
    samples = [
        operator(*(a if d is None else a.select(d, i) for a, d in zip(arguments, in_dims)))
        for i in range(info.batch_size)
    ]
    if isinstance(samples[0], Tensor):
        return torch.stack(samples), 0
    outputs = tuple(torch.stack(column) for column in zip(*samples))
    return outputs, (0,) * len(outputs)


def _folded(operator: Any, by_row: int, info: Any, in_dims: InDims, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """Call the operator once: the first ``by_row`` arguments have rows, the others are shared by all samples."""
    folded = [
        (a.expand(info.batch_size, *a.shape) if d is None else a.movedim(d, 0)).flatten(0, 1)
        for a, d in zip(arguments[:by_row], in_dims)
    ]
    result = operator(*folded, *arguments[by_row:])
    outputs = (result,) if isinstance(result, Tensor) else result
    rows = folded[0].size(0) // info.batch_size
    batched = tuple(t.unflatten(0, (info.batch_size, rows)) for t in outputs)
    return (batched[0], 0) if isinstance(result, Tensor) else (batched, (0,) * len(batched))


def _register(operator: Any, by_row: int) -> None:
    """Fold where the first ``by_row`` arguments are all that is mapped, and no output is a sum over rows."""

    @operator.register_vmap  # type: ignore[untyped-decorator]
    def _(info: Any, in_dims: InDims, *arguments: Any) -> tuple[Any, Any]:
        if not by_row or any(d is not None for d in in_dims[by_row:]):
            return _one_by_one(operator, info, in_dims, arguments)
        return _folded(operator, by_row, info, in_dims, arguments)


_register(operators.bias_gelu, 1)
_register(operators.bias_gelu_backward, 0)
_register(operators.softmax, 1)
_register(operators.softmax_backward, 2)
_register(operators.rms_norm, 1)
_register(operators.rms_norm_backward, 0)
_register(operators.cross_entropy, 2)
_register(operators.cross_entropy_backward, 4)
_register(operators.matmul, 1)
