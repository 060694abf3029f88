"""BB705."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from blackbelt.doctor.events import Created, File, ModuleCall, StateLoaded, Step, tensors_in
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules import _states
from blackbelt.doctor.rules._evaluated import Evaluated, Evaluations
from blackbelt.doctor.rules._ranks import sampled
from blackbelt.doctor.rules._reloaded import Reloads
from blackbelt.doctor.run import Run
from blackbelt.places import Place

UNDERSTOOD = 0.5  # of a model's trained parameters that must be recognized in a file, else it is of another kind


@dataclass(eq=False)
class Trained:
    """A parameter that stepped with a gradient. The script may have dropped it when the run ends."""

    parameter: weakref.ref[Tensor]
    size: int
    name: str = ""
    is_saved: bool = False  # in some file


@dataclass(eq=False)
class Saved:
    """What a file lacks, until another file of the same round has it."""

    place: Place | None
    num_steps: int
    missing: list[Trained]
    num_saved: int
    why: str


class NotSaved(Rule):
    """Parameters that were trained are missing in what is saved.

    The checkpoint holds `model.state_dict()`, and something else was trained as well: a head beside the model, a loss
    with parameters of its own (class centers, a learned temperature), the weights of several tasks' losses. Or the
    file is a choice by name, `{k: v for k, v in … if "lora" in k}`, and the new head has no "lora" in its name. Whoever
    loads the file goes on with random numbers in their place, and nothing says so.

    Observed: a file holds the state of an optimizer and the weights of most of its parameters, but not of all. Or it
    holds a choice of a partly frozen model's parameters, with all of its tensors trained ones and nothing frozen, and
    trained ones of the same model left out. Said once the next round of saving (or the end) has shown that no other
    file has them. Or, at the end: all evaluations were of an averaged copy (EMA) and no file has it, only the model
    that it averages. Or: the file has a part of a model (its encoder); a new model of the same class gets that part, is
    evaluated, and is never trained.

    Not reported: backbones, encoders, generators and students that are saved without the rest and without an
    optimizer; files whose tensors are not the parameters' (sharded, quantized); parameters that never had a gradient.

    The fix: save all modules that the optimizer trains, and load the file into a new model before you trust it.
    Reported at the call of `torch.save`.
    """

    code: ClassVar[str] = "BB705"
    title: ClassVar[str] = "trained parameters are not saved"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._trained: dict[int, Trained] = {}
        self._evaluations = Evaluations(run)
        self._averages: dict[int, tuple[Evaluated, Place | None]] = {}  # whose raw model is saved, and where
        self._average_saved: set[int] = set()
        self._reloads: Reloads[Trained] = Reloads()
        self._waiting: list[Saved] = []
        self._done: set[Place | None] = set()
        self._modules: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def created(self, thing: Created) -> Findings:
        if isinstance(thing.thing, nn.Module):
            self._modules.add(thing.thing)
        return ()

    def state_loaded(self, call: StateLoaded) -> Findings:
        self._reloads.loaded(call)
        return ()

    def step_begins(self, step: Step) -> Findings:
        self._reloads.stepping(step)
        if step.number <= 3 or not step.number % 50:
            for parameter in step.parameters:
                if parameter.grad is not None and self._account(parameter) is None:
                    self._trained[id(parameter)] = Trained(weakref.ref(parameter), parameter.numel())
        return ()

    def file_saved(self, call: File) -> Findings:
        table = _states.Table.of(call.content)
        for trained in self._trained.values():
            parameter = trained.parameter()
            trained.is_saved |= parameter is not None and not trained.is_saved and table.has(parameter)
        for known, raw in self._evaluations.averaged():
            model = known.model()
            if model is not None and any(table.has(p) for p in sampled(list(model.parameters())) if p.dim() > 1):
                self._average_saved.add(id(known))
            elif all(table.has(p) for p in sampled(raw)):
                self._averages.setdefault(id(known), (known, call.place))
        self._reloads.saved(self.run.models, table, call.place, self._account)
        again = [s for s in self._waiting if s.place == call.place and s.num_steps < self.run.num_steps]
        yield from self._conclude(again)
        if call.place not in self._done and all(s.place != call.place for s in self._waiting):
            found = self._of_optimizer(call, table) or self._of_choice(call)
            self._waiting += [found] if found is not None else []

    def module_called(self, call: ModuleCall) -> Findings:
        self._evaluations.hear(call)
        self._reloads.called(call)
        return ()

    def run_ends(self) -> Findings:
        if not self.run.is_cut:
            yield from self._conclude(list(self._waiting))
            yield from self._average_is_missing()
            yield from self._rest_is_missing()

    def _rest_is_missing(self) -> Iterator[Any]:
        """Report a file that a model was loaded from and evaluated, with the rest of it at random."""
        for part in self._reloads.evaluated():
            missing = {name: account for name, (_, account) in part.lacking.items() if not account.is_saved}
            if missing and part.place not in self._done:
                self._done.add(part.place)
                for name, account in missing.items():
                    account.name = account.name or name
                why = f"{part.model} is loaded from it and evaluated with random numbers in their place"
                saved = Saved(part.place, self.run.num_steps, list(missing.values()), len(part.saved), why)
                yield self._report(saved, saved.missing)

    def _average_is_missing(self) -> Iterator[Any]:
        """Report an averaged model that every evaluation was of, where only the raw one is saved."""
        for key, (known, place) in self._averages.items():
            if key not in self._average_saved and not self._done:
                self._done.add(place)
                yield self.finding(
                    f"every evaluation is of {known.name}, whose weights are averaged over steps, and the file that is "
                    f"saved holds the weights of the last step",
                    place,
                    fix="torch.save({'model': model.state_dict(), 'ema': ema.state_dict(), …}, path)",
                    evidence={"evaluations of the averaged model": len(known.steps), "files that hold it": 0},
                )

    def _conclude(self, waiting: list[Saved]) -> Iterator[Any]:
        for saved in waiting:
            self._waiting.remove(saved)
            missing = [trained for trained in saved.missing if not trained.is_saved]
            if missing and saved.place not in self._done:
                self._done.add(saved.place)
                yield self._report(saved, missing)

    def _of_optimizer(self, call: File, table: _states.Table) -> Saved | None:
        """Return what is missing beside the state of an optimizer that is in the same file."""
        for _, state in _states.mappings(call.content):
            optimizer = self._owner(state) if _states.is_optimizer_state(state) else None
            if optimizer is None:
                continue
            moved = [p for group in optimizer.param_groups for p in group["params"] if self._is_trained(p)]
            missing = [p for p in moved if not table.has(p)]
            if missing and len(missing) <= (1 - UNDERSTOOD) * len(moved) and not any(map(_is_sharded, moved)):
                kind = type(optimizer).__name__
                why = f"the same file holds {kind}'s state for them"
                return self._saved(call, missing, len(moved) - len(missing), why)
        return None

    def _owner(self, state: Mapping[Any, Any]) -> Optimizer | None:
        """Return the optimizer whose state this is."""
        tensors = {_states.storage(t) for t in tensors_in(state["state"]) if t.dim()} - {0}
        for optimizer in self.run.optimizers:
            own = {_states.storage(t) for t in tensors_in(dict(optimizer.state)) if t.dim()} - {0}
            if own and own == tensors:
                return optimizer
        size = sum(len(group["params"]) for group in state["param_groups"])
        alike = [o for o in self.run.optimizers if sum(len(group["params"]) for group in o.param_groups) == size]
        return alike[0] if not tensors and len(alike) == 1 and not alike[0].state else None

    def _of_choice(self, call: File) -> Saved | None:
        """Return what is missing in a choice of a partly frozen model's trained parameters."""
        for _, state in _states.module_states(call.content):
            for model in self.run.models:
                own = dict(model.named_parameters())
                moved = [p for p in own.values() if self._is_trained(p)]
                frozen = [p for p in own.values() if not p.requires_grad]
                chosen = {name for name in state if name in own}
                if not frozen or len(chosen) < len(state) or not moved:
                    continue
                part = _states.Table(list(state.values()))
                missing = [p for p in moved if not part.has(p)]
                if 0 < len(missing) < len(moved) and all(self._is_trained(own[name]) for name in chosen):
                    why = f"the rest of {type(model).__name__} is frozen and not in the file either"
                    return self._saved(call, missing, len(moved) - len(missing), why)
        return None

    def _saved(self, call: File, missing: Sequence[Tensor], num_saved: int, why: str) -> Saved:
        accounts = [account for p in missing if (account := self._account(p)) is not None]
        for parameter, account in zip(missing, accounts):
            account.name = self._name(parameter)
        return Saved(call.place, self.run.num_steps, accounts, num_saved, why)

    def _account(self, parameter: Tensor) -> Trained | None:
        account = self._trained.get(id(parameter))
        return account if account is not None and account.parameter() is parameter else None

    def _is_trained(self, parameter: Tensor) -> bool:
        return self._account(parameter) is not None

    def _name(self, parameter: Tensor) -> str:
        if not (name := self.run.name_of(parameter)).startswith("a parameter of"):
            return name
        owners = [(m, n) for m in self._modules for n, p in m.named_parameters(recurse=False) if p is parameter]
        return f"{type(owners[0][0]).__name__}.{owners[0][1]}" if owners else name

    def _report(self, saved: Saved, missing: list[Trained]) -> Any:
        names = [trained.name for trained in missing]
        are = "is" if len(names) == 1 else "are"
        return self.finding(
            f"{_states.listed(names)} {are} trained and not in the file that is saved: {saved.why}",
            saved.place,
            fix="torch.save({'model': model.state_dict(), 'head': head.state_dict(), …}, path)  # all that is trained",
            evidence={
                "trained parameters in the file": saved.num_saved,
                "trained parameters missing": len(missing),
                "numbers in them": f"{sum(trained.size for trained in missing):,}",
            },
        )


def _is_sharded(parameter: Tensor) -> bool:
    return type(parameter).__name__ not in ("Parameter", "Tensor") or hasattr(parameter, "_is_flat_param")
