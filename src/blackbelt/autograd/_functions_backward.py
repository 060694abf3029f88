"""Checks of the backward pass: what it returns, and what it does with the gradient it is given."""

from __future__ import annotations

import re
from typing import Any

import torch

from blackbelt.autograd._functions_forward import raised
from blackbelt.autograd._functions_nodes import Observation, custom_nodes, observe, stop_observing
from blackbelt.autograd._functions_numbers import (
    Gradient,
    close,
    is_zero,
    largest,
    pull_back,
    push_forward,
    random_like,
    same_bits,
    with_graph,
)
from blackbelt.autograd._functions_report import FAILED, PASSED, SKIPPED, WARNED, Check
from blackbelt.autograd._functions_subject import Subject
from blackbelt.report import format_bytes

NO_BACKWARD = ("must implement either the backward or vjp", "no autograd formula was registered")


def observed(subject: Subject, arguments: list[Any]) -> tuple[list[Observation], list[Gradient], Exception | None]:
    """Run forward and backward, watching the custom nodes; an exception is returned, not raised."""
    outputs = with_graph(subject.run(arguments))
    leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    nodes = custom_nodes(outputs)
    observations = observe(nodes)
    try:
        grads = pull_back(outputs, leaves, random_like(outputs, subject.generator()))
    except Exception as error:
        return observations, [], error
    finally:
        stop_observing(nodes)
    return observations, grads, None


def check_backward(subject: Subject) -> Check:
    """Run backward once and look at what it returned: does it exist, how many, for whom."""
    arguments = subject.fresh()
    outputs = subject.run(arguments)
    if not with_graph(outputs):
        return Check(
            "backward",
            FAILED,
            "An input requires grad and no output does: the graph ends inside the function. That is what `.detach()`, "
            "`.data`, `.item()`, NumPy, `torch.no_grad()` and an integer result do.",
            "output has no graph",
            "requires_grad of the outputs: " + ", ".join(str(o.requires_grad) for o in outputs),
            "# PyTorch's own operators all the way, or an autograd.Function around the\n"
            "# part that leaves them, with a backward of its own\nreturn torch.sin(x)",
        )
    observations, grads, error = observed(subject, arguments)
    if error is not None:
        return _explain_error(subject, error)
    for position, grad in zip(subject.differentiable, grads):
        if grad is None and subject.exact:
            check = _check_missing(subject, position, observations)
            if check:
                return check
    num = len(subject.differentiable)
    return Check("backward", PASSED, f"Runs, and returns {'a gradient' if num == 1 else f'{num} gradients'}.")


def _explain_error(subject: Subject, error: Exception) -> Check:
    message = str(error)
    if any(words in message for words in NO_BACKWARD):
        fix = "@staticmethod\ndef backward(ctx, grad_output):\n    ..."
        if subject.op is not None:
            fix = f"{subject.label.split('::')[-1]}.register_autograd(backward, setup_context=setup_context)"
        return Check("backward", FAILED, "There is no backward formula.", "no backward", raised(error), fix)
    counts = re.search(r"number of gradients \(expected (\d+).*?got (\d+)\)", message)
    if counts:
        return _wrong_number(subject, int(counts[1]), int(counts[2]), error)
    if "gradient different than None at position" in message:
        return Check(
            "backward",
            FAILED,
            "Backward returns a gradient for an argument that is no tensor: its values are in another order than "
            "forward's arguments, or there is one where None belongs.",
            "gradient for an argument that is no tensor",
            raised(error),
            f"return {_one_for_each(subject, len(subject.arguments))}",
        )
    if "invalid gradient at index" in message and "shape" in message:
        return Check(
            "backward",
            FAILED,
            "A gradient has another shape than its input. The gradient of an input always has that input's shape.",
            "gradient of the wrong shape",
            raised(error),
            "grad = grad.reshape(x.shape)        # where only the shape is wrong\n"
            "grad = grad.sum_to_size(x.shape)    # where x was broadcast",
        )
    return Check("backward", FAILED, "The backward pass raises.", "backward raises", raised(error))


def _wrong_number(subject: Subject, expected: int, given: int, error: Exception) -> Check:
    direct = subject.function_class is not None or subject.op is not None
    names = [subject.name(i) for i in range(expected)] if direct else []
    arguments = f"{expected} argument{'s' if expected != 1 else ''}" + (f" ({', '.join(names)})" if names else "")
    return Check(
        "backward",
        FAILED,
        f"Backward returns {given} value{'s' if given != 1 else ''} and forward has {arguments}. It returns one value "
        "for each argument of forward, in their order, None for those that are no tensors.",
        "wrong number of gradients",
        raised(error),
        f"return {_one_for_each(subject, expected)}",
    )


def _one_for_each(subject: Subject, count: int) -> str:
    return ", ".join(f"grad_{subject.name(i)}" if i in subject.floating else "None" for i in range(count))


