"""What is in a checkpoint: states of modules, of optimizers, of schedulers and of scalers, told by their keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blackbelt.doctor.events import head, tensors_in

DEPTH = 3  # of dicts within dicts that are looked into
FEW = 16  # elements of a parameter that may be in a file as numbers
MANY = 10_000  # entries of a dict or list that is looked through for numbers
COUNTERS = ("epoch", "step", "iter")


def mappings(content: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield the dicts of a checkpoint, each with the key it stands under, outermost first."""
    for path, found in paths(content):
        yield path[-1] if path else "", found


def paths(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yield the dicts of a checkpoint, each with the keys that lead to it, outermost first. States are not entered.

    To dicts in a list, as several optimizers may be, the keys of the list lead.
    """
    if isinstance(content, nn.Module):
        content = parts(content)
    if isinstance(content, (list, tuple)):
        for item in content:
            if isinstance(item, Mapping):
                yield from paths(item, path)
    if not isinstance(content, Mapping):
        return
    yield path, content
    if len(path) < DEPTH and not is_optimizer_state(content) and not is_module_state(content):
        for name, value in content.items():
            yield from paths(value, (*path, str(name)))


def parts(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, without the hooks of the user's that ``state_dict`` would run."""
    return dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])


def is_module_state(state: Mapping[Any, Any]) -> bool:
    """Return whether a dict is the state of a module: names and tensors."""
    return bool(state) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())


def is_optimizer_state(state: Mapping[Any, Any]) -> bool:
    """Return whether a dict is the state of an optimizer, with something in it that only training gives."""
    return isinstance(state.get("param_groups"), list) and isinstance(state.get("state"), Mapping)


def is_scheduler_state(state: Mapping[Any, Any]) -> bool:
    """Return whether a dict is the state of a learning rate scheduler."""
    return isinstance(state.get("last_epoch"), int) and ("_step_count" in state or "_last_lr" in state)


def is_scaler_state(state: Mapping[Any, Any]) -> bool:
    """Return whether a dict is the state of a gradient scaler."""
    return "scale" in state and "growth_factor" in state


def module_states(content: Any) -> list[tuple[str, Mapping[str, Tensor]]]:
    """Return the states of modules in a checkpoint, with their keys."""
    return [(key, state) for key, state in mappings(content) if is_module_state(state)]


def counters(content: Mapping[Any, Any]) -> list[str]:
    """Return the keys of a checkpoint that count epochs or steps and have counted some."""
    return [
        key
        for key, value in content.items()
        if isinstance(key, str)
        and isinstance(value, int)
        and value > 0
        and any(word in key.lower() for word in COUNTERS)
    ]


def storage(tensor: Tensor) -> int:
    """Return the address of a tensor's first byte, 0 where it has none."""
    if tensor.layout != torch.strided or tensor.device.type == "meta" or not tensor.numel():
        return 0
    return int(tensor.data_ptr())


def listed(names: list[str], most: int = 3) -> str:
    """Return names as a reader wants them: the first few, and how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Table:
    """The tensors of a file: by their memory, and by shape for those that are copies."""

    def __init__(self, tensors: Iterable[Tensor], numbers: Iterable[float] = ()) -> None:
        self._numbers = set(numbers)
        self._storages: set[int] = set()
        self._shapes: dict[tuple[int, ...], list[Tensor]] = {}
        for tensor in tensors:
            if tensor.layout == torch.strided:
                self._storages.add(storage(tensor))
                self._shapes.setdefault(tuple(tensor.shape), []).append(tensor)
        self._storages.discard(0)

    @classmethod
    def of(cls, content: Any) -> Table:
        """Return the table of a checkpoint, tensors of whole modules included."""
        inner = (tensor for _, state in mappings(content) for tensor in tensors_in(dict(state)))
        arrays: list[Tensor] = []
        numbers: set[float] = set()
        _collect_plain(content, arrays, numbers)
        return cls([*tensors_in(content), *inner, *arrays], numbers)

    def has(self, parameter: Tensor) -> bool:
        """Return whether a parameter is there, itself or as a copy, in whatever precision."""
        if storage(parameter) in self._storages:
            return True
        if parameter.numel() <= FEW and self._numbers.issuperset(map(float, parameter.detach().flatten())):
            return True  # by `item()` or `tolist()`
        return any(_is_copy(tensor, parameter) for tensor in self._shapes.get(tuple(parameter.shape), ()))


def _collect_plain(content: Any, arrays: list[Tensor], numbers: set[float], depth: int = DEPTH) -> None:
    """Collect arrays of NumPy's and numbers out of dicts and lists."""
    if isinstance(content, float):
        numbers.add(content)
    elif isinstance(content, np.ndarray) and content.dtype in (np.float16, np.float32, np.float64):
        arrays.append(torch.tensor(content))
    elif depth and isinstance(content, (Mapping, list, tuple)) and len(content) <= MANY:
        for item in content.values() if isinstance(content, Mapping) else content:
            _collect_plain(item, arrays, numbers, depth - 1)


def _is_copy(tensor: Tensor, parameter: Tensor) -> bool:
    values = head(parameter).to(tensor.device, tensor.dtype)
    return torch.equal(head(tensor), values)
