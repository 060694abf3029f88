"""Whether the result carries a graph: it must, exactly where the reference's result does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, tensors_in


@dataclass(frozen=True)
class RequiresGrad(Law):
    """The tensors of the result require grad exactly where those of the reference's result do."""

    why: ClassVar[str] = (
        "A number that carries its graph keeps every tensor of it alive; a loss that carries none trains nothing."
    )

    def check(self, trial: Trial) -> None:
        expected = [tensor.requires_grad for tensor in tensors_in(trial.expected)]
        got = [tensor.requires_grad for tensor in tensors_in(trial.result)]
        if expected == got:
            return
        if sum(got) > sum(expected):
            raise LawBroken("The result still carries a graph", "no `grad_fn`", _words(trial.result))
        raise LawBroken("The result carries no graph: no gradient flows back from it", "a `grad_fn`", "no `grad_fn`")


def _words(result: object) -> str:
    names = {tensor.grad_fn.name() if tensor.grad_fn else "a leaf that requires grad" for tensor in tensors_in(result)}
    return ", ".join(sorted(names))
