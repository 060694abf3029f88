"""The function under test and its inputs: what may be judged, private copies, and calls that leave no trace."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils import _pytree as pytree

_SEED = 20_240_607
_PLAIN = (torch.Tensor, nn.Parameter, getattr(nn, "Buffer", nn.Parameter))


@dataclass
class Subject:
    """A function of positional arguments. Its calls work on copies, from a fixed seed, and clone what it writes to."""

    label: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    names: tuple[str, ...]
    function_class: type[torch.autograd.Function] | None = None
    op: Any = None
    exact: bool = True  # whether numbers are compared in float64; False where the function refuses or casts
    written: frozenset[int] = frozenset()  # positions that the function changes in place, marked as dirty
    random: bool = False  # whether forward draws random numbers
    notes: list[str] = field(default_factory=list)

    @property
    def differentiable(self) -> tuple[int, ...]:
        """The positions of the inputs that require grad."""
        return tuple(i for i, a in enumerate(self.arguments) if isinstance(a, torch.Tensor) and a.requires_grad)

    @property
    def floating(self) -> tuple[int, ...]:
        """The positions of the inputs that could have a gradient."""
        return tuple(i for i, a in enumerate(self.arguments) if _has_gradient(a))

    def name(self, position: int) -> str:
        """Return how the function itself calls this input."""
        return self.names[position] if position < len(self.names) else f"input {position}"

    def fresh(self, needing_grad: Collection[int] | None = None, exact: bool | None = None) -> list[Any]:
        """Return copies of all arguments: contiguous leaves, in float64 unless ``exact`` is False."""
        needing = self.differentiable if needing_grad is None else needing_grad
        exact = self.exact if exact is None else exact
        copies = []
        for position, argument in enumerate(self.arguments):
            copy = pytree.tree_map_only(torch.Tensor, lambda t: _copy(t, exact), argument)
            copies.append(copy.requires_grad_() if position in needing else copy)
        return copies

    def run(self, arguments: Sequence[Any]) -> list[torch.Tensor]:
        """Call the function from a fixed seed and return the tensors in its result, in order."""
        return tensors_in(self.call(arguments))

    def call(self, arguments: Sequence[Any], seed: int = _SEED) -> Any:
        """Call the function from a fixed seed; arguments that it writes to are cloned first."""
        self.seed(seed)
        return self.function(*(a.clone() if i in self.written else a for i, a in enumerate(arguments)))

    def seed(self, seed: int = _SEED) -> None:
        """Set the seeds of the CPU and of the inputs' devices, and of no other."""
        torch.default_generator.manual_seed(seed)
        for index in {a.device.index for a in self.arguments if isinstance(a, torch.Tensor) and a.is_cuda}:
            torch.cuda.default_generators[index].manual_seed(seed)

    def generator(self) -> torch.Generator:
        """Return a generator of its own for the random directions of one check."""
        return torch.Generator().manual_seed(_SEED)


def make_subject(fn: Any, inputs: tuple[Any, ...]) -> Subject:
    """Return the subject for what was passed, or say why it cannot be judged."""
    _check_inputs(inputs)
    subject = _of_callable(fn, inputs)
    if not any(isinstance(a, torch.Tensor) for a in inputs):
        given = ", ".join(type(a).__name__ for a in inputs) or "none"
        raise ValueError(
            f"check_function got no tensor among the inputs of {subject.label} (inputs: {given}); a gradient needs "
            "one. Pass the inputs after the function: check_function(fn, torch.randn(3, requires_grad=True)); tensors "
            "in a list: check_function(lambda *tensors: fn(list(tensors)), *tensors)"
        )
    if not subject.floating:
        kinds = ", ".join(str(a.dtype) for a in inputs if isinstance(a, torch.Tensor))
        raise ValueError(
            f"none of the tensors passed to {subject.label} can have a gradient (dtypes: {kinds}); that takes a "
            "floating or complex dtype. Pass e.g. torch.randn(3, requires_grad=True)"
        )
    if not subject.differentiable:
        raise ValueError(
            f"none of the inputs of {subject.label} requires grad, so there is no gradient to check. "
            "Pass e.g. torch.randn(3, requires_grad=True), or call x.requires_grad_()"
        )
    return subject


