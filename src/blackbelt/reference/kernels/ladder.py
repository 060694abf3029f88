"""The way from the formula to the exported function, one idea a rung.

============ ========================================================================================================
bias_gelu    ``formula`` PyTorch operators; ``loop`` fused; ``vectors``; ``inlined`` calls nothing; ``threads``;
             ``exported`` streams its stores
softmax      ``formula``; ``loop`` fused; ``online`` reads once less; ``vectors``; ``threads``; ``exported``
matmul       ``naive`` three loops; ``tiles`` that stay in the cache; ``registers`` that hold the sums (the exported one
             on a CPU); ``tensor_cores`` on a GPU
============ ========================================================================================================

The rungs are in ``csrc/cpu/ladder.cpp`` and ``csrc/cpu/matmul.cpp``, built on first use. They show forward only, on the
CPU (those of matmul on a GPU too), and have no derivative. ``loop`` and ``online`` of softmax add a row up in one
running sum, whose error grows with the row; from ``vectors`` on there are many sums, and the error is PyTorch's.

>>> x, bias = torch.randn(3, 4), torch.randn(4)
>>> torch.testing.assert_close(RUNGS["bias_gelu"]["formula"](x, bias), torch.nn.functional.gelu(x + bias))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blackbelt.reference.kernels import _api
from blackbelt.reference.kernels import _arguments as check
from blackbelt.reference.kernels._backends import backend_module


def formula_bias_gelu(input: Tensor, bias: Tensor) -> Tensor:  # noqa: A002  (PyTorch's name for it)
    """Rung 1: every operator of the formula reads its input from memory and writes its result there."""
    value = input + bias
    return value * (0.5 * (1 + torch.erf(value / math.sqrt(2))))


def loop_bias_gelu(input: Tensor, bias: Tensor) -> Tensor:  # noqa: A002
    """Rung 2: one fused loop, one number at a time; what the operators passed on in memory stays in a register."""
    return _bias_gelu(input, bias, "loop")


def vectors_bias_gelu(input: Tensor, bias: Tensor) -> Tensor:  # noqa: A002
    """Rung 3: a register of numbers at a time, with an error function made for vectors."""
    return _bias_gelu(input, bias, "vectors")


def inlined_bias_gelu(input: Tensor, bias: Tensor) -> Tensor:  # noqa: A002
    """Rung 4: a normal distribution of few instructions in the loop, where a call would put registers on the stack."""
    return _bias_gelu(input, bias, "inlined")


def threads_bias_gelu(input: Tensor, bias: Tensor) -> Tensor:  # noqa: A002
    """Rung 5: rows are shared out among threads, which depend on nothing of each other."""
    return _bias_gelu(input, bias, "threads")


def exported_bias_gelu(input: Tensor, bias: Tensor) -> Tensor:  # noqa: A002
    """Rung 6: stores of a large result go past the caches; threads share long rows where there are few."""
    return _api.bias_gelu(input, bias, backend="cpp")


def formula_softmax(input: Tensor) -> Tensor:  # noqa: A002
    """Rung 1: maximum, difference, exponential, sum and quotient, each an operator that reads and writes memory."""
    if not input.numel():  # amax refuses a row of nothing
        return torch.empty_like(input)
    exponentials = torch.exp(input - input.amax(-1, keepdim=True))
    return exponentials / exponentials.sum(-1, keepdim=True)


def loop_softmax(input: Tensor) -> Tensor:  # noqa: A002
    """Rung 2: a fused loop for each row, which reads it three times: for its maximum, its sum and its result."""
    return _softmax(input, "loop")


def online_softmax(input: Tensor) -> Tensor:  # noqa: A002
    """Rung 3: maximum and sum in one pass; the sum is scaled when a larger value comes."""
    return _softmax(input, "online")


def vectors_softmax(input: Tensor) -> Tensor:  # noqa: A002
    """Rung 4: a register of numbers at a time; the sum is scaled once for a chunk of the row, not for every number."""
    return _softmax(input, "vectors")


def threads_softmax(input: Tensor) -> Tensor:  # noqa: A002
    """Rung 5: rows are shared out among threads."""
    return _softmax(input, "threads")


def exported_softmax(input: Tensor) -> Tensor:  # noqa: A002
    """Rung 6: exponentials of a row that fits the cache are kept there, not taken twice; large results are streamed."""
    return _api.softmax(input, backend="cpp")


def naive_matmul(a: Tensor, b: Tensor, *, backend: str = "auto") -> Tensor:
    """Rung 1: three loops, as it is defined; every number of ``a`` and ``b`` is read from memory again and again."""
    return _matmul(a, b, "naive", backend)


def tiles_matmul(a: Tensor, b: Tensor, *, backend: str = "auto") -> Tensor:
    """Rung 2: tile by tile, so that what is read is used many times before it leaves the cache."""
    return _matmul(a, b, "tiles", backend)


def registers_matmul(a: Tensor, b: Tensor, *, backend: str = "auto") -> Tensor:
    """Rung 3: a block of sums stays in registers, fed from tiles that are packed in the order they are read in."""
    return _matmul(a, b, "registers", backend)


def tensor_cores_matmul(a: Tensor, b: Tensor, *, backend: str = "auto") -> Tensor:
    """Rung 4, on a GPU in half precision: units that multiply small matrices at once."""
    return _matmul(a, b, "tensor_cores", backend)


RUNGS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "bias_gelu": {
        "formula": formula_bias_gelu,
        "loop": loop_bias_gelu,
        "vectors": vectors_bias_gelu,
        "inlined": inlined_bias_gelu,
        "threads": threads_bias_gelu,
        "exported": exported_bias_gelu,
    },
    "softmax": {
        "formula": formula_softmax,
        "loop": loop_softmax,
        "online": online_softmax,
        "vectors": vectors_softmax,
        "threads": threads_softmax,
        "exported": exported_softmax,
    },
    "matmul": {
        "naive": naive_matmul,
        "tiles": tiles_matmul,
        "registers": registers_matmul,
        "tensor_cores": tensor_cores_matmul,
    },
}


def _built(tensor: Tensor) -> Any:
    backend_module("cpp", tensor)  # builds it, or says what is missing
    return torch.ops.blackbelt_cpu


def _bias_gelu(input: Tensor, bias: Tensor, rung: str) -> Tensor:  # noqa: A002
    check.check_tensor("input", input)
    check.check_columns("bias", bias, "input", input)
    rows = _rows(input)
    out: Tensor = _built(input).bias_gelu_rung(rows, bias.detach().contiguous(), rung)
    return out.reshape(input.shape)


def _softmax(input: Tensor, rung: str) -> Tensor:  # noqa: A002
    check.check_tensor("input", input)
    out: Tensor = _built(input).softmax_rung(_rows(input), rung)
    return out.reshape(input.shape)


def _rows(tensor: Tensor) -> Tensor:
    columns = tensor.size(-1)
    rows = tensor.shape[:-1].numel()  # not −1, which nothing can be inferred from where there are no columns
    return tensor.detach().reshape(rows, columns).contiguous()


def _matmul(a: Tensor, b: Tensor, rung: str, backend: str) -> Tensor:
    check.check_backend(backend)
    check.check_tensor("a", a, dims=2, layout="(M, K)")
    check.check_tensor("b", b, dims=2, layout="(K, N)")
    check.check_matches("b", b, "a", a)
    if a.size(1) != b.size(0):
        raise ValueError(f"a has {a.size(1)} columns and b {b.size(0)} rows; they must be equal")
    module = backend_module(backend, a)
    if rung not in module.RUNGS:
        allowed = ", ".join(map(repr, module.RUNGS))
        raise ValueError(f"rung is {rung!r}; backend {backend!r} has {allowed} where the tensors are ({a.device})")
    out: Tensor = module.matmul(a.detach().contiguous(), b.detach().contiguous(), rung)
    return out
