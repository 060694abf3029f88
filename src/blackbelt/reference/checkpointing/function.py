"""`checkpoint`: run a function without keeping what its backward needs, and run it again when backward comes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch.utils._pytree import tree_flatten

from blackbelt.reference.checkpointing.frame import Frame, SavedInputs
from blackbelt.reference.checkpointing.policy import Keeping, Policy
from blackbelt.reference.checkpointing.state import Surroundings

Result = TypeVar("Result")


def checkpoint(
    function: Callable[..., Result],
    *args: Any,
    preserve_rng_state: bool = True,
    policy: Policy | None = None,
    **kwargs: Any,
) -> Result:
    """Return ``function(*args, **kwargs)``, holding its arguments until backward instead of its saved tensors.

    The first saved tensor that backward asks for reruns the function, up to the last tensor that is still needed.
    Gradients are those without a checkpoint, to the bit: random numbers (unless ``preserve_rng_state=False``), autocast
    and the default device are as they were in forward, and the caller's are left alone. Works with any arguments and
    results, with checkpoints inside checkpoints, ``retain_graph``, ``create_graph``, ``torch.autograd.grad``, a
    backward inside the function, and hooks on saved tensors around it. Without grad mode it is a plain call.

    ``policy(operator) -> bool`` says for an operator below autograd (``torch.ops.aten.mm.default``) whether its outputs
    are kept and not computed again; :func:`keep_matmuls` is one. Operators that write into an argument or return a view
    are always rerun. Kept outputs are held as they are, whatever hooks on saved tensors surround the checkpoint.

    Costs the memory of the tensor arguments between forward and backward, 5 KB where random numbers were drawn, and one
    more forward in backward. What a function changes it changes twice: BatchNorm counts a batch of training twice, as
    it does with ``torch.utils.checkpoint``. Generators of Python and NumPy are not brought back.

    Raises TypeError where ``function`` or ``policy`` cannot be called. Backward raises :class:`CheckpointError` where
    the rerun saves other tensors than forward did (shape, dtype, device), where an input or a parameter was changed in
    place in between, and where an output that the policy keeps was.

    >>> x = torch.randn(4, requires_grad=True)
    >>> checkpoint(lambda x: x.sin().exp(), x).sum().backward()
    >>> torch.equal(x.grad, x.sin().exp().detach() * x.cos().detach())
    True
    """
    if not callable(function):
        raise TypeError(f"function must be callable, not {function!r}; pass its arguments after it: checkpoint(f, x)")
    if policy is not None and not callable(policy):
        raise TypeError(
            f"policy must be None or a callable that takes an operator and returns a bool, such as keep_matmuls, "
            f"not {policy!r}"
        )
    if not torch.is_grad_enabled():
        return function(*args, **kwargs)
    leaves, structure = tree_flatten((args, kwargs))
    inputs = SavedInputs(leaves, structure)
    surroundings = Surroundings(leaves, rng=preserve_rng_state)
    keeping = Keeping(policy, rng=preserve_rng_state) if policy is not None else None
    forward: AbstractContextManager[Any] = keeping or nullcontext()
    frame = Frame(function, inputs, surroundings, keeping.replaying if keeping else nullcontext)
    with frame.hooks(), forward:
        result = function(*args, **kwargs)
    surroundings.forget_unused_rng()
    return result
