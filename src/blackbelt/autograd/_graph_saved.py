"""What a node holds for backward, read without unpacking it: no recomputation, no version check, no copy.

A generated node (`MulBackward0`) has one ``_raw_saved_…`` attribute per saved tensor or list of tensors; a custom
function's has ``_raw_saved_tensors`` and whatever forward put on ``ctx``. The raw objects are autograd's own
``SavedVariable``. Its ``data`` gives the tensor as stored, or, where a saved-tensor hook is in place, what the hook's
pack function returned, and calls no hook. PyTorch before 2.10 has no ``data``: see :func:`_unpack_unless_hooked`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from blackbelt.autograd._graph_facts import State

PREFIX = "_raw_saved_"
TORCH_HOOKS = {"torch.utils.checkpoint": "checkpoint", "torch.autograd.graph": "save_on_cpu"}
_raw_names: dict[type, tuple[str, ...]] = {}


@dataclass
class Held:
    """One thing that a node holds: the tensors behind it (several for a subclass or packed data) and how it is held."""

    name: str
    tensors: list[torch.Tensor] = field(default_factory=list)
    state: State = "kept"
    packed_by: str = ""


def held_by(node: Any, frames: set[int]) -> Iterator[Held]:
    """Yield what ``node`` holds for backward. A node whose tensors backward has freed yields them as "freed".

    What a checkpoint keeps for its recomputation is held by all nodes of its segment, and yielded with the first of
    them; ``frames`` are the ids of those that were.
    """
    is_custom = isinstance(node, torch.autograd.function.BackwardCFunction)
    for name in _names(type(node)):
        short = name.removeprefix(PREFIX)
        try:
            raw = getattr(node, name)
        except RuntimeError:  # lists, and custom functions, refuse once backward has run
            yield Held(short, state="freed")
            continue
        unpacked = _Unpacked(node, "saved_tensors" if is_custom else f"_saved_{short}")
        if isinstance(raw, tuple):
            for index, item in enumerate(raw):
                yield from _held(f"{short}[{index}]", item, unpacked, index, frames)
        elif raw is not None:
            yield from _held(short, raw, unpacked, None, frames)
    if is_custom:
        for name, value in vars(node).items():
            for tensor in tensors_in(value):
                yield Held(f"ctx.{name}", [tensor])


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors in a value, and in the lists, tuples and dicts inside of it."""
    found, stack, seen = [], [value], set()
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, (list, tuple, dict)) and id(item) not in seen:
            seen.add(id(item))
            stack.extend(reversed(item.values() if isinstance(item, dict) else item))
    return found


def _names(kind: type) -> tuple[str, ...]:
    if kind not in _raw_names:
        _raw_names[kind] = tuple(sorted(name for name in dir(kind) if name.startswith(PREFIX)))
    return _raw_names[kind]


class _Unpacked:
    """Reads ``node._saved_…``, once and only where it is called for, which PyTorch's checks may refuse."""

    def __init__(self, node: Any, name: str) -> None:
        self._node, self._name = node, name
        self._value: Any = None

    def get(self, index: int | None) -> Any:
        if self._value is None:
            self._value = getattr(self._node, self._name)
        return self._value if index is None else self._value[index]


def _held(name: str, raw: Any, unpacked: _Unpacked, index: int | None, frames: set[int]) -> Iterator[Held]:
    if not hasattr(type(raw), "data"):
        yield from _unpack_unless_hooked(name, unpacked, index)
        return
    hook = raw.unpack_hook
    if hook is not None:
        data = raw.data
        yield Held(name, tensors_in(data), "packed", hook_name(hook))
        yield from _kept_for_recomputation(hook, frames)
    elif (data := raw.data) is not None:
        yield Held(name, [data])
    elif _was_freed(unpacked, index):
        yield Held(name, state="freed")


def _kept_for_recomputation(hook: Any, frames: set[int]) -> Iterator[Held]:
    """Yield what ``torch.utils.checkpoint`` keeps to run a segment again: its arguments and the state of the RNGs.

    Its hooks share a frame. That holds the arguments, as saved tensors (``_CheckpointFrame`` in
    ``torch/utils/checkpoint.py``), and a function whose closure holds the states and the keyword arguments.
    """
    for frame in _closure(hook):
        if type(frame).__name__ != "_CheckpointFrame" or id(frame) in frames:
            continue
        frames.add(id(frame))
        arguments = [item.data if hasattr(item, "unpack_hook") else item for item in getattr(frame, "saved_args", ())]
        yield from (Held(f"argument[{index}]", [t]) for index, t in enumerate(tensors_in(arguments)))
        yield from (Held("state", [tensor]) for tensor in tensors_in(_closure(frame.recompute_fn)))
        saver = getattr(getattr(frame, "input_saver", None), "grad_fn", None)  # before torch 2.15
        if saver is not None:
            yield from held_by(saver, frames)


def _closure(function: Any) -> list[Any]:
    found = []
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # an empty cell: a name that was never assigned
            found.append(cell.cell_contents)
    return found


def _was_freed(unpacked: _Unpacked, index: int | None) -> bool:
    """Tell a tensor that backward has freed from one that was never there, like an absent bias. No hook is in place."""
    try:
        unpacked.get(index)
    except RuntimeError:
        return True
    return False


def _unpack_unless_hooked(name: str, unpacked: _Unpacked, index: int | None) -> Iterator[Held]:
    """Read a saved tensor where PyTorch (before 2.10) offers no look at the raw data.

    Unpacking would call a hook if there is one, which for checkpointing means recomputing. So PyTorch's call is refused
    before the hook runs: a profile function that raises does that.
    """
    before = sys.getprofile()
    try:
        sys.setprofile(_refuse)
        try:
            value = unpacked.get(index)
        finally:
            sys.setprofile(before)
    except _HookInTheWayError as error:
        yield Held(name, state="packed", packed_by=str(error))
    except RuntimeError as error:
        yield Held(name, state="freed" if "second time" in str(error) else "unreadable")
    else:
        if value is not None:
            yield Held(name, [value])


class _HookInTheWayError(Exception):
    """A saved-tensor hook was about to run."""


def _refuse(frame: FrameType, event: str, _: Any) -> None:
    """Refuse to run a function that PyTorch calls to unpack, but for what it needs to make a tensor of a subclass."""
    is_first = frame.f_back is not None and frame.f_back.f_code is _Unpacked.get.__code__
    if event == "call" and is_first and frame.f_code.co_name != "__torch_dispatch__":
        module = str(frame.f_globals.get("__name__", ""))
        if module in TORCH_HOOKS or not module.startswith("torch."):
            raise _HookInTheWayError(_named(module, frame.f_code.co_name))


def hook_name(hook: Any) -> str:
    """Return what a learner calls a saved-tensor hook: "checkpoint", "save_on_cpu", or its own name."""
    name = getattr(hook, "__name__", type(hook).__name__)
    return _named(getattr(hook, "__module__", ""), name)


def _named(module: str, name: str) -> str:
    return TORCH_HOOKS.get(module, name)
