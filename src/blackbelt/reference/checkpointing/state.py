"""What surrounds a call and decides its values: random number generators, autocast and the default device.

A rerun gives the same numbers only in the same surroundings. :class:`Surroundings` notes them before a call and brings
them back around its rerun; the caller's own are there again afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

Autocast = tuple[bool, torch.dtype]


class Surroundings:
    """The state around a call, as it is when this is made; :meth:`restored` brings it back for a while.

    ``arguments`` are the flat arguments of the call: their devices, and the generators among them, are the ones whose
    state is kept. ``rng=False`` leaves random numbers alone. Costs one copy of the CPU generator's state (5 KB), and of
    each device's.
    """

    def __init__(self, arguments: Sequence[Any], *, rng: bool = True) -> None:
        self.devices = _devices(arguments)
        self.generators = [a for a in arguments if isinstance(a, torch.Generator)] if rng else []
        self.rng = rng
        self.states: list[torch.Tensor] | None = self._rng_states() if rng else None
        self.autocast = {kind: _autocast(kind) for kind in ("cpu", *{device.type for device in self.devices})}
        self.autocast_cache = torch.is_autocast_cache_enabled()
        self.default_device = torch.get_default_device()

    def forget_unused_rng(self) -> None:
        """After the call: if it drew no random number there is no state to keep."""
        if self.states is not None and all(map(torch.equal, self.states, self._rng_states())):
            self.states = None

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Bring the surroundings back, and the present ones at the end, also after an exception."""
        present = self._rng_states() if self.rng else None
        with ExitStack() as stack:
            for kind, (enabled, dtype) in self.autocast.items():
                if (enabled, dtype) != _autocast(kind):
                    cast = torch.autocast(kind, enabled=enabled, dtype=dtype, cache_enabled=self.autocast_cache)
                    stack.enter_context(cast)
            if torch.get_default_device() != self.default_device:
                stack.enter_context(self.default_device)
            try:
                if self.states is not None:
                    self._set_rng_states(self.states)
                yield
            finally:
                if present is not None:
                    self._set_rng_states(present)

    def set_rng(self) -> None:
        """Bring back the random number generators only, and leave them so."""
        if self.states is not None:
            self._set_rng_states(self.states)

    def _rng_states(self) -> list[torch.Tensor]:
        devices = [_get_device_state(device) for device in self.devices]
        return [torch.get_rng_state(), *devices, *(generator.get_state() for generator in self.generators)]

    def _set_rng_states(self, states: Sequence[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        for device, state in zip(self.devices, states[1:]):
            _set_device_state(device, state)
        for generator, state in zip(self.generators, states[1 + len(self.devices) :]):
            generator.set_state(state)


def _devices(arguments: Sequence[Any]) -> list[torch.device]:
    """The accelerators a call can draw random numbers on: those of its tensors, and the current CUDA device."""
    found = {a.device for a in arguments if isinstance(a, torch.Tensor) and a.device.type not in ("cpu", "meta")}
    if torch.cuda.is_initialized():  # never the one to initialize it
        found.add(torch.device("cuda", torch.cuda.current_device()))
    return sorted(found, key=str)


def _autocast(kind: str) -> Autocast:
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def _get_device_state(device: torch.device) -> torch.Tensor:
    module = torch.get_device_module(device)
    state: torch.Tensor = module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)
    return state


def _set_device_state(device: torch.device, state: torch.Tensor) -> None:
    module = torch.get_device_module(device)
    if device.type == "mps":  # one device, one generator
        module.set_rng_state(state)
    else:
        module.set_rng_state(state, device)
