"""What a function keeps between forward and backward: is a later change noticed, and is it all freed."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch

from blackbelt.autograd._functions_nodes import attributes, custom_nodes
from blackbelt.autograd._functions_numbers import Gradient, all_close, gradients, pull_back, random_like, with_graph
from blackbelt.autograd._functions_report import FAILED, PASSED, Check
from blackbelt.autograd._functions_subject import Subject


def check_saved(subject: Subject) -> Check:
    """Change each input and output in place after forward: backward must refuse, or give what it gave before."""
    name = "saved tensors"
    _, expected = gradients(subject)
    for kind, index in _targets(subject):
        got = _after_change(subject, kind, index)
        if got is None or all_close(got, expected, subject.exact):
            continue
        is_input = kind == "input"
        what = subject.name(index) if is_input else f"output {index}"
        held = _attribute_names(subject, kind, index)
        cause = ("input saved on ctx" if is_input else "output saved on ctx") if held else "change goes unseen"
        return Check(
            name,
            FAILED,
            f"`{what}` was changed in place between forward and backward, and backward gave another gradient without "
            "an error. A tensor in `save_for_backward` carries its version, and PyTorch refuses; an attribute, "
            "`.data` and NumPy carry none.",
            cause,
            "\n".join(
                ([f"held as: {', '.join(held)}"] if held else [])
                + [f"gradient before the change: {_few(expected)}", f"gradient after the change:  {_few(got)}"]
            ),
            "ctx.save_for_backward(x)    # in forward or setup_context\n(x,) = ctx.saved_tensors    # in backward",
        )
    return _check_freed(subject)


def _targets(subject: Subject) -> list[tuple[str, int]]:
    inputs = [
        ("input", i)
        for i, a in enumerate(subject.arguments)
        if isinstance(a, torch.Tensor) and i not in subject.written and a.numel()
    ]
    outputs = subject.run(subject.fresh())
    return inputs + [("output", k) for k, o in enumerate(outputs) if o.numel()]


def _overwrite(tensor: torch.Tensor) -> None:
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.mul_(-1.5).add_(0.75)
    else:
        tensor.zero_()  # an index stays one


def _after_change(subject: Subject, kind: str, index: int) -> list[Gradient] | None:
    """Return the gradients after an in-place change; None where PyTorch refused, as it should."""
    leaves = subject.fresh()
    arguments = [a.clone() if isinstance(a, torch.Tensor) else a for a in leaves]
    outputs = subject.run(arguments)
    grad_outputs = random_like(with_graph(outputs), subject.generator())
    target = arguments[index] if kind == "input" else outputs[index]
    try:
        _overwrite(target.detach())  # a detached tensor shares values and version with its source
        return pull_back(with_graph(outputs), [leaves[i] for i in subject.differentiable], grad_outputs)
    except RuntimeError:
        return None


def _attribute_names(subject: Subject, kind: str, index: int) -> list[str]:
    arguments = [a.clone() if isinstance(a, torch.Tensor) else a for a in subject.fresh()]
    outputs = subject.run(arguments)
    target = arguments[index] if kind == "input" else outputs[index]
    storage = target.untyped_storage().data_ptr()
    return [
        name
        for node in custom_nodes(outputs)
        for name, tensor in attributes(node)
        if tensor.untyped_storage().data_ptr() == storage
    ]


def _check_freed(subject: Subject) -> Check:
    name = "saved tensors"
    probes, holders, others = _probes(subject)
    if not probes:
        return Check(name, PASSED, "A change between forward and backward is noticed.")
    if any(probe() is not None for probe in probes):
        gc.collect()
        survives = any(probe() is not None for probe in probes)
        after = "still alive after gc.collect()" if survives else "freed only by the garbage collector"
        sentence = (
            f"The output holds its node, and the node holds the output as `{holders[0]}`: a circle. "
            if holders
            else "Something holds the graph after the last reference to the output is gone. "
        )
        return Check(
            name,
            FAILED,
            sentence + "Every call leaves its output, and all that was saved, in memory.",
            "output saved on ctx" if holders else "never freed",
            f"all references dropped: the node is {after}",
            "ctx.save_for_backward(y)    # PyTorch keeps an output without the circle",
        )
    if others:
        return Check(
            name,
            PASSED,
            f"A change is noticed, the graph is freed. {_list(others)}, seen by no saved-tensor hook.",
        )
    return Check(name, PASSED, "A change after forward is noticed; the graph is freed with the output.")


class _Probe:
    pass


def _probes(subject: Subject) -> tuple[list[weakref.ref[_Probe]], list[str], list[str]]:
    """Tie an object to every custom node, drop the outputs, and return weak references to the objects."""
    outputs = subject.run(subject.fresh())
    probes, holders, others = [], [], []
    for node in custom_nodes(outputs):
        for name, tensor in attributes(node):
            if any(tensor is output for output in outputs) or tensor.grad_fn is node:
                holders.append(name)
            else:
                others.append(name)
        probe = _Probe()
        node.__dict__["_blackbelt_probe"] = probe
        probes.append(weakref.ref(probe))
    return probes, holders, others


def _list(names: list[str]) -> str:
    shown = ", ".join(f"`{n}`" for n in dict.fromkeys(names))
    return f"{shown} {'is an attribute' if len(set(names)) == 1 else 'are attributes'}"


def _few(grads: list[Gradient]) -> str:
    shown: list[Any] = [g.flatten()[:3].tolist() for g in grads if g is not None]
    return "; ".join(str([round(v, 4) if isinstance(v, float) else v for v in values]) for values in shown)
