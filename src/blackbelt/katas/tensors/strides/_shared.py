"""What several katas of this lesson use."""

from __future__ import annotations

import math

import torch


def count(*shape: int) -> torch.Tensor:
    return torch.arange(float(math.prod(shape))).view(shape)
