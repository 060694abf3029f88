"""The way to `checkpoint`, one idea a rung. Each is complete, and each is wrong somewhere, as its docstring says.

1. :func:`rerun_in_function`: an ``autograd.Function`` whose backward runs the function again.
2. :func:`rerun_on_hooks`: saved tensors are replaced where autograd saves them.
3. :func:`rerun_until_enough`: the rerun stops when the last saved tensor is there.
4. :func:`rerun_as_it_was`: random numbers, autocast and the default device of forward; checkpoints in checkpoints.
5. ``checkpoint(…, policy=…)``: some outputs are kept; tickets that die; errors that name what differs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_flatten

from blackbelt.reference.checkpointing.frame import Enough, SavedInputs
from blackbelt.reference.checkpointing.state import Surroundings


def rerun_in_function(function: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
    """Rung 1: forward without a graph; backward builds the graph and runs a backward of its own through it.

    Its limits: the result needs grad only where a tensor argument does, so parameters alone are not enough; one tensor
    result; no ``torch.autograd.grad`` and no ``create_graph``; the inner backward adds to ``.grad`` of the parameters
    even where only others were asked for; new random numbers in the rerun; the whole function runs again.
    """
    result: torch.Tensor = _RerunInBackward.apply(function, *args)
    return result


class _RerunInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        ctx.function = function
        ctx.others = [None if isinstance(arg, torch.Tensor) else arg for arg in args]
        ctx.places = [i for i, arg in enumerate(args) if isinstance(arg, torch.Tensor)]
        ctx.save_for_backward(*(args[i] for i in ctx.places))
        return function(*args)  # inside a Function's forward there is no grad mode, so nothing is saved

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        args = list(ctx.others)
        for place, tensor in zip(ctx.places, ctx.saved_tensors):
            args[place] = tensor.detach().requires_grad_(tensor.requires_grad)
        with torch.enable_grad():
            result = ctx.function(*args)
        torch.autograd.backward(result, grad_outputs)
        return (None, *(arg.grad if isinstance(arg, torch.Tensor) else None for arg in args))


def rerun_on_hooks(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Rung 2: autograd is given a position instead of every tensor it saves, and asks for the tensor in backward.

    The graph is the one of a plain call, so ``torch.autograd.grad``, ``create_graph``, ``retain_graph``, several
    results and parameters without a tensor argument work. Its limits: the whole function runs again, also what nobody
    needs; new random numbers; the arguments are held where no outer hook sees them, so a checkpoint inside a checkpoint
    saves nothing of them; what a partial backward did not ask for stays; and whatever the rerun saves is believed.
    """

    def rerun() -> None:
        with torch.enable_grad():
            function(*args, **kwargs)

    return _on_hooks(rerun, lambda: function(*args, **kwargs), stops_early=False)


def rerun_until_enough(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Rung 3: rung 2, and the rerun is left by an exception once the last tensor is saved.

    A last ``linear`` is not multiplied again: what its backward needs is its input. The other limits of rung 2 stay.
    """

    def rerun() -> None:
        with torch.enable_grad():
            function(*args, **kwargs)

    return _on_hooks(rerun, lambda: function(*args, **kwargs), stops_early=True)


def rerun_as_it_was(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Rung 4: rung 3 in the surroundings of forward, with arguments saved as autograd saves tensors.

    Dropout draws the same numbers and the caller's generator is left alone; autocast casts as it did; an outer
    checkpoint sees the arguments of an inner one and recomputes them too; an argument changed in place is an error.
    What is left to `checkpoint`: tickets that die with their part of the graph, so that nothing is recomputed or held
    for them; several backward passes at a time; a comparison of rerun and forward; a policy.
    """
    leaves, structure = tree_flatten((args, kwargs))
    inputs, surroundings = SavedInputs(leaves, structure), Surroundings(leaves)

    def rerun() -> None:
        again, named = inputs.get()
        with surroundings.restored(), torch.enable_grad():
            function(*again, **named)

    # A lambda that is dropped with this call: the hooks must not hold the arguments themselves.
    return _on_hooks(rerun, lambda: function(*args, **kwargs), stops_early=True)


def _on_hooks(rerun: Callable[[], None], forward: Callable[[], Any], *, stops_early: bool) -> Any:
    num_saved = 0
    recomputed: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> int:  # noqa: ARG001  # to let go of it is the point
        nonlocal num_saved
        num_saved += 1
        return num_saved - 1

    def save_again(tensor: torch.Tensor) -> None:
        recomputed[len(recomputed)] = tensor.detach()  # with its graph it would hold itself
        if stops_early and len(recomputed) == num_saved:
            raise Enough

    def unpack(position: int) -> torch.Tensor:
        if position not in recomputed:
            recomputed.clear()
            with saved_tensors_hooks(save_again, _never), contextlib.suppress(Enough):
                rerun()
        return recomputed.pop(position)

    with saved_tensors_hooks(pack, unpack):
        return forward()


def _never(_: None) -> torch.Tensor:
    raise AssertionError("the graph of a rerun is never walked")
