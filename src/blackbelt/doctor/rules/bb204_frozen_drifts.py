"""BB204."""

from __future__ import annotations

import itertools
import linecache
import re
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from blackbelt.doctor.events import Created, FunctionCall, ModeSet, ModuleCall, StateLoaded, Step, head
from blackbelt.doctor.finding import Finding, Severity
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._modes import is_pristine, normalizes
from blackbelt.doctor.run import Run
from blackbelt.places import Place

CONFIRMED = 3  # steps with a frozen part whose statistics moved
WAS_TRAINED = 12  # the same, for what an optimizer has trained in this run: it may be its turn again
ON_PURPOSE = re.compile(
    r"adabn|\badapt(s|ed|ing|ation)?\b|recalib|re-?estim|update_bn|(bn|batch.?norm)('s)? stat|on purpose", re.IGNORECASE
)
UNFREEZING = re.compile(r"requires_grad_\((?!\s*False)|requires_grad\s*=(?!=)(?!\s*False)|unfreez|set_requires_grad")
FREEZING = {"requires_grad_", "__set__"}


@dataclass(eq=False)
class Norm:
    """A BatchNorm of a frozen part, as the last steps have seen it."""

    mean: Tensor  # a copy of the running mean when it was first seen frozen
    weights: float  # a sum over the part's parameters then: what an average moves is not frozen
    batches: int
    steps: int = 0


@dataclass(eq=False)
class Pending:
    """What will be said at the end, unless one of the parameters is trained till then."""

    parameters: frozenset[int]
    finding: Finding


