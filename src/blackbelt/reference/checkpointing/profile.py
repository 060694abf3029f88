"""What the units of a chain cost: bytes from the allocator's own record, seconds as medians of a few rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.autograd.profiler import profile

from blackbelt.measurement import synchronize
from blackbelt.reference.checkpointing.frame import Enough
from blackbelt.reference.checkpointing.schedule import Unit
from blackbelt.reference.checkpointing.state import Surroundings
from blackbelt.reference.checkpointing.units import Stage, address


def measure_units(
    stages: Sequence[Stage], cuts: Sequence[tuple[int, ...]], example_input: torch.Tensor, rounds: int
) -> list[Unit]:
    """Return the cost of each unit. Runs each some ``rounds`` + 5 times forward and backward, and as often again."""
    units: list[Unit] = []
    counted: set[int] = set()
    subjects = []
    x = example_input.detach().requires_grad_(example_input.requires_grad)
    for indices in cuts:
        subject = _Subject(tuple(stages[i] for i in indices), x)
        subjects.append(subject)
        x = subject.output()
    seconds = _seconds(subjects, rounds)
    for subject, taken in zip(reversed(subjects), reversed(seconds)):  # the order in which backward leaves gradients
        units.append(subject.cost(taken, counted, is_last=not units))
    return units[::-1]


@dataclass(frozen=True)
class _Seconds:
    forward: float
    rerun: float
    backward: float


class _Subject:
    """One unit and its input."""

    def __init__(self, stages: tuple[Stage, ...], x: torch.Tensor) -> None:
        self.stages = stages
        self.x = x
        self.num_saved = 0
        self.saves_input = self.saves_output = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = stage(x)
        return x

    def output(self) -> torch.Tensor:
        """Run once, look at what is saved, and return the next unit's input, a leaf."""
        addresses = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            addresses.append(address(tensor))
            return tensor.detach()

        surroundings = Surroundings([self.x])
        with saved_tensors_hooks(pack, _same):
            output = self(self.x)
        surroundings.forget_unused_rng()
        self.draws = surroundings.states is not None
        self.num_saved = len(addresses)
        self.saves_input, self.saves_output = address(self.x) in addresses, address(output) in addresses
        self.output_bytes = output.untyped_storage().nbytes()
        self.gradient_bytes = output.numel() * output.element_size() if output.requires_grad else 0
        return output.detach().requires_grad_(output.requires_grad)

    def cost(self, seconds: _Seconds, counted: set[int], *, is_last: bool) -> Unit:
        """Measure bytes. ``counted`` are the parameters that a later unit has left gradients of."""
        cuda = self.x.is_cuda
        forward_peak, kept, root = record(self._root, cuda=cuda)
        light_peak, _, _ = record(self._light, cuda=cuda)
        rerun_peak, _, _ = record(self.rerun, cuda=cuda)
        wanted = _leaves(root)
        backward_peak, empty = 0, root.new_empty(0)
        if wanted:
            backward_peak, _, _ = record(lambda: torch.autograd.grad(root, wanted, empty, allow_unused=True), cuda=cuda)
        new = [leaf for leaf in wanted if leaf is not self.x and id(leaf) not in counted]
        counted.update(map(id, new))
        output_bytes, gradient_bytes = _rounded(self.output_bytes, cuda), _rounded(self.gradient_bytes, cuda)
        return Unit(
            output_bytes=output_bytes,
            saved_bytes=max(kept - (output_bytes if self.saves_output else 0), 0),
            saves_input=self.saves_input,
            saves_output=self.saves_output,
            forward_peak=forward_peak,
            light_peak=light_peak,
            rerun_peak=rerun_peak,
            backward_peak=max(backward_peak - (gradient_bytes if is_last else 0), 0),
            gradient_bytes=0 if is_last else gradient_bytes,
            draws=self.draws,
            parameter_bytes=sum(_rounded(p.numel() * p.element_size(), cuda) for p in new),
            forward_seconds=seconds.forward,
            rerun_seconds=seconds.rerun,
            backward_seconds=seconds.backward,
        )

    def rerun(self) -> list[torch.Tensor]:
        """Run as backward would: saving, up to the last saved tensor."""
        saved: list[torch.Tensor] = []

        def pack(tensor: torch.Tensor) -> None:
            saved.append(tensor.detach())
            if len(saved) >= self.num_saved:
                raise Enough

        try:
            with saved_tensors_hooks(pack, _same):
                self(self.x)
        except Enough:
            pass
        return saved

    def _light(self) -> torch.Tensor:
        with saved_tensors_hooks(lambda _: None, _same):
            return self(self.x)

    def _root(self) -> torch.Tensor:
        """The graph alone: the output is held by whoever saves it, and its gradient comes into being in backward."""
        root: torch.Tensor = _Root.apply(self(self.x))
        return root


class _Root(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: torch.Tensor) -> torch.Tensor:
        ctx.like = (output.shape, output.dtype, output.device)
        return output.new_empty(0)

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> torch.Tensor:
        shape, dtype, device = ctx.like
        return torch.ones(shape, dtype=dtype, device=device)


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _leaves(root: torch.Tensor) -> list[torch.Tensor]:
    """The leaves of a graph: parameters, and the input where it needs grad."""
    found, waiting, seen = [], [root.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found.append(variable)
        waiting.extend(below for below, _ in node.next_functions)
    return found


def state_bytes(example_input: torch.Tensor) -> int:
    """Bytes of a copy of the generator's state, in the memory that is counted: it lies in the CPU's."""
    return 0 if example_input.is_cuda else torch.get_rng_state().nbytes


def record(function: Callable[[], Any], *, cuda: bool) -> tuple[int, int, Any]:
    """Call ``function`` and return the most bytes above the start, those live at the end, and its result."""
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        result = function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - start, torch.cuda.memory_allocated() - start, result
    with profile(use_cpu=True, profile_memory=True) as profiler:
        result = function()
    assert profiler.kineto_results is not None
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak, live, result


def _rounded(num_bytes: int, cuda: bool) -> int:
    """Bytes as the allocator counts them: on a GPU in blocks of 512."""
    return -(-num_bytes // 512) * 512 if cuda else num_bytes


def _seconds(subjects: Sequence[_Subject], rounds: int) -> list[_Seconds]:
    """Time every unit in turn, ``rounds`` times after a warm-up, and return the medians."""
    taken: list[list[tuple[float, float, float]]] = [[] for _ in subjects]
    for _ in range(rounds + 1):
        for subject, times in zip(subjects, taken):
            times.append(_time(subject))
    return [_Seconds(*map(statistics.median, zip(*times[1:]))) for times in taken]


def _time(subject: _Subject) -> tuple[float, float, float]:
    synchronize()
    start = time.perf_counter()
    output = subject(subject.x)
    synchronize()
    forward = time.perf_counter() - start
    gradient = torch.ones_like(output)
    wanted = _leaves(output)
    synchronize()
    start = time.perf_counter()
    if wanted:
        torch.autograd.grad(output, wanted, gradient, allow_unused=True)
    synchronize()
    backward = time.perf_counter() - start
    del output
    start = time.perf_counter()
    subject.rerun()
    synchronize()
    return forward, time.perf_counter() - start, backward
