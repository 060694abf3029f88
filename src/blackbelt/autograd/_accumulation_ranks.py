"""What accumulation needs from DistributedDataParallel: no communication before the last micro-batch, and the totals.

DDP divides the sum over ranks by their number (``Reducer::mark_variable_ready_dense`` in
``torch/csrc/distributed/c10d/reducer.cpp``), so a loss that is already divided by the count of *all* ranks is
multiplied by the number of ranks first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_SHARDED = {"FullyShardedDataParallel", "FSDPModule"}


class Ranks:
    """The processes that share the model; one where it is not in DistributedDataParallel."""

    def __init__(self, model: nn.Module) -> None:
        self._ddp = _find_ddp(model)
        group = self._ddp.process_group if self._ddp is not None else None
        self.count = torch.distributed.get_world_size(group) if group is not None else 1
        self._group = group

    @property
    def is_distributed(self) -> bool:
        """Whether the model is in DistributedDataParallel, be it on one rank."""
        return self._ddp is not None

    def silent(self, *, enabled: bool) -> contextlib.AbstractContextManager[Any]:
        """Return ``no_sync()`` where ``enabled`` and where there is anybody to talk to."""
        return self._ddp.no_sync() if enabled and self._ddp is not None else contextlib.nullcontext()

    def total(self, count: float, loss: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Return the sums over all ranks: one all-reduce of two numbers, and one synchronization, under DDP."""
        if self._ddp is None:
            return count, loss
        both = torch.stack([torch.tensor(count, dtype=loss.dtype, device=loss.device), loss])
        torch.distributed.all_reduce(both, group=self._group)
        return both[0].item(), both[1]


def wide_sum(losses: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the sum of 0-d losses in float64 (float32 on MPS, which has no float64), without reading them."""
    dtype = torch.float32 if losses[0].device.type == "mps" else torch.float64
    return torch.stack([loss.to(dtype) for loss in losses]).sum()


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside of DistributedDataParallel."""
    ddp = _find_ddp(model)
    return model if ddp is None else ddp.module


def _find_ddp(model: nn.Module) -> DistributedDataParallel | None:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    compiled = getattr(model, "_orig_mod", model)  # torch.compile(DDP(model)) wraps once more
    if isinstance(compiled, DistributedDataParallel):
        return compiled
    for name, module in model.named_modules():
        if isinstance(module, DistributedDataParallel):
            raise ValueError(  # noqa: TRY004 - the type is right, its place is not
                f"{type(model).__name__} has DistributedDataParallel inside, at {name!r}: what lies outside of it is "
                "not averaged over ranks. Wrap the whole model: accumulate(DistributedDataParallel(model), ...)"
            )
        if _SHARDED & {base.__name__ for base in type(module).__mro__}:
            raise ValueError(
                f"{type(model).__name__} is sharded by FSDP; accumulate knows DistributedDataParallel and models on "
                "one process. For FSDP keep the loop yourself, with set_requires_gradient_sync(False) (FSDP2) or "
                "no_sync() (FSDP1) before the last micro-batch"
            )
    return None
