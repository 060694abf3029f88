"""What happens during a training, as the taps see it and rules hear of it.

An event holds the user's own objects and tensors: look at them, change nothing, keep no tensor. Whatever costs
something to find out (a place, the walk through a graph) is a property or a method, paid for when a rule asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from blackbelt.doctor.places import users_line
from blackbelt.places import Place

MAX_NODES = 15_000  # a chain of some 45,000 nodes that Python has walked overflows the stack when it is freed


class Placed:
    """Base of events that have a place: the user's line that is running now."""

    @cached_property
    def place(self) -> Place | None:
        """The innermost line of the user's code. Ask while the event lasts."""
        return users_line()


@dataclass
class Created(Placed):
    """Something was made: ``thing`` is a module, a parameter, an optimizer, a scheduler or a data loader."""

    thing: Any


@dataclass
class Registered(Placed):
    """A parameter or a module became the attribute ``name`` of ``owner``, in the place of ``previous``."""

    owner: nn.Module
    name: str
    thing: nn.Parameter | nn.Module
    previous: Any


@dataclass
class Segment(Placed):
    """A call of ``torch.utils.checkpoint``, in its reentrant variant; ``grad_enabled`` outside of it."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    grad_enabled: bool
    output: Any = None  # once it has returned


@dataclass
class ModuleCall(Placed):
    """A call of a module. ``depth`` is 0 for a call that no other module made; ``parent`` is the module that did."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    depth: int
    parent: nn.Module | None
    grad_enabled: bool


@dataclass
class ModeSet(Placed):
    """``train`` or ``eval`` of a module, which goes down to all of its submodules."""

    module: nn.Module
    training: bool


@dataclass
class FunctionCall(Placed):
    """A call of a function of PyTorch (``F.cross_entropy``, ``torch.matmul``) or of a method (``Tensor.sub``).

    ``name`` is its own: "cross_entropy", "sub"; "data" where that attribute is read. ``modules`` are those whose
    forward it is in, outermost first.
    """

    function: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    modules: Sequence[nn.Module]
    grad_enabled: bool = True

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument, however it was passed."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)


@dataclass
class Backward(Placed):
    """A call of ``backward`` on ``roots``."""

    roots: Sequence[Tensor]
    number: int  # of calls of backward since the last step of any optimizer, this one included

    @cached_property
    def graph(self) -> Graph:
        """The graph behind the roots, walked now. Costs some microseconds per node."""
        return Graph.of(self.roots)


@dataclass
class Graph:
    """What a graph consists of: its nodes by name, and the leaves that gradients flow to, by ``id``.

    ``cut`` says that it was larger than the walk goes, so that what was not seen may still be there.
    """

    names: Counter[str] = field(default_factory=Counter)
    leaves: dict[int, Tensor] = field(default_factory=dict)
    nodes: list[Any] = field(default_factory=list)  # from the roots on; valid while the event lasts
    cut: bool = False

    @cached_property
    def numbers(self) -> set[int]:
        """The sequence numbers of the nodes: they name a node without keeping it, unlike its ``id``."""
        return {node._sequence_nr() for node in self.nodes}  # noqa: SLF001 - has no public name

    @classmethod
    def of(cls, roots: Sequence[Tensor]) -> Graph:
        """Walk the graph, breadth first."""
        graph = cls()
        waiting = [root.grad_fn for root in roots if root.grad_fn is not None]
        graph.leaves.update({id(root): root for root in roots if root.grad_fn is None and root.requires_grad})
        seen = set(waiting)
        node: Any
        for node in waiting:
            if len(graph.nodes) >= MAX_NODES:
                graph.cut = True
                break
            graph.nodes.append(node)
            name = node.name().rpartition(":")[2]
            graph.names[name] += 1
            if name == "AccumulateGrad":
                graph.leaves[id(node.variable)] = node.variable
            for following, _ in node.next_functions:
                if following is not None and following not in seen:
                    seen.add(following)
                    waiting.append(following)
        return graph


@dataclass
class Cleared(Placed):
    """``zero_grad`` of ``owner``; ``had_gradients`` says whether any gradient was other than None before."""

    owner: nn.Module | torch.optim.Optimizer
    parameters: Sequence[Tensor]
    had_gradients: bool


