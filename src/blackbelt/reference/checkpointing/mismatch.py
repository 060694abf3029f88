"""When a rerun is not the same as the call it repeats: which tensor, what it was, what it is now, who saved it.

The comparison happens as the rerun saves each tensor, so the traceback of the error ends in the very line of the
checkpointed function where the two went different ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch


class CheckpointError(RuntimeError):
    """A rerun that cannot stand in for the call it repeats."""


class Signature:
    """What of a saved tensor is compared: shape, dtype and device, and of a leaf also whether it was changed."""

    __slots__ = ("address", "device", "dtype", "shape", "version")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape = tensor.shape
        self.dtype = tensor.dtype
        self.device = tensor.device
        self.address = self.version = -1
        if _is_of_leaf(tensor):  # a parameter: autograd's own check of versions ends where hooks begin
            self.address, self.version = _address(tensor), tensor._version  # noqa: SLF001  # has no public name

    def fits(self, tensor: torch.Tensor) -> bool:
        """Whether a rerun's tensor has the same shape, dtype and device."""
        return tensor.shape == self.shape and tensor.dtype == self.dtype and tensor.device == self.device

    def changed(self, tensor: torch.Tensor) -> bool:
        """Whether a rerun's tensor is the same leaf with other values."""
        if self.version < 0 or tensor._version == self.version:  # noqa: SLF001  # has no public name
            return False
        return _is_of_leaf(tensor) and _address(tensor) == self.address

    def __str__(self) -> str:
        return f"{self.dtype} {tuple(self.shape)} on {self.device}"


def _is_of_leaf(tensor: torch.Tensor) -> bool:
    """Whether this is a leaf or a view of one, as the transposed weight that `linear` saves."""
    base = tensor._base if tensor._is_view() else tensor  # noqa: SLF001  # have no public name
    return base is not None and base.is_leaf and base.requires_grad


def _address(tensor: torch.Tensor) -> int:
    return tensor.data_ptr() if tensor.layout is torch.strided and tensor.device.type != "meta" else id(tensor)


def different(position: int, expected: Signature, got: torch.Tensor, operator: str) -> CheckpointError:
    """Return the error for a tensor whose shape, dtype or device changed."""
    return CheckpointError(
        f"the rerun of a checkpointed function went another way than its forward: saved tensor {position}{operator} "
        f"was {expected}, and is {Signature(got)} now. {_ADVICE}"
    )


def fewer(got: int, needed: int, expected: Signature, operator: str) -> CheckpointError:
    """Return the error for a rerun that ended too early."""
    return CheckpointError(
        f"the rerun of a checkpointed function went another way than its forward: it saved {got} tensors, and backward "
        f"needs {needed}; the first that is missing is saved tensor {got}{operator}: {expected}. {_ADVICE}"
    )


def changed_in_place(position: int, signature: Signature, got: torch.Tensor, operator: str) -> CheckpointError:
    """Return the error for a parameter that has other values in the rerun."""
    versions = f"version {signature.version}, now {got._version}"  # noqa: SLF001  # has no public name
    return CheckpointError(
        f"saved tensor {position}{operator} of a checkpointed function, a leaf or a view of one, {signature}, was "
        f"changed in place between forward and backward ({versions}): the rerun would use the new values. Call "
        f"backward before `optimizer.step()` or any other change of it."
    )


def input_changed(function: Any) -> CheckpointError:
    """Return the error for an input that is no longer what the function was called with."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return CheckpointError(
        f"an input of the checkpointed `{name}` was changed in place after the call (by the function itself, or by "
        f"what came after it), so it cannot be rerun. Pass a clone, or use the operation's out-of-place form."
    )


_ADVICE = (
    "Something that decides what the function does changed in between: `train()`/`eval()`, a global, a counter, random "
    "numbers that PyTorch does not draw. Keep it as it was until backward has run."
)


def saved_by(positions: Callable[[Any, str], list[int]], position: int) -> str:
    """Return " (saved by MulBackward0)" for the tensor at ``position``, or "" where its node is not found.

    Looks at the nodes from the one that runs now, and asks each for its saved tensors: ``positions(node, name)`` reads
    an attribute, recomputes nothing, and returns the positions that were read.
    """
    for node in _nodes_below(torch._C._current_autograd_node()):  # noqa: SLF001  # has no public name
        names = [name for name in dir(node) if name.startswith("_saved_")] or ["saved_tensors"]
        for name in names:
            if position in positions(node, name):
                return f" (saved by {node.name()})"
    return ""


def _nodes_below(node: Any, limit: int = 10_000) -> Iterator[Any]:
    """Yield the nodes backward comes to from ``node``, each once."""
    waiting = [node]
    seen: set[Any] = set()
    while waiting and len(seen) < limit:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(below for below, _ in node.next_functions)
