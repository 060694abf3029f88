"""Threads that each compute whole tiles, in place of operators that each split their loop over all threads.

A tile's operators take some tens of microseconds each. Split over the cores, every one of them ends in a barrier, and
on a busy machine each barrier waits for whichever thread is not running just then. Here a thread keeps a tile from
the matmul to the result, in its own core's cache, and the threads meet once, at the end.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def share_out(work: Callable[[int, Item], None], items: Sequence[Item], num_workers: int) -> None:
    """Call ``work(worker, item)`` for every item, in ``num_workers`` threads; each takes the next item when it is free.

    With one worker everything happens in the calling thread. PyTorch's operators release Python's lock, so the threads
    run at the same time. The first exception is raised here, when all have stopped.
    """
    if num_workers == 1:
        for item in items:
            work(0, item)
        return
    waiting = deque(items)

    def drain(worker: int) -> None:
        with torch.no_grad():  # a thread starts with autograd on, whatever the caller's mode is
            while True:
                try:
                    item = waiting.popleft()
                except IndexError:
                    return
                work(worker, item)

    futures = [_pool(num_workers).submit(drain, worker) for worker in range(num_workers)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise errors[0]


def _pool(num_workers: int) -> ThreadPoolExecutor:
    """Return threads that live on, each told to run its operators alone."""
    with _lock:
        if num_workers not in _pools:
            threads = torch.get_num_threads()
            started = threading.Barrier(num_workers)

            def alone() -> None:
                torch.set_num_threads(1)  # of this thread; and the default of threads to come, which is set back below
                started.wait()

            pool = ThreadPoolExecutor(num_workers, "blackbelt-attention", initializer=alone)
            for future in [pool.submit(int) for _ in range(num_workers)]:
                future.result()
            torch.set_num_threads(threads)
            _pools[num_workers] = pool
        return _pools[num_workers]


def _forget() -> None:
    """In a forked child there are no threads: forget the pools and the lock."""
    global _lock  # noqa: PLW0603  (a lock held at the fork would be held for ever)
    _pools.clear()
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
