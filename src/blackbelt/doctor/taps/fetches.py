"""Samples that a data loader without workers fetches from its data set, in this process."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Any

from torch.utils.data import get_worker_info
from torch.utils.data._utils import fetch

from blackbelt.doctor.events import Fetch
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run


def install(run: Run, patches: Patches, _: ExitStack) -> None:
    """Listen to the fetcher of map-style data sets."""
    if not run.listens("fetch_begins"):
        return

    def take(original: Any, self: Any, index: Any) -> Any:
        if not run.traced or not run.hears or get_worker_info() is not None:
            return original(self, index)
        indices = list(index) if isinstance(index, (list, tuple)) else [index]
        event = Fetch(self.dataset, indices, functools.partial(original, self, index))
        run.emit("fetch_begins", event)
        data = original(self, index)
        run.emit("fetch_ends", event)
        return data

    patches.replace(fetch._MapDatasetFetcher, "fetch", take)  # noqa: SLF001 - has no public name
