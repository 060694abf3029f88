"""The value of the gradient: PyTorch's gradcheck decides; where it says no, two Jacobians say why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.autograd.gradcheck import GradcheckError

from blackbelt.autograd._functions_diagnosis import diagnose
from blackbelt.autograd._functions_forward import first_sentence, walked_once
from blackbelt.autograd._functions_numbers import STEP, inner, is_zero, pull_back, push_forward, random_like, with_graph
from blackbelt.autograd._functions_report import FAILED, NOT_SUPPORTED, PASSED, SKIPPED, Check
from blackbelt.autograd._functions_subject import Subject

LARGEST_JACOBIAN = 2**14  # elements; above it gradients are compared along random directions
DIRECTIONS = 4


def check_gradcheck(subject: Subject) -> Check:
    """Compare backward with central differences: all elements, or random directions where there are many."""
    name = "gradcheck"
    if not subject.exact:
        return _check_roughly(subject)
    leaves, function = _as_function_of_leaves(subject)
    outputs = with_graph(list(function(*leaves)))
    size = sum(x.numel() for x in leaves) * sum(y.numel() for y in outputs)
    if size == 0:
        return Check(name, SKIPPED, "An input or output of no elements has no derivative to measure.")
    if size > LARGEST_JACOBIAN:
        return _check_directions(subject)
    try:
        torch.autograd.gradcheck(function, leaves, check_undefined_grad=False)
    except GradcheckError as error:
        return diagnose(subject, str(error).strip().split("\n")[0])
    except RuntimeError as error:
        if walked_once(error):
            return _check_directions(subject)
        raise
    num = sum(x.numel() for x in leaves)
    return Check(name, PASSED, f"Agrees with central differences in all {num} input elements.")


def check_double_backward(subject: Subject) -> Check:
    """Differentiate the gradient once more: right, or refused, but never silently wrong."""
    name = "double backward"
    leaves, function = _as_function_of_leaves(subject)
    outputs = with_graph(list(function(*leaves)))
    given = [g.requires_grad_() for g in random_like(outputs, subject.generator())]
    try:
        first = pull_back(outputs, leaves, given, create_graph=True)
    except Exception as error:
        return Check(name, NOT_SUPPORTED, f"Refuses under create_graph: {first_sentence(error)}.")
    present = [g for g in first if g is not None]
    refusals = {name for g in present for name in refusing_nodes(g)}
    if refusals:
        return _refused(refusals)
    lost = [g for g in present if not g.requires_grad and not is_zero(g)]
    if lost:
        return _cut_off("Asked for with create_graph=True, a gradient comes without a graph.", present)
    differentiable = [g for g in present if g.requires_grad]
    if not differentiable:
        return Check(name, PASSED, "The gradient is zero everywhere, and so is its derivative.")
    try:
        directions = random_like(differentiable, subject.generator())
        second = pull_back(differentiable, [*leaves, *given], directions)
    except Exception as error:
        return Check(name, NOT_SUPPORTED, f"Refuses, clearly: {first_sentence(error)}.")
    if not subject.exact:
        return Check(name, SKIPPED, "It needs float64 all the way.")
    size = (sum(x.numel() for x in leaves) + sum(y.numel() for y in outputs)) * sum(g.numel() for g in present)
    if size == 0:
        return Check(name, SKIPPED, "An input or output of no elements has no derivative to measure.")
    if size > LARGEST_JACOBIAN:
        return _second_along_directions(subject, second, directions)
    return _gradgradcheck(function, leaves, given, second)


def _gradgradcheck(
    function: Callable[..., tuple[Any, ...]],
    leaves: tuple[torch.Tensor, ...],
    given: list[torch.Tensor],
    second: list[torch.Tensor | None],
) -> Check:
    grad_outputs = [g.detach().requires_grad_() for g in given]
    try:
        torch.autograd.gradgradcheck(function, leaves, grad_outputs, check_undefined_grad=False)
    except GradcheckError as error:
        return _wrong_second(second[: len(leaves)], str(error).strip().split("\n")[0])
    except Exception as error:
        return Check("double backward", NOT_SUPPORTED, f"Refuses: {first_sentence(error)}.")
    return Check("double backward", PASSED, "gradgradcheck agrees.")


def refusing_nodes(gradient: torch.Tensor) -> set[str]:
    """Return the names of the nodes in the graph of a gradient that do nothing but raise.

    They are found by their names: where gradients for given inputs are asked for, the engine does not reach them.
    """
    todo, seen, found = [gradient.grad_fn], set(), set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() in {"torch::autograd::Error", "torch::autograd::NotImplemented"}:
            found.add(node.name())
        todo += [parent for parent, _ in node.next_functions]
    return found


def _refused(nodes: set[str]) -> Check:
    if "torch::autograd::NotImplemented" in nodes:
        sentence = "PyTorch has no second derivative for an operator in it, and refuses."
    else:
        sentence = (
            "Marked once_differentiable: `.backward()` through the gradient refuses. Where the incoming gradient has "
            "no graph, and under `autograd.grad(…, inputs)`, nothing does: it is left out."
        )
    return Check("double backward", NOT_SUPPORTED, sentence)


def _cut_off(sentence: str, present: list[torch.Tensor]) -> Check:
    return Check(
        "double backward",
        FAILED,
        sentence + " A gradient penalty, a Hessian-vector product or a meta-learning step through it is silently "
        "without effect. Backward uses `.detach()`, `.data`, `no_grad`, NumPy, or a tensor computed in forward.",
        "double backward is cut off",
        "requires_grad of the gradients: " + ", ".join(str(g.requires_grad) for g in present),
        "(x,) = ctx.saved_tensors    # an input, with its graph; all else from it\n"
        "# or refuse:\n@staticmethod\n@once_differentiable\ndef backward(ctx, grad_output): ...",
    )


def _wrong_second(second: list[torch.Tensor | None], words: str) -> Check:
    if all(is_zero(g) for g in second):
        return _cut_off("The gradient does not know that it depends on the input.", [])
    return Check(
        "double backward",
        FAILED,
        "The second derivative is not the derivative of the first, and nothing raises. Often backward uses a tensor "
        "that forward computed and did not return: for autograd that is a constant.",
        "double backward is wrong",
        words,
        "# compute what backward needs from the saved *inputs*, or return it as an\n# output too; or refuse:\n"
        "@staticmethod\n@once_differentiable\ndef backward(ctx, grad_output): ...",
    )


def _as_function_of_leaves(subject: Subject) -> tuple[tuple[torch.Tensor, ...], Callable[..., tuple[Any, ...]]]:
    arguments = subject.fresh()
    positions = subject.differentiable

    def function(*leaves: torch.Tensor) -> tuple[Any, ...]:
        called = list(arguments)
        for position, leaf in zip(positions, leaves):
            called[position] = leaf
        return tuple(subject.run(called))

    return tuple(arguments[i] for i in positions), function


def _check_roughly(subject: Subject) -> Check:
    """Compare with central differences of a step that float32 can resolve."""
    dtypes = [subject.arguments[i].dtype for i in subject.differentiable]
    if any(dtype.itemsize < 4 for dtype in dtypes):
        return Check("gradcheck", SKIPPED, "It needs float64, or roughly float32; forward runs in neither.")
    check = _check_directions(subject, step=1e-2, tolerance=2e-2)
    if check.status == PASSED:
        return replace(check, sentence="Agrees with central differences, roughly: step 0.01, 2 %, no float64 inside.")
    return replace(
        check, sentence=check.sentence + " Forward has no float64 inside, so a kink within 0.01 would show likewise."
    )


def _check_directions(subject: Subject, step: float = STEP, tolerance: float = 1e-3) -> Check:
    """Compare ⟨backward(g), v⟩ with ⟨g, (f(x + εv) − f(x − εv)) / 2ε⟩ for random g and v."""
    generator = subject.generator()
    for _ in range(DIRECTIONS):
        arguments = subject.fresh()
        leaves = [arguments[i] for i in subject.differentiable]
        outputs = subject.run(arguments)
        kept = [i for i, o in enumerate(outputs) if o.requires_grad]
        given = random_like([outputs[i] for i in kept], generator)
        directions = random_like(leaves, generator)
        claimed = inner(pull_back([outputs[i] for i in kept], leaves, given), directions)
        slopes = push_forward(subject, dict(zip(subject.differentiable, directions)), step)
        measured = inner(given, [slopes[i] for i in kept])
        # Random vectors of n elements: their product is about the product of their norms over the root of n.
        size = math.sqrt(inner(given, given) * inner([slopes[i] for i in kept], [slopes[i] for i in kept]))
        size /= math.sqrt(max(sum(g.numel() for g in given), 1))
        if abs(claimed - measured) > 1e-5 + tolerance * max(abs(measured), size):
            return Check(
                "gradcheck",
                FAILED,
                "Along a random direction the gradient is not the slope. Pass smaller inputs to see which element.",
                "wrong gradient",
                f"slope by central differences: {measured:.6g}\nslope by backward:             {claimed:.6g}",
            )
    return Check("gradcheck", PASSED, f"Agrees with central differences along {DIRECTIONS} random directions.")


def _second_along_directions(
    subject: Subject, second: list[torch.Tensor | None], directions: list[torch.Tensor]
) -> Check:
    """Compare the second derivative with central differences of the first, along one random direction."""
    step, positions = 1e-6, subject.differentiable
    moves = random_like([subject.fresh()[i] for i in positions], subject.generator().manual_seed(7))
    sides = []
    for sign in (1.0, -1.0):
        arguments = subject.fresh()
        leaves = []
        for position, move in zip(positions, moves):
            leaf = (arguments[position].detach() + sign * step * move).requires_grad_()
            arguments[position] = leaf
            leaves.append(leaf)
        outputs = with_graph(subject.run(arguments))
        first = pull_back(outputs, leaves, random_like(outputs, subject.generator()), create_graph=True)
        sides.append(inner(directions, [g for g in first if g is not None and g.requires_grad]))
    measured = (sides[0] - sides[1]) / (2 * step)
    claimed = inner(second[: len(positions)], moves)
    if abs(claimed - measured) > 1e-4 + 1e-3 * abs(measured):
        return _wrong_second(second[: len(positions)], f"slope measured {measured:.6g}, double backward {claimed:.6g}")
    return Check("double backward", PASSED, "Agrees with central differences along a random direction.")
