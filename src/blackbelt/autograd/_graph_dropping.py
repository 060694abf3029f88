"""What the allocator gets back when a graph is dropped."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.autograd.profiler import profile, record_function

from blackbelt.autograd._graph_names import flatten_outputs
from blackbelt.measurement import synchronize

DROP = "blackbelt: the graph is dropped"
T = TypeVar("T")


def look_and_drop(build: Callable[[], Any], look: Callable[[Any], T]) -> tuple[T, int, str]:
    """Return what ``look`` says of ``build()``, the bytes freed when that is dropped, and the first output's device.

    The collector runs before, so that no older garbage is counted, and in the drop, since a graph may be part of a
    cycle. The CPU allocator's events carry a size only for memory allocated under the profiler, so it watches ``build``
    too.
    """
    gc.collect()
    with profile(use_cpu=True, profile_memory=True) as profiler:
        holder = [build()]
        seen = look(holder[0])
        device = flatten_outputs(holder[0])[0][1].device
        before = _requested_bytes(device)
        with record_function(DROP):
            holder.clear()
            gc.collect()
        freed = before - _requested_bytes(device)
    if device.type == "cpu":
        assert profiler.kineto_results is not None
        events = list(profiler.kineto_results.events())
        start = next(event.start_ns() for event in events if event.name() == DROP)
        freed = -sum(event.nbytes() for event in events if event.name() == "[memory]" and event.start_ns() >= start)
    return seen, freed, str(device)


def _requested_bytes(device: torch.device) -> int:
    """Return the bytes that the GPU's allocator has handed out, as they were asked for; 0 elsewhere."""
    if device.type != "cuda":
        return 0
    synchronize()
    return int(torch.cuda.memory_stats(device)["requested_bytes.all.current"])
