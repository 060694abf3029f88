"""Which lines of the user last wrote into parameters before training: constructors, and initializations after them."""

from __future__ import annotations

import weakref

from torch import Tensor, nn

from blackbelt.doctor.events import FunctionCall
from blackbelt.doctor.run import Run
from blackbelt.places import Place

MAX_KEPT = 8192


class Writes:
    """The last line that wrote into each parameter, until the first step; shared by the rules of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._by_id: dict[int, tuple[weakref.ref[Tensor], Place | None]] = {}
        self._by_address: dict[int, Place | None] = {}
        self._last: weakref.ref[FunctionCall] | None = None

    def note(self, call: FunctionCall) -> None:
        """Take note of a call that writes in place, once, however many rules tell of it."""
        if self._run.num_steps or self._run.num_backwards or not call.name.endswith("_"):
            return
        if self._last is not None and self._last() is call:
            return
        self._last = weakref.ref(call)
        written = call.argument(0, "tensor")
        if not isinstance(written, Tensor) or written.is_sparse:
            return
        if isinstance(written, nn.Parameter):
            self._by_id[id(written)] = (weakref.ref(written), call.place)
        elif not written.requires_grad and written.grad_fn is None and len(self._by_address) < MAX_KEPT:
            self._by_address[_address(written)] = call.place

    def line_of(self, parameter: Tensor) -> Place | None:
        """Return the last line that wrote into a parameter after it was made, None where that is its constructor's."""
        reference, place = self._by_id.get(id(parameter), (None, None))
        if reference is None or reference() is not parameter:
            place = None
        address = _address(parameter)
        place = (self._by_address.get(address) if address else None) or place
        return None if place is None or place == self._run.made_at(parameter) else place


def _address(tensor: Tensor) -> int:
    return 0 if tensor.is_meta or tensor.is_sparse or tensor.is_quantized else tensor.data_ptr()
