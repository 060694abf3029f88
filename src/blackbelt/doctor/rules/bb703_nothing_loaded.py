"""BB703."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from blackbelt.doctor.events import File, ModuleCall, StateLoaded
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules import _states
from blackbelt.doctor.rules._names import Fit, Sizes, fit_of, sizes_of
from blackbelt.doctor.run import Run
from blackbelt.places import Place

FEW = 0.5  # of them that went in: more is a partial load that was meant


@dataclass(eq=False)
class Attempt:
    """A load that left most of what it was given outside."""

    owner: weakref.ref[nn.Module]
    place: Place | None
    num_given: int
    num_loaded: int
    fit: Fit | None
    key: str  # of the checkpoint, under which the state that fits is
    example: tuple[str, str]  # a name of the state's, a name of the model's


class NothingLoaded(Rule):
    """`load_state_dict(state, strict=False)` loads nothing, or next to nothing: the names do not match.

    A checkpoint of a wrapped model has other names: `module.` of DataParallel, `model.` of a Lightning module,
    `_orig_mod.` of torch.compile, or the prefix of the larger model that the backbone was a part of. With
    `strict=False` every name that does not match is passed over, and the model keeps its random weights. So it is
    where a state is filtered first by `if k in own`, and nothing is left.

    Observed: of the tensors given (or, with a filter, of the file loaded last) none went in; or few did, while 80 % of
    them have the model's names and shapes once a prefix is exchanged or removed. Said when the model is then called.

    Not reported: a part of a model loaded on purpose, whose names match; a second attempt with other names before the
    model is used; empty states.

    The fix: rename the keys, and look at what `load_state_dict` returns: its `missing_keys` should be the ones you
    expect. Reported at the call of `load_state_dict`.
    """

    code: ClassVar[str] = "BB703"
    title: ClassVar[str] = "a checkpoint is loaded, and no weight of it goes in"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._attempts: list[Attempt] = []
        self._file: list[tuple[str, Sizes]] = []  # the states of the last file, by their keys
        self._of_file: dict[int, weakref.ref[Tensor]] = {}  # their tensors

    def file_loaded(self, call: File) -> Findings:
        states = _states.module_states(call.content)
        self._file = [(key, sizes_of(state)) for key, state in states]
        self._of_file = {id(t): weakref.ref(t) for _, state in states for t in state.values()}
        return ()

    def state_loaded(self, call: StateLoaded) -> Findings:
        owner = call.owner
        if not isinstance(owner, nn.Module):
            return ()
        own = sizes_of(_states.parts(owner))
        given = {k: v for k, v in call.state.items() if isinstance(v, Tensor)}
        num_loaded = _num_loaded(call, own, given)
        attempt = None
        if self._is_of_file(given):
            self._file = []  # used
        if len(given) == len(call.state) and self._is_filtered(owner, given):
            attempt = self._attempt(call, own, self._file, 0)
            attempt = attempt if attempt and attempt.fit and attempt.fit.old + attempt.fit.new else None
        elif not call.strict and num_loaded < FEW * len(call.state):
            states = [(key, sizes_of(state)) for key, state in _states.module_states(call.state)]
            attempt = self._attempt(call, own, states or [("", sizes_of(given))], num_loaded)
            attempt = attempt if attempt and (attempt.fit or not num_loaded) else None
        self._attempts = [a for a in self._attempts if a.owner() is not None and a.owner() is not owner]
        self._attempts += [attempt] if attempt else []
        return ()

    def _is_of_file(self, given: Mapping[str, Tensor]) -> bool:
        references = ((t, self._of_file.get(id(t))) for t in given.values())
        return any(reference is not None and reference() is t for t, reference in references)

    def _is_filtered(self, owner: nn.Module, given: Mapping[str, Tensor]) -> bool:
        """Return whether what is loaded is nothing but the module's own memory, while a file waits to be used."""
        pairs = [(p, given[name]) for name, p in _parameters(owner) if name in given]
        return bool(self._file) and all(_states.storage(p) == _states.storage(t) for p, t in pairs)

    def _attempt(
        self, call: StateLoaded, own: Sizes, states: list[tuple[str, Sizes]], num_loaded: int
    ) -> Attempt | None:
        fits = [(key, sizes, fit_of(sizes, own, num_loaded)) for key, sizes in states if len(sizes) > 1]
        if not own or not fits:
            return None
        key, sizes, fit = max(fits, key=lambda found: found[2].number if found[2] else 0)
        theirs = next((k for k in sizes if k not in own), next(iter(sizes)))
        ours = fit.new + theirs.removeprefix(fit.old) if fit else next(iter(own))
        theirs = f"{key}.{theirs}" if key and states is not self._file and theirs in own else theirs
        return Attempt(weakref.ref(call.owner), call.place, len(sizes), num_loaded, fit, key, (theirs, ours))

    def module_called(self, call: ModuleCall) -> Findings:
        if call.depth or not self._attempts:
            return
        modules = set(call.module.modules())
        for attempt in list(self._attempts):
            owner = attempt.owner()
            if owner in modules or (owner is not None and any(m is call.module for m in owner.modules())):
                self._attempts.remove(attempt)
                yield self._report(attempt)

    def _report(self, attempt: Attempt) -> Any:
        theirs, ours = attempt.example
        loaded = f"only {attempt.num_loaded}" if attempt.num_loaded else "none"
        kind = type(attempt.owner()).__name__
        fit = attempt.fit
        return self.finding(
            f"of {attempt.num_given} tensors {loaded} went into {kind}: the checkpoint says `{theirs}`, "
            f"the model says `{ours}`",
            attempt.place,
            fix=_fix(fit, attempt.key),
            evidence={
                "tensors in the checkpoint": attempt.num_given,
                "of these loaded": attempt.num_loaded,
                "that would fit under other names": fit.number if fit else 0,
            },
        )


def _fix(fit: Fit | None, key: str) -> str:
    state = f"checkpoint[{key!r}]" if key else "state"
    if fit is None or (not fit.old and not fit.new):
        return f"model.load_state_dict({state})  # strict: raises where names do not match"
    name = f"k.removeprefix({fit.old!r})" if fit.old else "k"
    name = f"{fit.new!r} + {name}" if fit.new else name
    return f"state = {{{name}: v for k, v in {state}.items()}}\nprint(model.load_state_dict(state, strict=False))"


def _num_loaded(call: StateLoaded, own: Sizes, given: Mapping[str, Tensor]) -> int:
    """Return how many tensors went in, by what was missing: a hook of the module's may have renamed what was given."""
    missing = getattr(call.result, "missing_keys", None)
    if call.strict or missing is None:
        return sum(k in own for k in given)
    return len(dict(_parameters(call.owner)).keys() - set(missing)) + sum(
        k in given for k, _ in call.owner.named_buffers()
    )


def _parameters(owner: nn.Module) -> list[tuple[str, Tensor]]:
    return list(owner.named_parameters(remove_duplicate=False))
