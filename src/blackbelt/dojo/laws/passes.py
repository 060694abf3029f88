"""Backward passes: how often the autograd engine runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial

# As the functions are named where they are called; torch.func's reverse transforms call torch.autograd.grad themselves.
BACKWARD_FUNCTIONS = ("grad", "torch.autograd.grad", "backward", "torch.autograd.backward", "torch.Tensor.backward")


@dataclass(frozen=True)
class BackwardPasses(Law):
    """The engine runs at most ``at_most(*arguments)`` times: by ``backward()``, ``autograd.grad``, ``vjp``, ``grad``.

    A batched pass (``is_grads_batched``, ``vmap`` over ``vjp``) counts once. Forward-mode derivatives count nothing.
    """

    at_most: Callable[..., int]

    why: ClassVar[str] = "Every backward pass walks the whole graph; a second one needs all of it kept in memory."

    def check(self, trial: Trial) -> None:
        limit = self.at_most(*trial.case.arguments)
        passes = sum(trial.functions[name] for name in BACKWARD_FUNCTIONS)
        if passes > limit:
            raise LawBroken(
                f"It runs {_words(passes)}; {limit} {'is' if limit == 1 else 'are'} enough",
                f"at most {limit}",
                _words(passes),
            )


def _words(passes: int) -> str:
    return "1 backward pass" if passes == 1 else f"{passes} backward passes"
