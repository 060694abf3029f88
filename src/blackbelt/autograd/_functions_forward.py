"""Checks of the forward pass: does it run, is it the same twice, and what does it do to its inputs."""

from __future__ import annotations

import re
import textwrap
import traceback
from typing import Any

import torch

from blackbelt.autograd._functions_numbers import random_like, same_bits
from blackbelt.autograd._functions_report import FAILED, PASSED, Check
from blackbelt.autograd._functions_subject import Subject, tensors_in

_WIDTH = 74


def raised(error: BaseException) -> str:
    """Return an exception as evidence: its type, its first lines, and the line of the caller's code that raised it."""
    message = str(error).strip().split("\n\n")[0]
    if len(message) > 600:
        message = message[:600] + " …"
    lines = f"{type(error).__name__}: {message}".splitlines()
    message = "\n".join(textwrap.fill(line, _WIDTH, subsequent_indent="  ") for line in lines)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_internal(f.filename)]
    where = f"\n  at {frames[-1].name}:\n    {(frames[-1].line or '')[:_WIDTH]}" if frames and frames[-1].line else ""
    return message + where


def walked_once(error: Exception) -> bool:
    """Return whether a second backward was refused because the first one consumed what was saved."""
    return "through the graph a second time" in str(error) or "saved_tensors can only be accessed once" in str(error)


def first_sentence(error: Exception) -> str:
    """Return the type of an error and the first sentence of its message."""
    message = " ".join(str(error).split())
    sentence = re.split(r"(?<=[a-z)])\. ", message)[0]
    return f"{type(error).__name__}: {sentence[:160]}"


def _is_internal(filename: str) -> bool:
    parts = filename.replace("\\", "/")
    return "/torch/" in parts or "/blackbelt/autograd/" in parts or parts.startswith("<")


def check_forward(subject: Subject) -> Check:
    """Run forward in the inputs' own dtypes, in float64, and twice."""
    try:
        result = subject.call(_moved(subject, exact=False))
    except Exception as error:
        return Check(
            "forward", FAILED, "The forward pass raises with the inputs given.", "forward raises", raised(error)
        )
    if not tensors_in(result):
        kind = type(result).__name__
        return Check(
            "forward",
            FAILED,
            f"The function returned a {kind} without a tensor in it.",
            "returns no tensor",
            fix="return y    # a tensor or a tuple of them; not y.item(), not y.tolist()",
        )
    try:
        subject.call(_moved(subject, exact=True))
    except Exception as error:
        subject.exact = False
        subject.notes.append(
            "Forward does not run on float64 copies of the inputs, so numbers were compared in the inputs' own dtype, "
            "roughly. A tensor that the function holds should be an argument of it, or follow `x.dtype`. It raised: "
            + first_sentence(error)
        )
    if subject.exact and _casts(subject):
        subject.exact = False
        subject.notes.append(
            "Forward computes in less than float64 inside: a change of 1e-10 is lost. Numbers were compared roughly."
        )
    one, other = ([t.detach().clone() for t in subject.run(_moved(subject, subject.exact))] for _ in range(2))
    if len(one) != len(other) or not all(same_bits(a, b) for a, b in zip(one, other)):
        return Check(
            "forward",
            FAILED,
            "Two calls with the same inputs and the same torch seed give different values; no derivative can be "
            "measured on that. State outside of the function, or another random generator, takes part.",
            "forward is random",
            _difference(one, other),
        )
    if any(not same_bits(a, b) for a, b in zip(one, tensors_in(subject.call(_moved(subject, subject.exact), seed=1)))):
        subject.random = True
        subject.notes.append("Forward draws random numbers; every call here starts from one seed.")
    num = f"{len(one)} tensors" if len(one) > 1 else "a tensor"
    return Check("forward", PASSED, f"Runs, returns {num}, the same values twice.")


