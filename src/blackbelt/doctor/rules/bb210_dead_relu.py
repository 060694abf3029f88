"""BB210."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.optim import Optimizer

from blackbelt.doctor.events import Backward, FunctionCall, ModuleCall, Step, head
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._padding_probe import attributes_kept
from blackbelt.doctor.rules._relus import Passing, is_starved, producer
from blackbelt.doctor.rules._writes import Writes
from blackbelt.doctor.run import Run
from blackbelt.places import Place

CONFIRMED = 3  # steps in a row
MIN_VALUES = 96  # in these steps: a layer of one unit may be at rest for some samples
LATER = 8  # steps from one look to the next, after the first ones


@dataclass(eq=False)
class Layer:
    """A layer that ReLU follows, by its parameters."""

    parameters: Sequence[weakref.ref[Tensor]]
    steps: int = 0  # in a row, with nothing but zeros
    values: int = 0  # in these steps
    was_alive: bool = False
    calls: int = 0  # since the last step
    alive: bool = False  # since the last step, for some sample
    starved: bool = False  # its own input is zero


class DeadReLU(Rule):
    """All units of a layer are dead: ReLU gives 0 for every sample, and so is the gradient.

    Where the input of ReLU is negative, its derivative is 0. A unit that is negative for all samples gets no gradient
    and cannot come back. A step that is too large throws a whole layer there, or a bias that starts far below zero
    does; what follows sees constants, and the model predicts the same for every input.

    Observed, three steps in a row: ReLU after a layer (linear, convolution, normalization) returns zeros only, in at
    least 96 values, though the layer's input is not zero; the gradients of the layer's parameters are exactly 0, and
    the loss is not. The first such layer is reported. After the first 20 steps: a layer that was alive has no gradient
    at three looks, 8 steps apart, and one more forward pass on the side shows zeros only.

    Not reported: single dead units, of which healthy models have many; ReLU of a loss (hinge, margin) that is
    satisfied; after a sum with a residual; layers that are frozen; experts that got no sample.

    The fix: a smaller learning rate, or a warmup; `nn.init.kaiming_normal_` with zero biases; standardized inputs;
    `nn.LeakyReLU`. Reported where the optimizer was made if the layer was alive before a step; otherwise where its
    parameters were last written, or made.
    """

    code: ClassVar[str] = "BB210"
    title: ClassVar[str] = "a layer of dead ReLUs"
    lesson: ClassVar[str] = "silent_failures/method"
    explains: ClassVar[tuple[str, ...]] = ("BB206",)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._writes = run.shared(Writes)
        self._layers: dict[int, Layer] = {}  # in the order of the forward pass
        self._loss = 0.0  # the largest since the last step
        self._suspects: list[Layer] = []  # after the first steps
        self._done = False

    def function_called(self, call: FunctionCall) -> Findings:
        self._writes.note(call)
        if self._done or not call.modules or not call.grad_enabled:
            return ()
        node, parameters = producer(call.name, call.result)
        if not parameters:
            return ()
        known = self._layers.get(id(parameters[0]))
        if known is None or known.parameters[0]() is not parameters[0]:
            known = self._layers[id(parameters[0])] = Layer([weakref.ref(p) for p in parameters])
        known.calls += 1
        alive = bool(call.result.detach().any())
        known.alive |= alive
        known.values += call.result.numel()
        known.starved = not alive and is_starved(node)
        return ()

    def backward_begins(self, call: Backward) -> Findings:
        if any(layer.calls and not layer.alive for layer in self._layers.values()):
            self._loss = max([self._loss, *(float(root.detach().abs().max()) for root in call.roots if root.numel())])
        return ()

    def step_begins(self, step: Step) -> Findings:
        if self._done or not self._layers:
            return
        if not self.run.traced:
            if step.number % LATER == 0:
                self._suspects = [layer for layer in self._layers.values() if _is_still(layer, step)]
            return
        held = {id(p) for p in step.parameters}
        loss, self._loss = self._loss, 0.0
        for layer in self._layers.values():
            parameters = [p for reference in layer.parameters if (p := reference()) is not None]
            if not layer.calls or not any(id(p) in held for p in parameters):
                continue
            without = all(p.grad is not None and not bool(p.grad.any()) for p in parameters)
            dead = not layer.alive and not layer.starved and without and loss > 1e-6 and math.isfinite(loss)
            layer.was_alive |= layer.alive
            layer.steps = layer.steps + 1 if dead else 0
            layer.calls, layer.alive = 0, False
            if not dead:
                layer.values = 0
            elif layer.steps >= CONFIRMED and layer.values >= MIN_VALUES:
                self._done = True
                yield self._report(layer, parameters, step.optimizer)
                return

    def module_called(self, call: ModuleCall) -> Findings:
        """After the first steps: look at layers without a gradient, in one more forward pass on the side."""
        if not self._suspects or call.depth or not call.grad_enabled or self.run.traced or self._done:
            return
        suspects, self._suspects = self._suspects, []
        with self.run.probe(call.module), attributes_kept(call.module), Passing() as seen:
            call.module(*call.args, **call.kwargs)
        for layer in suspects:
            layer.steps = 0
            parameters = [p for reference in layer.parameters if (p := reference()) is not None]
            values, passed = seen.counts.get(id(parameters[0]), (0, 0)) if parameters else (0, 0)
            optimizers = [o for o in self.run.optimizers if parameters and _holds(o, parameters[0])]
            if values and not passed and optimizers:
                self._done = True
                layer.values = values
                yield self._report(layer, parameters, optimizers[-1])
                return

    def _report(self, layer: Layer, parameters: list[Tensor], optimizer: Optimizer) -> Finding:
        name = self.run.name_of(parameters[0]).rpartition(".")[0] or self.run.name_of(parameters[0])
        rate = optimizer.param_groups[0].get("lr", 0)
        if layer.was_alive:
            place = self.run.made_at(optimizer)
            why = f"after steps with a learning rate of {float(rate):g}"
            fix = f"lr={float(rate) / 100:g}  # or a warmup, or clipped gradients; and nn.LeakyReLU"
        else:
            place = self._start(parameters)
            why = "from the first step on"
            fix = "nn.init.kaiming_normal_(layer.weight); nn.init.zeros_(layer.bias)"
        return self.finding(
            f"ReLU after `{name}` gives 0 for every sample {why}: its gradient is 0, and it cannot recover",
            place,
            fix=fix,
            evidence={
                "values other than 0": f"0 of {layer.values:,}" + (f" in {layer.steps} steps" if layer.steps else ""),
                "gradient of its parameters": "exactly 0",
                "parameters": ", ".join(self.run.name_of(p) for p in parameters),
            },
        )

    def _start(self, parameters: list[Tensor]) -> Place | None:
        """Return the line that wrote what keeps the layer at zero: its bias, if that is negative throughout."""
        below = [p for p in parameters if p.dim() == 1 and float(p.max()) < 0]
        lines = [place for p in [*below, *parameters] if (place := self._writes.line_of(p)) is not None]
        return lines[0] if lines else self.run.made_at(parameters[0])


def _holds(optimizer: Optimizer, parameter: Tensor) -> bool:
    return any(parameter is p for group in optimizer.param_groups for p in group["params"])


def _is_still(layer: Layer, step: Step) -> bool:
    """Return whether a layer that had a gradient has had none but zeros in the last looks."""
    parameters = [p for reference in layer.parameters if (p := reference()) is not None]
    if not layer.was_alive or not parameters or not _holds(step.optimizer, parameters[0]):
        return False
    grads = [p.grad for p in parameters]
    still = all(g is not None and not bool(head(g).any()) and not bool(g.any()) for g in grads)
    layer.steps = layer.steps + 1 if still else 0
    return layer.steps >= CONFIRMED
