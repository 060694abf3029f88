"""BB101."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from blackbelt.doctor.events import WorkerFetch
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place


class WorkerRandomness(Rule):
    """The dataset holds a random generator, and every worker of the loader draws the same numbers from its copy.

    A worker is a copy of the process that made the dataset, generator included. So `self.rng = default_rng(0)` gives
    all workers one stream: with four workers, four samples in a row get the same crop, flip and noise. And as workers
    are copied anew for each pass, the second epoch repeats the augmentation of the first.

    Observed: the states of the generators among the dataset's attributes, before and after a fetch, in the workers.
    Two workers (or one worker in two passes) start from the same state, draw from it, and arrive at the same state.

    Not reported: generators that differ, as those that a `worker_init_fn` or the dataset's own `__iter__` has seeded;
    generators that fetching does not draw from; the global generators of torch, random and NumPy, which PyTorch seeds
    per worker (NumPy's since 1.9). Workers that are spawned are not observed.

    The fix: draw from torch's global generator, or seed the dataset's own from `torch.initial_seed()` in the worker,
    which is another number in every worker and every pass.
    """

    code: ClassVar[str] = "BB101"
    title: ClassVar[str] = "workers draw the same random numbers"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._first: dict[tuple[int, int, str, str], int] = {}  # (loader, pass, generator, states): the worker
        self._passes: dict[tuple[int, int, str, str], int] = {}  # (loader, worker, generator, states): the pass

    def worker_fetched(self, fetch: WorkerFetch) -> Findings:
        if fetch.number > 1:
            return
        for name, (before, after) in fetch.generators.items():
            if before == after:
                continue
            loader = id(fetch.loader)
            other = self._first.setdefault((loader, fetch.epoch, name, before + after), fetch.worker)
            earlier = self._passes.setdefault((loader, fetch.worker, name, before + after), fetch.epoch)
            if other != fetch.worker:
                what = f"workers {other} and {fetch.worker} draw the same numbers from `{name}`"
            elif earlier != fetch.epoch:
                what = f"passes {earlier} and {fetch.epoch} draw the same numbers from `{name}`"
            else:
                continue
            dataset = fetch.loader.dataset
            yield self.finding(
                f"{what} of {type(dataset).__name__}, so the augmentation repeats",
                _assignment(dataset, name) or self.run.made_at(fetch.loader),
                fix="DataLoader(…, worker_init_fn=seed_worker)\n\ndef seed_worker(_):\n"
                f"    get_worker_info().dataset.{name} = np.random.default_rng(torch.initial_seed())",
                evidence={"state before": before, "state after the first fetch": after},
            )


def _assignment(dataset: Any, name: str) -> Place | None:
    """Return the line that makes the generator: where a class of the dataset assigns to that attribute first."""
    *path, attribute = name.split(".")
    holder = dataset
    for part in path:
        holder = getattr(holder, part)
    for kind in type(holder).__mro__[:-1]:
        try:
            lines, start = inspect.getsourcelines(kind)
            file = inspect.getsourcefile(kind)
        except (OSError, TypeError):
            continue
        for number, line in enumerate(lines, start):
            if line.split("=")[0].split(":")[0].strip() == f"self.{attribute}" and file:
                return Place(file, number, "__init__")
    return None
