"""What replicas of one model on several ranks have in common, and whether their gradients were averaged."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from blackbelt.doctor.events import Backward, Collective, Created, ModuleCall, Step, head
from blackbelt.doctor.finding import Severity
from blackbelt.doctor.places import users_lines
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._losses import source_mentions
from blackbelt.doctor.rules._sources import statement
from blackbelt.doctor.rules._states import storage
from blackbelt.doctor.run import Run
from blackbelt.places import Place

SAMPLED = 8  # parameters that stand for a model
CHECKED = 3  # steps without averaging that are compared with other ranks, or without comparison make a warning
POLLS = 40  # times that other ranks are asked, before the end
PAST, NO_SYNC, AGAIN = "past the wrapper", "no_sync", "a second backward"  # why gradients were not averaged
BY_HAND = ("average_parameters", "model_averaging", "local_sgd", "localsgd", "post_local", "average_gradients")


def world_size() -> int:
    """Return the number of ranks of the default process group, 1 where there is none."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return 1
    return int(distributed.get_world_size())


def is_replicated(module: Any) -> bool:
    """Return whether a module is a DistributedDataParallel."""
    return type(module).__name__ == "DistributedDataParallel" and isinstance(module, nn.Module)


def ranks_of(wrapper: Any) -> frozenset[int]:
    """Return the ranks between which a DistributedDataParallel averages."""
    return frozenset(torch.distributed.get_process_group_ranks(wrapper.process_group))


