"""What several katas of this lesson use."""

from __future__ import annotations

import torch

from blackbelt.dojo.strategies import numbers


def leaf(*shape: int, seed: int = 0) -> torch.Tensor:
    return numbers(shape, seed=seed).requires_grad_()
