"""One observed training: who listens to what, the facts that rules share, and what has been found.

Nothing here may change the training. An event is delivered with gradients off and with the taps deaf, so that what a
rule computes is not observed; a rule that fails is switched off, and the training goes on.
"""

from __future__ import annotations

import contextlib
import linecache
import random
import re
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from blackbelt.doctor.curves import Recorder
from blackbelt.doctor.events import Created, ModuleCall, Placed
from blackbelt.doctor.finding import Finding, Severity
from blackbelt.doctor.rule import EVENTS, Rule
from blackbelt.places import Place

if TYPE_CHECKING:
    from blackbelt.doctor.ranks import RankReport, Ranks

Shared = TypeVar("Shared")
TRACED_STEPS = 20  # of the first optimizer, and of each that comes later: everything is looked at
LATER_STEPS = 80  # that are traced for later optimizers, all together: some make a new one in every iteration
RARE = ("created", "registered", "run_ends")  # events that every rule hears of at any time


class Enough(SystemExit):
    """Ends the observed training. No error, and nothing that ``except Exception`` catches."""


class Run:
    """The facts of a run, for rules; and :meth:`emit`, for taps."""

    def __init__(
        self,
        rules: Iterable[type[Rule]],
        on_finding: Callable[[Finding], None] | None = None,
        *,
        max_steps: int | None = None,
        until_sure: bool = False,
    ) -> None:
        self.num_steps = 0  # steps of all optimizers together
        self.num_backwards = 0  # since the last step
        self._optimizers: weakref.WeakValueDictionary[int, torch.optim.Optimizer] = weakref.WeakValueDictionary()
        self._models: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
        self.traced_until = TRACED_STEPS
        self._later_steps = LATER_STEPS
        self.renewals: list[Callable[[], None]] = []  # what taps do when tracing begins anew
        self.running: list[nn.Module] = []  # modules whose forward is running, outermost first
        self.switches: list[Callable[[], Callable[[], None]]] = []  # each takes a tap out and returns what puts it back
        self.folder: Path | None = None  # where processes that the script starts meet; ranks.py
        self.ranks: Ranks | None = None  # where this process meets others, when it is one of several
        self.children: list[RankReport] = []  # what they have told
        self.notes: Path | None = None  # where workers of data loaders write down what they do
        self.is_cut = False  # ended before the script would have: what it had yet to do is not missing
        self.findings: list[Finding] = []
        self.failures: list[tuple[str, str]] = []  # code of a rule that failed, and its traceback
        self._on_finding = on_finding or (lambda _: None)
        self._max_steps, self._until_sure = max_steps, until_sure
        self._thread = threading.get_ident()
        self._active = False
        self._deaf = 0
        self._said: set[tuple[str, str, int]] = set()
        self._created: dict[int, tuple[weakref.ref[Any], Place | None]] = {}
        self._names: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        self._shared: dict[Any, Any] = {}
        self._rules = [rule(self) for rule in rules]
        self.recorder = Recorder(self)
        self._broken: set[str] = set()  # codes of rules that have failed
        self._listeners = self._choose_listeners()

    @property
    def traced(self) -> bool:
        """Whether everything is looked at: during the first steps, and those after an optimizer has come."""
        return self.num_steps < self.traced_until

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The living optimizers that have stepped, in the order of their first steps."""
        return list(self._optimizers.values())

    @property
    def models(self) -> list[nn.Module]:
        """The living modules that were called by no other module, in the order of their first calls."""
        return list(self._models.values())

    @property
    def hears(self) -> bool:
        """Whether a tap should speak now: the run is observed, on this thread, and no rule is at work."""
        return self._active and not self._deaf and threading.get_ident() == self._thread

    def listens(self, name: str) -> bool:
        """Return whether any rule wants events of this name."""
        return bool(self._listeners[name])

    def settings(self) -> dict[str, Any]:
        """Return what a child needs to know to observe as this process does: nothing that cannot be pickled."""
        module, name = (getattr(self._on_finding, key, "") for key in ("__module__", "__qualname__"))
        return {
            "codes": [rule.code for rule in self._rules],
            "max_steps": self._max_steps,
            "until_sure": self._until_sure,
            "on_finding": (module, name) if module.startswith("blackbelt.") and name.isidentifier() else None,
        }

    def start(self) -> None:
        """Begin to listen."""
        self._active = True

    def stop(self) -> None:
        """Let rules draw their last conclusions, and listen no more."""
        if self._active:
            self.emit("run_ends")
            self._active = False

    def end_if_enough(self) -> None:
        """Raise :class:`Enough` where the training need not go on."""
        sure = self._until_sure and any(finding.severity is Severity.ERROR for finding in self.findings)
        if sure or (self._max_steps is not None and self.num_steps >= self._max_steps):
            self.is_cut = True
            raise Enough

    def settle(self) -> None:
        """The first steps are made: rules that look at these alone hear of rare events only."""
        self._listeners = self._choose_listeners()

    def trace_anew(self) -> None:
        """An optimizer has come: look at everything again, for this may be another training than the one before."""
        more = self.num_steps + TRACED_STEPS - max(self.traced_until, self.num_steps)
        if 0 < more <= self._later_steps:
            self._later_steps -= more
            self.traced_until = self.num_steps + TRACED_STEPS
            self._listeners = self._choose_listeners()
            for renew in self.renewals:
                renew()

    def _choose_listeners(self) -> dict[str, list[Rule]]:
        rules = [rule for rule in (*self._rules, self.recorder) if rule.code not in self._broken]
        listeners = {
            name: [
                rule
                for rule in rules
                if getattr(type(rule), name) is not getattr(Rule, name)
                and (self.traced or name in RARE or not rule.first_steps_only)
            ]
            for name in EVENTS
        }
        self._located = {name for name, heard in listeners.items() if any(is_foreign(type(rule)) for rule in heard)}
        return listeners

    def forget(self) -> None:
        """In a child of this process: listen no more and say nothing."""
        self._active = False

    def emit(self, name: str, event: Placed | None = None) -> None:
        """Deliver an event. Never raises."""
        if not self.hears or not self._listeners[name]:
            return
        arguments = () if event is None else (event,)
        self._deaf += 1
        enabled = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # noqa: SLF001 - `no_grad` is several times slower, and this runs in every step
        try:
            if event is not None and name in self._located:
                _ = event.place  # now: asked for by a rule in the user's own file, it would be the line of the rule
            for rule in tuple(self._listeners[name]):
                try:
                    for finding in getattr(rule, name)(*arguments):
                        self._report(finding)
                except Exception:
                    self.failures.append((rule.code, traceback.format_exc(limit=-4)))
                    self._broken.add(rule.code)
                    self._listeners = self._choose_listeners()
        finally:
            torch._C._set_grad_enabled(enabled)  # noqa: SLF001 - likewise
            self._deaf -= 1

    @contextlib.contextmanager
    def deaf(self) -> Iterator[None]:
        """Observe nothing of what happens inside."""
        self._deaf += 1
        try:
            yield
        finally:
            self._deaf -= 1

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Take hooks and modes out, for what must not even see them: compiled code, which would be traced with them."""
        self._deaf += 1
        put_back = [switch() for switch in self.switches] if self._deaf == 1 else []
        try:
            yield
        finally:
            for undo in reversed(put_back):
                undo()
            self._deaf -= 1

    @contextlib.contextmanager
    def probe(self, *modules: nn.Module) -> Iterator[None]:
        """Try something out: random number generators, and buffers and modes of ``modules``, are put back afterwards.

        Copies the buffers. Gradients are on inside, and go to copies or through ``torch.autograd.grad`` only.
        """
        buffers = [(b, b.detach().clone()) for module in modules for b in module.buffers()]
        modes = [(m, m.training) for module in modules for m in module.modules()]
        numpy_state, python_state = _numpy_state(), random.getstate()
        with _unsafe_preserve_version_counter(tuple(buffer for buffer, _ in buffers)):  # the graph may have saved them
            try:
                with torch.random.fork_rng(), torch.enable_grad():
                    yield
            finally:
                random.setstate(python_state)
                _set_numpy_state(numpy_state)
                for module, mode in modes:
                    module.training = mode
                with torch.no_grad():
                    for buffer, copy in buffers:
                        buffer.copy_(copy)

    def made(self, thing: Any) -> None:
        """Remember where something was made, and tell rules of it."""
        event = Created(thing)
        key = id(thing)
        with contextlib.suppress(TypeError):  # what cannot be referred to weakly has no place
            self._created[key] = (weakref.ref(thing, lambda _: self._created.pop(key, None)), event.place)
        self.emit("created", event)

    def made_at(self, thing: Any) -> Place | None:
        """Return where a module, a parameter, an optimizer, a scheduler or a data loader was made."""
        reference, place = self._created.get(id(thing), (None, None))
        return place if reference is not None and reference() is thing else None

    def called(self, call: ModuleCall) -> None:
        """Remember the models, and tell rules of the call."""
        if call.depth == 0:
            self._models.setdefault(id(call.module), call.module)
        self.emit("module_called", call)

    def stepping(self, optimizer: torch.optim.Optimizer) -> None:
        """Remember the optimizers."""
        if id(optimizer) not in self._optimizers:
            self._optimizers[id(optimizer)] = optimizer
            self.trace_anew()

    def name_of(self, parameter: Tensor) -> str:
        """Return a parameter's name in the model that holds it, as ``encoder.0.weight``; its shape where none does."""
        known, name = self._names.get(id(parameter), (None, ""))
        if known is None or known() is not parameter:
            for model in self.models:
                named = model.named_parameters(remove_duplicate=False)
                self._names.update({id(p): (weakref.ref(p), name) for name, p in named})
            known, name = self._names.get(id(parameter), (None, ""))
        return name if known is not None and known() is parameter else f"a parameter of shape {tuple(parameter.shape)}"

    def trained(self) -> dict[int, Tensor]:
        """Return the parameters that some optimizer holds, by ``id``."""
        return {id(p): p for o in self.optimizers for group in o.param_groups for p in group["params"]}

    def shared(self, kind: Callable[[Run], Shared]) -> Shared:
        """Return ``kind(self)``, made once for all rules of this run that ask for it."""
        if kind not in self._shared:
            self._shared[kind] = kind(self)
        return cast("Shared", self._shared[kind])

    def conclusions(self) -> Sequence[Finding]:
        """Return the findings, without those that another one explains; what explains an error is an error itself."""
        explains = {rule.code: rule.explains for rule in self._rules if self._has(rule.code)}
        explained = {code for codes in explains.values() for code in codes}
        return [
            replace(
                finding,
                severity=max(f.severity for f in self.findings if f is finding or f.code in explains[finding.code]),
            )
            for finding in self.findings
            if finding.code not in explained
        ]

    def _has(self, code: str) -> bool:
        return any(finding.code == code for finding in self.findings)

    def _report(self, finding: Finding) -> None:
        place = finding.place
        key = (finding.code, place.file if place else "", place.line if place else 0)
        if key not in self._said and not (place and is_ignored(finding.code, place)):
            self._said.add(key)
            self.findings.append(finding)
            self._on_finding(finding)


def is_foreign(rule: type[Rule]) -> bool:
    """Return whether a rule is not one of ours, but of the user's own."""
    return not rule.__module__.startswith("blackbelt.")


def is_ignored(code: str, place: Place) -> bool:
    """Return whether the line says ``# blackbelt: ignore[BB301] reason``, with this code among its codes.

    >>> is_ignored("BB301", Place("train.py", 1, "train"))
    False
    """
    linecache.checkcache(place.file)
    match = re.search(r"#\s*blackbelt:\s*ignore\[([^\]]*)\]", linecache.getline(place.file, place.line))
    return match is not None and code in re.split(r"[,\s]+", match[1])


def _numpy_state() -> Any:
    import numpy as np

    return np.random.get_state()  # noqa: NPY002 - the user's stream


def _set_numpy_state(state: Any) -> None:
    import numpy as np

    np.random.set_state(state)  # noqa: NPY002 - likewise
