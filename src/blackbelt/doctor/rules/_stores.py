"""Where a data set keeps its samples, and the line that writes there: found in a copy of the process."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackbelt.doctor.contents import digest, leaves
from blackbelt.doctor.places import is_users
from blackbelt.doctor.rules._samples import resolve

DEPTH = 4
WHOLE_BYTES, WHOLE_LENGTH = 1 << 15, 64  # what is small is looked at as a whole
NEIGHBORS = 8  # rows after an index that a window may reach into


@dataclass
class Store:
    """A tensor, an array or a list in which a data set holds samples; the part of it that some indices may mean."""

    name: str
    holder: Any
    rows: Sequence[int] | None  # None: all of it

    def content(self) -> str:
        """Return a hash of the part."""
        return f"{len(self.holder)} {digest(self._part())}"

    def save(self) -> Any:
        """Return a copy of the part."""
        return copy.deepcopy(self._part())

    def restore(self, saved: Any) -> None:
        """Put a copy back."""
        positions = range(len(self.holder)) if self.rows is None else self.rows
        if isinstance(self.holder, list):
            for position, item in zip(positions, copy.deepcopy(saved)):
                self.holder[position] = item
        elif isinstance(self.holder, Tensor):
            self.holder.data[list(positions)] = saved
        else:
            self.holder[list(positions)] = saved

    def _part(self) -> Any:
        if self.rows is None:
            return self.holder
        if isinstance(self.holder, list):
            return [self.holder[row] for row in self.rows]
        return self.holder[list(self.rows)]


def stores(dataset: Any, indices: Sequence[Any]) -> list[Store]:
    """Return the stores of a data set and of those that it wraps."""
    wanted = sorted({i for index in indices if isinstance(i := resolve(dataset, index)[1], int)})
    while (base := resolve(dataset, indices[0])[0]) is not dataset:
        dataset = base
    try:
        length = len(dataset)
    except TypeError:
        return []
    return [
        Store(name, value, _rows(value, wanted))
        for name, value in _holders(dataset, "", DEPTH)
        if len(value) >= max(1, length)
    ]


def _rows(value: Any, wanted: Sequence[int]) -> Sequence[int] | None:
    if isinstance(value, list):
        if len(value) <= WHOLE_LENGTH:
            return None
        return [row for row in wanted if -len(value) <= row < len(value)]
    size = value.numel() * value.element_size() if isinstance(value, Tensor) else value.nbytes
    if size <= WHOLE_BYTES:
        return None
    near = {row + offset for row in wanted for offset in range(NEIGHBORS)}
    return sorted(row for row in near if 0 <= row < len(value))


def _holders(holder: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in _items(holder):
        path = f"{prefix}.{name}" if prefix and not name.startswith("[") else f"{prefix}{name}"
        if _is_store(value):
            yield path, value
        elif depth and _may_hold(value):
            yield from _holders(value, path, depth - 1)


def _items(holder: Any) -> list[tuple[str, Any]]:
    if isinstance(holder, Mapping):
        return [(str(name), item) for name, item in holder.items()]
    if isinstance(holder, tuple):
        return [(f"[{position}]", item) for position, item in enumerate(holder)]
    return list(getattr(holder, "__dict__", {}).items())


def _is_store(value: Any) -> bool:
    if isinstance(value, Tensor):
        is_plain = value.device.type == "cpu" and value.layout == torch.strided and not value.is_complex()
        return value.dim() > 0 and is_plain
    return isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim > 0 and not value.dtype.hasobject)


def _may_hold(value: Any) -> bool:
    if isinstance(value, (Tensor, np.ndarray, torch.nn.Module, type)):
        return False
    return isinstance(value, (tuple, Mapping)) or hasattr(value, "__dict__")


def trial(again: Callable[[], Any], held: Sequence[Store], dataset: Any) -> Mapping[str, Any]:
    """In a copy of the process: tell whether fetching the same samples once more gives others, for what was written.

    The samples are fetched with the same random numbers from three states: the present one, the same again (the
    control, which has to be equal), and the one that another fetch leaves.
    """
    saved, generators = [store.save() for store in held], _generators(dataset)

    def fetched(*seeds: int) -> Any:
        for store, content in zip(held, saved):
            store.restore(content)
        for seed in seeds:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - the stream that the data set may draw from
            for generator, state in generators:
                _set(generator, state)
            data = again()
        return data

    first, control, later = (_kept(fetched(*seeds)) for seeds in ((7,), (7,), (1, 2, 7)))
    if first[0] != control[0] or first[0] == later[0]:
        return {}
    fetched(7)
    for store, content in zip(held, saved):
        store.restore(content)
    file, line, name = _writing_line(again, held)
    return {"file": file, "line": line, "function": name, "first": first[1], "later": later[1]}


def _kept(data: Any) -> tuple[str, str]:
    """Return a hash of samples, and some figures to show: of the first leaf with numbers."""
    for leaf in leaves(data):
        if isinstance(leaf, (Tensor, np.ndarray, list)):
            try:
                values = torch.as_tensor(leaf).double()
            except (TypeError, ValueError, RuntimeError):
                continue
            return digest(data), f"mean {values.mean():.4g}, from {values.min():.4g} to {values.max():.4g}"
    return digest(data), ""


def _writing_line(again: Callable[[], Any], held: Sequence[Store]) -> tuple[str, int, str]:
    """Return the user's line that writes to a store: the one after which it is another."""
    before = [store.content() for store in held]
    last: list[tuple[str, int, str]] = [("", 0, "")]
    found: list[tuple[str, int, str]] = []

    def look(frame: FrameType, event: str, _: Any) -> Any:
        if found or not is_users(frame.f_code.co_filename):
            return None
        if event != "call" and [store.content() for store in held] != before:
            found.append(last[0])
            return None
        if event == "line":
            last[0] = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        elif event == "return" and frame.f_back is not None and is_users(frame.f_back.f_code.co_filename):
            code = frame.f_back.f_code
            last[0] = (code.co_filename, frame.f_back.f_lineno, code.co_name)
        return look

    sys.settrace(look)
    try:
        again()
    finally:
        sys.settrace(None)
    return found[0] if found else last[0]


def _generators(dataset: Any, depth: int = 3) -> list[tuple[Any, Any]]:
    """Return the random generators that a data set holds, with their states."""
    found: list[tuple[Any, Any]] = []
    for value in getattr(dataset, "__dict__", {}).values():
        if isinstance(value, np.random.Generator):
            found.append((value, value.bit_generator.state))
        elif isinstance(value, (np.random.RandomState, torch.Generator)):
            found.append((value, value.get_state()))
        elif isinstance(value, random.Random):
            found.append((value, value.getstate()))
        elif depth and hasattr(value, "__dict__") and not isinstance(value, (Tensor, torch.nn.Module, type)):
            found += _generators(value, depth - 1)
    return found


def _set(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