def _check_missing(subject: Subject, position: int, observations: list[Observation]) -> Check | None:
    direction = random_like([subject.fresh()[position]], subject.generator())[0]
    slopes = push_forward(subject, {position: direction})
    outputs = subject.run(subject.fresh())
    steepest = max((float(s.abs().max()) for s, o in zip(slopes, outputs) if s.numel() and o.requires_grad), default=0)
    if steepest < 1e-7:
        return None
    name = subject.name(position)
    returned = next((o.returned for o in observations if len(o.returned) == len(subject.arguments)), None)
    seen = (
        "backward returned: " + ", ".join(shown(r) for r in returned)
        if returned is not None
        else f"the gradient of {name} is None"
    )
    return Check(
        "backward",
        FAILED,
        f"The gradient of `{name}` is None, which counts as zero, and the output does change with `{name}`.",
        "None for an input that needs a gradient",
        f"{seen}\nchange of the output along a random direction of {name}: {steepest:.4g}",
        f"grad_{name} = ... if ctx.needs_input_grad[{position}] else None",
    )


def shown(value: Any) -> str:
    return f"tensor{tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)


def check_shapes(subject: Subject) -> Check:
    """Compare the shapes that backward itself returned with those of the inputs."""
    observations, _, error = observed(subject, subject.fresh())
    if not observations or error:
        return _no_node("gradient shapes")
    for seen in observations:
        for position, (shape, _) in seen.expected.items():
            grad = seen.returned[position] if position < len(seen.returned) else None
            if isinstance(grad, torch.Tensor) and grad.shape != shape:
                return Check(
                    "gradient shapes",
                    WARNED,
                    f"Backward returns shape {tuple(grad.shape)} for an input of shape {tuple(shape)}; the engine sums "
                    "it to the input's shape.",
                    "gradient summed silently",
                    f"{seen.node_name}, argument {position}: returned {tuple(grad.shape)}, needed {tuple(shape)}",
                    "grad = grad.sum_to_size(x.shape)    # if the sum is meant, write it",
                )
    return Check("gradient shapes", PASSED, "Every gradient has the shape of its input.")


def check_dtypes(subject: Subject) -> Check:
    """Compare the dtypes that backward itself returned with those of the inputs, in the inputs' own dtypes."""
    observations, _, error = observed(subject, subject.fresh(exact=False))
    if error is not None:
        return Check(
            "gradient dtypes",
            FAILED,
            "Backward raises in the inputs' own dtype, and not in float64.",
            "backward raises",
            raised(error),
        )
    if not observations:
        return _no_node("gradient dtypes")
    for seen in observations:
        for position, (_, dtype) in seen.expected.items():
            grad = seen.returned[position] if position < len(seen.returned) else None
            if isinstance(grad, torch.Tensor) and grad.dtype.itemsize > dtype.itemsize:
                return Check(
                    "gradient dtypes",
                    WARNED,
                    f"Backward returns {_name(grad.dtype)} for a {_name(dtype)} input. The engine casts it back, after "
                    "it was computed and stored at the wider type.",
                    "gradient in a wider dtype",
                    f"{seen.node_name}, argument {position}:\n{_name(grad.dtype)}, "
                    f"{format_bytes(grad.numel() * grad.dtype.itemsize)} for an input of "
                    f"{format_bytes(grad.numel() * dtype.itemsize)}",
                    "# constants and buffers follow the input's dtype\nscale = torch.tensor(0.5, dtype=x.dtype)",
                )
    return Check("gradient dtypes", PASSED, "Every gradient has the dtype of its input.")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _no_node(name: str) -> Check:
    return Check(name, SKIPPED, "No custom autograd.Function in the graph: PyTorch's own see to this.")


def check_grad_output(subject: Subject) -> Check:
    """Backward is a matrix times the incoming gradient: try two gradients, none, and a sum."""
    outputs = with_graph(subject.run(subject.fresh()))
    generator = subject.generator()
    first, second = random_like(outputs, generator), random_like(outputs, generator)
    mixed = [2 * a - 3 * b for a, b in zip(first, second)]
    of_first, of_second, of_zeros, of_mixed = (
        _gradients_for(subject, given) for given in (first, second, [torch.zeros_like(g) for g in first], mixed)
    )
    scale = largest(of_first + of_second)
    for index, position in enumerate(subject.differentiable):
        one, other, none = of_first[index], of_second[index], of_zeros[index]
        if one is None or one.numel() == 0:
            continue
        name = subject.name(position)
        if close(one, other, subject.exact) and not is_zero(one, subject.exact):
            return Check(
                "grad_output",
                FAILED,
                f"The gradient of `{name}` does not change when the incoming gradient does. It is right only where "
                "that is all ones, as after `.sum()`: a test on `.sum()` passes, a loss does not.",
                "ignores grad_output",
                f"incoming {few(first[0])}  gives {few(one)}\nincoming {few(second[0])}  gives {few(other)}",
                f"# local: what backward returns for {name} now\nreturn grad_output * local",
            )
        if not is_zero(none, subject.exact):
            return _nonlinear(name, "An incoming gradient of zeros", f"incoming zeros gives {few(none)}")
        if one is not None and other is not None:
            expected = 2 * one - 3 * other
            if not close(of_mixed[index], expected, subject.exact, scale):
                return _nonlinear(
                    name,
                    "Twice one incoming gradient minus three times another",
                    f"2 a − 3 b gives          {few(of_mixed[index])}\nit must be 2 f(a) − 3 f(b): {few(expected)}",
                )
    return Check("grad_output", PASSED, "The gradient is linear in the incoming gradient.")


