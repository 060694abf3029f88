"""Only what is asked for: outputs that nobody used, and inputs that need no gradient."""

from __future__ import annotations

import math
from typing import Any

import torch

from blackbelt.autograd._functions_backward import few, observed, shown
from blackbelt.autograd._functions_forward import raised
from blackbelt.autograd._functions_nodes import Observation
from blackbelt.autograd._functions_numbers import (
    Gradient,
    all_close,
    close,
    largest,
    pull_back,
    random_like,
    with_graph,
)
from blackbelt.autograd._functions_report import FAILED, PASSED, WARNED, Check
from blackbelt.autograd._functions_subject import Subject
from blackbelt.report import format_bytes


def check_unused_outputs(subject: Subject) -> Check:
    """Differentiate each output alone: the others' incoming gradients are then missing."""
    name = "unused outputs"
    arguments = subject.fresh()
    outputs = with_graph(subject.run(arguments))
    leaves = [arguments[i] for i in subject.differentiable]
    if len(outputs) < 2:
        return _one_output_without_gradient(outputs, leaves)
    given = random_like(outputs, subject.generator())
    for index, output in enumerate(outputs):
        padded = [g if i == index else torch.zeros_like(g) for i, g in enumerate(given)]
        try:
            alone = pull_back([output], leaves, [given[index]])
        except Exception as error:
            return Check(
                name,
                FAILED,
                f"Backward fails where only output {index} is used. With `set_materialize_grads(False)` an unused "
                "output arrives as None.",
                "cannot take None" if "NoneType" in str(error) else "backward raises",
                raised(error),
                "if grad_b is not None:    # once for each output\n    grad_x = grad_x + grad_b * b",
            )
        if not all_close(alone, pull_back(outputs, leaves, padded), subject.exact):
            return Check(
                name,
                FAILED,
                f"The gradient through output {index} alone is not the one with zeros for the other outputs.",
                "cannot take None",
            )
    return Check(name, PASSED, f"Each of the {len(outputs)} outputs can be used alone.")


def _one_output_without_gradient(outputs: list[torch.Tensor], leaves: list[torch.Tensor]) -> Check:
    """Let whoever uses the output send no gradient back, as gradcheck's own test of undefined gradients does."""
    name = "unused outputs"
    undefined = torch._C._functions.UndefinedGrad()  # noqa: SLF001  # no public operator returns an undefined gradient
    try:
        result: Any = undefined(outputs[0])
        pull_back([result], leaves, [torch.ones_like(outputs[0])])
    except Exception as error:
        return Check(
            name,
            FAILED,
            "Backward fails where the incoming gradient is missing. With `set_materialize_grads(False)` it then "
            "arrives as None.",
            "cannot take None",
            raised(error),
            "if grad_output is None:\n    return None    # once for each argument",
        )
    return Check(name, PASSED, "A missing incoming gradient is handled.")


def check_needs_input_grad(subject: Subject) -> Check:
    """Let one input at a time require grad: is its gradient right, and is only that one computed."""
    name = "needs_input_grad"
    base_arguments = subject.fresh()
    base, grads, _ = observed(subject, base_arguments)
    wasted = _wasted(base)
    if len(subject.differentiable) > 1:
        for position, expected in zip(subject.differentiable, grads):
            check, more = _one_alone(subject, position, expected, largest(grads))
            if check:
                return check
            wasted = max(wasted, more, key=lambda w: w[1])
    if not base:
        return Check(name, PASSED, "Each gradient is right when it alone is asked for.")
    if wasted[1]:
        return Check(
            name,
            WARNED,
            f"Backward computes {format_bytes(wasted[1])} of gradients that nobody asked for and the engine throws "
            "away. `ctx.needs_input_grad` says which are needed.",
            "needless gradient",
            wasted[0],
            _pruned(subject),
        )
    return Check(name, PASSED, "Only gradients that are asked for are computed.")


def _one_alone(
    subject: Subject, position: int, expected: Gradient, scale: float
) -> tuple[Check | None, tuple[str, int]]:
    arguments = subject.fresh(needing_grad=(position,))
    name = subject.name(position)
    if not with_graph(subject.run(arguments)):
        return (None, ("", 0))  # an output that does not depend on this input
    observations, grads, error = observed(subject, arguments)
    if error is None and (not grads or close(grads[0], expected, subject.exact, scale)):
        return None, _wasted(observations)
    seen = raised(error) if error is not None else f"alone: {few(grads[0])}\nwith the others: {few(expected)}"
    return Check(
        "needs_input_grad",
        FAILED,
        f"Where only `{name}` requires grad, its gradient {'is another one' if error is None else 'cannot be had'}.",
        "assumes every input needs a gradient",
        seen,
        _pruned(subject),
    ), ("", 0)


def _wasted(observations: list[Observation]) -> tuple[str, int]:
    """Return the gradients computed for nobody (one that is `grad_output` itself costs nothing)."""
    lines, num_bytes = [], 0
    for seen in observations:
        free = {g.untyped_storage().data_ptr() for g in seen.grad_outputs if isinstance(g, torch.Tensor)}
        for position, grad in enumerate(seen.returned):
            needed = position < len(seen.needs_input_grad) and seen.needs_input_grad[position]
            if needed or not isinstance(grad, torch.Tensor) or grad.untyped_storage().data_ptr() in free:
                continue
            size = math.prod(grad.shape) * grad.element_size()
            lines.append(f"{seen.node_name}, argument {position}: not needed, returned {shown(grad)}")
            num_bytes += size
    return "\n".join(lines), num_bytes


def _pruned(subject: Subject) -> str:
    lines = [f"grad_{subject.name(i)} = None" for i in subject.floating]
    for i in subject.floating:
        lines += [f"if ctx.needs_input_grad[{i}]:", f"    grad_{subject.name(i)} = ..."]
    return "\n".join(lines)
