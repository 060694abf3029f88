"""Batching: the function works under ``torch.vmap``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, seeded


@dataclass(frozen=True)
class Vmap(Law):
    """``torch.vmap`` over stacked copies of the arguments at those positions gives the stacked result (one tensor)."""

    arguments: Sequence[int] = (0,)

    why: ClassVar[str] = "A function that survives vmap needs no batched version of its own."

    def check(self, trial: Trial) -> None:
        arguments = list(trial.case.fresh())
        for position in self.arguments:
            arguments[position] = torch.stack([arguments[position], arguments[position]])
        dims = tuple(0 if position in self.arguments else None for position in range(len(arguments)))
        try:
            with seeded():
                batched = torch.vmap(trial.function, in_dims=dims)(*arguments)
        except Exception as error:
            raise LawBroken(
                "It does not run under `torch.vmap`", "the stacked result", str(error).splitlines()[0]
            ) from None
        expected = torch.stack([trial.result, trial.result])
        if batched.shape != expected.shape or not torch.allclose(batched, expected, equal_nan=True):
            raise LawBroken("Under `torch.vmap` it returns something else", describe(expected), describe(batched))
