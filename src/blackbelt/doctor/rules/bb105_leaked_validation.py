"""BB105."""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from blackbelt.doctor.events import Backward, Batch, Created, Epoch, FunctionCall, ModuleCall, Step
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.places import users_lines
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._passes import Pass, PassRule
from blackbelt.doctor.rules._purposes import purpose, said
from blackbelt.doctor.rules._samples import Numbers, Samples, resolve
from blackbelt.doctor.run import Run
from blackbelt.places import Place

MIN_SAMPLES, MIN_SHARE = 3, 0.1  # of a validation pass that was trained on
MAX_KEPT = 200_000  # samples of a training that are remembered
MAX_CLEAN = 2  # validations without overlap, after which a loader is looked at no more
MAX_STEPS = 500  # that are remembered where no loader is used and nothing is validated
MIN_ROWS = 8  # of a slice whose line is remembered


class LeakedValidation(PassRule):
    """Samples that the model is validated on are among those it was trained on.

    Then the validation loss measures memory: it falls along with the training loss, early stopping never stops, the
    best checkpoint is the most overfitted one. Usual reasons: a split drawn twice with different permutations, slices
    that overlap, the training loader over the whole data set instead of its part, copies made before the split.

    Observed: hashes of the samples (or their indices in the data set that both parts come from) of the batches that an
    optimizer was stepped on, and of a later pass without a backward, by a model that this optimizer trains, over
    another loader, which its user's names call validation or test. At least a tenth of that pass, and three samples,
    were trained on. Without data loaders: of the inputs of the model's calls.

    Not reported: a training loader that is evaluated on for comparison, or any loader whose names say training or
    nothing; cross-validation, where each fold has an optimizer of its own; samples evaluated before they are trained
    on; equal samples that have so few different values that they may be equal by chance.

    The fix: split once, and make both loaders from the two parts. Reported where the validation part is made; where the
    training loader is, if that takes the whole.
    """

    code: ClassVar[str] = "BB105"
    title: ClassVar[str] = "validated on samples that were trained on"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._made: weakref.WeakKeyDictionary[DataLoader[Any], list[Place]] = weakref.WeakKeyDictionary()
        self._purposes: weakref.WeakKeyDictionary[Pass, str] = weakref.WeakKeyDictionary()
        self._loaded: weakref.WeakKeyDictionary[Pass, Samples] = weakref.WeakKeyDictionary()
        self._callers: weakref.WeakKeyDictionary[Pass, weakref.WeakSet[nn.Module]] = weakref.WeakKeyDictionary()
        self._trained: weakref.WeakKeyDictionary[Any, Samples] = weakref.WeakKeyDictionary()  # by optimizer
        self._trained_on: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()  # loaders
        self._trained_loaders: weakref.WeakSet[Any] = weakref.WeakSet()
        self._clean: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # validations without overlap
        self._optimizers: list[weakref.ref[Any]] = []  # the last is the one that stepped last
        self._slices: dict[int, tuple[weakref.ref[Tensor], Place | None]] = {}
        self._inputs = Samples()  # of models since the last step, where no loader is used
        self._seen: tuple[weakref.ref[Any], int] | None = None  # the input that was added last, and its version
        self._num_clean = 0  # of calls
        self._numbers = Numbers()
        self._is_done = False

    def created(self, thing: Created) -> Findings:
        if isinstance(thing.thing, DataLoader):
            self._made[thing.thing] = users_lines()
        return ()

    def function_called(self, call: FunctionCall) -> Findings:
        if call.name == "__getitem__" and not self.run.num_steps and isinstance(call.result, Tensor):
            result = call.result
            if result.dim() and result.shape[0] >= MIN_ROWS:
                key = id(result)
                self._slices[key] = (weakref.ref(result, lambda _: self._slices.pop(key, None)), call.place)
        return ()

    def begins(self, begun: Pass, loader: Any) -> None:
        self._purposes[begun] = purpose(self._made.get(loader, []), users_lines())

    def loads(self, current: Pass, batch: Batch) -> None:
        if self._is_done or self._clean.get(batch.loader, 0) >= MAX_CLEAN:
            return
        if self._purposes.get(current) == "validation" and not self._trained:
            return
        samples = self._loaded.setdefault(current, Samples())
        if len(samples) > MAX_KEPT:
            return
        for index in batch.indices if isinstance(batch.indices, (list, tuple)) else [batch.indices]:
            base, base_index = resolve(batch.loader.dataset, index)
            if isinstance(base_index, int):
                samples.indices.add((self._numbers[base], base_index))
        samples.add_rows(batch.data)

    def module_called(self, call: ModuleCall) -> Findings:
        super().module_called(call)
        if call.depth == 0 and self._fresh:
            self._callers.setdefault(self._fresh[-1], weakref.WeakSet()).add(call.module)
        if call.depth or self._open or self._is_done or not call.args or self._num_clean >= MAX_CLEAN:
            return
        if call.grad_enabled:
            if self.run.num_steps < MAX_STEPS and not self._is_seen(call.args[0]):
                self._inputs.add_rows(call.args[0])
        elif self._trained and call.place and "validation" in (_said_at(call.place), said(call.place.function)):
            validated, optimizer = Samples(), self._optimizer_of([call.module])
            validated.add_rows(call.args[0])
            if optimizer is not None and _said_at(call.place) not in ("training", "either"):
                _, place = self._slices.get(id(call.args[0]), (None, call.place))
                self._num_clean += len(validated) > 0
                yield from self._compared(validated, self._trained[optimizer], place)

    def _is_seen(self, data: Any) -> bool:
        """Return whether this is the input of the last call: the whole data in every step, where there is no loader."""
        if not isinstance(data, Tensor):
            return False
        version = data._version  # noqa: SLF001 - has no public name
        is_seen = self._seen is not None and self._seen[0]() is data and self._seen[1] == version
        self._seen = (weakref.ref(data), version)
        return is_seen

    def backward_begins(self, _: Backward) -> Findings:
        for one in self._fresh:
            if not one.is_evaluation:
                self._purposes[one] = "training"
        return ()

    def step_ends(self, step: Step) -> Iterator[Finding]:
        yield from super().step_ends(step)
        if len(self._inputs):
            if not self._open:
                self._keep(step, self._inputs)
            self._inputs = Samples()

    def trains(self, current: Pass, step: Step) -> Findings:
        loader, samples = current.loader(), self._loaded.get(current)
        if samples is not None and loader is not None and not self._is_done:
            self._keep(step, samples)
            self._trained_on[step.optimizer] = weakref.ref(loader)
            self._trained_loaders.add(loader)
        return ()

    def _keep(self, step: Step, samples: Samples) -> None:
        kept = self._trained.setdefault(step.optimizer, Samples())
        if len(kept) < MAX_KEPT:
            kept.take(samples)
        if not self._optimizers or self._optimizers[-1]() is not step.optimizer:
            self._optimizers = [one for one in self._optimizers if one() not in (None, step.optimizer)]
            self._optimizers.append(weakref.ref(step.optimizer))

    def epoch_ends(self, epoch: Epoch) -> Findings:
        ended = self._open.get(id(epoch.loader))
        super().epoch_ends(epoch)
        if ended is None or ended.num_steps or self._is_done or (samples := self._loaded.pop(ended, None)) is None:
            return
        says, optimizer = self._purposes.get(ended, ""), self._optimizer_of(self._callers.get(ended, ()))
        trained_on = self._trained_on[optimizer]() if optimizer in self._trained_on else None
        if says in ("", "training") or trained_on is None or epoch.loader in self._trained_loaders:
            return
        trained = self._trained[optimizer]
        if says == "evaluation" and samples.common(trained)[0] == len(samples):
            return  # on the training data, to compare
        self._clean[epoch.loader] = self._clean.get(epoch.loader, 0) + (len(samples) > 0)
        yield from self._compared(samples, trained, self._cause(trained_on, epoch.loader))

    def _compared(self, validated: Samples, trained: Samples, place: Place | None) -> Findings:
        num_common, num_samples, told_by = validated.common(trained)
        if num_common < max(MIN_SAMPLES, MIN_SHARE * num_samples):
            return
        self._is_done = True
        self._loaded.clear()
        self._trained.clear()
        yield self.finding(
            f"{num_common} of the {num_samples} samples of this validation were trained on before: "
            f"its loss and accuracy measure what was learned by heart",
            place,
            fix="train_set, val_set = random_split(dataset, [0.8, 0.2], generator=torch.Generator().manual_seed(0))\n"
            "# once, and one loader from each of the two",
            evidence={
                "samples of the validation": num_samples,
                "of these trained on": num_common,
                "told by": told_by,
            },
        )

    def _optimizer_of(self, models: Iterable[nn.Module]) -> Any:
        """Return the last optimizer that stepped and holds a parameter of one of these models."""
        held = {id(p) for model in models for p in model.parameters()}
        for reference in reversed(self._optimizers):
            optimizer = reference()
            if optimizer is not None and any(id(p) in held for g in optimizer.param_groups for p in g["params"]):
                return optimizer
        return None

    def _cause(self, trained_on: Any, evaluated: Any) -> Place | None:
        training, validation = trained_on.dataset, evaluated.dataset
        made = self.run.made_at
        if training is not validation and any(part is training for part in _chain(validation)):
            return made(trained_on) or made(evaluated)
        if any(part is validation for part in _chain(training)):
            return made(evaluated)
        return self._slice_of(validation) or made(validation) or made(evaluated)

    def _slice_of(self, dataset: Any) -> Place | None:
        for value in (*getattr(dataset, "__dict__", {}).values(), *getattr(dataset, "tensors", ())):
            reference, place = self._slices.get(id(value), (None, None))
            if reference is not None and reference() is value:
                return place
        return None


def _chain(dataset: Any) -> Sequence[Any]:
    """Return a data set and those that it is a part of."""
    found = [dataset]
    while isinstance(found[-1], Subset):
        found.append(found[-1].dataset)
    return found


def _said_at(place: Place) -> str:
    return said(linecache.getline(place.file, place.line))
