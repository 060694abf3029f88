"""The same values in other memory: transposed, strided, expanded, and none at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from blackbelt.autograd._functions_forward import first_sentence, raised
from blackbelt.autograd._functions_numbers import Gradient, all_close, gradients, largest
from blackbelt.autograd._functions_report import FAILED, NOT_SUPPORTED, PASSED, SKIPPED, Check
from blackbelt.autograd._functions_subject import Subject

_OWN_WORDS = (AssertionError, ValueError, TypeError, NotImplementedError)  # a refusal that somebody wrote
Layout = Callable[[torch.Tensor], torch.Tensor]


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same values in another order in memory: transposed, or every other element of a longer one."""
    if tensor.dim() >= 2 and min(tensor.shape[-2:]) > 1:
        return tensor.mT.contiguous().mT
    return torch.stack((tensor, tensor + 1), dim=-1).select(-1, 0)


def check_noncontiguous(subject: Subject) -> Check:
    """Compare the results on non-contiguous inputs, and for non-contiguous incoming gradients, with contiguous ones."""
    name = "non-contiguous"
    if all(subject.arguments[i].numel() < 2 for i in subject.floating):
        return Check(name, SKIPPED, "An input of one element is always contiguous.")
    if not subject.random:  # `rand_like` draws in memory order: the same seed, other numbers
        refused = _compare_inputs(subject, name, strided, subject.floating, _contiguous_only)
        if refused:
            return refused
    for what, layout in (("transposed or strided", strided), ("expanded (as after `.sum()`)", _expanded)):
        _, expected = gradients(subject, prepare=_then_contiguous(layout))
        try:
            _, got = gradients(subject, prepare=layout)
        except Exception as error:
            return _contiguous_gradient(f"Backward fails on an incoming gradient that is {what}.", raised(error))
        if not all_close(got, expected, subject.exact):
            return _contiguous_gradient(f"The gradient is another one where the incoming one is {what}.", "")
    return Check(name, PASSED, "Strides of inputs and incoming gradients do not matter.")


def _then_contiguous(layout: Layout) -> Layout:
    return lambda tensor: layout(tensor).contiguous()


def check_expanded(subject: Subject) -> Check:
    """Compare the results on expanded inputs (stride 0) with those on their contiguous copies."""
    name = "expanded"
    positions = tuple(i for i in subject.floating if any(size > 1 for size in subject.arguments[i].shape))
    if not positions:
        return Check(name, SKIPPED, "No input has a dimension to expand.")
    if subject.written:
        return Check(name, SKIPPED, "The function works in place, and one element of stride 0 is many.")
    if subject.random:
        return Check(name, SKIPPED, "Forward draws random numbers, in memory order.")
    refused = _compare_inputs(subject, name, _expanded, positions, _expanded_fails)
    return refused or Check(name, PASSED, "Inputs of stride 0 give the same as their copies.")


def _compare_inputs(
    subject: Subject, name: str, layout: Layout, positions: tuple[int, ...], failed: Callable[[str, str], Check]
) -> Check | None:
    """Lay out one input at a time and then all of them; compare with contiguous copies of the same values."""
    for chosen in dict.fromkeys([*((p,) for p in positions), positions]):
        names = ", ".join(f"`{subject.name(p)}`" for p in chosen)
        expected = _contiguous_results(subject, layout, chosen)
        if expected is None:
            continue
        try:
            got = _with_layout(subject, layout, chosen)
        except Exception as error:
            if isinstance(error, _OWN_WORDS):
                return Check(name, NOT_SUPPORTED, f"Refuses, clearly: {first_sentence(error)}.")
            strides = "\n".join(_strides(subject, p, layout) for p in chosen)
            return failed(f"The function fails where {names} is laid out like this.", f"{strides}\n{raised(error)}")
        pairs: list[tuple[str, Sequence[Gradient], Sequence[Gradient]]] = [
            ("output", got[0], expected[0]),
            ("gradient", got[1], expected[1]),
        ]
        for what, one, other in pairs:
            if not all_close(one, other, subject.exact):
                return failed(
                    f"The same values of {names} in another memory layout give another {what}, without an error: "
                    "something reads memory in storage order.",
                    "\n".join(_strides(subject, p, layout) for p in chosen)
                    + f"\nlargest difference in {'an' if what[0] == 'o' else 'a'} {what}: {_distance(one, other):.4g}",
                )
    return None


def _contiguous_results(
    subject: Subject, layout: Layout, positions: tuple[int, ...]
) -> tuple[list[torch.Tensor], list[Gradient]] | None:
    """Return None where the function refuses the values themselves: a matrix of equal rows is singular."""
    try:
        return _with_layout(subject, lambda t: layout(t).contiguous(), positions)
    except Exception:
        return None


