"""Other ways to run the same function: forward mode, vmap, autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from blackbelt.autograd._functions_forward import first_sentence, raised
from blackbelt.autograd._functions_nodes import custom_nodes
from blackbelt.autograd._functions_numbers import (
    Gradient,
    all_close,
    gradients,
    inner,
    pull_back,
    push_forward,
    random_like,
    with_graph,
)
from blackbelt.autograd._functions_report import FAILED, NOT_SUPPORTED, PASSED, SKIPPED, WARNED, Check
from blackbelt.autograd._functions_subject import Subject

BATCH = (1.0, 1.03125, 0.96875)


def check_jvp(subject: Subject) -> Check:
    """Compare forward mode with central differences, or where those cannot judge, with backward."""
    name = "jvp"
    leaves = subject.fresh()
    positions = subject.differentiable
    directions = random_like([leaves[i] for i in positions], subject.generator())
    arguments = subject.fresh(needing_grad=())
    with forward_ad.dual_level():
        for position, direction in zip(positions, directions):
            arguments[position] = forward_ad.make_dual(arguments[position], direction)
        try:
            outputs = subject.run(arguments)
        except Exception as error:
            return _refused(name, subject, error, "jvp", "wrong jvp")
        tangents = [forward_ad.unpack_dual(output).tangent for output in outputs]
        tangents = [None if t is None else t.clone() for t in tangents]
    recorded = subject.run(leaves)
    kept = [i for i, o in enumerate(recorded) if o.requires_grad]
    given = random_like([recorded[i] for i in kept], subject.generator())
    claimed = inner(given, [tangents[i] for i in kept])
    backward = inner(pull_back([recorded[i] for i in kept], [leaves[i] for i in positions], given), directions)
    slopes = push_forward(subject, dict(zip(positions, directions)))
    measured = inner(given, [slopes[i] for i in kept])
    if abs(claimed - measured) <= 1e-6 + 1e-4 * abs(measured):
        return Check(name, PASSED, "Forward mode agrees with central differences.")
    if abs(claimed - backward) <= 1e-8 + 1e-6 * abs(backward):
        return Check(name, PASSED, "Forward mode agrees with backward.")
    if all(tangent is None for tangent in tangents):
        return Check(
            name,
            WARNED,
            "Forward mode does not refuse: the output comes without a tangent, which counts as zero. An operator made "
            "with `torch.library.custom_op` has no forward-mode rule, and says so only where its input requires grad.",
            "forward mode is silently zero",
            f"along a random direction:\n  by forward mode        0\n  by backward            {backward:.6g}",
            "# instead of torch.func.jvp, jacfwd, hessian: reverse mode,\n"
            "# or an autograd.Function with a jvp around the operator",
        )
    return Check(
        name,
        FAILED,
        "Forward mode and backward mode give different derivatives along the same direction.",
        "wrong jvp",
        f"along a random direction:\n  by jvp                 {claimed:.6g}\n  by backward            {backward:.6g}\n"
        f"  by central differences {measured:.6g}",
        "# one tangent for each input; returns one for each output\n@staticmethod\ndef jvp(ctx, *tangents):\n"
        "    return tangents[0] * local    # from ctx.save_for_forward(...)",
    )


def _refused(name: str, subject: Subject, error: Exception, method: str, cause: str) -> Check:
    """Return "not supported" where the function never claimed support, and a failure where it did."""
    function_class = subject.function_class
    claims = function_class is not None and (
        getattr(function_class, method) is not getattr(torch.autograd.Function, method)
        or (method == "vmap" and function_class.generate_vmap_rule)
    )
    if claims:
        return Check(name, FAILED, f"The function has a rule for {method}, and it raises.", cause, raised(error))
    message = str(error)
    if "must implement the jvp" in message:
        return Check(name, NOT_SUPPORTED, "No `jvp` staticmethod: forward mode refuses.")
    if subject.op is not None and method == "vmap":
        return Check(name, NOT_SUPPORTED, "No batching rule: `register_vmap` would add one.")
    if "setup_context" in message:
        return Check(
            name, NOT_SUPPORTED, "forward(ctx, …) in one piece: torch.func needs `setup_context` apart from forward."
        )
    if "does not have vmap support" in message:
        return Check(name, NOT_SUPPORTED, "No `vmap` staticmethod and no `generate_vmap_rule = True`.")
    return Check(name, NOT_SUPPORTED, f"Refuses: {first_sentence(error)}.")


def check_vmap(subject: Subject) -> Check:
    """Compare vmap over three nearby inputs with a loop: values and gradients."""
    name = "vmap"
    arguments = subject.fresh(needing_grad=())
    batched = set(subject.floating)
    in_dims = tuple(0 if i in batched else None for i in range(len(arguments)))
    stacked = [torch.stack([s * a for s in BATCH]) if i in batched else a for i, a in enumerate(arguments)]
    try:
        together = torch.func.vmap(_tuple_of(subject), in_dims=in_dims, randomness="same")(*stacked)
    except Exception as error:
        return _refused(name, subject, error, "vmap", "wrong under vmap")
    singly = []
    for index in range(len(BATCH)):
        one = [a[index] if i in batched else a for i, a in enumerate(stacked)]
        singly.append(subject.run(one))
    looped = [torch.stack(outputs) for outputs in zip(*singly)]
    if not all_close(together, looped, subject.exact):
        return _vmap_differs("values")
    return _check_vmap_gradient(subject, stacked, in_dims)


def _check_vmap_gradient(subject: Subject, stacked: list[Any], in_dims: tuple[int | None, ...]) -> Check:
    """Compare both orders, backward through vmap and vmap over vjp, with a loop."""
    outputs = subject.run(subject.fresh())
    kept = [i for i, o in enumerate(outputs) if o.requires_grad]
    given = random_like([outputs[i] for i in kept], subject.generator())
    expected = _loop(subject, stacked, in_dims, kept, given)
    batch = [torch.stack([g] * len(BATCH)) for g in given]
    positions = subject.differentiable
    leaves = [a.clone().requires_grad_() if i in positions else a for i, a in enumerate(stacked)]
    try:
        results = torch.func.vmap(_tuple_of(subject), in_dims=in_dims, randomness="same")(*leaves)
        through: list[Gradient] = pull_back([results[i] for i in kept], [leaves[i] for i in positions], batch)
        # torch.func.vjp imports torch._dynamo, which takes seconds: only for rules that somebody wrote.
        over = _vmap_of_vjp(subject, stacked, in_dims, kept, given) if custom_nodes(outputs) else expected
    except Exception as error:
        return _refused("vmap", subject, error, "vmap", "wrong under vmap")
    if not all_close(through, expected, subject.exact) or not all_close(over, expected, subject.exact):
        return _vmap_differs("gradients")
    return Check("vmap", PASSED, "vmap gives the values and gradients of a loop.")


def _loop(
    subject: Subject,
    stacked: list[Any],
    in_dims: tuple[int | None, ...],
    kept: list[int],
    given: list[torch.Tensor],
) -> list[Gradient]:
    rows = []
    for index in range(len(BATCH)):
        one = [a[index].clone() if d == 0 else a for a, d in zip(stacked, in_dims)]
        leaves = [one[i].requires_grad_() for i in subject.differentiable]
        results = subject.run(one)
        grads = pull_back([results[i] for i in kept], leaves, given)
        rows.append([torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves)])
    return [torch.stack(column) for column in zip(*rows)]


def _vmap_of_vjp(
    subject: Subject,
    stacked: list[Any],
    in_dims: tuple[int | None, ...],
    kept: list[int],
    given: list[torch.Tensor],
) -> list[Gradient]:
    positions = subject.differentiable

    def gradient(*arguments: Any) -> tuple[torch.Tensor, ...]:
        def of_leaves(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
            called = list(arguments)
            for position, leaf in zip(positions, leaves):
                called[position] = leaf
            results = subject.run(called)
            return tuple(results[i] for i in kept)

        pull = torch.func.vjp(of_leaves, *(arguments[i] for i in positions))[1]
        return tuple(pull(tuple(given)))

    return list(torch.func.vmap(gradient, in_dims=in_dims, randomness="same")(*stacked))


def _vmap_differs(what: str) -> Check:
    return Check(
        "vmap",
        FAILED,
        f"vmap over a batch of {len(BATCH)} gives other {what} than a loop over the batch.",
        "wrong under vmap",
        fix="# where forward and backward use PyTorch's operators only\ngenerate_vmap_rule = True",
    )


def _tuple_of(subject: Subject) -> Any:
    return lambda *arguments: tuple(subject.run(arguments))


def check_autocast(subject: Subject) -> Check:
    """Run float32 inputs under autocast to bfloat16: does backward cope with the dtypes it then meets."""
    name = "autocast"
    tensors = [a for a in subject.arguments if isinstance(a, torch.Tensor) and a.is_floating_point()]
    device = tensors[0].device.type if tensors else "none"
    if device not in {"cpu", "cuda"} or any(a.dtype != torch.float32 for a in tensors):
        return Check(name, SKIPPED, "Autocast is for float32 inputs on CPU or CUDA.")
    _, expected = gradients(subject, subject.fresh(exact=False))
    arguments = subject.fresh(exact=False)
    leaves = [arguments[i] for i in subject.differentiable]
    try:
        with torch.autocast(device, dtype=torch.bfloat16):
            outputs = with_graph(subject.run(arguments))
        grads = pull_back(outputs, leaves, random_like(outputs, subject.generator()))
    except Exception as error:
        return Check(name, NOT_SUPPORTED, f"Refuses: {first_sentence(error)}. `custom_fwd`, `custom_bwd` help.")
    error_norm = sum(_norm(g, e) for g, e in zip(grads, expected))
    norm = sum(_norm(None, e) for e in expected)
    if error_norm > 0.2 * norm:
        return Check(
            name,
            WARNED,
            f"Under autocast the gradient is off by {error_norm / norm:.0%} of its norm.",
            "wrong under autocast",
            fix='@staticmethod\n@torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)\n'
            "def forward(ctx, x): ...",
        )
    return Check(name, PASSED, "Works under autocast to bfloat16.")


def _norm(one: torch.Tensor | None, other: torch.Tensor | None) -> float:
    if other is None:
        return 0.0
    return float((other if one is None else one.float() - other.float()).norm())
