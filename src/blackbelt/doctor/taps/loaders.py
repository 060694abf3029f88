"""Data loaders: passes, batches, and the indices they are made of."""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import ExitStack
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from blackbelt.doctor.events import Batch, Epoch
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run
from blackbelt.doctor.taps.workers import NUM_FETCHES, read_notes


def install(run: Run, patches: Patches, _: ExitStack) -> None:
    """Listen to the iterators that every loader makes, with and without workers."""
    if not any(run.listens(name) for name in ("epoch_begins", "batch_loaded", "worker_fetched", "epoch_ends")):
        return
    num_epochs: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
    epochs: weakref.WeakKeyDictionary[Any, Epoch] = weakref.WeakKeyDictionary()
    drawn: weakref.WeakKeyDictionary[Any, deque[Any]] = weakref.WeakKeyDictionary()

    def iterate(original: Any, self: Any) -> Any:
        if (
            reused := getattr(self, "_iterator", None)
        ) is not None:  # persistent workers; the last pass may have been left
            drawn.pop(reused, None)
        iterator = original(self)
        if run.hears and isinstance(iterator, _BaseDataLoaderIter):
            num_epochs[self] = num_epochs.get(self, 0) + 1
            epochs[iterator] = Epoch(self, num_epochs[self])
            run.emit("epoch_begins", epochs[iterator])
        return iterator

    patches.replace(DataLoader, "__iter__", iterate)

    def draw(original: Any, self: Any) -> Any:
        indices = original(self)
        drawn.setdefault(self, deque()).append(indices)  # batches come in the order of their indices
        return indices

    patches.replace(_BaseDataLoaderIter, "_next_index", draw)
    _listen_to_batches(run, patches, epochs, drawn)


def _listen_to_batches(run: Run, patches: Patches, epochs: Any, drawn: Any) -> None:
    heard: weakref.WeakKeyDictionary[Any, set[tuple[int, int]]] = weakref.WeakKeyDictionary()

    def advance(original: Any, self: Any) -> Any:
        epoch = epochs.get(self)
        if epoch is None or not run.hears:
            return original(self)
        try:
            data = original(self)
        except StopIteration:
            heard.pop(self, None)
            run.emit("epoch_ends", epoch)
            raise
        epoch.num_batches += 1
        waiting = drawn.get(self)
        indices = waiting.popleft() if waiting else None
        batch = Batch(epoch.loader, data, epoch.number, epoch.num_batches, indices)
        run.emit("batch_loaded", batch)
        if epoch.loader.num_workers and epoch.num_batches <= NUM_FETCHES * epoch.loader.num_workers + 2:
            told = heard.setdefault(self, set())
            for note in read_notes(run, epoch.loader, epoch.number, self._base_seed, told):
                run.emit("worker_fetched", note)
        return data

    patches.replace(_BaseDataLoaderIter, "__next__", advance)