def _casts(subject: Subject) -> bool:
    """Return whether forward loses float64 on the way: its slope over 1e-10 is another one than over 1e-6."""
    with torch.no_grad():
        steps = {}
        directions = random_like([subject.fresh()[i] for i in subject.differentiable], subject.generator())
        for step in (0.0, 1e-10, 1e-6):
            arguments = _moved(subject, exact=True)
            for position, direction in zip(subject.differentiable, directions):
                arguments[position] = arguments[position].detach() + step * direction
            steps[step] = [t.detach().clone() for t in tensors_in(subject.call(arguments))]
    for base, near, far in zip(*steps.values()):
        if not (base.is_floating_point() or base.is_complex()) or base.shape != near.shape or base.shape != far.shape:
            continue
        short, long = ((near - base) / 1e-10).abs(), ((far - base) / 1e-6).abs()
        size = float(torch.nan_to_num(base.abs(), posinf=0.0).max()) if base.numel() else 0.0
        if bool(((short - long).abs() > 0.2 * long + 1e-4 * (1 + size)).any()):
            return True
    return False


def check_inputs_kept(subject: Subject) -> Check:
    """See whether forward writes to an input, and whether autograd was told."""
    arguments = subject.fresh()
    passed: list[Any] = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    before = [_state(a) if isinstance(a, torch.Tensor) else None for a in passed]
    subject.call(passed)
    unmarked, marked, plain = [], [], []
    for position, (argument, old) in enumerate(zip(passed, before)):
        if old is None:
            continue
        value, version, node = old
        changed = not same_bits(argument.detach(), value)
        if not changed and _version(argument) == version:
            continue
        if not argument.requires_grad:
            plain.append(position)
        elif argument.grad_fn is not node:
            marked.append(position)
        elif changed:
            unmarked.append(position)
    subject.written = frozenset(marked + plain)
    if unmarked:
        subject.written |= frozenset(unmarked)
        name = subject.name(unmarked[0])
        return Check(
            "inputs kept",
            FAILED,
            f"Forward writes to `{name}` and autograd is not told: whoever computed `{name}` still believes in the "
            f"old values, and the gradient through what `{name}` is used for afterwards is wrong, without an error.",
            "changes an input",
            f"{name} before: {_few(before[unmarked[0]][0])}\n"  # type: ignore[index]  # a tensor, so not None
            f"{name} after:  {_few(passed[unmarked[0]])}\n"
            f"{name}.grad_fn is still {type(before[unmarked[0]][2]).__name__}",  # type: ignore[index]
            f"ctx.mark_dirty({name})    # and return {name} itself\n# or leave it alone:\n{name} = {name}.clone()",
        )
    if marked:
        names = ", ".join(f"`{subject.name(p)}`" for p in marked)
        return Check("inputs kept", PASSED, f"Writes to {names} and says so: autograd gave it a new grad_fn.")
    if plain:
        names = ", ".join(f"`{subject.name(p)}`" for p in plain)
        return Check("inputs kept", PASSED, f"Writes to {names}, which requires no grad.")
    return Check("inputs kept", PASSED, "Forward leaves its inputs alone.")


def _state(tensor: torch.Tensor) -> tuple[torch.Tensor, int, Any]:
    return tensor.detach().clone(), _version(tensor), tensor.grad_fn


def _version(tensor: torch.Tensor) -> int:
    return tensor._version  # noqa: SLF001  # the counter has no public name


def _moved(subject: Subject, exact: bool) -> list[Any]:
    """Return copies that are no leaves: a function that works in place refuses leaves that require grad."""
    return [a.clone() if isinstance(a, torch.Tensor) else a for a in subject.fresh(exact=exact)]


def _few(tensor: torch.Tensor) -> str:
    values = tensor.detach().flatten()[:4].tolist()
    shown = ", ".join(f"{v:.4g}" if isinstance(v, (int, float)) else str(v) for v in values)
    return f"[{shown}{', …' if tensor.numel() > 4 else ''}]"


def _difference(ones: list[torch.Tensor], others: list[torch.Tensor]) -> str:
    for one, other in zip(ones, others):
        if not same_bits(one, other):
            return f"first call:  {_few(one)}\nsecond call: {_few(other)}"
    return f"first call returned {len(ones)} tensors, the second {len(others)}"
