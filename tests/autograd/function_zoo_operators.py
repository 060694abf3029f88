"""Custom operators, right and wrong."""

from __future__ import annotations

import torch


@torch.library.custom_op("blackbelt_zoo::cube", mutates_args=())
def cube(x: torch.Tensor, scale: float) -> torch.Tensor:
    return scale * x**3


@cube.register_fake
def _(x, scale):
    return torch.empty_like(x)


def _save_x(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.scale = inputs[1]


cube.register_autograd(
    lambda ctx, grad: (grad * 3 * ctx.scale * ctx.saved_tensors[0] ** 2, None), setup_context=_save_x
)


@torch.library.custom_op("blackbelt_zoo::unregistered", mutates_args=())
def unregistered(x: torch.Tensor) -> torch.Tensor:
    return x.exp()


@torch.library.custom_op("blackbelt_zoo::no_fake", mutates_args=())
def no_fake(x: torch.Tensor) -> torch.Tensor:
    return x * 2


no_fake.register_autograd(lambda ctx, grad: grad * 2)


@torch.library.custom_op("blackbelt_zoo::ignores", mutates_args=())
def ignores(x: torch.Tensor) -> torch.Tensor:
    return x * x


ignores.register_fake(torch.empty_like)
ignores.register_autograd(
    lambda ctx, grad: 2 * ctx.saved_tensors[0],
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)
