"""`checkpoint_chain`: a chain that plans its checkpoints for the input it meets, and runs by the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from blackbelt.reference.checkpointing.function import checkpoint
from blackbelt.reference.checkpointing.plan import PlanReport, check_budget, plan_checkpoints
from blackbelt.reference.checkpointing.schedule import Items, Keep
from blackbelt.reference.checkpointing.units import Stage, as_stages


def run_plan(stages: Sequence[Stage], plan: PlanReport, x: torch.Tensor) -> torch.Tensor:
    """Run a chain by a plan for it. Values and gradients are those of the plain chain, to the bit."""
    units = [unit.stages for unit in plan.units]

    def run(items: Items, x: torch.Tensor) -> torch.Tensor:
        for item in items:
            if isinstance(item, Keep):
                for index in units[item.unit]:
                    x = stages[index](x)
            else:
                x = checkpoint(run, item.items, x)
        return x

    return run(plan.items, x)


class CheckpointedChain(nn.Module):
    """A chain under a byte budget. ``plan`` is the plan of the last call that needed one, None before."""

    def __init__(self, model: Any, memory_budget: int) -> None:
        super().__init__()
        self._stages = as_stages(model)
        self.model = (
            model
            if isinstance(model, nn.Module)
            else nn.ModuleList(stage for stage in self._stages if isinstance(stage, nn.Module))
        )
        self.memory_budget = check_budget(memory_budget)
        self.plan: PlanReport | None = None
        self._plans: dict[tuple[Any, ...], PlanReport] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the chain: by its plan where there is a graph to record, plainly elsewhere."""
        if not torch.is_grad_enabled():
            for stage in self._stages:
                x = stage(x)
            return x
        key = (x.shape, x.dtype, x.device, x.requires_grad, self.training, torch.is_autocast_enabled(x.device.type))
        if key not in self._plans:
            self._plans[key] = plan_checkpoints(self._stages, self.memory_budget, x)
        self.plan = self._plans[key]
        return run_plan(self._stages, self.plan, x)


def checkpoint_chain(model: Any, memory_budget: int) -> CheckpointedChain:
    """Return a module that runs ``model`` within ``memory_budget`` bytes, running as little again as it can.

    ``model`` is an ``nn.Sequential`` or a list of modules and functions of one tensor; its parameters are those of the
    result, under ``model.``. The first call with grad mode measures and plans (:func:`plan_checkpoints`: some forward
    and backward passes of every stage), and so does the first with another shape, dtype, device, mode or need of grad;
    ``.plan`` is the report of the last. Without grad mode it is a plain call.

    Raises what :func:`plan_checkpoints` does: for ``model`` and ``memory_budget`` here, for a budget that is too small
    and stages that do not fit together at the first call.
    """
    return CheckpointedChain(model, memory_budget)
