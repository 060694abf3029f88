"""The function that is exported."""

from __future__ import annotations

import torch
from torch import Tensor

from blackbelt.reference.attention._arguments import prepare
from blackbelt.reference.attention._backends import choose_backend
from blackbelt.reference.attention._operator import Attention


def memory_efficient_attention(  # noqa: PLR0913  (the signature of PyTorch's own function)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Return ``softmax(scale · query keyᵀ + mask) value`` without ever holding the matrix of scores.

    The arguments mean what they mean to ``torch.nn.functional.scaled_dot_product_attention``: query (…, H, L, D), key
    (…, K, S, D) and value (…, K, S, V) of one floating dtype, or without heads (L, D); K equals H, or is 1, or divides
    H where ``enable_gqa`` is set. ``attn_mask`` broadcasts to (…, H, L, S): bool, True where a key takes part, or
    floating point, added to the scaled scores. ``is_causal`` lets query i see the keys 0 … i, counted from the top left
    whatever the lengths. A query that sees nothing gives 0, and gradient 0. ``scale`` is 1 / sqrt(D) unless given.

    Differs from it where it is stricter: ``scale`` may not be negative, ``dropout_p`` must be below 1, and a NaN in the
    query gives NaN (PyTorch's CPU kernel gives 0).

    Memory, forward and backward together: the result, one number per query, the gradients, and tiles of a fixed size.
    Nothing grows with L · S but the mask you pass, and its gradient where it requires one. Computes in float32, or
    float64 for float64 inputs, whatever the input's dtype. Draws one number from the global generator where
    ``dropout_p`` is above 0; the backward makes the same noise from it. Under autocast the inputs are cast as for
    PyTorch's function. No second derivative: it raises.

    ``backend``: ``"eager"`` runs PyTorch operators tile by tile, in every mode and on any device; ``"cpp"`` runs
    kernels in C++ on the CPU (float32, no mask but the causal one, no dropout, head sizes that are multiples of 32),
    compiled on first use; ``"compiled"`` fuses the softmax of a tile with torch.compile; ``"triton"`` runs the kernels
    for the GPU; ``"auto"`` takes cpp on a CPU and Triton on a GPU where they can run, and eager otherwise. Raises
    ValueError or TypeError naming the argument that does not fit, and RuntimeError where the backend asked for is
    absent.

    >>> query, key, value = (torch.randn(2, 4, 1000, 64) for _ in range(3))
    >>> ours = memory_efficient_attention(query, key, value, is_causal=True)
    >>> theirs = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    >>> torch.testing.assert_close(ours, theirs)
    """
    if isinstance(query, Tensor) and torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = (
            t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64 else t
            for t in (query, key, value)
        )
    arguments = prepare(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    chosen = choose_backend(backend, *arguments[:4], dropout_p)
    seed = torch.randint(1 << 62, (), dtype=torch.int64) if dropout_p else None
    out: Tensor
    out, _ = Attention.apply(
        arguments.query,
        arguments.key,
        arguments.value,
        arguments.mask,
        seed,
        dropout_p,
        is_causal,
        arguments.scale,
        chosen,
    )
    return out.reshape(arguments.shape)
