"""BB103."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from torch.utils.data import IterableDataset

from blackbelt.doctor.events import Epoch, WorkerFetch
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.places import is_users
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

RICH = 4  # different values that a piece of a batch has, so that its repetition says something
Fetches = dict[int, WorkerFetch]  # of one worker, by their numbers


class StreamNotSharded(Rule):
    """Each worker of the loader runs through the whole stream, so that every sample comes once per worker.

    With a map-style data set the loader deals indices to its workers. An `IterableDataset` has no indices: each worker
    gets a copy and calls its `__iter__`. If that does not look at `get_worker_info()`, four workers yield everything
    four times: an epoch is four times as long, batches repeat one after another, and counts and averages are wrong.

    Observed: the first batches that two workers fetched in one pass are the same, tensor by tensor. Where the samples
    are augmented, so that they differ: a part of them is the same (the targets, the names), and the class of the
    stream never mentions workers, and there is no `worker_init_fn`.

    Not reported: streams that are sharded, in `__iter__` or by `worker_init_fn`; random streams, which differ by the
    worker's seed; streams that yield one constant; one worker or none; samples that repeat as all workers draw from
    copies of one random generator, which is BB101. Workers that are spawned are not observed.

    The fix: each worker takes every n-th sample. Reported at the `__iter__` that yields them.
    """

    code: ClassVar[str] = "BB103"
    title: ClassVar[str] = "every worker yields the whole stream"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._passes: dict[tuple[int, int], dict[int, Fetches]] = {}  # by loader and pass: by worker

    def worker_fetched(self, fetch: WorkerFetch) -> Findings:
        if not isinstance(fetch.loader.dataset, IterableDataset) or fetch.loader.num_workers < 2:
            return ()
        workers = self._passes.setdefault((id(fetch.loader), fetch.epoch), {})
        workers.setdefault(fetch.worker, {})[fetch.number] = fetch
        return self._compared(workers, 2)

    def epoch_ends(self, epoch: Epoch) -> Findings:
        return self._compared(self._passes.pop((id(epoch.loader), epoch.number), {}), 1)

    def _compared(self, workers: dict[int, Fetches], at_least: int) -> Findings:
        """Compare what every two workers have fetched first: all that both have, at least so many."""
        names = sorted(workers)
        for place, one in enumerate(names):
            for other in names[place + 1 :]:
                numbers = sorted(workers[one].keys() & workers[other].keys())
                if len(numbers) >= at_least and numbers[0] == 1:
                    pairs = [(workers[one][number], workers[other][number]) for number in numbers]
                    if finding := self._judged(pairs):
                        workers.clear()
                        yield finding
                        return

    def _judged(self, pairs: list[tuple[WorkerFetch, WorkerFetch]]) -> Finding | None:
        if any(before != after for pair in pairs for fetch in pair for before, after in fetch.generators.values()):
            return None
        first, second = pairs[0]
        same = [
            index
            for index, (_, num_values) in enumerate(first.pieces)
            if num_values >= RICH or (len(pairs) > 1 and num_values > 1)
            if all(index < len(b.pieces) and a.pieces[index] == b.pieces[index] for a, b in pairs)
            if len(pairs) == 1 or len({a.pieces[index] for a, _ in pairs}) == len(pairs)
        ]
        loader = first.loader
        everything = all(a.pieces == b.pieces for a, b in pairs)
        if not same or not (everything or _ignores_workers(loader)):
            return None
        source = _source(loader.dataset)
        kind, num_workers = type(source).__name__, loader.num_workers
        return self.finding(
            f"{kind} yields the whole stream in each of the {num_workers} workers: "
            f"workers {first.worker} and {second.worker} began with the same samples, "
            f"so every sample comes {num_workers} times",
            _iter_of(source) or self.run.made_at(loader),
            fix="info = get_worker_info()  # None in the main process\n"
            "step, first = (info.num_workers, info.id) if info else (1, 0)\n"
            "for sample in itertools.islice(samples, first, None, step):",
            evidence={
                "batches compared": len(pairs),
                "equal parts of a batch": "all" if everything else f"{len(same)} of {len(first.pieces)}",
                "num_workers": num_workers,
            },
        )


def _source(dataset: Any) -> Any:
    """Return the innermost stream that a stream of the user's wraps."""
    for _ in range(8):
        held = [value for value in getattr(dataset, "__dict__", {}).values() if isinstance(value, IterableDataset)]
        inner = next((stream for stream in held if _iter_of(stream)), None)
        if inner is None:
            return dataset
        dataset = inner
    return dataset


def _iter_of(dataset: Any) -> Place | None:
    code = getattr(type(dataset).__iter__, "__code__", None)
    return Place(code.co_filename, code.co_firstlineno, "__iter__") if code and is_users(code.co_filename) else None


def _ignores_workers(loader: Any) -> bool:
    """Return whether neither the loader nor the classes of its stream have a word on workers."""
    if loader.worker_init_fn is not None:
        return False
    dataset, seen = loader.dataset, []
    while dataset is not None:
        seen.append(type(dataset))
        dataset = next((v for v in getattr(dataset, "__dict__", {}).values() if isinstance(v, IterableDataset)), None)
    for kind in seen:
        for owner in kind.__mro__:
            if owner.__module__.partition(".")[0] in ("torch", "typing", "collections", "builtins", "abc"):
                continue
            try:
                if "worker" in inspect.getsource(owner):
                    return False
            except (OSError, TypeError):
                return False
    return True
