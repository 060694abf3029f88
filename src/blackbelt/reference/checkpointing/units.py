"""A chain of stages cut into units that can be checkpointed, and what there is to know of each before it is measured.

A stage begins a unit where a rerun can begin: its input must be there again as it was, and there must be something to
rerun for. So a stage that changes its input in place, returns it (or a view of it) or saves nothing belongs to the unit
of the stage before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

Stage = Callable[[torch.Tensor], torch.Tensor]


def as_stages(stages: Any) -> tuple[Stage, ...]:
    """Return the stages of an ``nn.Sequential`` or a list of callables; TypeError or ValueError where it is none."""
    if isinstance(stages, nn.Module) and not isinstance(stages, (nn.Sequential, nn.ModuleList)):
        raise TypeError(
            f"stages must be an nn.Sequential or a list of modules and functions, not a {type(stages).__name__}: a "
            f"chain hands one tensor from each stage to the next, and only the parts of a Sequential are known to do so"
        )
    if not isinstance(stages, Iterable):
        raise TypeError(f"stages must be an nn.Sequential or a list of modules and functions, not {stages!r}")
    found = tuple(stages)
    if not found:
        raise ValueError("stages is empty: a chain needs at least one stage")
    for index, stage in enumerate(found):
        if not callable(stage):
            raise TypeError(f"stages[{index}] must be callable (a module or a function of one tensor), not {stage!r}")
    return found


def run_stage(stages: Sequence[Stage], index: int, x: torch.Tensor) -> torch.Tensor:
    """Run one stage; ValueError, naming the stage, where it fails on its input or does not return one tensor."""
    try:
        output: Any = stages[index](x)
    except Exception as error:
        raise ValueError(
            f"stages[{index}] ({name_of(stages[index])}) failed on its input of shape {tuple(x.shape)}, {x.dtype}: "
            f"{type(error).__name__}: {error}. "
            f"It must take what the stage before it returns (stages[0]: example_input)."
        ) from error
    if not isinstance(output, torch.Tensor):
        raise TypeError(
            f"stages[{index}] ({name_of(stages[index])}) must return one tensor, the input of the next stage, and "
            f"returned a {type(output).__name__}. Wrap what belongs together in one stage that does."
        )
    return output


def name_of(stage: Stage) -> str:
    """Return a stage's class, or its name where it is a function."""
    return type(stage).__name__ if isinstance(stage, nn.Module) else getattr(stage, "__name__", type(stage).__name__)


@dataclass(frozen=True)
class StageFacts:
    """What one run of a stage shows."""

    num_saved: int  # tensors, parameters among them
    changes_input: bool
    returns_input: bool  # or a view of it


def cut(stages: Sequence[Stage], example_input: torch.Tensor) -> list[tuple[int, ...]]:
    """Return the units of a chain, each the indices of its stages. Runs the chain once."""
    units: list[tuple[int, ...]] = []
    saves: list[bool] = []
    x = example_input.detach().requires_grad_(example_input.requires_grad).clone()  # no leaf: stage 0 may write into it
    for index in range(len(stages)):
        facts, x = _look(stages, index, x)
        if facts.changes_input and index == 0:
            raise ValueError(
                f"stages[0] ({name_of(stages[0])}) changes its input in place, so nothing can rerun it: use its "
                f"out-of-place form"
            )
        joins = facts.changes_input or facts.returns_input or not facts.num_saved or not saves[-1:] or not saves[-1]
        if units and joins:
            units[-1] += (index,)
            saves[-1] |= facts.num_saved > 0
        else:
            units.append((index,))
            saves.append(facts.num_saved > 0)
    return units


def _look(stages: Sequence[Stage], index: int, x: torch.Tensor) -> tuple[StageFacts, torch.Tensor]:
    num_saved = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal num_saved
        num_saved += 1
        return tensor.detach()

    version = x._version  # noqa: SLF001  # has no public name
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run_stage(stages, index, x)
    changed = x._version != version  # noqa: SLF001  # has no public name
    facts = StageFacts(num_saved, changed, address(output) == address(x))
    return facts, output.detach().requires_grad_(output.requires_grad).clone()


def address(tensor: torch.Tensor) -> int:
    """Return where a tensor's storage begins: the same for views of one another while they live."""
    return tensor.untyped_storage().data_ptr()


@contextmanager
def nothing_changed(stages: Sequence[Stage], example_input: torch.Tensor) -> Iterator[None]:
    """Leave random number generators and the buffers of modules as they were. Gradients are never written here."""
    buffers = {id(b): b for stage in stages if isinstance(stage, nn.Module) for b in stage.buffers()}
    copies = [(buffer, buffer.detach().clone()) for buffer in buffers.values()]
    devices = [example_input.device] if example_input.is_cuda else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, copy in copies:
                if not torch.equal(buffer, copy):
                    buffer.copy_(copy)
