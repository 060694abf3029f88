"""The softmax step of a tile as one compiled loop: the exponentials and their sum in one pass over the tile."""

from __future__ import annotations

import functools
import math
import threading

import torch
import torch.fx._symbolic_trace as tracing
from torch import Tensor

from blackbelt.reference.attention._eager import SoftmaxStep

__all__ = ["compiled_step"]


@functools.cache
def compiled_step() -> SoftmaxStep:
    """Return the compiled step. The first call of each kind of shape compiles it: some tens of seconds when cold."""
    step: SoftmaxStep = torch.compile(_step, dynamic=True, fullgraph=True)
    return step if hasattr(tracing, "_is_fx_tracing_tls") else _one_at_a_time(step)


def _step(scores: Tensor, maximum: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do what ``softmax_step`` does, into a new tile.

    In place, Inductor of PyTorch 2.9 writes the exponentials first and then takes the exponentials of these for the
    sum; later versions sum first, in a loop of its own that computes every exponential a second time.
    """
    new_maximum = torch.maximum(maximum, scores.amax(-1, keepdim=True))
    shift = new_maximum.masked_fill(new_maximum == -math.inf, 0.0)
    exponentials = torch.exp2(scores - shift)
    correction = torch.exp2(maximum - shift)
    new_total = torch.addcmul(exponentials.sum(-1, keepdim=True), total, correction)
    return exponentials, new_maximum, new_total, correction


def _one_at_a_time(step: SoftmaxStep) -> SoftmaxStep:
    """Where the flag of FX's tracer belongs to all threads, none may run compiled code while another one compiles.

    https://github.com/pytorch/pytorch/issues/126024
    """
    lock = threading.Lock()

    def locked(scores: Tensor, maximum: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with lock:
            return step(scores, maximum, total)

    return locked
