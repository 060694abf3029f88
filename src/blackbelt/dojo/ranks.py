"""Real processes for katas about several ranks: one process a rank, connected by gloo, nothing simulated.

On Linux the ranks are forks, so a learner's function is there as it was written; beside an accelerator (whose autograd
threads do not survive a fork) and on other systems they are started anew, and the function travels by `cloudpickle`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from blackbelt.dojo.limits import count_again, uncounted

CALL_SECONDS = 10.0  # on the learner's side: the ranks wait for each other, or compute
_START_SECONDS = 120.0  # processes started anew import torch first
_GRACE_SECONDS = 0.3  # what the others get when one rank has failed


@dataclass(frozen=True)
class RankOutcome:
    """What one rank did; the fields of ``trial.Outcome``, and the operators it dispatched where they were watched."""

    value: Any
    error: BaseException | None
    arguments: tuple[Any, ...]
    changed_state: tuple[str, ...]
    operators: Counter[str] = field(default_factory=Counter)


class RanksError(RuntimeError):
    """A rank ended, or waited for another one, instead of answering."""


class Ranks:
    """``num_ranks`` processes that run one function, any number of times. Use it as a context manager."""

    def __init__(self, function: Callable[..., Any], num_ranks: int) -> None:
        self._function = function
        self._num_ranks = num_ranks
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._folder: Path | None = None

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, arguments: Sequence[tuple[Any, ...]], *, watch: bool = False) -> list[RankOutcome]:
        """Run ``function(*arguments[rank])`` on every rank at once; ``watch`` also counts the operators dispatched.

        A function that raises, ends its process or leaves a rank waiting is an outcome with an error, on every rank
        that it concerns; the processes are then ended and started anew for the next call.
        """
        if len(arguments) != self._num_ranks:
            raise ValueError(f"arguments for {len(arguments)} ranks were given; there are {self._num_ranks}")
        if not self._processes:
            self._start()
        for pipe, given in zip(self._pipes, arguments):
            with contextlib.suppress(OSError):  # a rank that is gone is noticed where its answer is awaited
                pipe.send_bytes(pickle.dumps((given, watch)))
        outcomes = self._collect(arguments)
        if any(outcome.error is not None for outcome in outcomes):
            self.close()  # a process group whose ranks disagree is of no further use
        return outcomes

    def close(self) -> None:
        """End the processes and remove their folder."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
            process.join()
            process.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._processes, self._pipes, self._folder = [], [], None

    def _start(self) -> None:
        import torch._dynamo  # noqa: F401  # DistributedDataParallel imports it: once here, not in every rank

        forked = _can_fork()
        context: Any = multiprocessing.get_context("fork" if forked else "spawn")
        self._folder = Path(tempfile.mkdtemp(prefix="blackbelt-ranks-"))
        function = self._function if forked else _by_value(self._function)
        with uncounted(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: fork beside threads
            for rank in range(self._num_ranks):
                ours, theirs = context.Pipe()
                given = (function, rank, self._num_ranks, str(self._folder / "store"), theirs)
                process = context.Process(target=_serve, args=given, daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
                self._pipes.append(ours)
        ready = {pipe: self._answer(pipe, time.monotonic() + _START_SECONDS) for pipe in self._pipes}
        if None in ready.values():
            self.close()
            raise RanksError(f"{self._num_ranks} processes connected by gloo could not be started on this machine")

    def _collect(self, arguments: Sequence[tuple[Any, ...]]) -> list[RankOutcome]:
        answers: dict[Connection, RankOutcome] = {}
        deadline = time.monotonic() + CALL_SECONDS
        waiting = list(self._pipes)
        while waiting and (ready := wait(waiting, max(0.0, deadline - time.monotonic()))):
            for pipe in ready:
                assert isinstance(pipe, Connection)
                waiting.remove(pipe)
                answer = self._answer(pipe, deadline)
                rank = self._pipes.index(pipe)
                answers[pipe] = answer or _failed(arguments[rank], f"rank {rank} ended its process without an answer")
                if answers[pipe].error is not None:
                    deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
        for pipe in waiting:
            rank = self._pipes.index(pipe)
            answers[pipe] = _failed(
                arguments[rank],
                f"rank {rank} still waits for the others: not every rank issues the same collectives in the same order",
            )
        return [answers[pipe] for pipe in self._pipes]

    @staticmethod
    def _answer(pipe: Connection, deadline: float) -> Any:
        """Return what a rank sends before the deadline, None where it ends instead."""
        try:
            if pipe.poll(max(0.0, deadline - time.monotonic())):
                return pickle.loads(pipe.recv_bytes())  # noqa: S301  # from a process of our own
        except (EOFError, OSError):
            pass
        return None


_kept: dict[tuple[int, int], Ranks] | None = None


@contextlib.contextmanager
def kept_ranks() -> Iterator[None]:
    """Within this block the processes of a function stay for its next call; at the end all of them are ended."""
    global _kept  # noqa: PLW0603  # one block at a time, in the thread that grades
    outer, _kept = _kept, {}
    try:
        yield
    finally:
        for ranks in _kept.values():
            ranks.close()
        _kept = outer


def run_ranks(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], *, watch: bool = False
) -> list[RankOutcome]:
    """Run ``function(*arguments[rank])`` in one real process per rank, connected by gloo, and return every outcome.

    In the function ``torch.distributed`` is initialized, ``get_rank()`` and ``get_world_size()`` tell who it is, and
    one thread computes. Arguments and results travel by pickle. Costs some 50 ms where processes are forked (2 ranks,
    shared x86 core, November 2026), and an import of torch per rank where they are not; see :func:`kept_ranks`.
    """
    if _kept is None:
        with Ranks(function, len(arguments)) as ranks:
            return ranks.call(arguments, watch=watch)
    ranks = _kept.setdefault((id(function), len(arguments)), Ranks(function, len(arguments)))
    return ranks.call(arguments, watch=watch)


def _can_fork() -> bool:
    return sys.platform == "linux" and not torch.accelerator.is_available() and _backward_survives_a_fork()


def _backward_survives_a_fork() -> bool:
    """Ask a fork: where this process has threads of autograd, as torch.compile leaves them, none of its forks can."""
    with uncounted(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: fork beside threads
        child = os.fork()
    if not child:
        try:
            torch.ones(1, requires_grad=True).sum().backward()
        except RuntimeError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _by_value(function: Callable[..., Any]) -> bytes:
    import cloudpickle

    module = sys.modules.get(function.__module__)
    with contextlib.ExitStack() as stack:
        if module is not None and not module.__name__.startswith("blackbelt."):  # no other process may find it
            cloudpickle.register_pickle_by_value(module)
            stack.callback(cloudpickle.unregister_pickle_by_value, module)
        return bytes(cloudpickle.dumps(function))


def _failed(arguments: tuple[Any, ...], words: str) -> RankOutcome:
    return RankOutcome(None, RanksError(words), arguments, ())


# --- in a rank's process ----------------------------------------------------------------------------------------------


def _serve(function: Any, rank: int, num_ranks: int, store: str, pipe: Connection) -> None:
    """Join the process group and answer calls until the pipe is closed."""
    count_again()
    torch.set_num_threads(1)  # a fork has no OpenMP threads; and the ranks share the cores
    import torch.distributed as dist

    if isinstance(function, bytes):
        function = pickle.loads(function)  # noqa: S301  # from the process that started this one
    dist.init_process_group(
        "gloo",
        init_method=Path(store).as_uri(),
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=2 * CALL_SECONDS),
    )
    pipe.send_bytes(pickle.dumps("ready"))
    with contextlib.suppress(EOFError, OSError):
        while True:
            arguments, watch = pickle.loads(pipe.recv_bytes())  # noqa: S301  # likewise
            pipe.send_bytes(_run(function, arguments, watch=watch))
    os._exit(0)


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], *, watch: bool) -> bytes:
    from blackbelt.dojo.trial import OperatorWatch, call

    seen = OperatorWatch()
    with seen if watch else contextlib.nullcontext():
        done = call(function, arguments)
    error = done.error and _portable(done.error)
    outcome = RankOutcome(done.value, error, done.arguments, done.changed_state, seen.seen)
    try:
        return pickle.dumps(outcome)
    except Exception as refused:
        words = f"the result cannot leave its process ({type(refused).__name__}: {refused}); return tensors and numbers"
        return pickle.dumps(_failed((), words))


def _portable(error: BaseException) -> BaseException:
    """Return the error as it is where it can be pickled, else a RanksError with its words; its frames come along."""
    frames = traceback.extract_tb(error.__traceback__)
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
        portable: BaseException = copy if isinstance(copy, type(error)) else RanksError(str(error))
    except Exception:
        portable = RanksError(f"{type(error).__name__}: {error}")
    portable.frames = frames  # type: ignore[attr-defined]  # a traceback itself cannot be sent
    return portable
