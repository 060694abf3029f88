"""BB216."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from blackbelt.doctor.events import ModuleCall, Segment, Step, tensors_in
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

CONFIRMED = 2  # steps


@dataclass(eq=False)
class Cut:
    """A line that runs segments whose inputs require no gradient, and the parameters inside."""

    place: Place | None
    parameters: dict[int, weakref.ref[Tensor]] = field(default_factory=dict)
    ran: bool = False  # since the last step
    steps: int = 0


class CheckpointInput(Rule):
    """Gradient checkpointing, in its reentrant variant, of inputs that need no gradient: the layers inside get none.

    `checkpoint(block, x, use_reentrant=True)` runs the block without a graph and promises to run it again in backward.
    That promise is a node of the graph only if one of the tensors passed requires a gradient. The input of the model,
    or what frozen embeddings return, requires none: the first block's parameters, or the adapters in all of them, are
    trained by nothing. PyTorch says so in a warning that is easily lost, and the loss still falls.

    Observed: such a call while gradients are on, no tensor among its arguments requires a gradient and neither does
    what it returns; parameters of the modules that ran inside require one, are held by the optimizer, and have none
    when it steps, twice.

    Not reported: segments that are frozen as well; calls under `no_grad`; parameters that get a gradient by another
    way; the variant with `use_reentrant=False`, which needs no such input.

    The fix: `use_reentrant=False`; or an input that requires a gradient (`x.requires_grad_()` after the frozen part,
    `model.enable_input_require_grads()` in Transformers). Reported where `checkpoint` is called.
    """

    code: ClassVar[str] = "BB216"
    title: ClassVar[str] = "checkpointed layers whose input needs no gradient"
    lesson: ClassVar[str] = "reference/checkpointing"
    first_steps_only: ClassVar[bool] = True
    explains: ClassVar[tuple[str, ...]] = ("BB205", "BB206")

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._open: Segment | None = None
        self._inside: list[weakref.ref[nn.Module]] = []
        self._cuts: dict[str, Cut] = {}

    def segment_begins(self, call: Segment) -> Findings:
        needs = any(isinstance(a, Tensor) and a.requires_grad for a in call.args)
        if self._open is None and call.grad_enabled and not needs and self.run.traced:
            self._open, self._inside = call, []
        return ()

    def module_called(self, call: ModuleCall) -> Findings:
        if self._open is not None:
            self._inside.append(weakref.ref(call.module))
        return ()

    def segment_ends(self, call: Segment) -> Findings:
        if call is not self._open:
            return ()
        self._open = None
        modules = [module for reference in self._inside if (module := reference()) is not None]
        if isinstance(call.function, nn.Module):  # compiled, or too late to be told of its calls
            modules += call.function.modules()
        parameters: dict[int, weakref.ref[Tensor]] = {
            id(p): weakref.ref(p) for m in modules for p in m.parameters(recurse=False) if p.requires_grad
        }
        if parameters and not any(t.requires_grad for t in tensors_in(call.output, 2)):
            cut = self._cuts.setdefault(str(call.place), Cut(call.place))
            cut.parameters.update(parameters)
            cut.ran = True
        return ()

    def step_begins(self, step: Step) -> Findings:
        self._open = None  # of a segment that raised
        if not self._cuts:
            return
        held = {id(p): p for p in step.parameters}
        ripe: list[Cut] = []
        lost: dict[int, Tensor] = {}
        inside: dict[int, Tensor] = {}
        for line, cut in list(self._cuts.items()):
            own = {key: p for key, ref in cut.parameters.items() if (p := ref()) is not None and held.get(key) is p}
            without = {k: p for k, p in own.items() if p.requires_grad and (p.grad is None or not bool(p.grad.any()))}
            if not without or not cut.ran:
                continue
            cut.steps, cut.ran = cut.steps + 1, False
            if cut.steps >= CONFIRMED:
                del self._cuts[line]
                ripe.append(cut)
                lost.update(without)
                inside.update(own)
        if ripe:  # what follows the first one gets no input that requires a gradient for its sake
            yield self._report(ripe[0], list(lost.values()), len(inside))

    def _report(self, cut: Cut, lost: list[Tensor], num_inside: int) -> Finding:
        names = ", ".join(self.run.name_of(p) for p in lost[:2]) + (", …" if len(lost) > 2 else "")
        return self.finding(
            f"checkpoint(…, use_reentrant=True) gets no input that requires a gradient: {len(lost)} "
            f"parameter{'s' * (len(lost) > 1)} inside ({names}) get none and never learn",
            cut.place,
            fix="checkpoint(block, x, use_reentrant=False)  # or x.requires_grad_() before",
            evidence={
                "parameters inside without a gradient": f"{len(lost)} of {num_inside}",
                "their elements": f"{sum(p.numel() for p in lost):,}",
                "steps": cut.steps,
            },
        )
