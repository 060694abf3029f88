"""Changes in place: the same memory, no history, a version counter that moves, and the right gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, seeded, storage_key, tensors_in, to_double
from blackbelt.report import format_bytes

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class KeepsStorage(Law):
    """Every tensor of the arguments at those positions has, after the call, the storage that it had before."""

    arguments: Sequence[int] = (0,)

    why: ClassVar[str] = (
        "Optimizer, data-parallel wrapper and model hold the old tensor; a new one is seen by none of them."
    )

    def check(self, trial: Trial) -> None:
        for before, key, _, after in _around(trial, self.arguments):
            if after.numel() and (storage_key(after) != key or after.shape != before.shape):
                raise LawBroken(
                    "It put a new tensor in the place of the old one", "the old tensor's memory", "new memory"
                )


@dataclass(frozen=True)
class KeepsNoHistory(Law):
    """No tensor of the arguments at those positions gets a ``grad_fn`` or another ``requires_grad``."""

    arguments: Sequence[int] = (0,)

    why: ClassVar[str] = "Each step would hang its graph on the last one's: memory grows until the run dies."

    def check(self, trial: Trial) -> None:
        for before, _, _, after in _around(trial, self.arguments):
            if after.grad_fn is not None:
                raise LawBroken("It wrote history into its argument", "grad_fn None", f"grad_fn {after.grad_fn.name()}")
            if after.requires_grad != before.requires_grad:
                raise LawBroken(
                    "It changed `requires_grad`",
                    f"requires_grad {before.requires_grad}",
                    f"requires_grad {after.requires_grad}",
                )


@dataclass(frozen=True)
class MovesVersion(Law):
    """Every tensor whose values changed has a higher version than before, so that a pending backward can refuse."""

    arguments: Sequence[int] = (0,)

    why: ClassVar[str] = "A write that no version counter sees turns an error in backward into a wrong gradient."

    def check(self, trial: Trial) -> None:
        for before, _, version, after in _around(trial, self.arguments):
            changed = before.shape != after.shape or not torch.equal(before.detach(), after.detach())
            if changed and after._version <= version:  # noqa: SLF001 - what autograd itself compares
                raise LawBroken(
                    "It wrote past the version counter",
                    f"a version above {version}",
                    f"version {after._version}",  # noqa: SLF001
                )


@dataclass(frozen=True)
class InPlaceGradient(Law):
    """Gradcheck passes through a change of the tensor at ``argument``, for the result and for the tensor itself."""

    argument: int = 0

    why: ClassVar[str] = "Who uses the changed tensor afterwards must get the gradient of the change as well."

    def check(self, trial: Trial) -> None:
        arguments = list(to_double(trial.case.fresh()))
        leaf = arguments[self.argument].detach().clone().requires_grad_()
        if not leaf.numel():
            return

        def function(given: torch.Tensor) -> torch.Tensor:
            changed = given.clone()  # a leaf that requires grad may not be changed
            result = trial.function(*arguments[: self.argument], changed, *arguments[self.argument + 1 :])
            return torch.as_tensor(3 * result + 2 * changed)

        try:
            with seeded():
                torch.autograd.gradcheck(function, (leaf,))
        except Exception as error:
            words = "\n".join(str(error).strip().splitlines()[:8])
            raise LawBroken(
                "The gradient through the change is wrong", "analytical equal to numerical", words
            ) from None


@dataclass(frozen=True)
class InPlaceSaves(Law):
    """Changing the tensor at ``argument`` saves at most ``at_most(*arguments)`` bytes besides that tensor's memory."""

    at_most: Callable[..., int]
    argument: int = 0

    why: ClassVar[str] = "An in-place operation that saves a tensor for backward has given back what it had won."

    def check(self, trial: Trial) -> None:
        arguments = list(trial.case.fresh())
        changed = arguments[self.argument].detach().clone().requires_grad_().clone()
        arguments[self.argument] = changed
        saved: dict[int, int] = {}
        kept: list[torch.Tensor] = []  # a freed storage's address could be given out again

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.detach())
            if storage_key(tensor) != storage_key(changed):
                saved[storage_key(tensor)] = tensor.untyped_storage().nbytes()
            return tensor.detach()

        with seeded(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            trial.function(*arguments)
        budget, total = self.at_most(*trial.case.arguments), sum(saved.values())
        if total > budget:
            raise LawBroken(
                f"It saves {format_bytes(total)} for backward; the budget is {format_bytes(budget)}",
                f"at most {format_bytes(budget)}",
                format_bytes(total),
            )


def _around(trial: Trial, positions: Sequence[int]) -> list[tuple[torch.Tensor, int, int, torch.Tensor]]:
    """Call the function once more; return copy, storage and version before, and the tensor after, of each tensor."""
    arguments = trial.case.fresh()
    chosen: list[Any] = [arguments[position] for position in positions]
    tensors = [tensor for value in chosen for tensor in tensors_in(value)]
    copies = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in tensors]
    keys = [storage_key(tensor) for tensor in tensors]
    versions = [tensor._version for tensor in tensors]  # noqa: SLF001
    with seeded():
        trial.function(*arguments)
    after = [tensor for value in chosen for tensor in tensors_in(value)]
    if len(after) != len(tensors):
        raise LawBroken("It changed how many tensors its argument holds", str(len(tensors)), str(len(after)))
    return list(zip(copies, keys, versions, after))
