"""BB205."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from blackbelt.doctor.events import Step
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rules._cuts import FROM_PYTHON, TO_PYTHON, Cut, CutRule


class GraphCut(CutRule):
    """A part of the model never learns: what it computes loses its history before it reaches the loss.

    `.detach()`, `.data`, `.numpy()`, `.item()` and `torch.tensor(value)` hand on numbers without the graph they came
    from. The layers before that point get no gradient, the optimizer passes over them in silence, and the layers after
    it learn to make do with features of random weights, so that the loss still falls.

    Observed: parameters that an optimizer holds and that require a gradient have none after three of its steps, while
    others do; they are in the history of a tensor that lost it by such a call; and numbers computed from that tensor
    go into the graph of the loss.

    Not reported: parameters that get a gradient by another way (straight-through estimators, detached targets, turns
    of a GAN); parts that the loss does not use at all (idle experts, heads without a target); parameters that code of
    your own moves; a cut that stands under a condition or within `no_grad`, or beside a word such as "frozen".

    The fix: leave out the call, and use functions of PyTorch where NumPy was used. Layers that are not to be trained:
    `requires_grad_(False)`. Reported where the history was lost.
    """

    code: ClassVar[str] = "BB205"
    title: ClassVar[str] = "the graph is cut, and what is before never learns"
    lesson: ClassVar[str] = "autograd/graph"
    kinds: ClassVar[frozenset[str]] = frozenset({"detach", "data", "detach_", *TO_PYTHON, *FROM_PYTHON, "new_tensor"})

    def report(self, cut: Cut, parameters: Sequence[Tensor], step: Step) -> Finding:
        names = ", ".join(self.run.name_of(p) for p in parameters[:2]) + (", …" if len(parameters) > 2 else "")
        by = f".{cut.by}" + ("" if cut.by == "data" else "()") if cut.by not in FROM_PYTHON else f"torch.{cut.by}()"
        return self.finding(
            f"`{by}` cuts the graph: {len(parameters)} parameter{'s' * (len(parameters) > 1)} of "
            f"{type(step.optimizer).__name__} ({names}) had no gradient in {step.number} steps, though the loss "
            f"depends on what they compute",
            cut.place,
            fix=f"# without `{by}`: the loss must reach the parameters through functions of PyTorch",
            evidence={
                "parameters without a gradient": f"{len(parameters)} of {len(step.parameters)}",
                "their elements": f"{sum(p.numel() for p in parameters):,}",
                "steps": step.number,
            },
        )
