"""Gradients of the result: what flows back to every leaf among the arguments, parameters of modules included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from blackbelt.dojo.describe import describe
from blackbelt.dojo.kata import Function
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.strategies import numbers
from blackbelt.dojo.trial import Trial, seeded, tensors_in, to_double

TOLERANCE = 1e-6  # of the largest gradient, in float64


@dataclass(frozen=True)
class SameGradients(Law):
    """Backward from the result gives every leaf among the arguments the gradient that the reference's result gives it.

    Leaves are tensors and module parameters that require grad. Both functions run in float64; several results, or one
    of many elements, are weighted with fixed random numbers first. No gradient counts as a gradient of zero.
    """

    why: ClassVar[str] = "The value can be right while what a model learns from it is not, and nothing is raised."

    def check(self, trial: Trial) -> None:
        expected = _gradients(trial.kata.reference, trial)
        got = _gradients(trial.function, trial)
        for name, wanted in expected.items():
            given = got[name]
            scale = max(float(wanted.nan_to_num().abs().max()), 1e-3) if wanted.numel() else 1.0
            difference = float((given - wanted).nan_to_num().abs().sum())
            same_nans = torch.equal(given.isnan(), wanted.isnan())
            if not same_nans or difference > TOLERANCE * scale * max(wanted.numel(), 1):
                lost = bool((given == 0).all())
                sentence = f"No gradient reaches {name}" if lost else f"The gradient that reaches {name} is wrong"
                raise LawBroken(sentence, describe(wanted), describe(given))


def _gradients(function: Function, trial: Trial) -> dict[str, torch.Tensor]:
    arguments = to_double(trial.case.fresh())
    leaves = dict(_leaves(arguments))
    with seeded():
        result = function(*arguments)
    outputs = [tensor for tensor in tensors_in(result) if tensor.requires_grad]
    if not outputs or not leaves:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    weights = [numbers(tuple(tensor.shape), tensor.dtype, seed=i) for i, tensor in enumerate(outputs)]
    total = torch.stack([(tensor * weight).sum() for tensor, weight in zip(outputs, weights)]).sum()
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaves[name]) if gradient is None else gradient
        for name, gradient in zip(leaves, gradients)
    }


def _leaves(arguments: tuple[Any, ...]) -> Iterator[tuple[str, torch.Tensor]]:
    for position, argument in enumerate(arguments):
        if isinstance(argument, torch.nn.Module):
            for name, parameter in argument.named_parameters():
                if parameter.requires_grad:
                    yield f"parameter `{name}` of argument {position}", parameter
            continue
        tensors = [tensor for tensor in tensors_in(argument) if tensor.requires_grad and tensor.is_leaf]
        for index, tensor in enumerate(tensors):
            yield (f"argument {position}" if len(tensors) == 1 else f"tensor {index} of argument {position}"), tensor