class FrozenDrifts(Rule):
    """Frozen layers change all the same: their BatchNorm is in training mode and replaces the statistics it came with.

    `requires_grad = False` keeps parameters from being trained, and says nothing about buffers. In training mode,
    BatchNorm normalizes with the batch and moves `running_mean` and `running_var` a tenth of the way at every forward
    pass. After some hundred steps the pretrained features are others in evaluation mode, in the exported model, and in
    every other model that shares the backbone.

    Observed: a part of a model, or a whole model such as a teacher, with all parameters frozen (or in no optimizer and
    without a gradient, as under `no_grad`) and the same in value; its BatchNorm was loaded or trained before; in three
    steps of an optimizer its running mean has changed. A warning, since nobody but you can say that this is not wanted.

    Not reported: BatchNorm that was never loaded and has its initial statistics when the optimizer is made, or whose
    own parameters are trained; a second model of the same class and sizes (an average, a target network); files that
    unfreeze something later, until the run ends with that part still frozen; lines that speak of adapting statistics.

    The fix: `backbone.eval()` after every `model.train()`, best in a `train()` of your own. Reported where the part was
    frozen, or, where its `eval()` had been called, at the `train()` that undid it.
    """

    code: ClassVar[str] = "BB204"
    title: ClassVar[str] = "BatchNorm of frozen layers drifts"
    severity: ClassVar[Severity] = Severity.WARNING

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._made: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # BatchNorms
        self._learned: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # of these: with statistics worth keeping
        self._calls: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()  # of models
        self._norms: weakref.WeakKeyDictionary[nn.Module, Norm] = weakref.WeakKeyDictionary()
        self._evaluated: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # parts that were put into evaluation mode
        self._trained: weakref.WeakKeyDictionary[nn.Module, Place | None] = weakref.WeakKeyDictionary()
        self._frozen: dict[int, tuple[weakref.ref[Tensor], Place | None]] = {}
        self._moved: set[int] = set()  # parameters that some step had gradients for
        self._pending: dict[int, Pending] = {}  # parts to speak of at the end
        self._said: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def created(self, thing: Created) -> Findings:
        if isinstance(thing.thing, _BatchNorm):
            self._made.add(thing.thing)
        elif isinstance(thing.thing, Optimizer):
            self._optimizers.add(thing.thing)
            self._learned |= {m for m in self._made if normalizes(m) and not is_pristine(m)}
        return ()

    def state_loaded(self, call: StateLoaded) -> Findings:
        if isinstance(call.owner, nn.Module):
            self._learned |= {m for m in call.owner.modules() if normalizes(m)}
        return ()

    def mode_set(self, call: ModeSet) -> Findings:
        norms = [module for module in call.module.modules() if normalizes(module)]
        if call.training:
            self._trained.update(dict.fromkeys(norms, call.place))
        elif norms and not any(p.requires_grad for p in call.module.parameters()):
            self._evaluated |= set(norms)
        return ()

    def function_called(self, call: FunctionCall) -> Findings:
        parameter = call.args[0] if call.args and call.name in FREEZING else None
        if isinstance(parameter, nn.Parameter) and not parameter.requires_grad:
            self._frozen[id(parameter)] = (weakref.ref(parameter), call.place)
        return ()

    def module_called(self, call: ModuleCall) -> Findings:
        if not call.depth and call.module.training:
            self._calls[call.module] = self._calls.get(call.module, 0) + 1
        return ()

    def step_ends(self, step: Step) -> Findings:
        if not self.run.traced and self.run.num_steps % 64:
            return
        moved = {id(p) for p in step.parameters if p.grad is not None}
        self._moved |= moved
        self._pending = {key: pending for key, pending in self._pending.items() if not pending.parameters & moved}
        optimizers = [*self.run.optimizers, *self._optimizers]
        held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        for model in self.run.models:
            for part, norms in _frozen_parts(model, held):
                yield from self._look(model, part, norms)

    def _look(self, model: nn.Module, part: nn.Module, norms: list[nn.Module]) -> Iterator[Finding]:
        size = sum(float(head(p).abs().double().sum()) for p in part.parameters())
        for norm in norms:
            mean, batches = norm.running_mean, norm.num_batches_tracked
            assert isinstance(mean, Tensor)
            count = 0 if batches is None else int(batches)  # type: ignore[arg-type]
            seen = self._norms.get(norm)
            if seen is None or seen.weights != size:
                if seen is None and count > self._calls.get(model, 0):
                    self._learned.add(norm)
                self._norms[norm] = Norm(mean.detach().clone(), size, count, 1)
                continue
            if count == seen.batches:  # not run since
                continue
            seen.batches, seen.steps = count, seen.steps + 1
            was_trained = any(id(p) in self._moved for p in part.parameters())
            if part in self._said or norm not in self._learned or seen.steps < CONFIRMED:
                continue
            finding = self._finding(part, norm) if bool((mean != seen.mean).any()) else None
            if finding is None or finding.place is None:
                continue
            unfreezes = UNFREEZING.search("".join(linecache.getlines(finding.place.file))) is not None
            if not unfreezes and (not was_trained or seen.steps >= WAS_TRAINED):
                self._said.add(part)
                self._pending.pop(id(part), None)
                yield finding
            elif not (unfreezes and was_trained):
                self._pending[id(part)] = Pending(frozenset(map(id, part.parameters())), finding)

    def _finding(self, part: nn.Module, norm: nn.Module) -> Finding | None:
        place = self._cause(part, norm)
        if place is None or self._is_copy(part) or _says(place, ON_PURPOSE):
            return None
        kept = self._norms[norm].mean
        mean, variance = norm.running_mean, norm.running_var
        assert isinstance(mean, Tensor)
        assert isinstance(variance, Tensor)
        drift = (mean - kept).abs() / (variance + 1e-12).sqrt()
        path = max((name for m in self.run.models for name, module in m.named_modules() if module is part), key=len)
        name = path or type(part).__name__
        layers = sum(normalizes(m) and m.training for m in part.modules())
        return self.finding(
            f"all parameters of {name} are frozen, and its BatchNorm is in training mode: the running statistics of "
            f"{layers} layer{'s' * (layers > 1)} are replaced by those of your batches",
            place,
            fix=f"model.train()\nmodel.{path}.eval()  # after every train()"
            if path
            else "frozen.eval()  # and keep it so",
            evidence={
                "frozen parameters": sum(1 for _ in part.parameters()),
                "largest shift of a running mean, in standard deviations": f"{float(drift.max()):.2g}",
                "steps with a shift": self._norms[norm].steps,
            },
        )

    def _cause(self, part: nn.Module, norm: nn.Module) -> Place | None:
        if norm in self._evaluated and self._trained.get(norm) is not None:
            return self._trained[norm]
        for parameter in part.parameters():
            reference, place = self._frozen.get(id(parameter), (None, None))
            if reference is not None and reference() is parameter and place is not None:
                return place
        return self._trained.get(norm) or self.run.made_at(part)

    def _is_copy(self, part: nn.Module) -> bool:
        """Return whether some other module of this class and these sizes is trained: the part follows it, or will."""
        kind = _kind(part)
        others = (m for model in self.run.models for m in model.modules() if type(m) is type(part) and m is not part)
        trained = self.run.trained()
        return any(_kind(m) == kind and any(id(p) in trained for p in m.parameters()) for m in others)

    def run_ends(self) -> Findings:
        return [pending.finding for pending in self._pending.values()]


def _frozen_parts(model: nn.Module, held: set[int]) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
    """Yield the largest parts with frozen parameters only, if they have BatchNorm in training mode and other layers.

    A parameter that no optimizer holds, and that gets no gradient, is frozen as well: ``no_grad`` is around its call.
    """
    parameters = list(model.parameters())
    if parameters and any(p.requires_grad and (id(p) in held or p.grad is not None) for p in parameters):
        for child in model.children():
            yield from _frozen_parts(child, held)
        return
    norms = [m for m in model.modules() if normalizes(m) and m.training and m.momentum is not None]
    own = set(map(id, itertools.chain.from_iterable(m.parameters() for m in norms)))
    if norms and any(id(p) not in own for p in parameters):
        yield model, norms


def _kind(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in module.parameters()]


def _says(place: Place, words: re.Pattern[str]) -> bool:
    lines = "".join(linecache.getline(place.file, n) for n in range(max(1, place.line - 8), place.line + 8))
    return words.search(lines) is not None
