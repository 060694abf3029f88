"""BB215."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from blackbelt.doctor.events import Batch, FunctionCall, ModuleCall, Step, tensors_in
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._padding import (
    COMPARING,
    FILLING,
    Declared,
    Looked,
    Padded,
    as_mask,
    biased_by,
    declared_by,
    leaks,
    looked_by,
    paddings,
)
from blackbelt.doctor.rules._padding_probe import moved_by_padding
from blackbelt.doctor.rules._sources import statement
from blackbelt.doctor.run import Run
from blackbelt.places import Place

CONFIRMED = 2  # forward passes with padding
MAX_KEPT = 16


class AttentionMask(Rule):
    """Attention looks at padding: the mask is not used, is the wrong way round, or is dropped on the way.

    The conventions differ: True in `key_padding_mask` of `nn.MultiheadAttention` means "ignore this key", in
    `F.scaled_dot_product_attention` it means "look at it", and a mask of a tokenizer is 1 for tokens.
    `scores.masked_fill(mask, -inf)` without an assignment masks nothing. Shapes fit, the loss falls, and predictions
    depend on how much padding the longest neighbor in the batch brings along.

    Observed, twice: a batch is padded (one id, or zeros, at one end of its rows), a mask of exactly these positions is
    in the batch, among the model's arguments, or was made by a comparison; and in a call of attention (of PyTorch, or
    a softmax over as many keys) tokens look at padding. Then the model is run twice more, in evaluation mode, on the
    side: once with other values at the padded positions. Its output for the tokens changes.

    Not reported: batches for which nothing declares padding; models whose output for the tokens does not depend on it
    (causal attention with padding on the right, weights masked after the softmax and normalized again).

    The fix: `src_key_padding_mask=(ids == PAD)` for layers of `torch.nn`, `attn_mask=(ids != PAD)[:, None, None, :]`
    for `F.scaled_dot_product_attention`, `scores = scores.masked_fill(ids == PAD, float("-inf"))` by hand. Reported at
    the call of attention, at the line that makes or applies the mask the wrong way round, or where the model is called
    without the mask that it takes.
    """

    code: ClassVar[str] = "BB215"
    title: ClassVar[str] = "attention looks at padding"
    lesson: ClassVar[str] = "reference/attention"
    first_steps_only: ClassVar[bool] = True

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._declared: list[Declared] = []  # since the last step
        self._looked: list[Looked] = []  # in the outermost call that runs
        self._filled: tuple[weakref.ref[Tensor], Place | None, torch.Size] | None = None
        self._bias: Place | None = None  # the line that made what is added to scores, since the last step
        self._times: dict[str, int] = {}
        self._ripe: list[Finding] = []
        self._said: set[str] = set()

    def batch_loaded(self, batch: Batch) -> Findings:
        if self.run.traced:
            self._declared += _masks_in(batch.tensors)
        return ()

    def function_called(self, call: FunctionCall) -> Findings:
        if call.name in COMPARING and len(self._declared) < MAX_KEPT:
            self._declared += declared_by(call)
        elif call.name in FILLING and isinstance(call.result, Tensor) and call.modules:
            self._filled = (weakref.ref(call.result), call.place, call.result.shape)
        elif call.name == "mul" and (mask := biased_by(call)) is not None:
            self._bias = mask
        elif call.modules and len(self._looked) < MAX_KEPT and (looked := looked_by(call)) is not None:
            looked.filled = self._bias
            if self._filled is not None and call.name == "softmax" and self._filled[2] == call.result.shape:
                looked.filled = self._filled[1]
                looked.dropped = self._filled[0]() is not call.args[0]
            self._looked.append(looked)
        return ()

    def module_called(self, call: ModuleCall) -> Findings:
        if call.depth:
            return ()
        looked, self._looked, self._filled = self._looked, [], None
        if looked and self._declared and call.grad_enabled and self.run.traced:
            self._look(call, looked)
        return ()

    def step_ends(self, _: Step) -> Iterator[Finding]:
        self._declared.clear()
        self._looked.clear()
        self._bias = None
        ripe, self._ripe = self._ripe, []
        yield from ripe

    def _look(self, call: ModuleCall, looked: list[Looked]) -> None:
        given = list(tensors_in((call.args, dict(call.kwargs)), 3))
        masks = [*self._declared, *_masks_in(given)]
        padded: list[Padded] = []
        for values in (t for t in given if t.dim() != 2 or as_mask(t) is None):  # a mask has no padding of its own
            for time_major in (False, True) if values.dim() == 2 else (False,):
                for pads in paddings(values.t() if time_major else values):
                    declared = [mask for mask in masks if _same(mask.mask, pads)]
                    if declared:  # the line of the last comparison is the nearest
                        last = [mask for mask in declared if mask.place is not None][-1:]
                        padded.append(Padded(values, pads, [*last, *declared][0], time_major))
        for one in looked:
            fitting = [fit for each in padded if (fit := each.behind(one.allowed.shape[2])) is not None]
            if not fitting or str(one.place) in self._said:
                continue
            hidden = torch.stack([each.pads for each in fitting]).any(0)
            kinds = {leaks(one, each.pads, hidden) for each in fitting}
            if len(kinds) != 1 or kinds == {""}:
                continue
            kind, key = kinds.pop(), str(one.place)
            self._times[key] = self._times.get(key, 0) + 1
            if self._times[key] == CONFIRMED:
                self._said.add(key)
                shift = max(moved_by_padding(self.run, call, one, each) for each in fitting)
                if shift > 0:
                    place = call.place if _lacks_mask(call) else _line(one, fitting[0].declared, kind)
                    self._ripe.append(self._report(one, fitting[0].pads, place, kind, shift))

    def _report(self, one: Looked, pads: Tensor, place: Place | None, kind: str, shift: float) -> Finding:
        by_hand = one.how == "softmax"
        what = "only at padding" if kind == "inverted" else "at padding as well"
        if by_hand:
            fix = 'scores = scores.masked_fill(ids == PAD, float("-inf"))  # before the softmax'
        elif one.how == "scaled_dot_product_attention":
            fix = "attn_mask=(ids != PAD)[:, None, None, :]  # True: look at it"
        else:
            fix = "key_padding_mask=(ids == PAD)  # True: ignore it"
        return self.finding(
            f"attention looks {what}: predictions for the tokens change with the values at padded positions, which a "
            f"mask marks",
            place,
            fix=fix,
            evidence={
                "the mask is": "the wrong way round" if kind == "inverted" else "not applied",
                "padded positions in the first rows": f"{int(pads.sum())} of {pads.numel()}",
                "change of the output, relative to its spread, with other values there": f"{shift:.2g}",
            },
        )


def _line(one: Looked, declared: Declared, kind: str) -> Place | None:
    if one.how == "softmax":
        return one.filled if one.filled is not None and (kind == "inverted" or one.dropped) else one.place
    if kind == "inverted" and declared.place is not None:
        # True means "ignore" in layers of torch.nn, and "look" in scaled_dot_product_attention
        names_padding = "pad" in statement(declared.place).partition("=")[0].lower()
        if names_padding == (one.how == "multi_head_attention_forward"):
            return declared.place
    return one.place


def _lacks_mask(call: ModuleCall) -> bool:
    """Return whether the model takes a mask that it was not given."""
    try:
        taken = inspect.signature(type(call.module).forward)
        given = taken.bind(call.module, *call.args, **call.kwargs).arguments
    except (TypeError, ValueError):
        return False
    masks = [name for name in taken.parameters if "mask" in name and not name.startswith(("tgt", "causal"))]
    return bool(masks) and all(given.get(name) is None for name in masks)


def _masks_in(tensors: list[Tensor]) -> list[Declared]:
    masks = ((t, as_mask(t)) for t in tensors)
    return [Declared(mask, None, from_values=False) for _, mask in masks if mask is not None]


def _same(mask: Tensor, pads: Tensor) -> bool:
    if mask.shape != pads.shape or mask.device != pads.device:
        return False
    return bool((mask == pads).all() | (mask != pads).all())
