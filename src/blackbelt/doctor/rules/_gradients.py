"""What is in the gradients of the parameters: which calls of ``backward`` added to them, and which steps used them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from blackbelt.doctor.events import Backward, Cleared, Clipped, Created, Placed, ScalerCall, Step
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

Norms = tuple[float, float]  # two norms stand for a gradient: equal ones mean that nobody touched it
NOTHING: Norms = (0.0, 0.0)
MAX_CLEARS = 32


@dataclass(eq=False)
class Deposit:
    """What one call of ``backward`` added to one gradient."""

    number: int  # of the call
    place: Place | None
    added_to_used: bool  # the gradient held what a step had used already
    followed: bool = False  # some optimizer has stepped since
    used: bool = False  # by an optimizer that holds the parameter
    cleared_at: Place | None = None


@dataclass(eq=False)
class Clear:
    """One call of ``zero_grad``."""

    owner: int
    parameters: frozenset[int]
    place: Place | None
    after: int  # number of the last call of backward before it


@dataclass(eq=False)
class Account:
    """The gradient of one parameter."""

    parameter: weakref.ref[Tensor]
    deposits: list[Deposit] = field(default_factory=list)  # that are in the gradient now
    lost: list[Deposit] = field(default_factory=list)  # cleared with no step of any optimizer, since its own last step
    left: Norms = NOTHING  # by the last backward or step
    used: bool = False  # and that was a step


def norms(parameters: Sequence[Tensor]) -> list[Norms]:
    """Return two norms of every gradient, (0, 0) where there is none."""
    found = [NOTHING] * len(parameters)
    grads = []
    for i, parameter in enumerate(parameters):
        grad = parameter.grad
        if grad is not None and grad.is_sparse:
            grad = grad._values()  # noqa: SLF001 - the public one wants it coalesced
        if grad is not None and grad.numel():
            grads.append((i, grad))
    if grads:
        tensors = [g for _, g in grads]
        kinds = [[float(n) for n in torch._foreach_norm(tensors, order)] for order in (1, 2)]  # noqa: SLF001 - has no public name
        for (i, _), one, two in zip(grads, *kinds):
            found[i] = (one, two)
    return found


class Gradients:
    """The accounts of a run, shared by its rules. Kept while the run is traced."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self.made: list[weakref.ref[torch.optim.Optimizer]] = []  # in order
        self.number = 0  # of the last call of backward
        self.leaves: frozenset[int] = frozenset()  # of the last call of backward
        self.clears: list[Clear] = []
        self.rescaled = False  # by a scaler, or by clipping, since the last backward
        self._accounts: dict[int, Account] = {}
        self._heard: weakref.ref[Placed] | None = None
        self._kind = ""
        self._old: dict[int, bool] = {}  # parameters of the backward that runs: whether their gradient was used already

    def hear(self, kind: str, event: Any) -> None:
        """Take note of an event, once, however many rules tell of it."""
        if self._heard is not None and self._heard() is event and kind == self._kind:
            return
        self._heard, self._kind = weakref.ref(event), kind
        if self.run.traced or kind in ("created", "step_ends"):
            getattr(self, "_" + kind)(event)

    def account(self, parameter: Tensor) -> Account | None:
        """Return the account of a parameter that some backward has reached."""
        account = self._accounts.get(id(parameter))
        return account if account is not None and account.parameter() is parameter else None

    def known(self) -> list[torch.optim.Optimizer]:
        """Return the optimizers that were made or that stepped."""
        return list(dict.fromkeys([*self.run.optimizers, *self.optimizers]))

    def cleared_at(self, parameter: Tensor, deposit: Deposit) -> Place | None:
        """Return the line that cleared what a backward had added."""
        covering = [c for c in self.clears if id(parameter) in c.parameters and c.after >= deposit.number]
        return covering[0].place if covering else None

    def _created(self, event: Created) -> None:
        if isinstance(event.thing, torch.optim.Optimizer):
            self.optimizers.add(event.thing)
            self.made.append(weakref.ref(event.thing))

    def _backward_begins(self, call: Backward) -> None:
        self.number += 1
        held = {id(p) for o in self.known() for group in o.param_groups for p in group["params"]}
        leaves = [p for p in call.graph.leaves.values() if isinstance(p, nn.Parameter) or id(p) in held]
        self.leaves = frozenset(map(id, leaves))
        self._old = {}
        for parameter, now in zip(leaves, norms(leaves)):
            account = self._look(parameter, now)
            self._old[id(parameter)] = account.used and now == account.left and now != NOTHING

    def _look(self, parameter: Tensor, now: Norms) -> Account:
        """Return the account, brought up to date with what has happened to the gradient since."""
        account = self.account(parameter) or Account(weakref.ref(parameter))
        self._accounts[id(parameter)] = account
        if now == NOTHING and account.deposits:
            for deposit in account.deposits:
                if not (deposit.used or deposit.followed):
                    deposit.cleared_at = self.cleared_at(parameter, deposit)
                    account.lost.append(deposit)
            account.deposits = []
        elif now != account.left and not self.rescaled:  # somebody wrote a gradient of his own
            account.deposits, account.lost = [], []
        return account

    def _backward_ends(self, call: Backward) -> None:
        place = call.place
        self.rescaled = False
        leaves = [a for key in self.leaves if (a := self._accounts.get(key)) is not None and a.parameter() is not None]
        parameters: list[Any] = [account.parameter() for account in leaves]
        for account, parameter, now in zip(leaves, parameters, norms(parameters)):
            if now != NOTHING:
                account.deposits.append(Deposit(self.number, place, self._old.get(id(parameter), False)))
            account.left, account.used = now, False

    def _step_begins(self, step: Step) -> None:
        parameters = step.parameters
        for parameter, now in zip(parameters, norms(parameters)):
            if self.account(parameter) is not None:
                self._look(parameter, now)

    def _step_ends(self, step: Step) -> None:
        if not self.run.traced:
            self._accounts.clear()
            return
        for account in self._accounts.values():
            for deposit in account.deposits:
                deposit.followed = True
        parameters = step.parameters
        for parameter, now in zip(parameters, norms(parameters)):
            held = self.account(parameter)
            if held is not None:
                held.left, held.used, held.lost = now, True, []
                for deposit in held.deposits:
                    deposit.used = True

    def _gradients_cleared(self, call: Cleared) -> None:
        parameters = frozenset(map(id, call.parameters))
        self.clears.append(Clear(id(call.owner), parameters, call.place, self.number))
        del self.clears[:-MAX_CLEARS]

    def _clipped(self, _: Clipped) -> None:
        self.rescaled = True

    def _scaler_called(self, call: ScalerCall) -> None:
        if call.scaler.is_enabled():
            self.rescaled = True


