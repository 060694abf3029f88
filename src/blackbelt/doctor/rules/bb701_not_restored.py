"""BB701."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from blackbelt.doctor.events import Created, File, ScalerCall, StateLoaded, Step
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._checkpoints import Checkpoint, Piece, plain, settings
from blackbelt.doctor.run import Run

RESTORABLE = (Optimizer, LRScheduler, GradScaler)


class NotRestored(Rule):
    """Training goes on from a checkpoint, and the state of the optimizer that is in it is not restored.

    Adam's moments, the momentum buffers and the step count start from zero, so that the first updates after the resume
    are as large as at the start of a training, at weights that are no longer at the start: the loss jumps up. A
    scheduler that is not restored begins its curve again, with the warm-up and the full learning rate; a gradient
    scaler begins with its largest scale and skips steps.

    Observed: `torch.load` returned a checkpoint that holds the state of an optimizer, a scheduler or a scaler; its
    weights were put into the model; and the optimizer of that model, with the same parameters and the same kind of
    state, makes its first step with none (the scheduler with its first position, the scaler with another scale). That
    training is resumed, not begun anew, is shown by the epoch or step that the script reads from the checkpoint, or by
    another part of the state that was restored.

    Not reported: fine-tuning and evaluation, which take the weights alone; an optimizer of another kind or with other
    parameters; a schedule with other settings, or one that was moved forward by hand; a script that reads that key of
    the checkpoint under a condition.

    The fix: `optimizer.load_state_dict(checkpoint["optimizer"])`, after the optimizer has been made and before the
    first step; the same for the scheduler and the scaler. Reported where the checkpoint is loaded; or,
    where the state went into an optimizer that was then made anew, where that was.
    """

    code: ClassVar[str] = "BB701"
    title: ClassVar[str] = "the state of the optimizer is not restored"
    lesson: ClassVar[str] = "silent_failures/method"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._checkpoints: list[Checkpoint] = []
        self._schedulers: weakref.WeakSet[LRScheduler] = weakref.WeakSet()
        self._scalers: weakref.WeakSet[GradScaler] = weakref.WeakSet()

    def created(self, thing: Created) -> Findings:
        if isinstance(thing.thing, LRScheduler):
            self._schedulers.add(thing.thing)
        return ()

    def scaler_called(self, call: ScalerCall) -> Findings:
        self._scalers.add(call.scaler)
        return ()

    def file_loaded(self, call: File) -> Findings:
        checkpoint = Checkpoint.of(call)
        if checkpoint is not None:
            self._scalers = weakref.WeakSet()  # those from now on
            self._checkpoints.append(checkpoint)
        return ()

    def state_loaded(self, call: StateLoaded) -> Findings:
        if not self._checkpoints:
            return ()
        for checkpoint in reversed(self._checkpoints):
            ids = checkpoint.ids_of(call.state)
            if isinstance(call.owner, nn.Module):
                if ids:
                    checkpoint.models.append(weakref.ref(call.owner))
                    break
            elif isinstance(call.owner, RESTORABLE):
                of = [piece for piece in checkpoint.pieces if ids & piece.tensors]
                for piece in of:
                    piece.was_loaded = True
                if of or not isinstance(call.owner, Optimizer):
                    checkpoint.restored = True
                    break
        return ()

    def step_begins(self, step: Step) -> Findings:
        if not self._checkpoints:
            return
        held = {id(p) for p in step.parameters}
        for checkpoint in list(self._checkpoints):
            models = [model for reference in checkpoint.models if (model := reference()) is not None]
            is_of_model = any(id(p) in held for model in models for p in model.parameters())
            if checkpoint.has_model and not is_of_model:
                continue
            if (
                step.number > 1
            ):  # it goes on, in this run or after the resume, and what is made later is made on purpose
                self._checkpoints.remove(checkpoint)
                continue
            missing = [
                *self._optimizer_missing(step, checkpoint),
                *self._scheduler_missing(step, checkpoint),
                *self._scaler_missing(checkpoint),
            ]
            if missing and (checkpoint.restored or checkpoint.is_resumed()):
                self._checkpoints.remove(checkpoint)
                yield self._report(step, checkpoint, missing)

    def _optimizer_missing(self, step: Step, checkpoint: Checkpoint) -> list[tuple[Piece, str]]:
        optimizer = step.optimizer
        if any(optimizer.state.get(p) for p in step.parameters):
            return []
        names = frozenset(optimizer.param_groups[0]) - {"initial_lr", "params"}
        shapes = [tuple(p.shape) for p in step.parameters]
        for piece in checkpoint.pieces:
            fits = len(piece.shapes) == len(shapes) and all(
                not kept or shape in kept for kept, shape in zip(piece.shapes, shapes)
            )
            fits = fits and piece.kind == "optimizer" and any(piece.shapes) and piece.names == names
            if fits and (piece.was_loaded or not checkpoint.is_read(piece)):
                number = sum(map(len, piece.shapes))
                kind = type(optimizer).__name__
                return [(piece, f"{kind} makes its first step with no state, and the file holds {number} tensors")]
        return []

    def _scheduler_missing(self, step: Step, checkpoint: Checkpoint) -> list[tuple[Piece, str]]:
        for scheduler in self._schedulers:
            if getattr(scheduler, "optimizer", None) is not step.optimizer:
                continue
            numbers = plain(scheduler.state_dict())
            for piece in checkpoint.pieces:
                if piece.kind != "scheduler" or settings(piece.numbers) != settings(numbers):
                    continue
                then, now = piece.numbers["last_epoch"], numbers["last_epoch"]
                if now <= 0 < then and not checkpoint.is_read(piece):
                    kind = type(scheduler).__name__
                    return [(piece, f"{kind} begins at 0, and the file says {then}")]
        return []

    def _scaler_missing(self, checkpoint: Checkpoint) -> list[tuple[Piece, str]]:
        for piece in checkpoint.pieces:
            if piece.kind != "scaler" or checkpoint.is_read(piece):
                continue
            scales = [float(scaler.get_scale()) for scaler in self._scalers if scaler.is_enabled()]
            if scales and all(scale != piece.numbers["scale"] for scale in scales):
                return [(piece, f"GradScaler begins at {scales[0]:g}, and the file says {piece.numbers['scale']:g}")]
        return []

    def _report(self, step: Step, checkpoint: Checkpoint, missing: list[tuple[Piece, str]]) -> Any:
        kinds = list(dict.fromkeys(piece.kind for piece, _ in missing))
        variable = checkpoint.variable
        what = f"the state of the {' and the '.join(kinds)}"
        if any(piece.was_loaded for piece, _ in missing):
            message, place = f"{what} was restored into another {kinds[0]}, which this one replaces", None
        else:
            message, place = f"training goes on from a checkpoint, and {what} in it is not restored", checkpoint.place
        return self.finding(
            message,
            place or self.run.made_at(step.optimizer) or checkpoint.place,
            fix="\n".join(f"{piece.kind}.load_state_dict({variable}{_brackets(piece)})" for piece, _ in missing),
            evidence={piece.kind: said for piece, said in missing},
        )


def _brackets(piece: Piece) -> str:
    return "".join(f"[{key!r}]" for key in piece.path)
