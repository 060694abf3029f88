"""Layers that do something else in training mode."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy


def drops(module: nn.Module) -> bool:
    """Return whether a module itself drops values in training mode."""
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0 and module.num_layers > 1
    return isinstance(module, nn.MultiheadAttention) and module.dropout > 0


def normalizes(module: nn.Module) -> bool:
    """Return whether a module itself is a BatchNorm that keeps running statistics."""
    return isinstance(module, _BatchNorm) and module.running_mean is not None and not is_lazy(module.running_mean)


def is_pristine(module: nn.Module) -> bool:
    """Return whether a BatchNorm's running statistics are still the initial ones: mean 0, variance 1."""
    mean, variance = module.running_mean, module.running_var
    return not bool(mean.any()) and bool((variance == 1).all())  # type: ignore[union-attr,operator]