class GradientRule(Rule):
    """Base of rules that ask what is in the gradients. Call ``super()`` first in every method overridden."""

    first_steps_only: ClassVar[bool] = True

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.gradients = run.shared(Gradients)

    def created(self, thing: Created) -> Findings:
        self.gradients.hear("created", thing)
        return ()

    def backward_begins(self, call: Backward) -> Findings:
        self.gradients.hear("backward_begins", call)
        return ()

    def backward_ends(self, call: Backward) -> Findings:
        self.gradients.hear("backward_ends", call)
        return ()

    def gradients_cleared(self, call: Cleared) -> Findings:
        self.gradients.hear("gradients_cleared", call)
        return ()

    def clipped(self, call: Clipped) -> Findings:
        self.gradients.hear("clipped", call)
        return ()

    def scaler_called(self, call: ScalerCall) -> Findings:
        self.gradients.hear("scaler_called", call)
        return ()

    def step_begins(self, step: Step) -> Findings:
        self.gradients.hear("step_begins", step)
        return ()

    def step_ends(self, step: Step) -> Findings:
        self.gradients.hear("step_ends", step)
        return ()

    def accounts(self, parameters: Iterable[Tensor]) -> list[tuple[Tensor, Account]]:
        """Return the parameters that some backward has reached, with their accounts."""
        return [(p, account) for p in parameters if (account := self.gradients.account(p)) is not None]


def wrong_clear(gradients: Gradients, step: Step, deposit: Deposit) -> Clear | None:
    """Return the call of ``zero_grad``, for other parameters, that stands where that for this optimizer should.

    It came between the backward before ``deposit`` and ``deposit``, covers nothing that the optimizer holds, and what
    it covers took no part in that backward, or is cleared in another line as well.
    """
    held = frozenset(map(id, step.parameters))
    last = [c for c in gradients.clears if c.after == deposit.number - 1]
    if not last or any(c.parameters & held for c in last):
        return None
    clear = last[-1]
    lines = {c.place for c in gradients.clears if c.owner == clear.owner}
    return clear if len(lines) > 1 or not clear.parameters & gradients.leaves else None
