"""torch.compile and custom-operator registration."""

from __future__ import annotations

import types
from typing import Any

import torch

from blackbelt.autograd._functions_forward import raised
from blackbelt.autograd._functions_numbers import all_close, pull_back, random_like, with_graph
from blackbelt.autograd._functions_report import FAILED, NOT_SUPPORTED, PASSED, SKIPPED, Check
from blackbelt.autograd._functions_subject import Subject, tensors_in


def check_compile(subject: Subject, backend: str | None) -> Check:
    """Compile with fullgraph=True and compare values and gradients with eager, in the inputs' own dtypes."""
    name = "compile"
    if backend is None:
        return Check(name, SKIPPED, "Not asked for: compile=True.")
    function = subject.function

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    # Dynamo counts recompilations by code object: a copy of it gives every check a count of its own.
    fresh = types.FunctionType(call.__code__.replace(), globals(), "call", None, call.__closure__)
    try:
        compiled = torch.compile(fresh, fullgraph=True, backend=backend, dynamic=False)
        if compiled is fresh:
            return Check(name, SKIPPED, "torch.compile is switched off here (TORCH_COMPILE_DISABLE).")
        got = _results(subject, compiled)
    except Exception as error:
        return Check(
            name,
            NOT_SUPPORTED,
            f'torch.compile(fullgraph=True, backend="{backend}") refuses the function.',
            "does not compile",
            raised(error),
            "# In forward and backward: no .item(), NumPy, printing, global state.\n"
            "# What cannot be traced becomes an operator:\n"
            "# torch.library.custom_op + register_autograd",
        )
    expected = _results(subject, function)
    exact = all(a.dtype == torch.float64 for a in subject.arguments if isinstance(a, torch.Tensor))
    for index, what in enumerate(("values", "gradients")):
        if not all_close(got[index], expected[index], exact):
            return Check(name, FAILED, f"Compiled, the function gives other {what} than eager.", "wrong when compiled")
    return Check(name, PASSED, f'Compiles in one graph (backend "{backend}"); values and gradients agree.')


def _results(subject: Subject, function: Any) -> tuple[list[Any], list[Any]]:
    leaves = subject.fresh(exact=False)
    subject.seed()
    arguments = [a.clone() if i in subject.written else a for i, a in enumerate(leaves)]
    outputs = tensors_in(function(*arguments))
    kept = with_graph(outputs)
    grads = pull_back(kept, [leaves[i] for i in subject.differentiable], random_like(kept, subject.generator()))
    return outputs, grads


def check_opcheck(subject: Subject, compiled: bool) -> Check:
    """Run torch.library.opcheck on a custom operator; its compile test only where compile was asked for."""
    name = "opcheck"
    if subject.op is None:
        return Check(name, SKIPPED, "It is no custom operator.")
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if compiled:
        tests.append("test_aot_dispatch_dynamic")
    failures = {}
    for test in tests:
        try:
            torch.library.opcheck(subject.op, tuple(subject.fresh(exact=False)), test_utils=test)
        except Exception as error:
            failures[test] = error
    if failures:
        test, first = next(iter(failures.items()))
        return Check(
            name,
            FAILED,
            f"torch.library.opcheck: {', '.join(failures)} failed. Eager may work all the same; compile, export and "
            "functionalization rely on what was registered.",
            "opcheck fails",
            raised(first),
            _FIXES.get(test, ""),
        )
    return Check(name, PASSED, f"{', '.join(t.removeprefix('test_') for t in tests)}: registered as they should be.")


_FIXES = {
    "test_schema": '@torch.library.custom_op("lib::op", mutates_args={"x"})   # what is written to; return no input',
    "test_autograd_registration": "op.register_autograd(backward, setup_context=setup_context)",
    "test_faketensor": "@op.register_fake\ndef _(x):\n    return torch.empty_like(x)",
    "test_aot_dispatch_dynamic": "@op.register_fake\ndef _(x):\n    return torch.empty_like(x)",
}
