"""Functions that are wrong in what they keep, in other modes and in other memory, each with one mistake."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.autograd import Function

# --- Wrong: what is kept ----------------------------------------------------------------------------------------------


class InputOnContext(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return x * x

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * 2 * ctx.x


class OutputOnContext(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.y = x.exp()
        return ctx.y

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.y


class OutputOnContextUnused(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.y = x * 3
        return ctx.y

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output.expand(ctx.y.shape) * 3


class KeptInList(Function):
    calls: list[Any] = []  # noqa: RUF012  # a class attribute that grows: the mistake

    @staticmethod
    def forward(ctx, x):
        KeptInList.calls.append(ctx)
        return x * 3

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * 3


class IndexOnContext(Function):
    @staticmethod
    def forward(ctx, table, index):
        ctx.index, ctx.rows = index, table.shape[0]
        return table[index]

    @staticmethod
    def backward(ctx, grad_output):
        zeros = grad_output.new_zeros((ctx.rows, *grad_output.shape[1:]))
        return zeros.index_add(0, ctx.index, grad_output), None


class WritesToInput(Function):
    @staticmethod
    def forward(ctx, x):
        x.mul_(2)
        return x

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * 2


class WritesThroughData(Function):
    @staticmethod
    def forward(ctx, x):
        x.data.clamp_(min=0)
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * 2


def through_numpy(x):
    return torch.from_numpy(np.sin(x.detach().numpy()))


class Counter(Function):
    calls = 0

    @staticmethod
    def forward(ctx, x):
        Counter.calls += 1
        return x * Counter.calls

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * Counter.calls


# --- Wrong: second derivatives and other modes ------------------------------------------------------------------------


class DetachesInBackward(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * 3 * x.detach() ** 2


class NoGradInBackward(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            return grad_output * 3 * x**2


class SavesIntermediates(Function):
    """The example of PyTorch's own tutorial on double backward, without its remedy."""

    @staticmethod
    def forward(ctx, x):
        up, down = x.exp(), (-x).exp()
        ctx.save_for_backward(x, up, down)
        return (up - down) / 2

    @staticmethod
    def backward(ctx, grad_output):
        x, up, down = ctx.saved_tensors
        return grad_output * (up + down) / 2 + 0 * x


class DetachesHalf(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * 3 * x.detach() * x


class DetachesOneInput(Function):
    """One of two second derivatives is there, so that gradgradcheck alone passes."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx, grad_output):
        x, y = ctx.saved_tensors
        return grad_output * y, grad_output.detach() * x.detach()


class WrongJvp(Function):
    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * x.cos()

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return tangent * x.sin()


class WrongVmap(Function):
    @staticmethod
    def forward(x):
        return x.cumsum(0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output.flip(0).cumsum(0).flip(0)

    @staticmethod
    def vmap(info, in_dims, x):
        return WrongVmap.apply(x), in_dims[0]


# --- Wrong: memory ----------------------------------------------------------------------------------------------------


class ReadsStorageOrder(Function):
    @staticmethod
    def forward(ctx, x):
        return torch.as_strided(x, x.shape, torch.empty(x.shape).stride()) * 2

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * 2


class ViewsInput(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return x.view(-1) * 2

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output.reshape(ctx.shape) * 2


class ViewsGradOutput(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return (grad_output.view(-1) * 2 * x.reshape(-1)).view(x.shape)


class BorrowsInput(Function):
    """Shifts its input in place and back again, to save a copy."""

    @staticmethod
    def forward(ctx, x):
        shift = x.max().clone()
        x.data.sub_(shift)
        y = x.exp() * shift.exp()
        x.data.add_(shift)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad_output):
        (y,) = ctx.saved_tensors
        return grad_output * y


class ReducesNothing(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        scale = x.abs().amax()
        return grad_output * 2 * (x / scale) * scale


def relu(x):
    return torch.where(x > 0, x, torch.zeros_like(x))
