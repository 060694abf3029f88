"""BB308."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from blackbelt.doctor.events import Backward, Created, FunctionCall, Step
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

MAKING = {"tensor", "as_tensor", "requires_grad_", "__set__", "scalar_tensor", "full"}
MAX_MADE = 64


class NotTrainedOn(Rule):
    """The loss has no path to the parameters: it was made anew from numbers, and `backward` reaches only those.

    A loss computed in NumPy, from `.item()`, from `argmax` or from `.detach()` has no history. `backward` says so in an
    error; `torch.tensor(value, requires_grad=True)` or `loss.requires_grad = True` silences only the error.
    The gradient then goes to a tensor that nobody trains, and the parameters stay as they are.

    Observed: when an optimizer steps, the graphs of all calls of `backward` since the last step. Their leaves are plain
    tensors, none of them a parameter of a module or of any optimizer that was made, and none of the optimizer's
    parameters has a gradient.

    Not reported: gradients with respect to inputs (adversarial examples, gradient penalties) beside a `backward` that
    reaches parameters; inputs that an optimizer holds; parameters that are merely in no optimizer.

    The fix: compute the loss from the model's output by functions of PyTorch, with no `.item()`, `.numpy()` or
    `.detach()` between; for a metric that has no gradient, a differentiable stand-in. Reported where the tensor without
    history was made.
    """

    code: ClassVar[str] = "BB308"
    title: ClassVar[str] = "no path from the loss to the parameters"
    lesson: ClassVar[str] = "autograd/graph"
    first_steps_only: ClassVar[bool] = True
    explains: ClassVar[tuple[str, ...]] = ("BB205", "BB404", "BB405")

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._made: dict[int, tuple[weakref.ref[Tensor], Place | None]] = {}
        self._places: list[tuple[Place | None, tuple[int, ...]]] = []  # of backwards that reached no parameter
        self._reached = False  # whether one did

    def created(self, thing: Created) -> Findings:
        if isinstance(thing.thing, torch.optim.Optimizer):
            self._optimizers.add(thing.thing)
        return ()

    def function_called(self, call: FunctionCall) -> Findings:
        if call.name in MAKING:
            tensor = call.args[0] if call.name == "__set__" and call.args else call.result
            if isinstance(tensor, Tensor) and tensor.requires_grad and tensor.is_leaf:
                self._made[id(tensor)] = (weakref.ref(tensor), call.place)
                if len(self._made) > MAX_MADE:
                    self._made.pop(next(iter(self._made)))
        return ()

    def backward_begins(self, call: Backward) -> Findings:
        if not self.run.traced or self._reached:
            return ()
        graph = call.graph
        trained = self._trained()
        leaves = list(graph.leaves.values())
        if graph.cut or not leaves or any(isinstance(leaf, nn.Parameter) or id(leaf) in trained for leaf in leaves):
            self._reached = True
        elif any(isinstance(node, BackwardCFunction) for node in graph.nodes):
            self._reached = True  # a function in Python may hand gradients on by itself, as checkpointing does
        else:
            made = next((place for leaf in leaves if (place := self._made_at(leaf))), None)
            self._places.append((made or call.place, tuple(leaves[0].shape)))
        return ()

    def step_begins(self, step: Step) -> Findings:
        places, reached = self._places, self._reached
        self._places, self._reached = [], False
        if not places or reached or not self.run.traced or any(p.grad is not None for p in step.parameters):
            return
        place, shape = places[0]
        yield self.finding(
            f"backward reaches no parameter, only a tensor of shape {shape} that was made without history: "
            f"{type(step.optimizer).__name__} has nothing to step with",
            place,
            fix="loss = criterion(model(inputs), targets)  # no .item(), .numpy(), .detach() or argmax between",
            evidence={
                "calls of backward since the last step": len(places),
                "parameters of the optimizer with a gradient": f"0 of {len(step.parameters)}",
            },
        )

    def _made_at(self, tensor: Tensor) -> Place | None:
        reference, place = self._made.get(id(tensor), (None, None))
        return place if reference is not None and reference() is tensor else None

    def _trained(self) -> set[int]:
        known: list[Any] = [*self._optimizers, *self.run.optimizers]
        return {id(p) for optimizer in known for group in optimizer.param_groups for p in group["params"]}
