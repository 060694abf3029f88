"""Function transforms: gradients per sample, ``vmap`` over ``grad``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, seeded


@dataclass(frozen=True)
class PerSampleGradients(Law):
    """``torch.func.vmap(torch.func.grad(…))`` over two versions of one argument gives what two backward passes give."""

    argument: int = 0

    why: ClassVar[str] = "Per-sample gradients and Jacobians are made by composing `grad` and `vmap`; both must get in."

    def check(self, trial: Trial) -> None:
        arguments = list(trial.case.fresh())
        given = arguments[self.argument].detach()

        def total(tensor: torch.Tensor) -> torch.Tensor:
            result = trial.function(*arguments[: self.argument], tensor, *arguments[self.argument + 1 :])
            return torch.as_tensor(result.sum())

        def gradient(tensor: torch.Tensor) -> torch.Tensor:
            leaf = tensor.clone().requires_grad_()
            return torch.autograd.grad(total(leaf), leaf)[0]

        samples = torch.stack([given, given.flip(0) if given.dim() else 2 * given])
        try:
            with seeded():
                got = torch.func.vmap(torch.func.grad(total))(samples)
        except Exception as error:
            words = str(error).splitlines()[0]
            raise LawBroken("`vmap(grad(…))` does not get through it", "gradients per sample", words) from None
        with seeded():
            expected = torch.stack([gradient(sample) for sample in samples])
        if got.shape != expected.shape or not torch.allclose(got, expected, equal_nan=True):
            raise LawBroken("Under `vmap(grad(…))` it has another gradient", describe(expected), describe(got))
