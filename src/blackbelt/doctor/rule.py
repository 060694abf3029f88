"""A rule: which events it listens to, and what it concludes from them. One file per rule in ``rules/``, found there."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from blackbelt.doctor.finding import Finding, Severity

if TYPE_CHECKING:
    from blackbelt.doctor import events
    from blackbelt.doctor.run import Run
    from blackbelt.places import Place

Findings = Iterable[Finding]


class Rule:
    """Base of every rule. Override the methods of the events to listen to; they yield findings.

    The class's docstring is the page that ``blackbelt doctor --explain`` prints: what goes wrong and why, how it is
    observed, when it is not reported, and the fix. A rule holds no tensor of the training longer than an event lasts,
    and changes nothing: what it tries out, it tries inside ``self.run.probe()``.
    """

    code: ClassVar[str]
    title: ClassVar[str]  # a few words, as in a table of contents
    severity: ClassVar[Severity] = Severity.ERROR
    lesson: ClassVar[str] = ""  # the lesson that explains it, `tensors/broadcasting`
    explains: ClassVar[tuple[str, ...]] = ()  # codes of findings that are consequences of this one
    first_steps_only: ClassVar[bool] = False  # hears of nothing but the end once the run is no longer traced

    def __init__(self, run: Run) -> None:
        self.run = run

    def created(self, thing: events.Created) -> Findings:
        """A module, a parameter, an optimizer, a scheduler or a data loader was made."""
        return ()

    def registered(self, event: events.Registered) -> Findings:
        """A parameter or a module is about to become an attribute of a module."""
        return ()

    def segment_begins(self, call: events.Segment) -> Findings:
        """A segment is about to be run by reentrant checkpointing."""
        return ()

    def segment_ends(self, call: events.Segment) -> Findings:
        """Reentrant checkpointing has run a segment forward."""
        return ()

    def module_called(self, call: events.ModuleCall) -> Findings:
        """A module's forward has returned. Outermost calls always, inner ones while the run is traced."""
        return ()

    def mode_set(self, call: events.ModeSet) -> Findings:
        """``train`` or ``eval`` of a module has returned."""
        return ()

    def function_called(self, call: events.FunctionCall) -> Findings:
        """A function of PyTorch or a method of a tensor has returned. Only while the run is traced."""
        return ()

    def backward_begins(self, call: events.Backward) -> Findings:
        """``backward`` was called; the graph is still there."""
        return ()

    def backward_ends(self, call: events.Backward) -> Findings:
        """``backward`` has returned; gradients have been added."""
        return ()

    def gradients_cleared(self, call: events.Cleared) -> Findings:
        """``zero_grad`` of an optimizer or a module has returned."""
        return ()

    def clipped(self, call: events.Clipped) -> Findings:
        """Gradients were clipped by ``torch.nn.utils``."""
        return ()

    def scaler_called(self, call: events.ScalerCall) -> Findings:
        """A method of a gradient scaler has returned."""
        return ()

    def step_begins(self, step: events.Step) -> Findings:
        """An optimizer is about to step."""
        return ()

    def step_ends(self, step: events.Step) -> Findings:
        """An optimizer has stepped."""
        return ()

    def schedule_stepped(self, call: events.ScheduleStep) -> Findings:
        """A learning rate scheduler has stepped."""
        return ()

    def epoch_begins(self, epoch: events.Epoch) -> Findings:
        """An iterator of a data loader was made."""
        return ()

    def batch_loaded(self, batch: events.Batch) -> Findings:
        """A data loader has handed out a batch."""
        return ()

    def fetch_begins(self, fetch: events.Fetch) -> Findings:
        """Samples are about to be fetched in this process. Only while the run is traced."""
        return ()

    def fetch_ends(self, fetch: events.Fetch) -> Findings:
        """Samples were fetched in this process. Only while the run is traced."""
        return ()

    def worker_fetched(self, fetch: events.WorkerFetch) -> Findings:
        """A worker of a data loader has fetched; heard with a little delay, and only of forked workers."""
        return ()

    def epoch_ends(self, epoch: events.Epoch) -> Findings:
        """An iterator of a data loader has come to its end."""
        return ()

    def state_taken(self, call: events.StateTaken) -> Findings:
        """``state_dict`` of a module has returned; not heard of its submodules."""
        return ()

    def state_loaded(self, call: events.StateLoaded) -> Findings:
        """``load_state_dict`` of a module, an optimizer, a scheduler or a scaler has returned."""
        return ()

    def file_saved(self, call: events.File) -> Findings:
        """``torch.save`` has returned."""
        return ()

    def file_loaded(self, call: events.File) -> Findings:
        """``torch.load`` has returned."""
        return ()

    def collective_called(self, call: events.Collective) -> Findings:
        """``all_reduce``, ``broadcast`` or the like of ``torch.distributed``, or ``no_sync``, has been called."""
        return ()

    def run_ends(self) -> Findings:
        """The script has ended, or observation has."""
        return ()

    def finding(
        self,
        message: str,
        place: Place | None,
        *,
        fix: str = "",
        evidence: Mapping[str, object] | None = None,
        severity: Severity | None = None,
    ) -> Finding:
        """Return a finding of this rule, at the step the run has come to; ``severity`` is the rule's where None."""
        figures = {name: str(value) for name, value in (evidence or {}).items()}
        severity = self.severity if severity is None else severity
        return Finding(
            self.code, severity, message, place and place.read(), fix, figures, self.lesson, self.run.num_steps
        )


EVENTS = tuple(name for name, _ in inspect.getmembers(Rule, inspect.isfunction) if name not in ("__init__", "finding"))


@functools.cache
def all_rules() -> Mapping[str, type[Rule]]:
    """Return the rules by their codes: every class of the folder ``rules/`` that derives from :class:`Rule`."""
    from blackbelt.doctor import rules

    found: dict[str, type[Rule]] = {}
    for module in pkgutil.iter_modules(rules.__path__):
        if module.name.startswith("_"):
            continue
        members = vars(importlib.import_module(f"{rules.__name__}.{module.name}")).values()
        for rule in members:
            if isinstance(rule, type) and issubclass(rule, Rule) and rule.__module__.endswith(module.name):
                assert rule.code not in found, f"{rule.code} is the code of two rules"
                found[rule.code] = rule
    return dict(sorted(found.items()))
