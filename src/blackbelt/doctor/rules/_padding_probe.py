"""Whether padding matters: a model is run twice on the side, once with other values at the padded positions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from blackbelt.doctor.events import ModuleCall, tensors_in
from blackbelt.doctor.places import users_line
from blackbelt.doctor.rules._padding import ATTENDING, SEEN, Looked, Padded
from blackbelt.doctor.run import Run
from blackbelt.places import Place


class Keys(TorchFunctionMode):
    """Keeps what the first call of attention in a line looks at: the keys, or the weights of a softmax."""

    def __init__(self, place: Place | None) -> None:
        super().__init__()
        self.place, self.kept = place, torch.empty(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in ATTENDING and not self.kept.numel() and users_line() == self.place:
            key = args[1] if len(args) > 1 else (kwargs or {}).get("key")
            if name == "softmax":
                self.kept = result.detach()
            elif isinstance(key, Tensor):
                self.kept = key.detach().transpose(0, 1) if name == "multi_head_attention_forward" else key.detach()
        return result


def _keys_moved(before: Tensor, after: Tensor, everywhere: Tensor, *, weights: bool) -> bool:
    """Return whether keys at padded positions (weights of valid queries) changed with the values at these positions."""
    if before.shape != after.shape or before.shape[:1] != everywhere.shape[:1]:
        return False
    moved = (before - after).abs()
    if weights:
        if moved.dim() < 3 or moved.shape[-2] != everywhere.shape[1]:
            return bool((moved > SEEN).any())
        return bool((moved.flatten(1, -3).amax(1) if moved.dim() > 3 else moved).amax(-1)[~everywhere].max() > SEEN)
    moved = moved.amax(-1)
    if moved.dim() == 3:
        moved = moved.amax(1)
    return moved.shape == everywhere.shape and bool(moved[everywhere].max() > SEEN)


def moved_by_padding(run: Run, call: ModuleCall, one: Looked, padded: Padded) -> float:
    """Return how far other values at padded positions move the model's output for the tokens, 0 where they do not."""
    values, where = padded.values, _padded_everywhere(padded)  # as `values` has its dims; then (rows, length)
    everywhere = where.t() if padded.time_major else where
    everywhere = torch.nn.functional.pad(everywhere, (padded.num_before, 0))
    if values.is_floating_point() and padded.declared.from_values:
        return 0.0

    def disturb(_: nn.Module, args: Any, output: Any) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].shape == values.shape and torch.equal(args[0], values):
            return torch.where(where.unsqueeze(-1), output + output.std() * torch.randn_like(output), output)
        return None

    with run.probe(call.module), torch.no_grad(), attributes_kept(call.module):
        call.module.eval()
        with Keys(one.place) as keys:
            before = call.module(*call.args, **call.kwargs)
        args, kwargs, handles = call.args, dict(call.kwargs), []
        if values.is_floating_point():
            other = torch.where(where.unsqueeze(-1), values + values.std() * torch.randn_like(values), values)
            args = tuple(other if a is values else a for a in args)
            kwargs = {name: other if a is values else a for name, a in kwargs.items()}
        else:
            handles = [m.register_forward_hook(disturb) for m in call.module.modules() if isinstance(m, nn.Embedding)]
        try:
            with Keys(one.place) as others:
                after = call.module(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
    if not _keys_moved(keys.kept, others.kept, everywhere, weights=one.how == "softmax"):
        return 0.0  # its keys are others than the tokens
    pairs = zip(tensors_in(before, 2), tensors_in(after, 2))
    changes = (_change(a, b, where, rows=1 if padded.time_major else 0) for a, b in pairs)
    return max([0.0, *changes])


def _change(before: Tensor, after: Tensor, where: Tensor, *, rows: int) -> float:
    """Return the largest change of an output, relative to its spread; dim ``rows`` is that of samples."""
    if not before.is_floating_point() or before.dim() <= rows or before.shape != after.shape:
        return 0.0
    moved = (before - after).abs()
    if before.shape[:2] == where.shape:
        moved = moved[~where]
    elif before.shape[rows] != where.shape[rows] and before.shape[0] != where.shape[rows]:
        return 0.0
    change = float(moved.max()) / (float(before.std()) or 1.0)
    return change if change > 1e-4 else 0.0


def _padded_everywhere(padded: Padded) -> Tensor:
    """Return where all rows are padded, by what marks the padding in the first ones; dims as the input has them."""
    values, pads = padded.values, padded.pads
    if values.is_floating_point():
        return (values == 0).all(-1)
    rows = values.t() if padded.time_major else values
    return values == rows[: pads.shape[0]][pads[:, padded.num_before :]][0]


@contextlib.contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Put back what a forward assigns to attributes of its modules: counters, the last weights of attention."""
    kept = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in kept:
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)
