"""What several katas of this lesson use: laws of their own, and attention as its formula says it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.strategies import numbers
from blackbelt.dojo.trial import Trial, seeded, tensors_in, to_double

TOLERANCE = 1e-9  # of the largest gradient, in float64


@dataclass(frozen=True)
class OnePass(Law):
    """The iterable at ``argument`` is gone through once: a generator in its place gives the same result."""

    argument: int = 0

    why: ClassVar[str] = "Scores are made chunk by chunk and thrown away: who wants to see one again computes it again."

    def check(self, trial: Trial) -> None:
        arguments = list(trial.case.fresh())
        arguments[self.argument] = iter(arguments[self.argument])
        try:
            with seeded():
                result = list(tensors_in(trial.function(*arguments)))
        except Exception as error:
            raise self._broken(f"{type(error).__name__}: {error}") from None
        wanted = list(tensors_in(trial.result))
        if len(result) != len(wanted) or not all(map(_same, result, wanted)):
            raise self._broken("another result, since nothing is left for a second pass")

    @staticmethod
    def _broken(got: str) -> LawBroken:
        return LawBroken("It cannot do with one pass over the chunks", "the same result from a generator", got)


@dataclass(frozen=True)
class OneKernel(Law):
    """``scaled_dot_product_attention`` is called at most once.

    Counted where it is called, not where it is dispatched: ``CausalBias`` cannot be made under a dispatch mode.
    """

    why: ClassVar[str] = "A call for each token waits for each token; one call does them side by side."

    def check(self, trial: Trial) -> None:
        calls = trial.functions["torch.nn.functional.scaled_dot_product_attention"]
        if calls > 1:
            raise LawBroken(f"It calls the kernel {calls} times", "one call", f"{calls} calls")


@dataclass(frozen=True)
class AgreesWithAutograd(Law):
    """The result is what autograd gives for the formula of attention, in float64.

    The kata's arguments are (query, key, value, out, log-sum-exp), the gradient of the result, and others; result and
    log-sum-exp are made anew in float64.
    """

    why: ClassVar[str] = "A wrong gradient raises nothing; the model only learns something else."
    about_result: ClassVar[bool] = True

    def check(self, trial: Trial) -> None:
        saved, grad_out, *rest = to_double(trial.case.fresh())
        leaves = [tensor.requires_grad_() for tensor in saved[:3]]
        out, lse = attention(*leaves)
        wanted = torch.autograd.grad(out, leaves, grad_out)
        with seeded():
            got = trial.function(tuple(t.detach() for t in (*leaves, out, lse)), grad_out, *rest)
        if not isinstance(got, (tuple, list)) or [_shape(t) for t in got] != [t.shape for t in wanted]:
            return  # no gradients of these tensors at all: `Value` says so
        for name, right, given in zip(("query", "key", "value"), wanted, got):
            if float((given - right).abs().max()) > TOLERANCE * max(float(right.abs().max()), 1e-3):
                raise LawBroken(f"The gradient of the {name} is not autograd's", describe(right), describe(given))


def _shape(value: object) -> object:
    return value.shape if isinstance(value, torch.Tensor) else None


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return result and log-sum-exp by the formula, with the whole matrix of scores."""
    scores = query @ key.mT / math.sqrt(query.size(-1))
    return scores.softmax(-1) @ value, scores.logsumexp(-1)


def inputs(
    length: int, keys: int, size: int = 4, heads: tuple[int, ...] = (), factor: float = 1.0, seed: int = 0
) -> tuple[Any, ...]:
    """Return query (…, length, size), key and value (…, keys, size)."""
    return (
        factor * numbers((*heads, length, size), seed=seed),
        numbers((*heads, keys, size), seed=seed + 1),
        numbers((*heads, keys, size), seed=seed + 2),
    )
