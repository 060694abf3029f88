"""What happens inside the workers of a data loader, which are processes of their own.

A forked worker inherits the patched fetcher. It notes its first fetches in a file of the run's folder, and the main
process reads the notes when batches arrive. Workers that are spawned are not observed.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils import fetch

from blackbelt.doctor.contents import pieces
from blackbelt.doctor.events import WorkerFetch
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run

NUM_FETCHES = 3  # per worker and pass that are noted


def install(run: Run, patches: Patches, stack: ExitStack) -> None:
    """Listen inside forked workers, where a rule listens for it."""
    if not run.listens("worker_fetched"):
        return
    around = None if run.ranks is None else run.ranks.folder  # which goes when the last rank has, however this one ends
    run.notes = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="blackbelt-", dir=around)))
    counts: dict[int, int] = {}  # by the seed of the worker, which is new in every pass

    def note(original: Any, self: Any, index: Any) -> Any:
        info = get_worker_info()
        if info is None or run.notes is None or counts.get(info.seed, 0) >= NUM_FETCHES:
            return original(self, index)
        counts[info.seed] = counts.get(info.seed, 0) + 1
        before = _generator_states(self.dataset)
        data = original(self, index)
        after = _generator_states(self.dataset)
        states = {name: (before[name], after.get(name)) for name in before}
        line = {"number": counts[info.seed], "generators": states, "pieces": pieces(data)}
        path = run.notes / f"{info.seed - info.id}-{info.id}"
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return data

    for kind in (fetch._MapDatasetFetcher, fetch._IterableDatasetFetcher):  # noqa: SLF001 - have no public name
        patches.replace(kind, "fetch", note)


def read_notes(run: Run, loader: Any, epoch: int, base_seed: int, heard: set[tuple[int, int]]) -> Iterator[WorkerFetch]:
    """Yield what the workers of one pass have noted and nobody has heard yet."""
    if run.notes is None:
        return
    for path in sorted(run.notes.glob(f"{base_seed}-*")):
        worker = int(path.name.rpartition("-")[2])
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                note = json.loads(line)
            except ValueError:  # being written just now
                continue
            if (worker, note["number"]) not in heard:
                heard.add((worker, note["number"]))
                states = {name: tuple(pair) for name, pair in note["generators"].items()}
                content = [(digest, num_values) for digest, num_values in note["pieces"]]
                yield WorkerFetch(loader, epoch, worker, note["number"], states, content)


def _generator_states(dataset: Any) -> dict[str, str]:
    """Return a hash of the state of every random generator among the attributes of a dataset, and of its transforms."""
    return {name: hashlib.sha1(state).hexdigest()[:16] for name, state in _states(dataset, "", 3)}  # noqa: S324 - no secret


def _states(holder: Any, prefix: str, depth: int) -> Iterator[tuple[str, bytes]]:
    attributes: Mapping[str, Any] = getattr(holder, "__dict__", {})
    for name, value in attributes.items():
        if isinstance(value, np.random.Generator):
            yield prefix + name, repr(value.bit_generator.state).encode()
        elif isinstance(value, np.random.RandomState):
            yield prefix + name, repr(value.get_state()).encode()
        elif isinstance(value, random.Random):
            yield prefix + name, repr(value.getstate()).encode()
        elif isinstance(value, torch.Generator):
            yield prefix + name, value.get_state().numpy().tobytes()
        elif depth and hasattr(value, "__dict__") and not isinstance(value, (torch.Tensor, torch.nn.Module, type)):
            yield from _states(value, f"{prefix}{name}.", depth - 1)