def tensors_in(result: Any) -> list[torch.Tensor]:
    """Return the tensors in what a function returned."""
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _of_callable(fn: Any, inputs: tuple[Any, ...]) -> Subject:
    if isinstance(fn, type) and issubclass(fn, torch.autograd.Function):
        return Subject(fn.__name__, fn.apply, inputs, _forward_names(fn), function_class=fn)
    owner = getattr(fn, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function) and fn.__name__ == "apply":
        return Subject(owner.__name__, fn, inputs, _forward_names(owner), function_class=owner)
    if isinstance(fn, nn.Module):
        return _of_module(fn, inputs)
    if isinstance(fn, (OpOverload, OpOverloadPacket, CustomOpDef)):
        return _of_operator(fn, inputs)
    if not callable(fn):
        raise TypeError(
            f"check_function got {fn!r} of type {type(fn).__name__} as the function; it takes an autograd.Function, "
            "a custom operator, an nn.Module or any callable. Pass the function first, then its inputs"
        )
    if isinstance(fn, type):
        raise TypeError(
            f"check_function got the class {fn.__name__}, which is no torch.autograd.Function. "
            "Pass a function, or an instance of a module: check_function(Module(), x)"
        )
    return Subject(_label(fn), fn, inputs, _signature_names(fn))


def _of_operator(op: OpOverload | OpOverloadPacket | CustomOpDef, inputs: tuple[Any, ...]) -> Subject:
    if isinstance(op, CustomOpDef):
        overload, label = op._opoverload, op._qualname  # noqa: SLF001  # no public name leads to its schema
    else:
        overload, label = op if isinstance(op, OpOverload) else getattr(op, op.overloads()[0]), str(op)
    names = tuple(argument.name for argument in overload._schema.arguments)  # noqa: SLF001  # likewise
    return Subject(label, op, inputs, names, op=op)


def _of_module(module: nn.Module, inputs: tuple[Any, ...]) -> Subject:
    """Return a subject whose parameters are inputs too, so that they are copied, converted and differentiated."""
    parameters = dict(module.named_parameters())
    buffers = dict(module.named_buffers())
    num_inputs = len(inputs)

    def call(*arguments: Any) -> Any:
        given = dict(zip(parameters, arguments[num_inputs:]))
        dtype = next((a.dtype for a in arguments if isinstance(a, torch.Tensor) and a.is_floating_point()), None)
        held = {k: b.clone().to(dtype) if b.is_floating_point() else b.clone() for k, b in buffers.items()}
        return torch.func.functional_call(module, {**given, **held}, arguments[:num_inputs])

    names = (*_signature_names(module.forward)[:num_inputs],)
    names += tuple(f"input {i}" for i in range(len(names), num_inputs))
    values = tuple(parameters.values())
    _check_inputs(values)
    return Subject(type(module).__name__, call, (*inputs, *values), (*names, *parameters))


def _forward_names(function_class: type[torch.autograd.Function]) -> tuple[str, ...]:
    names = _signature_names(function_class.forward)
    separate = function_class.setup_context is not torch.autograd.Function.setup_context
    return names if separate else names[1:]


def _signature_names(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built-in functions have none
        return ()
    return tuple(p.name for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD})


def _label(fn: Any) -> str:
    if isinstance(fn, functools.partial):
        return _label(fn.func)
    name = getattr(fn, "__name__", type(fn).__name__)
    return "the function" if name == "<lambda>" else name


def _check_inputs(inputs: tuple[Any, ...]) -> None:
    for position, tensor in enumerate(inputs):
        if not isinstance(tensor, torch.Tensor):
            continue
        kind = type(tensor).__name__
        if tensor.device.type == "meta":
            raise ValueError(
                f"input {position} is on the meta device: it has a shape and no values, and a gradient is checked on "
                "values. Pass a tensor on a real device, e.g. torch.randn(shape)"
            )
        if is_functorch_wrapped_tensor(tensor):
            raise ValueError(
                f"input {position} is inside a torch.func transform (vmap, grad, jvp): call check_function outside of "
                "it; it tries vmap and jvp itself"
            )
        if type(tensor) not in _PLAIN:
            hint = {"DTensor": "its own shard: x.to_local()", "FakeTensor": "a tensor with values: torch.randn(shape)"}
            raise TypeError(
                f"input {position} is a {kind}, a subclass of torch.Tensor with rules of its own; check_function "
                f"judges plain tensors. Pass {hint.get(kind, 'the plain tensor inside it')}"
            )
        if tensor.layout != torch.strided:
            raise ValueError(
                f"input {position} has layout {tensor.layout}; check_function perturbs single elements and needs "
                "dense tensors. Pass x.to_dense(), or a function that makes it sparse itself"
            )
        if tensor.is_quantized:
            raise ValueError(f"input {position} is quantized and has no gradient. Pass x.dequantize()")


def _has_gradient(argument: Any) -> bool:
    return isinstance(argument, torch.Tensor) and (argument.is_floating_point() or argument.is_complex())


def _copy(tensor: torch.Tensor, exact: bool) -> torch.Tensor:
    copy = tensor.detach().clone(memory_format=torch.contiguous_format)
    if not exact or not _has_gradient(tensor):
        return copy
    return copy.to(torch.complex128 if tensor.is_complex() else torch.float64)
