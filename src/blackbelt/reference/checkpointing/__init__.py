"""Gradient checkpointing: hold less until backward, compute it again when it is needed."""

from blackbelt.reference.checkpointing.chain import CheckpointedChain, checkpoint_chain, run_plan
from blackbelt.reference.checkpointing.function import checkpoint
from blackbelt.reference.checkpointing.ladder import (
    rerun_as_it_was,
    rerun_in_function,
    rerun_on_hooks,
    rerun_until_enough,
)
from blackbelt.reference.checkpointing.mismatch import CheckpointError
from blackbelt.reference.checkpointing.plan import PlanReport, plan_checkpoints
from blackbelt.reference.checkpointing.policy import keep_matmuls

__all__ = [
    "CheckpointError",
    "CheckpointedChain",
    "PlanReport",
    "checkpoint",
    "checkpoint_chain",
    "keep_matmuls",
    "plan_checkpoints",
    "rerun_as_it_was",
    "rerun_in_function",
    "rerun_on_hooks",
    "rerun_until_enough",
    "run_plan",
]
