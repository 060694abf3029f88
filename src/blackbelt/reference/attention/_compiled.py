"""The softmax step of a tile as one compiled loop: the exponentials and their sum in one pass over the tile."""

from __future__ import annotations

import functools

import torch

from blackbelt.reference.attention._eager import SoftmaxStep, softmax_step

__all__ = ["compiled_step"]


@functools.cache
def compiled_step() -> SoftmaxStep:
    """Return the compiled step. The first call of each kind of shape compiles it: some tens of seconds when cold."""
    return torch.compile(softmax_step, dynamic=True, fullgraph=True)
