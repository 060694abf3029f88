"""What several katas of this lesson use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from blackbelt.dojo.strategies import numbers


def leaf(*shape: int, seed: int = 0) -> torch.Tensor:
    return numbers(shape, seed=seed).requires_grad_()


def function_of(
    forward: Callable[..., Any], backward: Callable[..., Any], setup_context: Callable[..., Any] | None = None
) -> Any:
    """Return an `autograd.Function` of these parts, so that a wrong solution takes three lines."""
    parts: dict[str, Any] = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    if setup_context is not None:
        parts |= {"setup_context": staticmethod(setup_context), "generate_vmap_rule": True}
    return type("Mine", (torch.autograd.Function,), parts)


def save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, torch.Tensor)))


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a backward as not differentiable."""
    return once_differentiable(backward)