def digest(tensors: Iterable[Tensor | None]) -> str:
    """Return a hash of the first elements of some tensors: equal on ranks where these are bitwise equal."""
    found = hashlib.sha1()  # noqa: S324 - no secret
    for tensor in tensors:
        if tensor is None or tensor.layout != torch.strided or tensor.device.type == "meta":
            found.update(b"-")
        else:
            found.update(head(tensor).contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def sampled(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return some parameters, spread over all."""
    return list(parameters)[:: max(1, len(parameters) // SAMPLED)]


@dataclass(eq=False)
class Unsynced:
    """A step that used gradients which no rank had averaged."""

    key: str
    digest: str
    reason: str
    place: Place | None
    model: str
    group: frozenset[int]  # ranks that should have the same gradients
    num_backwards: int
    polls: int = 0  # how often other ranks were asked


@dataclass(eq=False)
class Replica:
    """A DistributedDataParallel on this rank."""

    wrapper: weakref.ref[nn.Module]
    index: int
    armed: bool = False  # by a forward through it that synchronizes: the next backward averages
    unsynced: int = 0  # backwards since the gradients were averaged last
    place: Place | None = None  # of what kept the last one from it
    no_sync_at: Place | None = None
    is_new: bool = True  # no forward since the last backward
    reason: str = PAST


class Synchronization:
    """The replicas of a run, and the steps that used gradients of this rank alone. Shared by rules of both causes."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.replicas: list[Replica] = []
        self.steps: list[Unsynced] = []
        self.by_hand = False  # somebody averages gradients or parameters himself
        self._heard: weakref.ref[Any] | None = None

    def hear(self, kind: str, event: Any) -> None:
        """Take note of an event, once, however many rules tell of it."""
        if self._heard is None or self._heard() is not event:
            self._heard = weakref.ref(event)
            getattr(self, kind)(event)

    def created(self, event: Created) -> None:
        if is_replicated(event.thing):
            self.replicas.append(Replica(weakref.ref(event.thing), len(self.replicas)))

    def module_called(self, call: ModuleCall) -> None:
        if call.depth or not call.grad_enabled:
            return
        for replica in self.replicas:
            wrapper: Any = replica.wrapper()
            if wrapper is None:
                continue
            if wrapper is call.module:
                if wrapper.require_backward_grad_sync:
                    replica.armed = True
                replica.reason = AGAIN if replica.armed else NO_SYNC
                replica.place = call.place if replica.armed else replica.no_sync_at or call.place
            elif replica.is_new and any(inner is call.module for inner in wrapper.modules()):
                replica.reason, replica.place = PAST, _past_wrapper()
            else:
                continue
            replica.is_new = False

    def backward_begins(self, call: Backward) -> None:
        if not self.replicas or world_size() < 2:
            return
        for replica in self.replicas:
            wrapper = replica.wrapper()
            if wrapper is None or not self._is_reached(replica, wrapper, call):
                continue
            replica.unsynced = 0 if replica.armed else replica.unsynced + 1
            if replica.reason == AGAIN and not replica.armed:
                replica.place = call.place
            replica.armed, replica.is_new = False, True

    def _is_reached(self, replica: Replica, wrapper: nn.Module, call: Backward) -> bool:
        """Return whether a backward reaches a replica. Later on, when walking costs too much, guess by its forward.

        A wrong guess is no finding: averaged gradients are equal on other ranks.
        """
        if not self.run.traced:
            return not replica.is_new
        leaves = call.graph.leaves
        return any(id(p) in leaves for p in wrapper.parameters())

    def collective_called(self, call: Collective) -> None:
        for replica in self.replicas:
            wrapper = replica.wrapper()
            if call.name == "no_sync":
                replica.no_sync_at = call.place if wrapper is call.module else replica.no_sync_at
                continue
            parameters = [] if wrapper is None else list(wrapper.parameters())
            own = {storage(t) for p in parameters for t in (p, p.grad) if t is not None} - {0}
            size = sum(p.numel() for p in parameters)
            averages = call.name != "broadcast" or self.run.num_steps > 0
            self.by_hand |= averages and any(storage(t) in own or t.numel() * 2 >= size > 1 for t in call.tensors)

    def step_begins(self, step: Step) -> None:
        held = {id(p) for p in step.parameters}
        for replica in self.replicas:
            wrapper = replica.wrapper()
            own = [] if wrapper is None else [p for p in wrapper.parameters() if id(p) in held and p.grad is not None]
            if not own or not replica.unsynced:
                continue
            number, replica.unsynced = replica.unsynced, 0
            if len(self.steps) >= CHECKED or self.by_hand or _mentions_by_hand(step.place):
                continue
            key = f"gradients-{replica.index}-{step.number}"
            found = digest(p.grad for p in sampled(own))
            if self.run.ranks is not None:
                self.run.ranks.publish(key, found)
            name = type(getattr(wrapper, "module", wrapper)).__name__
            group = ranks_of(wrapper)
            self.steps.append(Unsynced(key, found, replica.reason, replica.place, name, group, number))

    def proved(self, reasons: Sequence[str], *, at_end: bool) -> tuple[Unsynced, Severity] | None:
        """Return the first step whose gradients are others on another rank; without ranks to ask, a likely one."""
        steps = [s for s in self.steps if s.reason in reasons] if not self.by_hand else []
        ranks = self.run.ranks
        for step in steps:
            step.polls += 1
            if ranks is None or (step.polls > POLLS and not at_end):
                continue
            others = {rank: theirs for rank, theirs in ranks.others(step.key).items() if rank in step.group}
            if any(theirs != step.digest for theirs in others.values()):
                return step, Severity.ERROR
        if ranks is None and len(steps) >= CHECKED and self.run.traced:
            return steps[0], Severity.WARNING
        return None


def _past_wrapper() -> Place | None:
    """Return the line that passes the wrapper by: the one that says `.module.`, else the innermost."""
    lines = users_lines()
    return next((line for line in lines if ".module." in statement(line)), lines[0] if lines else None)


def _mentions_by_hand(place: Place | None) -> bool:
    return place is not None and source_mentions(place, BY_HAND, around=200)


class SynchronizationRule(Rule):
    """Base of rules about gradients that are not averaged. Ask :meth:`proved` in ``step_begins`` and at the end."""

    reasons: ClassVar[tuple[str, ...]]

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.synchronization = run.shared(Synchronization)
        self._done = False

    def created(self, thing: Created) -> Findings:
        self.synchronization.hear("created", thing)
        return ()

    def module_called(self, call: ModuleCall) -> Findings:
        if self.synchronization.replicas:
            self.synchronization.hear("module_called", call)
        return ()

    def backward_begins(self, call: Backward) -> Findings:
        if self.synchronization.replicas:
            self.synchronization.hear("backward_begins", call)
        return ()

    def collective_called(self, call: Collective) -> Findings:
        if self.synchronization.replicas:
            self.synchronization.hear("collective_called", call)
        return ()

    def step_begins(self, step: Step) -> Findings:
        if self.synchronization.replicas:
            self.synchronization.hear("step_begins", step)
            yield from self._look()

    def step_ends(self, _: Step) -> Findings:
        yield from self._look()

    def run_ends(self) -> Findings:
        yield from self._look(at_end=True)

    def _look(self, *, at_end: bool = False) -> Findings:
        if self._done or not self.synchronization.steps:
            return
        proved = self.synchronization.proved(self.reasons, at_end=at_end)
        if proved is not None:
            self._done = True
            yield self.report(*proved)

    def report(self, step: Unsynced, severity: Severity) -> Any:
        """Return the finding."""
        raise NotImplementedError