def _gradients_for(subject: Subject, grad_outputs: list[torch.Tensor]) -> list[Gradient]:
    arguments = subject.fresh()
    outputs = with_graph(subject.run(arguments))
    grads = pull_back(outputs, [arguments[i] for i in subject.differentiable], [g.clone() for g in grad_outputs])
    return [None if g is None else g.clone() for g in grads]


def _nonlinear(name: str, what: str, evidence: str) -> Check:
    return Check(
        "grad_output",
        FAILED,
        f"{what} does not give what it must: backward is a matrix times `grad_output`, for `{name}` it is not. Nothing "
        "may be added to it, clipped or squared on the way.",
        "not linear in grad_output",
        evidence,
        "# once, by something that does not depend on grad_output\nreturn grad_output * local",
    )


def few(tensor: Gradient) -> str:
    if tensor is None:
        return "None"
    values = tensor.detach().flatten()[:3].tolist()
    shown = ", ".join(f"{v:.3g}" if isinstance(v, (int, float)) else str(v) for v in values)
    return f"[{shown}{', …' if tensor.numel() > 3 else ''}]"


def check_left_alone(subject: Subject) -> Check:
    """See whether backward writes to the incoming gradient or to what it saved."""
    arguments = subject.fresh()
    outputs = with_graph(subject.run(arguments))
    nodes = custom_nodes(outputs)
    observations = observe(nodes)
    given = random_like(outputs, subject.generator())
    before = [g.clone() for g in given]
    try:
        pull_back(outputs, [arguments[i] for i in subject.differentiable], given)
    finally:
        stop_observing(nodes)
    changed = [i for i, (g, b) in enumerate(zip(given, before)) if not same_bits(g, b)]
    inside = next((o for o in observations if o.changed_grad_outputs), None)
    if changed or inside:
        evidence = f"{inside.node_name} changed its grad_output" if inside else ""
        if changed:
            first = changed[0]
            evidence = f"grad_output before: {few(before[first])}\ngrad_output after:  {few(given[first])}"
        return Check(
            "backward leaves alone",
            FAILED,
            "Backward writes to `grad_output`. That tensor is not its own: the engine hands the same one to other "
            "nodes, hooks and `.grad`.",
            "changes grad_output",
            evidence,
            "grad = grad_output * mask    # a new tensor, not grad_output.mul_(mask)",
        )
    saved = next((o for o in observations if o.changed_saved), None)
    if saved:
        return Check(
            "backward leaves alone",
            FAILED,
            f"Backward writes to `{saved.changed_saved[0]}`. A second backward (retain_graph, double backward, "
            "checkpointing) sees the changed values; where it is an input, so does the caller.",
            "changes a saved tensor",
            f"{saved.node_name} changed {', '.join(saved.changed_saved)}",
            "(x,) = ctx.saved_tensors\ngrad = x * 2    # not x.mul_(2)",
        )
    return Check("backward leaves alone", PASSED, "Writes neither to grad_output nor to what it saved.")


def check_repeatable(subject: Subject) -> Check:
    """Run backward twice over one graph, from different seeds."""
    arguments = subject.fresh()
    leaves = [arguments[i] for i in subject.differentiable]
    outputs = with_graph(subject.run(arguments))
    given = random_like(outputs, subject.generator())
    runs = []
    for seed in (1, 2):
        subject.seed(seed)
        grads = pull_back(outputs, leaves, [g.clone() for g in given])
        runs.append([None if g is None else g.clone() for g in grads])
    scale = largest(runs[0])
    for position, one, other in zip(subject.differentiable, *runs):
        if not close(one, other, subject.exact, scale):
            return Check(
                "backward repeats",
                FAILED,
                f"Two backward passes over the same graph give different gradients for `{subject.name(position)}`. "
                "What is random is drawn in forward and saved.",
                "backward is random",
                f"first:  {few(one)}\nsecond: {few(other)}",
                "ctx.save_for_backward(mask)    # drawn in forward, read in backward",
            )
    return Check("backward repeats", PASSED, "Two backward passes give the same gradient.")