def _strides(subject: Subject, position: int, layout: Layout) -> str:
    tensor = subject.arguments[position].detach()
    return f"{subject.name(position)}: shape {tuple(tensor.shape)}, strides {layout(tensor).stride()}"


def _distance(ones: Sequence[Gradient], others: Sequence[Gradient]) -> float:
    return largest([a - b for a, b in zip(ones, others) if a is not None and b is not None and a.shape == b.shape])


def _contiguous_only(sentence: str, evidence: str) -> Check:
    return Check(
        "non-contiguous",
        FAILED,
        sentence,
        "assumes contiguous inputs",
        evidence,
        "x = x.reshape(-1)       # not x.view(-1)\nx = x.contiguous()      # before a kernel that reads raw memory",
    )


def _contiguous_gradient(sentence: str, evidence: str) -> Check:
    return Check(
        "non-contiguous",
        FAILED,
        sentence + " Nobody promises its strides: after `.sum()` they are all 0, after a transpose they are swapped.",
        "assumes a contiguous grad_output",
        evidence,
        "grad_output = grad_output.contiguous()   # or reshape for view",
    )


def _expanded_fails(sentence: str, evidence: str) -> Check:
    return Check(
        "expanded",
        FAILED,
        sentence + " With stride 0, many elements are one place in memory.",
        "fails on expanded inputs",
        evidence,
        "x = x.contiguous()      # before anything that writes or reads raw memory",
    )


def _expanded(tensor: torch.Tensor) -> torch.Tensor:
    """Return the first row for all rows, along the first dimension longer than one."""
    for dim, size in enumerate(tensor.shape):
        if size > 1:
            return tensor.narrow(dim, 0, 1).expand(tensor.shape)
    return tensor


def _with_layout(
    subject: Subject, layout: Layout, positions: tuple[int, ...]
) -> tuple[list[torch.Tensor], list[Gradient]]:
    leaves = subject.fresh()
    arguments = [layout(a) if i in positions and i not in subject.written else a for i, a in enumerate(leaves)]
    return gradients(subject, arguments, [leaves[i] for i in subject.differentiable])


def check_empty(subject: Subject) -> Check:
    """Give the function a batch of none: every tensor whose first dimension is the first input's gets none of it."""
    name = "zero-size"
    first = next((subject.arguments[i] for i in subject.differentiable if subject.arguments[i].dim()), None)
    if first is None or first.shape[0] == 0:
        return Check(name, SKIPPED, "No input has a first dimension to empty.")
    error: Exception | None = None
    for emptied in _batches(subject, first.shape[0]):
        arguments = [
            a.detach()[:0].requires_grad_(a.requires_grad) if i in emptied else a for i, a in enumerate(subject.fresh())
        ]
        try:
            outputs = subject.run(arguments)
        except Exception as caught:
            error = error or caught
            continue
        return _empty_backward(subject, arguments, outputs)
    assert error is not None
    return Check(name, NOT_SUPPORTED, f"Forward refuses a first dimension of 0: {first_sentence(error)}.")


def _batches(subject: Subject, size: int) -> Iterator[frozenset[int]]:
    """Return the sets of inputs that may share a batch dimension: all of that size, then each alone."""
    tensors = [i for i, a in enumerate(subject.arguments) if isinstance(a, torch.Tensor) and a.dim()]
    yield frozenset(i for i in tensors if subject.arguments[i].shape[0] == size)
    yield from (frozenset([i]) for i in tensors)


def _empty_backward(subject: Subject, arguments: list[Any], outputs: list[torch.Tensor]) -> Check:
    name = "zero-size"
    leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    try:
        _, grads = gradients(subject, arguments, leaves)
    except Exception as error:
        return _fails_empty("Forward takes a first dimension of 0, and backward fails on it.", raised(error))
    finite = all(bool(torch.isfinite(o.detach()).all()) for o in outputs if o.is_floating_point())
    if finite and not all(g is None or bool(torch.isfinite(g).all()) for g in grads):
        return _fails_empty("With a first dimension of 0 the output is finite and a gradient is NaN or infinite.", "")
    return Check(name, PASSED, "A first dimension of 0 works, forward and backward.")


def _fails_empty(sentence: str, evidence: str) -> Check:
    return Check(
        "zero-size",
        FAILED,
        sentence + " The last shard of a dataset, or a mask that selects nothing, gives such a batch.",
        "fails on empty inputs",
        evidence,
        "if x.numel() == 0:      # amax, argmax and a division by the size fail\n    return torch.zeros_like(x)",
    )
