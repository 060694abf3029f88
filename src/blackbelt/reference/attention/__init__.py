"""Exact attention in memory that grows with the length, not with its square, and the ladder that leads to it.

:func:`memory_efficient_attention` has the signature and semantics of
``torch.nn.functional.scaled_dot_product_attention``. The rungs below it (:mod:`.ladder`) each add one idea.
"""

from blackbelt.reference.attention._api import memory_efficient_attention
from blackbelt.reference.attention.ladder import (
    RecomputedAttention,
    chunked_attention,
    naive_attention,
    recomputed_attention,
    skipping_attention,
)

__all__ = [
    "RecomputedAttention",
    "chunked_attention",
    "memory_efficient_attention",
    "naive_attention",
    "recomputed_attention",
    "skipping_attention",
]
