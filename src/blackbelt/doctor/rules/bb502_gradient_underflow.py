"""BB502."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from blackbelt.doctor.events import Backward, FunctionCall, ModuleCall, ScalerCall, tensors_in
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run

CONFIRMED = 2  # calls of backward in a row
PROBES = 6  # extra walks through a graph in all
FACTORS = ((2.0**14, 3 * 2.0**12), (2.0**10, 3 * 2.0**8), (2.0**6, 3 * 2.0**4))  # two that round differently
MOST = 1 / 3  # of the elements of a gradient
FEWEST = 16  # of such elements


@dataclass(frozen=True)
class Lost:
    """What is missing in one gradient: of how many elements that are not 0 it says that they are."""

    parameter: Tensor
    zeros: int
    elements: int
    norm: float  # of the true gradient
    norm_now: float


class GradientUnderflow(Rule):
    """Gradients are computed in float16 without a `GradScaler`, and most of them underflow to 0.

    The smallest number of float16 is 6e-8, and below 6e-5 it loses digits. Gradients of a loss that is a mean over many
    elements are smaller than that. They become 0 on their way back, layer after layer: the first layers get no
    gradient, the loss stops where the last one has learned what it can, and nothing is thrown.

    Observed: something of the forward was float16, no scaler has scaled the loss, and `backward` is tried out twice
    more, with the loss multiplied by 16,384 and by 12,288: of a parameter's elements whose gradient then is other than
    0, and the same both times, more than a third are exactly 0 without it. Twice in a row.

    Not reported: gradients that survive, with a scaler or without; a loss multiplied by hand; elements that differ
    between the two scales (rounding noise, as of a bias before BatchNorm); bfloat16, which has the range of float32;
    graphs with hooks, checkpoints or functions of your own, which are not tried out.

    The fix: `scaler.scale(loss).backward()` with a `torch.amp.GradScaler`, or autocast to bfloat16. Weights that are
    float16 themselves stay float32 with autocast.
    """

    code: ClassVar[str] = "BB502"
    title: ClassVar[str] = "float16 gradients that underflow to 0"
    first_steps_only: ClassVar[bool] = True

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._half = False  # since the last backward: something was float16,
        self._scaled = False  # a scaler was used,
        self._hooked = False  # ever: hooks that a backward more would call
        self._times = self._probes = 0
        self._scalers: weakref.WeakSet[object] = weakref.WeakSet()

    def module_called(self, call: ModuleCall) -> Findings:
        if not self._half and self.run.traced and call.grad_enabled:
            self._note(tensors_in(call.output, 2))
        return ()

    def function_called(self, call: FunctionCall) -> Findings:
        if call.name in ("register_hook", "retain_grad"):
            self._hooked = True
        elif not self._half and isinstance(call.result, Tensor):
            self._note([call.result])
        return ()

    def _note(self, tensors: Sequence[Tensor]) -> None:
        if any(t.dtype == torch.float16 and t.requires_grad for t in tensors):
            self._half = True
            if torch._C._autograd._saved_tensors_hooks_is_enabled():  # type: ignore[attr-defined]  # noqa: SLF001 - no public name
                self._hooked |= torch._C._autograd._top_saved_tensors_default_hooks(True) is not None  # noqa: SLF001 - likewise

    def scaler_called(self, call: ScalerCall) -> Findings:
        self._scaled |= call.name == "scale" and call.scaler.is_enabled()
        return ()

    def backward_begins(self, call: Backward) -> Findings:
        half, scaled, self._half, self._scaled = self._half, self._scaled, False, False
        if not half or scaled or not self.run.traced or self._probes >= PROBES:
            return
        self._probes += 1
        lost = self._try_out(call)
        self._times = self._times + 1 if lost else 0
        if self._times == CONFIRMED:
            worst = max(lost, key=lambda found: found.zeros / found.elements)
            name = self.run.name_of(worst.parameter)
            pure = worst.parameter.dtype == torch.float16
            yield self.finding(
                f"float16 without loss scaling: {worst.zeros:,} of {worst.elements:,} elements of the gradient of "
                f"{name} underflow to 0",
                call.place,
                fix="with torch.autocast(device, torch.float16):  # and the weights stay float32\n    loss = ..."
                "\nscaler.scale(loss).backward()"
                if pure
                else 'scaler = torch.amp.GradScaler("cuda")  # once\nscaler.scale(loss).backward()\n'
                "scaler.step(optimizer)\nscaler.update()",
                evidence={
                    "norm of its gradient": f"{worst.norm_now:.3g}",
                    "with the loss scaled": f"{worst.norm:.3g}",
                    "parameters affected": f"{len(lost)} of {len(call.graph.leaves)}",
                },
            )

    def _try_out(self, call: Backward) -> list[Lost]:
        """Return the gradients that are lost, without calling anything of the user's."""
        roots = [root for root in call.roots if root.requires_grad]
        trained = self.run.trained()
        leaves = [p for key, p in call.graph.leaves.items() if isinstance(p, nn.Parameter) or key in trained]
        if self._hooked or call.graph.cut or not leaves or any(root.numel() != 1 for root in roots):
            return []
        if any(p._backward_hooks for p in leaves):  # noqa: SLF001 - has no public name
            return []
        if any(isinstance(node, BackwardCFunction) for node in call.graph.nodes):
            return []
        with self.run.probe(*self.run.models):
            plain = _gradients(roots, leaves, 1.0)
            for factors in FACTORS:
                scaled, again = (_gradients(roots, leaves, factor) for factor in factors)
                if all(bool(g.isfinite().all()) for g in (*scaled, *again)):
                    found = [_compare(*four) for four in zip(leaves, plain, scaled, again)]
                    return [one for one in found if one is not None]
        return []


def _gradients(roots: Sequence[Tensor], leaves: Sequence[Tensor], factor: float) -> list[Tensor]:
    """Return the gradients of ``factor`` times the roots, divided by it again in float32."""
    with torch.autocast("cpu", enabled=False):
        outputs = [torch.full_like(root, factor) for root in roots]
        found = torch.autograd.grad(roots, leaves, outputs, retain_graph=True, allow_unused=True)
        zero = torch.zeros(())
        return [zero if g is None or g.is_sparse else g.float() / factor for g in found]


def _compare(parameter: Tensor, plain: Tensor, scaled: Tensor, again: Tensor) -> Lost | None:
    sure = (scaled - again).abs() <= 0.1 * scaled.abs()
    sure &= scaled != 0
    elements, zeros = int(sure.sum()), int((sure & (plain == 0)).sum())
    if elements < FEWEST or zeros <= MOST * elements:
        return None
    return Lost(parameter, zeros, elements, float(scaled.norm()), float(plain.norm()))
