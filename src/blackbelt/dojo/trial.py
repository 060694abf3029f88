"""One call of a learner's function on one case, and what a law may observe of it."""

from __future__ import annotations

import copy
import functools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from blackbelt.dojo.kata import Arguments, Function, Kata
from blackbelt.dojo.ranks import RanksError, run_ranks
from blackbelt.measurement import Allocation, allocation

SEED = 20_26


@dataclass(frozen=True)
class Case:
    """Arguments for one call; ``name`` is empty for a generated case."""

    arguments: Arguments
    name: str = ""

    def fresh(self) -> Arguments:
        """Return copies that keep strides, aliasing and ``requires_grad`` of leaves."""
        return copy.deepcopy(self.arguments)


@dataclass(frozen=True)
class Outcome:
    """What one call did: returned ``value`` or raised ``error``; its arguments afterwards; global state it changed."""

    value: Any
    error: BaseException | None
    arguments: Arguments
    changed_state: tuple[str, ...]


class Trial:
    """The learner's function on one case. Every observation is a call of its own, on fresh copies of the arguments."""

    def __init__(self, kata: Kata, function: Function, case: Case) -> None:
        self.kata = kata
        self.function = function
        self.case = case

    @functools.cached_property
    def outcome(self) -> Outcome:
        """The learner's call."""
        return self._call(self.function, self.case.fresh())

    @functools.cached_property
    def reference(self) -> Outcome:
        """The reference's call, same arguments."""
        return self._call(self.kata.reference, self.case.fresh())

    @property
    def result(self) -> Any:
        """What the learner's function returned."""
        return self.outcome.value

    @property
    def expected(self) -> Any:
        """What the reference returned."""
        return self.reference.value

    @property
    def arguments(self) -> Arguments:
        """The arguments as the learner's function left them."""
        return self.outcome.arguments

    @functools.cached_property
    def in_double(self) -> Outcome:
        """The reference's call with every floating-point argument in float64 (complex in complex128)."""
        return self._call(self.kata.reference, to_double(self.case.fresh()))

    @functools.cached_property
    def operators(self) -> Counter[str]:
        """ATen operators dispatched, with counts: ``{"aten::add": 2}``."""
        return self._observed_by(OperatorWatch())

    @functools.cached_property
    def rank_operators(self) -> list[Counter[str]]:
        """Operators that every rank dispatched, its collectives among them: ``{"c10d::allreduce_": 1}``."""
        return [done.operators for done in run_ranks(self.function, self.case.fresh(), watch=True)]

    @functools.cached_property
    def functions(self) -> Counter[str]:
        """Torch functions and methods called, with counts: ``{"torch.functional.einsum": 1, "torch.Tensor.t": 2}``."""
        return self._observed_by(_FunctionWatch())

    @functools.cached_property
    def allocation(self) -> Allocation:
        """Bytes allocated during the call, temporaries and the result included."""
        assert (
            self.outcome.error is None
        )  # the plain call comes first: it warms up and keeps errors out of the profiler
        arguments = self.case.fresh()
        with seeded():
            return allocation(self.function, *arguments)

    @functools.cached_property
    def saved_bytes(self) -> int:
        """Bytes that autograd keeps for backward, each storage once, the storages of the arguments left out."""
        arguments = self.case.fresh()
        own = {storage_key(tensor) for tensor in tensors_in(arguments)}
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if storage_key(tensor) not in own:
                saved[storage_key(tensor)] = tensor.untyped_storage().nbytes()
            keep.append(tensor.detach())
            return keep[-1]  # not the tensor itself: an output that its own node saves would be held forever

        keep: list[torch.Tensor] = []  # a freed storage's address could be given out again
        with seeded(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.function(*arguments)
        return sum(saved.values())

    def slots(self, arguments: Arguments) -> Iterator[tuple[int, str, Any]]:
        """Yield position, name and value of every argument of a call, those of all ranks one after the other."""
        for rank, given in enumerate(arguments if self.kata.ranks else [arguments]):
            for index, value in enumerate(given):
                yield index, f"argument {index}" + (f" on rank {rank}" if self.kata.ranks else ""), value

    def _call(self, function: Function, arguments: Arguments) -> Outcome:
        return call_on_ranks(function, arguments) if self.kata.ranks else call(function, arguments)

    def _observed_by(self, watch: OperatorWatch | _FunctionWatch) -> Counter[str]:
        arguments = self.case.fresh()
        with seeded(), watch:
            self.function(*arguments)
        return watch.seen


def call(function: Function, arguments: Arguments) -> Outcome:
    """Call the function under a fixed seed, catch what it raises, and put back any global state it changed."""
    with seeded():
        before = _state()
        try:
            value, error = function(*arguments), None
        except (Exception, SystemExit) as raised:
            value, error = None, raised
        changed = _restore(before)
    return Outcome(value, error, arguments, changed)


def call_on_ranks(function: Function, arguments: Arguments) -> Outcome:
    """Call the function in one process per rank; the error is the first that is more than waiting for another rank."""
    done = run_ranks(function, arguments)
    errors = [outcome.error for outcome in done if outcome.error is not None]
    error = next((each for each in errors if not isinstance(each, RanksError)), errors[0] if errors else None)
    values = None if errors else [outcome.value for outcome in done]
    changed = tuple(dict.fromkeys(name for outcome in done for name in outcome.changed_state))
    return Outcome(values, error, tuple(outcome.arguments for outcome in done), changed)


@contextmanager
def seeded() -> Iterator[None]:
    """Run a block under a fixed seed of every generator a learner may use, and put the caller's generators back."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested tuples, lists, mappings and modules."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, torch.nn.Module):
        yield from value.state_dict(keep_vars=True).values()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for item in value:
            yield from tensors_in(item)


def storage_key(tensor: torch.Tensor) -> int:
    """Return the address of the tensor's storage: equal for tensors that share memory."""
    return tensor.untyped_storage().data_ptr()


def to_double(value: Any) -> Any:
    """Return the value with every floating-point tensor (and module) in float64, in place where it is a module."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() or value.is_complex():
            double = value.detach().to(torch.complex128 if value.is_complex() else torch.float64)
            return double.requires_grad_(value.requires_grad)
        return value
    if isinstance(value, torch.nn.Module):
        return value.double()
    if isinstance(value, Mapping):
        return {key: to_double(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(to_double(item) for item in value)
    return value


class OperatorWatch(TorchDispatchMode):
    """Counts the operators that this thread dispatches, and the collectives among them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator imports the whole compiler: seconds (torch 2.15)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.name().partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


class _FunctionWatch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[resolve_name(func) or getattr(func, "__name__", str(func))] += 1
        return func(*args, **(kwargs or {}))


def _state() -> dict[str, Any]:
    return {
        "torch's random number generator": torch.get_rng_state(),
        "NumPy's random number generator": np.random.get_state(legacy=False),
        "Python's random number generator": random.getstate(),
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "grad mode": torch.is_grad_enabled(),
        "the number of threads": torch.get_num_threads(),
        "deterministic mode": torch.are_deterministic_algorithms_enabled(),
    }


def _restore(before: dict[str, Any]) -> tuple[str, ...]:
    after = _state()
    changed = tuple(name for name in before if not _same_state(before[name], after[name]))
    if "the default dtype" in changed:
        torch.set_default_dtype(before["the default dtype"])
    if "the default device" in changed:
        torch.set_default_device(None)
    if "grad mode" in changed:
        torch.set_grad_enabled(before["grad mode"])
    if "the number of threads" in changed:
        torch.set_num_threads(before["the number of threads"])
    if "deterministic mode" in changed:
        torch.use_deterministic_algorithms(before["deterministic mode"])
    return changed


def _same_state(before: Any, after: Any) -> bool:
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_same_state(before[key], after[key]) for key in before)
    if isinstance(before, np.ndarray):
        return np.array_equal(before, after)
    return torch.equal(before, after) if isinstance(before, torch.Tensor) else bool(before == after)
