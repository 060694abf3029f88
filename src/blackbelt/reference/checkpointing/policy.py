"""Which operators' outputs are kept rather than computed again.

A policy is asked for every operator that runs below autograd, once, in forward: ``policy(torch.ops.aten.mm.default)``.
Outputs it wants are kept; the rerun, which calls the same operators in the same order, is given them instead.
Operators that change an argument or return a view of one are always run: their output is no value of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from blackbelt.reference.checkpointing.mismatch import CheckpointError
from blackbelt.reference.checkpointing.state import Surroundings

Policy = Callable[[Any], bool]

_PRODUCTS = "addbmm addmm addmv baddbmm bmm convolution dot mm mv _grouped_mm _scaled_mm"
_ATTENTION = "flash_attention flash_attention_for_cpu efficient_attention cudnn_attention"  # of fused kernels
_MATMULS = {*_PRODUCTS.split(), *(f"_scaled_dot_product_{kind}" for kind in _ATTENTION.split())}


def keep_matmuls(operator: Any) -> bool:
    """Keep the outputs of matrix products, convolutions and fused attention; run everything else again.

    These do most of the arithmetic; what lies between them (norms, activations, dropout) does little of it and
    holds most of the bytes.

    >>> keep_matmuls(torch.ops.aten.addmm.default), keep_matmuls(torch.ops.aten.gelu.default)
    (True, False)
    """
    namespace, _, name = operator.name().partition("::")
    return namespace == "aten" and name.partition(".")[0] in _MATMULS


class _Kept:
    """An operator's outputs, and the RNG state it left behind where it drew random numbers."""

    def __init__(self, outputs: Any, rng: Surroundings | None) -> None:
        self.outputs = tree_map(_alias, outputs)
        self.versions = _versions(self.outputs)
        self.rng = rng

    def replay(self, operator: Any) -> Any:
        if _versions(self.outputs) != self.versions:
            raise CheckpointError(
                f"the policy keeps the output of {operator}, and an operator that came later changed it in place: its "
                f"old values are gone. Use the out-of-place form (e.g. `relu` for `relu_`), or leave {operator} to "
                f"the rerun."
            )
        if self.rng is not None and self.rng.states is not None:
            self.rng.set_rng()
        return tree_map(_alias, self.outputs)


Call = tuple[Any, "_Kept | None"]  # the operator, and its outputs where they are kept
_NO_CALL: Call = (None, None)


class _Mode(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or entering it imports Dynamo, which takes seconds


class Keeping(_Mode):
    """Around forward: asks the policy and keeps what it wants. ``calls`` has an entry for every operator that ran."""

    def __init__(self, policy: Policy, *, rng: bool) -> None:
        super().__init__()
        self.policy = policy
        self.rng = rng
        self.calls: list[Call] = []
        self.paused = False  # while a backward inside the function reruns it

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if not (self.paused or _is_ignored(func)):
            keeps = _has_own_outputs(func) and self.policy(func)
            drew = self.rng and torch.Tag.nondeterministic_seeded in func.tags
            rng = Surroundings(tree_leaves((args, kwargs))) if keeps and drew else None
            self.calls.append((func, _Kept(outputs, rng) if keeps else None))
        return outputs

    def replaying(self) -> Replaying:
        """Return the mode for a rerun."""
        return Replaying(self)


class Replaying(_Mode):
    """Around a rerun: the kept outputs instead of a computation, in the order of the calls."""

    def __init__(self, forward: Keeping) -> None:
        super().__init__()
        self.forward = forward
        self.num_calls = 0

    def __enter__(self) -> Any:
        self.forward.paused = True
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        self.forward.paused = False
        super().__exit__(*exception)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if _is_ignored(func):
            return func(*args, **(kwargs or {}))
        number, self.num_calls = self.num_calls, self.num_calls + 1
        expected, kept = self.forward.calls[number] if number < len(self.forward.calls) else _NO_CALL
        if expected is not func:
            raise CheckpointError(
                f"the rerun of a checkpointed function went another way than its forward: operator {number} was "
                f"{expected or 'none'}, and is {func} now. With a policy the operators must come in the same order."
            )
        return func(*args, **(kwargs or {})) if kept is None else kept.replay(func)


def _is_ignored(operator: Any) -> bool:
    """Checkpoints detach what they save, differently often in forward and in a rerun."""
    return operator is torch.ops.aten.detach.default


def _has_own_outputs(operator: Any) -> bool:
    schema = operator._schema  # noqa: SLF001  # has no public name
    return not schema.is_mutable and all(value.alias_info is None for value in schema.returns)


def _alias(value: Any) -> Any:
    """The same memory and version in a tensor of its own: autograd writes its grad_fn into what it is given."""
    if not isinstance(value, torch.Tensor):
        return value
    # Below autograd versions are not passed on to an alias unless this layer takes part again.
    with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.ADInplaceOrView, False):  # noqa: SLF001  # no public name
        alias: torch.Tensor = value.detach()
        return alias


def _versions(outputs: Any) -> list[int]:
    return [t._version for t in tree_leaves(outputs) if isinstance(t, torch.Tensor)]  # noqa: SLF001  # no public name
