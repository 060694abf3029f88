"""Functions to checkpoint, each hard in its own way, with the arguments to call them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # as everybody writes it
from torch.utils._python_dispatch import TorchDispatchMode

from blackbelt.reference.checkpointing import checkpoint
from blackbelt.reference.checkpointing.profile import record


@dataclass(frozen=True)
class Specimen:
    """``make()`` returns a function, its arguments and keyword arguments, and the parameters it uses."""

    make: Callable[[], tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[torch.Tensor]]]


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def of_module(module: nn.Module, *args: Any, **kwargs: Any):
    return module, args, kwargs, list(module.parameters())


def mlp_with_dropout():
    return of_module(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 3)), leaf(5, 6))


def batch_norm():
    return of_module(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()), leaf(4, 2, 6, 6))


def in_place_relu():
    return of_module(nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)), leaf(5, 6))


def only_parameters_need_grad():
    return of_module(nn.Sequential(nn.Linear(6, 4), nn.Tanh()), torch.randn(5, 6))


def several_outputs():
    def function(x, y):
        return x.exp() * y, {"sum": (x + y).sin(), "name": "no tensor"}, [x.detach(), None, y.tanh()]

    return function, (leaf(4), leaf(4)), {}, []


def other_arguments():
    def function(x, power, *, scale, flag, parts):
        return ((x**power).exp() * scale).tanh() + parts["a"][0].sin() * parts["b"] if flag else x

    return function, (leaf(4), 3), {"scale": leaf(4), "flag": True, "parts": {"a": [leaf(4)], "b": 2.5}}, []


def random_in_two_places():
    def function(x, generator):
        noise = torch.randn(x.shape, generator=generator)
        return F.dropout(x.sin() * noise, 0.3) * torch.rand_like(x) * x

    return function, (leaf(30), torch.Generator().manual_seed(7)), {}, []


def autocast_inside():
    module = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))

    def function(x):
        with torch.autocast("cpu", torch.bfloat16):
            return module(x)

    return function, (leaf(5, 6),), {}, list(module.parameters())


def attention():
    def function(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).sin()

    return function, tuple(leaf(2, 2, 5, 4) for _ in range(3)), {}, []


def views_and_writes():
    def function(x):
        y = x.sin()
        y[1:3].mul_(2)
        y.t()[0] = x[:, 0].exp()
        return y.cos() * y

    return function, (leaf(4, 4),), {}, []


def backward_inside():
    def function(x):
        y = x.sin().exp()
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return gradient.cos() * y

    return function, (leaf(5),), {}, []


def checkpoints_inside():
    inner = nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.4), nn.Tanh())

    def middle(x):
        return checkpoint(inner, x.sin()).exp() * x

    def function(x):
        return checkpoint(middle, checkpoint(middle, x)).cos()

    return function, (leaf(3, 5),), {}, list(inner.parameters())


def custom_function():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            (again,) = ctx.saved_tensors  # asks twice
            return grad_output * (x + again)

    return lambda x: Square.apply(x.exp()).sin(), (leaf(5),), {}, []


def lstm():
    return of_module(nn.LSTM(4, 5, num_layers=2, dropout=0.3), leaf(6, 2, 4))


ZOO = {
    function.__name__: Specimen(function)
    for function in (
        mlp_with_dropout,
        batch_norm,
        in_place_relu,
        only_parameters_need_grad,
        several_outputs,
        other_arguments,
        random_in_two_places,
        autocast_inside,
        attention,
        views_and_writes,
        backward_inside,
        checkpoints_inside,
        custom_function,
        lstm,
    )
}


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors in nested containers that need grad."""
    return [t for t in torch.utils._pytree.tree_leaves(value) if isinstance(t, torch.Tensor) and t.requires_grad]


def gradients(name: str, call: Callable[..., Any], *, drop: int = 0) -> list[torch.Tensor | None]:
    """Make a specimen from one seed, run it through ``call(function, *args, **kwargs)``, and return all gradients.

    ``drop`` results are let go of before backward. The last item is the state of the random number generator.
    """
    torch.manual_seed(0)
    function, args, kwargs, parameters = ZOO[name].make()
    torch.manual_seed(1)
    results = tensors_in(call(function, *args, **kwargs))[drop:]
    torch.rand(3)  # the caller goes on drawing
    wanted = [*tensors_in((args, kwargs)), *parameters]
    found = torch.autograd.grad(sum(r.float().square().sum() for r in results), wanted, allow_unused=True)
    return [*found, torch.get_rng_state()]


def same(found: list[torch.Tensor | None], expected: list[torch.Tensor | None]) -> bool:
    """Whether two lists of gradients are equal to the bit."""
    pairs = list(zip(found, expected, strict=True))
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


class Operators(TorchDispatchMode):
    """Names of the operators that run, without `detach`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is not torch.ops.aten.detach.default:
            self.names.append(func.name().removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def plain(function, *args, **kwargs):
    return function(*args, **kwargs)


def allocation_at_end(function: Callable[[], Any]) -> int:
    """Return the bytes that a call has allocated and not freed."""
    return record(function, cuda=False)[1]