@dataclass
class Clipped(Placed):
    """``clip_grad_norm_`` or ``clip_grad_value_`` (``name``); ``norm`` is what the first returned."""

    name: str
    parameters: Sequence[Tensor]
    limit: float
    norm: Tensor | None


@dataclass
class ScalerCall(Placed):
    """``scale``, ``unscale_``, ``step`` or ``update`` (``name``) of a gradient scaler."""

    scaler: Any
    name: str
    args: tuple[Any, ...]


@dataclass
class Step(Placed):
    """A step of an optimizer. ``number`` counts its own, from 1.

    While the run is traced, ``before`` holds the first elements of its parameters as they were, by ``id`` of the
    parameter; otherwise it is empty.
    """

    optimizer: torch.optim.Optimizer
    number: int
    before: dict[int, Tensor] = field(default_factory=dict)

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters, group by group."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def unchanged(self, parameter: Tensor) -> Tensor | None:
        """Return which of the kept elements the step left as they were, bit by bit; None where none were kept."""
        before = self.before.get(id(parameter))
        return None if before is None else before == head(parameter)


HEAD = 1024  # elements of a parameter that are kept over a step


def head(parameter: Tensor) -> Tensor:
    """Return the first elements of a parameter, flat."""
    flat = parameter.detach().reshape(-1) if parameter.is_contiguous() else parameter.detach().flatten()
    return flat[:HEAD]


@dataclass
class ScheduleStep(Placed):
    """A step of a learning rate scheduler; ``rates`` are the groups' learning rates after it."""

    scheduler: Any
    rates: Sequence[float]


@dataclass
class Epoch(Placed):
    """A pass over a data loader. ``number`` counts its passes, from 1; ``num_batches`` those handed out so far."""

    loader: Any
    number: int
    num_batches: int = 0


@dataclass
class Batch(Placed):
    """What a data loader handed out: ``data`` as the user gets it; ``number`` in its epoch, from 1."""

    loader: Any
    data: Any
    epoch: int
    number: int
    indices: Sequence[Any] | None  # of the samples, where the loader draws indices

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The tensors of the batch, in order, out of tuples, lists and dicts."""
        return list(tensors_in(self.data))


@dataclass
class WorkerFetch(Placed):
    """One of the first fetches of a worker process of a data loader, as the worker noted it.

    ``generators`` are the random generators that the dataset holds as attributes, by name: a hash of the state before
    the fetch, and after it. ``pieces`` are the tensors and lists of what was fetched: a hash of each, and how many
    different values it has.
    """

    loader: Any
    epoch: int
    worker: int
    number: int  # of the worker's fetches in this pass, from 1
    generators: Mapping[str, tuple[str, str]]
    pieces: Sequence[tuple[str, int]]


@dataclass
class StateTaken(Placed):
    """``state_dict`` of the module ``owner`` has returned ``state``, whose tensors are the module's own."""

    owner: nn.Module
    state: Mapping[str, Any]


@dataclass
class Fetch(Placed):
    """Samples are fetched from ``dataset`` in this process, by a loader without workers, while the run is traced.

    ``indices`` are those of the samples. ``again`` fetches them once more: only in a copy of the process.
    """

    dataset: Any
    indices: Sequence[Any]
    again: Callable[[], Any]


@dataclass
class StateLoaded(Placed):
    """``load_state_dict`` of ``owner``; ``result`` is what it returned (missing and unexpected keys of a module)."""

    owner: Any
    state: Mapping[str, Any]
    result: Any
    strict: bool


@dataclass
class File(Placed):
    """``torch.save`` or ``torch.load`` of ``content``."""

    content: Any
    name: str


@dataclass
class Collective(Placed):
    """A call of ``all_reduce``, ``broadcast`` or the like (``name``) of ``torch.distributed``, or of ``no_sync``.

    What DistributedDataParallel does in C++ is not heard. ``module`` is that whose ``no_sync`` it is.
    """

    name: str
    tensors: Sequence[Tensor]
    module: nn.Module | None = None


def tensors_in(value: Any, depth: int = 6) -> Any:
    """Yield the tensors of nested tuples, lists, dicts and dataclass-like batches."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values() if depth else ():
            yield from tensors_in(item, depth - 1)
    elif isinstance(value, (list, tuple)):
        for item in value if depth else ():
            yield from tensors_in(item, depth - 1)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)):
        yield from tensors_in(vars(value), depth - 1)
