"""BB301."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from blackbelt.doctor.events import FunctionCall
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._losses import LossRule, node_name
from blackbelt.doctor.run import Run
from blackbelt.places import Place

REDUCING = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "soft_margin_loss"}
DIFFERENCES = {"sub", "rsub", "__rsub__", "subtract"}
JOINING = DIFFERENCES | {"mul", "multiply", "__mul__", "__rmul__", "div", "true_divide"}
POWERS = {"pow", "square", "__pow__"}
KEEPING = (
    JOINING | POWERS | {"abs", "absolute", "neg", "add", "clamp", "clamp_min", "minimum", "maximum", "where", "relu"}
)
KEEPING |= {"log", "log1p", "sqrt", "cosh", "log_cosh", "__rdiv__", "min", "max", "softplus"}
READING = {"lt", "le", "gt", "ge", "sign", "detach"}  # without a gradient, beside what has one
LINEAR = {"mul", "div", "neg", "add", "sub", "__rsub__"}


@dataclass(frozen=True)
class Trace:
    """A tensor that an accidental broadcast went into, and what has become of it since."""

    made: weakref.ref[Tensor]
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # prediction, target, their broadcast
    place: Place | None
    words: tuple[str, str] = ("the prediction", "the target")
    squared: bool = False
    averaged: bool = False  # over some of its dims


class BroadcastLoss(LossRule):
    """A prediction of shape (N, 1) and a target of shape (N,) broadcast to (N, N).

    Every prediction is then compared with every target, and the loss is least where the model predicts the mean of the
    targets, whatever the input. It falls, and nothing is thrown; `F.mse_loss` warns once, a subtraction of your own
    never does.

    Observed: two operands of a subtraction, a product or a loss function whose shapes are the same but for dims of size
    1, and whose number of dims differs, so that the result has more elements than either; at least one of them does not
    come from the model (advantages: neither); and from there only elementwise functions and means or sums lead to the
    loss.

    Not reported: operands of one tensor, or with different numbers of elements, or of equally many dims (differences of
    all pairs are written so); an `unsqueeze` or `[:, None]` in the line itself; matrices that meet another matrix of
    their shape, or that a minimum, an exponential of squares (kernels), a softmax or a product of matrices comes after.

    The fix: bring both to the same shape, `prediction.squeeze(-1)` or `target.unsqueeze(-1)`. An assertion
    `prediction.shape == target.shape` before the loss costs nothing.
    """

    code: ClassVar[str] = "BB301"
    title: ClassVar[str] = "prediction and target broadcast against each other"
    lesson: ClassVar[str] = "tensors/broadcasting"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._traces: dict[int, Trace] = {}
        self._opened: dict[int, tuple[weakref.ref[Tensor], Place | None]] = {}  # results of unsqueeze, and where

    def function_called(self, call: FunctionCall) -> Findings:
        if call.name == "unsqueeze" or (call.name == "__getitem__" and _adds_dim(call.args[1])):
            self._remember(self._opened, call.result, call.place)
            return ()
        name = call.name if call.name.endswith("__") else call.name.rstrip("_")
        if self._traces:
            self._follow(call, name)
        if name in REDUCING or name in JOINING:
            self._compare(call, name)
        return ()

    def _compare(self, call: FunctionCall, name: str) -> None:
        operands = (call.argument(0, "input"), call.argument(1, "target", call.kwargs.get("other")))
        if not all(isinstance(operand, Tensor) for operand in operands):
            return
        shapes = broadcast_by_accident(*operands)
        if shapes is None:
            return
        is_loss = name in REDUCING
        if not is_loss and any(self._is_opened_here(operand, call.place) for operand in operands):
            return
        trace = Trace(weakref.ref(call.result), shapes, call.place, squared=is_loss)
        if not any(operand.requires_grad for operand in operands):
            trace = replace(trace, words=("a tensor", "another"))
        if is_loss and call.result.dim() == 0:
            self._report(call.result, trace)
        else:
            self._trace(call.result, trace)

    def _follow(self, call: FunctionCall, name: str) -> None:
        tensors = [a for a in (*call.args, *call.kwargs.values()) if isinstance(a, Tensor)]
        traces = [trace for a in tensors if (trace := self._find(a)) is not None]
        result = call.result
        if not traces or not isinstance(result, Tensor) or (not result.is_floating_point() and name not in READING):
            return
        if len({trace.words for trace in traces}) > 1:  # a model's matrix and a given one: both are meant to be
            return
        trace = replace(traces[0], made=weakref.ref(result), squared=any(t.squared for t in traces))
        if name in ("mean", "sum", "nanmean"):
            if result.dim() == 0:
                self._report(result, trace)
            else:
                self._trace(result, replace(trace, averaged=True))
        elif name == "exp" and not trace.squared and not trace.averaged:  # a ratio; of squares it is a kernel
            self._trace(result, trace)
        elif name in (LINEAR if trace.averaged else KEEPING | READING) and self._alone(tensors, result):
            self._trace(result, replace(trace, squared=trace.squared or name in POWERS))

    def _alone(self, tensors: list[Tensor], result: Tensor) -> bool:
        """Return whether no tensor that is a matrix of its own right takes part."""
        return result.dim() > 0 and all(self._find(a) is not None or a.numel() < result.numel() for a in tensors)

    def _trace(self, result: Any, trace: Trace) -> None:
        self._traces[id(result)] = trace
        if len(self._traces) > 64:
            self._traces = {key: kept for key, kept in self._traces.items() if kept.made() is not None}

    def _find(self, tensor: Tensor) -> Trace | None:
        trace = self._traces.get(id(tensor))
        return trace if trace is not None and trace.made() is tensor else None

    def _remember(self, table: dict[int, Any], result: Any, place: Place | None) -> None:
        table[id(result)] = (weakref.ref(result), place)
        if len(table) > 64:
            table.pop(next(iter(table)))

    def _is_opened_here(self, tensor: Tensor, place: Place | None) -> bool:
        reference, where = self._opened.get(id(tensor), (None, None))
        if tensor.grad_fn is not None and node_name(tensor.grad_fn) == "UnsqueezeBackward0":
            return True
        return reference is not None and reference() is tensor and where == place

    def _report(self, result: Tensor, trace: Trace) -> None:
        predicted, target, both = trace.shapes
        fixed = f"prediction.reshape({'-1' if len(target) == 1 else 'target.shape'})"
        self.wait(
            result,
            f"{trace.words[0]} {predicted} and {trace.words[1]} {target} broadcast to {both}: each of the first is "
            f"compared with each of the second",
            trace.place,
            fix=f"{fixed}  # {target}, like the target"
            if len(predicted) > len(target)
            else "target.view_as(prediction)",
            evidence={
                "elements of each": torch.Size(predicted).numel(),
                "elements compared": torch.Size(both).numel(),
            },
        )


def broadcast_by_accident(a: Tensor, b: Tensor) -> tuple[Any, Any, Any] | None:
    """Return the shapes of prediction and target, and of their broadcast, where the operands differ by dims of size 1.

    >>> broadcast_by_accident(torch.ones(3, 1, requires_grad=True) * 1, torch.ones(3))
    ((3, 1), (3,), (3, 3))
    >>> broadcast_by_accident(torch.ones(3, 1, requires_grad=True) * 1, torch.ones(1, 3))
    """
    both_trained = a.requires_grad and b.requires_grad
    if both_trained or a.dim() == b.dim() or a.numel() != b.numel() or a.numel() < 2:
        return None
    predicted, target = (a, b) if a.requires_grad else (b, a)
    if predicted.is_leaf and predicted.requires_grad:  # a parameter, such as the scale of each feature
        return None
    if [n for n in a.shape if n > 1] != [n for n in b.shape if n > 1]:
        return None
    if predicted.untyped_storage().data_ptr() == target.untyped_storage().data_ptr():
        return None
    both = torch.broadcast_shapes(a.shape, b.shape)
    return (tuple(predicted.shape), tuple(target.shape), tuple(both)) if both.numel() > a.numel() else None


def _adds_dim(index: Any) -> bool:
    return index is None or (isinstance(index, tuple) and any(part is None for part in index))
