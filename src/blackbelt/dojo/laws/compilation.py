"""Compilation: one graph, no break."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, seeded


@dataclass(frozen=True)
class CompilesWhole(Law):
    """``torch.compile(fullgraph=True)`` captures one graph (backend ``eager``: capture, no code generation)."""

    why: ClassVar[str] = "At every graph break the compiled program falls back to Python and fusion stops."
    costly: ClassVar[bool] = True

    def check(self, trial: Trial) -> None:
        arguments = trial.case.fresh()
        torch.compiler.reset()
        try:
            with seeded():
                torch.compile(trial.function, backend="eager", fullgraph=True)(*arguments)
        except Exception as error:
            words = [line for line in str(error).splitlines() if line.strip()]
            raise LawBroken("It does not compile into one graph", "no graph break", "\n".join(words[:3])) from None
