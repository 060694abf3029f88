"""The heart of a checkpoint: what is remembered instead of the saved tensors, and how these come back.

In forward, autograd saves a :class:`Ticket` where it would have saved a tensor. The first ticket that backward presents
reruns the function; every tensor the rerun saves goes to the ticket of the same position; when the last ticket still
in use has its tensor, the rerun is stopped. Tickets die with the part of the graph they belong to, and what is held
for them dies too.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_unflatten

from blackbelt.reference.checkpointing.mismatch import (
    Signature,
    changed_in_place,
    different,
    fewer,
    input_changed,
    saved_by,
)
from blackbelt.reference.checkpointing.state import Surroundings

OUTSIDE_BACKWARD = -1
Rerunning = Callable[[], AbstractContextManager[None]]


class Enough(BaseException):
    """Stops a rerun. No ``Exception``: a function that catches those must not catch this one."""


class Ticket:
    """What autograd holds in place of a saved tensor. ``tensors`` are the recomputed ones, per backward pass."""

    __slots__ = ("__weakref__", "position", "tensors")

    def __init__(self, position: int) -> None:
        self.position = position
        self.tensors: dict[int, torch.Tensor] = {}


class SavedInputs:
    """A call's arguments, flattened as by ``tree_flatten((args, kwargs))``, their tensors saved as autograd saves them.

    So hooks around the checkpoint see them: an outer checkpoint replaces them with tickets of its own, ``save_on_cpu``
    moves them away. And autograd notices when one of them was changed in place in the meantime.
    """

    def __init__(self, leaves: Sequence[Any], structure: Any) -> None:
        self.structure = structure
        self.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        tensors = [leaves[i] for i in self.places]
        self.rest = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        # The result, and not its grad_fn alone: in torch 2.9 a custom node's tensors go when its result does.
        self.result: Any = _SaveInputs.apply(torch.empty(0, requires_grad=True), *tensors)

    def get(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments and keyword arguments; RuntimeError where a tensor was changed in place."""
        leaves = list(self.rest)
        for place, tensor in zip(self.places, self.result.grad_fn.saved_tensors):
            leaves[place] = tensor
        args, kwargs = tree_unflatten(leaves, self.structure)
        return args, kwargs


class _SaveInputs(torch.autograd.Function):
    """Saves tensors and computes nothing: a node that belongs to no graph."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:  # noqa: ARG004  # makes a node
        ctx.save_for_backward(*tensors)
        return torch.empty(0)

    @staticmethod
    def backward(_: Any, *grad_outputs: torch.Tensor) -> Any:  # noqa: ARG004  # never called
        raise AssertionError("nothing depends on this node")


class Frame:
    """One call of a checkpointed function."""

    asked: ClassVar[list[tuple[Frame, int]] | None] = None  # of all frames, while an error is being explained

    def __init__(
        self, function: Callable[..., Any], inputs: SavedInputs, surroundings: Surroundings, rerunning: Rerunning
    ) -> None:
        self.function = function
        self.inputs = inputs
        self.surroundings = surroundings
        self.rerunning = rerunning
        self.tickets: list[weakref.ref[Ticket]] = []
        self.signatures: list[Signature] = []
        self.tasks: set[int] = set()  # backward passes that have rerun the function
        self.lock = threading.RLock()  # tensors on two devices: two threads of the engine in one backward

    def hooks(self) -> saved_tensors_hooks:
        """Return the context in which forward runs: tickets instead of tensors."""
        return saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: torch.Tensor) -> Ticket:
        ticket = Ticket(len(self.tickets))
        self.tickets.append(weakref.ref(ticket))
        self.signatures.append(Signature(tensor))
        return ticket

    def _unpack(self, ticket: Ticket) -> torch.Tensor:
        if self.asked is not None:  # an error is being explained: note who holds which ticket
            self.asked.append((self, ticket.position))
            return torch.empty(0)
        task = torch._C._current_graph_task_id()  # noqa: SLF001  # the only name of a backward pass; -1 outside
        with self.lock:
            if task not in ticket.tensors:
                first = task != OUTSIDE_BACKWARD and task not in self.tasks
                self._rerun([ticket for ticket in map(_call, self.tickets) if ticket] if first else [ticket], task)
            return ticket.tensors.pop(task)

    def _rerun(self, wanted: Sequence[Ticket], task: int) -> None:
        """Run the function again until every wanted ticket has its tensor."""
        waiting = {ticket.position: ticket for ticket in wanted}
        last = max(waiting)
        positions = itertools.count()

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            position = next(positions)
            if position > last:  # the function caught `Enough`
                raise Enough
            self._check(position, tensor)
            # Without its grad_fn: an output saved by its own node would keep itself alive. Autograd knows the node.
            tensor = tensor.detach() if tensor.requires_grad else tensor
            if position in waiting:
                waiting[position].tensors[task] = tensor
            if position == last:
                raise Enough
            return tensor  # for a backward inside the function

        try:
            args, kwargs = self._inputs()
            with self.surroundings.restored(), saved_tensors_hooks(pack, _same), self.rerunning(), torch.enable_grad():
                self.function(*args, **kwargs)
        except Enough:
            self._forget_after(task)
        except BaseException:
            self._forget(task)
            raise
        else:
            self._forget(task)
            got = next(positions)
            raise fewer(got, last + 1, self.signatures[got], self._saved_by(got))

    def _check(self, position: int, tensor: torch.Tensor) -> None:
        signature = self.signatures[position]
        if not signature.fits(tensor):
            raise different(position, signature, tensor, self._saved_by(position))
        if signature.changed(tensor):
            raise changed_in_place(position, signature, tensor, self._saved_by(position))

    def _inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        try:
            return self.inputs.get()
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise input_changed(self.function) from error

    def _forget_after(self, task: int) -> None:
        """Drop what is left for this backward when it ends: tickets it had no use for, in a graph that is kept."""
        if task == OUTSIDE_BACKWARD or task in self.tasks:
            return
        self.tasks.add(task)
        weak = weakref.ref(self)  # the pass must not keep the frame, and with it the inputs, until it ends

        def forget() -> None:
            frame = weak()
            if frame is not None:
                frame._forget(task)  # noqa: SLF001  # our own

        torch.autograd.Variable._execution_engine.queue_callback(forget)  # noqa: SLF001  # as DDP and FSDP do

    def _forget(self, task: int) -> None:
        self.tasks.discard(task)
        for ticket in map(_call, self.tickets):
            if ticket is not None:
                ticket.tensors.pop(task, None)

    def _saved_by(self, position: int) -> str:
        def positions(node: Any, name: str) -> list[int]:
            asked = Frame.asked = []
            try:
                with contextlib.suppress(Exception):  # a node whose tensors are freed
                    getattr(node, name, None)
            finally:
                Frame.asked = None
            return [position for frame, position in asked if frame is self]

        return saved_by(positions, position)


def _call(reference: weakref.ref[Ticket]) -> Ticket | None:
    return reference()


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
