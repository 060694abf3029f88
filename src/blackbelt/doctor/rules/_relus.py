"""ReLU and its like after a layer: whose parameters they decide about, and whether anything passes."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from blackbelt.doctor.rules._losses import node_name, through_views

LAYERS = {
    "AddmmBackward0",
    "MmBackward0",
    "ConvolutionBackward0",
    "NativeBatchNormBackward0",
    "NativeLayerNormBackward0",
}
LAYERS |= {"CudnnBatchNormBackward0", "MkldnnConvolutionBackward0", "LinearBackward0", "NativeGroupNormBackward0"}
CLIPPING = {"relu", "relu_", "relu6", "clamp", "clamp_", "clamp_min", "clamp_min_", "hardtanh", "threshold"}
NODES = {"ReluBackward0", "HardtanhBackward0", "ClampBackward1", "ClampMinBackward0", "ThresholdBackward0"}
INPUTS = ("_saved_mat1", "_saved_self", "_saved_input")


def producer(name: str, result: Any) -> tuple[Any, list[Tensor]]:
    """Return the node of the layer before a ReLU, and its parameters, matrices first; nothing where it is no such."""
    if name not in CLIPPING or not isinstance(result, Tensor) or not result.requires_grad or not result.numel():
        return None, []
    if node_name(result.grad_fn) not in NODES:
        return None, []
    node = through_views(result.grad_fn.next_functions[0][0])  # type: ignore[union-attr]
    return (node, _leaves(node)) if node_name(node) in LAYERS else (None, [])


def _leaves(node: Any) -> list[Tensor]:
    """Return the parameters that go into a node, matrices first."""
    found: list[Tensor] = []
    for following, _ in node.next_functions:
        behind = through_views(following)
        if node_name(behind) == "AccumulateGrad":
            found.append(behind.variable)
    return sorted(found, key=lambda p: -p.dim())


def is_starved(node: Any) -> bool:
    """Return whether the input of a layer is zero, all of it."""
    with contextlib.suppress(RuntimeError):  # freed, or overwritten since
        for name in INPUTS:
            saved = getattr(node, name, None)
            if isinstance(saved, Tensor):
                return not bool(saved.any())
    return False


class Passing(TorchFunctionMode):
    """Counts the values, and those other than 0, that ReLU hands on after each layer, by ``id`` of its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[int, tuple[int, int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        node, parameters = producer(getattr(func, "__name__", ""), result)
        if parameters and not is_starved(node):
            values, passed = self.counts.get(id(parameters[0]), (0, 0))
            passed += int(torch.count_nonzero(result.detach()))
            self.counts[id(parameters[0])] = (values + result.numel(), passed)
        return result
