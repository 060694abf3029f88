"""Is a hand-written derivative right, wherever it will be used: `check_function`.

``torch.autograd.gradcheck`` says that two numbers differ. `check_function` says which mistake makes them differ, and
looks where gradcheck does not: at what backward does with ``grad_output``, at what was saved and how, at inputs that
are transposed, expanded or empty, at second derivatives, forward mode, vmap, autocast, compile and registration.
Causes are looked for before their symptoms, so a function is named for what is wrong with it.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from blackbelt.autograd import _functions_backward as backward
from blackbelt.autograd import _functions_layouts as layouts
from blackbelt.autograd import _functions_modes as modes
from blackbelt.autograd import _functions_pruning as pruning
from blackbelt.autograd._functions_causes import CAUSES
from blackbelt.autograd._functions_compiled import check_compile, check_opcheck
from blackbelt.autograd._functions_forward import check_forward, check_inputs_kept, raised, walked_once
from blackbelt.autograd._functions_numerical import check_double_backward, check_gradcheck
from blackbelt.autograd._functions_report import FAILED, NOT_SUPPORTED, SKIPPED, WARNED, Check, FunctionReport
from blackbelt.autograd._functions_saved import check_saved
from blackbelt.autograd._functions_subject import Subject, make_subject

__all__ = ["CAUSES", "CHECKS", "Check", "FunctionReport", "check_function"]

_CHECKS: dict[str, Callable[[Subject], Check]] = {
    "forward": check_forward,
    "inputs kept": check_inputs_kept,
    "backward": backward.check_backward,
    "gradient shapes": backward.check_shapes,
    "gradient dtypes": backward.check_dtypes,
    "backward leaves alone": backward.check_left_alone,
    "backward repeats": backward.check_repeatable,
    "grad_output": backward.check_grad_output,
    "unused outputs": pruning.check_unused_outputs,
    "saved tensors": check_saved,
    "gradcheck": check_gradcheck,
    "needs_input_grad": pruning.check_needs_input_grad,
    "double backward": check_double_backward,
    "jvp": modes.check_jvp,
    "vmap": modes.check_vmap,
    "non-contiguous": layouts.check_noncontiguous,
    "expanded": layouts.check_expanded,
    "zero-size": layouts.check_empty,
    "autocast": modes.check_autocast,
}
CHECKS = (*_CHECKS, "compile", "opcheck")

# Without these nothing else can be asked.
_FOUNDATIONS = ("forward", "backward")
# What is wrong here makes the gradient wrong …
_VALUE = {
    "inputs kept",
    "gradient shapes",
    "backward leaves alone",
    "backward repeats",
    "grad_output",
    "unused outputs",
    "gradcheck",
}
# … and then these fail as well: there it is a symptom, without a cause of its own.
_SYMPTOMS = {
    "backward leaves alone",
    "grad_output",
    "backward repeats",
    "gradcheck",
    "needs_input_grad",
    "double backward",
    "jvp",
    "vmap",
    "unused outputs",
    "saved tensors",
}
# A backward that is no function of what it is given shows everywhere.
_UNSTABLE = {"changes an input", "changes grad_output", "changes a saved tensor", "backward is random"}


def check_function(
    fn: Callable[..., Any],
    *inputs: Any,
    compile: bool | str = False,  # noqa: A002  # it is torch.compile's name that is meant
    skip: Sequence[str] = (),
) -> FunctionReport:
    """Put a differentiable function to every test it will meet, and name the first thing that is wrong with it.

    ``fn`` is a ``torch.autograd.Function`` subclass or its ``.apply``, an operator made with
    ``torch.library.custom_op`` or found in ``torch.ops``, an ``nn.Module`` (its parameters are checked too), or any
    callable that uses one. ``inputs`` are its positional arguments: tensors of any shape, those to be differentiated
    with ``requires_grad``; everything else is passed on as it is. Where forward has kinks, choose inputs away from
    them.

    The checks run on copies: floating inputs in float64 (complex ones in complex128) where numbers are compared, in
    their own dtype for the checks of dtype, autocast, compile and opcheck. Inputs, ``.grad``, RNG and grad mode stay
    as they are. Every call of ``fn`` starts from the same seed.

    ``compile=True`` adds ``torch.compile(fullgraph=True, backend="aot_eager")`` and opcheck's compile test; a string
    names another backend, e.g. "inductor". ``skip`` names checks (see ``CHECKS``) that make no sense for this
    function: a straight-through estimator is meant to fail "gradcheck".

    What ``fn`` holds by closure is its own affair: pass a module itself, not a lambda around it, and its parameters
    and buffers are copied too. Tensors inside lists and dicts are copied and passed on, not differentiated.

    Cost: one gradcheck, one gradgradcheck and about sixty single calls; beyond 2**14 Jacobian elements derivatives are
    compared along random directions instead of element by element. Memory: a few copies of the inputs and outputs. A
    ``torch.func`` transform inside ``fn``, a vmap rule, or ``compile`` imports Dynamo the first time: some seconds.

    Raises TypeError where ``fn`` is not callable or an input is a tensor subclass (DTensor, FakeTensor), ValueError
    where no input is a floating tensor that requires grad, is on the meta device or not strided, or ``skip`` names an
    unknown check. What ``fn`` itself raises is a finding, in the check where it was raised.

    >>> import torch
    >>> class Square(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x
    ...
    ...     @staticmethod
    ...     def backward(ctx, grad_output):
    ...         (x,) = ctx.saved_tensors
    ...         return 2 * x
    >>> report = check_function(Square, torch.randn(3, requires_grad=True))
    >>> report.ok, report.cause
    (False, 'ignores grad_output')
    """
    skipped = _check_skip(skip)
    if not isinstance(compile, (bool, str)):
        raise TypeError(f"compile is {compile!r}; it takes True, False or the name of a backend, e.g. 'inductor'")
    backend = compile if isinstance(compile, str) else ("aot_eager" if compile else None)
    subject = make_subject(fn, inputs)
    with _undisturbed(subject):
        checks = _run_all(subject, skipped, backend)
    return FunctionReport(subject.label, _describe(subject), _causes_first(checks), tuple(subject.notes))


def _check_skip(skip: Sequence[str]) -> frozenset[str]:
    names = (skip,) if isinstance(skip, str) else tuple(skip)
    for name in names:
        if name not in CHECKS or name in _FOUNDATIONS:
            known = ", ".join(repr(c) for c in CHECKS if c not in _FOUNDATIONS)
            raise ValueError(f"skip holds {name!r}, which is no check that can be left out. These are: {known}")
    return frozenset(names)


def _run_all(subject: Subject, skipped: frozenset[str], backend: str | None) -> list[Check]:
    checks: list[Check] = []
    stopped_by = ""
    tests: dict[str, Callable[[Subject], Check]] = {
        **_CHECKS,
        "compile": lambda s: check_compile(s, backend),
        "opcheck": lambda s: check_opcheck(s, backend is not None),
    }
    for name, test in tests.items():
        if name in skipped:
            checks.append(Check(name, SKIPPED, "Left out, as you asked."))
        elif stopped_by and name != "opcheck":
            checks.append(Check(name, SKIPPED, f"Cannot be asked before `{stopped_by}` passes."))
        else:
            check = _guarded(name, test, subject)
            checks.append(check)
            if check.status == FAILED and name in _FOUNDATIONS:
                stopped_by = name
    return checks


def _guarded(name: str, test: Callable[[Subject], Check], subject: Subject) -> Check:
    """Run a check; an exception that it did not expect came from the function, and is a finding."""
    try:
        return test(subject)
    except Exception as error:
        if walked_once(error):
            return Check(name, NOT_SUPPORTED, "The graph can be walked once only (clear_saved_tensors_on_access).")
        cause = "forward raises" if name in {"forward", "inputs kept"} else "backward raises"
        return Check(name, FAILED, f"The function raised during the check `{name}`.", cause, raised(error))


def _causes_first(checks: list[Check]) -> tuple[Check, ...]:
    """Take the cause from every failure that follows from an earlier one."""
    failed = {check.name for check in checks if check.status == FAILED}
    shapes = next(check for check in checks if check.name == "gradient shapes")
    ordered: list[Check] = []
    earlier = ""
    for given in checks:
        check = given
        if check is shapes and check.status == WARNED and "gradcheck" in failed and "grad_output" not in failed:
            check = replace(check, status=FAILED)
        if check.status == FAILED and earlier and (check.name in _SYMPTOMS or earlier in _UNSTABLE):
            check = _symptom(check, earlier)
        if check.status == FAILED and check.name == "expanded" and ordered[-1].cause == "assumes contiguous inputs":
            check = _symptom(check, ordered[-1].cause)
        ordered.append(check)
        if check.status == FAILED and check.cause and (check.name in _VALUE or check.cause in _UNSTABLE):
            earlier = earlier or check.cause
    return tuple(ordered)


def _symptom(check: Check, cause: str) -> Check:
    return replace(check, cause="", evidence="", fix="", sentence=f"Follows from: {cause}.")


def _describe(subject: Subject) -> str:
    parts = []
    for position, argument in enumerate(subject.arguments):
        if isinstance(argument, torch.Tensor):
            dtype = str(argument.dtype).removeprefix("torch.")
            parts.append(f"{subject.name(position)} {tuple(argument.shape)} {dtype}")
    return f"Checked with {', '.join(parts)}."


@contextmanager
def _undisturbed(subject: Subject) -> Iterator[None]:
    """Keep seeds, grad mode, autocast and warnings of the caller as they were."""
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    python_state = random.getstate()
    numpy_state = numpy_random.get_state() if numpy_random else None
    devices = sorted({a.device.index or 0 for a in subject.arguments if _on_cuda(a)})
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy_random:
                numpy_random.set_state(numpy_state)


def _on_cuda(argument: Any) -> bool:
    return isinstance(argument, torch.Tensor) and argument.is_cuda
