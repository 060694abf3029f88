"""What several katas of this lesson use."""

from __future__ import annotations

import copy
import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from blackbelt.dojo.strategies import numbers


@dataclass(frozen=True)
class Formula:
    """A function of one tensor that shows its code where it is printed: ``lambda x: x.sin().sum()``."""

    code: str

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return eval(self.code, {"torch": torch, "x": x})  # type: ignore[no-any-return]  # noqa: S307  # our own code

    def __repr__(self) -> str:
        return f"lambda x: {self.code}"


def network(*sizes: int, frozen: int = 0, seed: int = 0) -> nn.Sequential:
    """Return linear layers with a tanh between them, numbers from the seed, the first ``frozen`` layers frozen."""
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(fan_in, fan_out)
        with torch.no_grad():
            layer.weight.copy_(numbers((fan_out, fan_in), seed=seed + 2 * index) / fan_in**0.5)
            layer.bias.copy_(numbers((fan_out,), seed=seed + 2 * index + 1) / 4)
        layers += [layer.requires_grad_(index >= frozen), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class HalfwayThroughAStep(nn.Module):
    """A module whose parameters hold gradients already, and so do its copies: ``copy.deepcopy`` drops ``.grad``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.module(*inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> HalfwayThroughAStep:
        return HalfwayThroughAStep(copy.deepcopy(self.module, memo))


def load_forward_mode() -> None:
    """Use forward mode once: torch 2.15 then scripts formulas of its own and warns that scripting is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))
