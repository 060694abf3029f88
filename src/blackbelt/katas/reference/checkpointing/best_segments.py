"""Where to cut."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

from blackbelt.dojo.kata import kata
from blackbelt.katas.reference.checkpointing._segments import InPolynomialTime, IsACut, LowestPeak, chains, peak_of


@kata(
    minutes=30,
    belt="blue",
    hints=(
        (
            "Say somebody tells you where the second segment starts. What is left to decide, and does it depend on the "
            "first?"
        ),
        (
            "Let `best(i)` be the lowest peak of the stages from i on, if a segment starts at i and nothing before "
            "it is counted. That segment ends at some j; then comes `best(j)`."
        ),
        (
            "`best(i) = inputs[i] + min over j > i of max(sum(saved[i:j]), best(j))`, and `best(n) = 0`. Fill it from "
            "the end, remember the j, and follow them from 0."
        ),
    ),
    cases=chains(),
    edge_cases=lambda: {
        "equal stages": ([4] * 9, [4] * 9),
        "one stage": ([3], [8]),
        "large inputs": ([2, 90, 90, 90], [20, 25, 20, 25]),
        "heavy in front": ([5, 4, 3, 2, 1], [60, 30, 15, 8, 4]),
        "heavy at the end": ([1, 2, 3, 4, 5], [4, 8, 15, 30, 60]),
        "a cheap place to cut": ([9, 9, 1, 9, 9], [12, 12, 12, 12, 12]),
        "nothing to save": ([6, 6, 6], [0, 0, 0]),
    },
    laws=[IsACut(), LowestPeak(), InPolynomialTime(on=("one stage",))],
)
def best_segments(inputs: Sequence[int], saved: Sequence[int]) -> list[int]:
    """Where to cut.

    The chain of the kata `peak_bytes`: `inputs[i]` is what stage i's input weighs, `saved[i]` what the stage saves, and
    every segment is checkpointed. Return the starts of the segments, `[0, …]`, for which the peak is lowest. Where
    several cuts are best, any of them will do.

    ```python
    best_segments([4] * 9, [4] * 9)          # e.g. [0, 3, 6, 8]: a peak of 24, where one segment has 40
    best_segments([9, 9, 1, 9, 9], [12] * 5)  # [0, 2, 4]: stage 2 has a small input
    ```

    A chain of n stages has 2ⁿ⁻¹ cuts. Work like n² or n³ is enough: yours is tried on 40 stages.
    """
    n = len(saved)
    best, following = [0] * (n + 1), [n] * n
    for i in reversed(range(n)):
        peaks = {j: max(sum(saved[i:j]), best[j]) for j in range(i + 1, n + 1)}
        following[i] = min(peaks, key=lambda j: peaks[j])
        best[i] = inputs[i] + peaks[following[i]]
    starts = [0]
    while following[starts[-1]] < n:
        starts.append(following[starts[-1]])
    return starts


@best_segments.wrong(
    "It takes √n segments of equal length. That is right where all stages are equal and an input weighs what a stage "
    "saves; here they are not."
)
def equal_lengths(inputs, saved):
    return list(range(0, len(saved), max(1, round(len(saved) ** 0.5))))


@best_segments.wrong(
    "It makes every stage a segment. Their inputs all wait until backward has come to the front: with large ones that "
    "costs more than it saves."
)
def every_stage(inputs, saved):
    return list(range(len(saved)))


@best_segments.wrong(
    "It does not cut at all: recomputed in one piece, the whole chain's saved tensors are back at once."
)
def one_segment(inputs, saved):
    return [0]


@best_segments.wrong(
    "It balances what the segments save and forgets what their inputs weigh. A cut costs the input at that place, from "
    "there to the end of forward."
)
def balances_the_saved(inputs, saved):
    n = len(saved)
    number = max(1, round(n**0.5))
    share, starts, filled = sum(saved) / number, [0], 0
    for i in range(n):
        if filled and filled + saved[i] > share:
            starts.append(i)
            filled = 0
        filled += saved[i]
    return starts


@best_segments.wrong(
    "It decides cut by cut, each time the one that lowers the peak most, and stops when none does. Two cuts together "
    "can be worth it where neither is alone."
)
def greedy(inputs, saved):
    starts = [0]
    while True:
        tries = [sorted({*starts, i}) for i in range(1, len(saved)) if i not in starts]
        best = min(tries, key=lambda cut: peak_of(inputs, saved, cut), default=starts)
        if peak_of(inputs, saved, best) >= peak_of(inputs, saved, starts):
            return starts
        starts = best


@best_segments.wrong(
    "It tries every cut there is. For 40 stages that is half a trillion: what is best from a stage on does not depend "
    "on what came before, so compute it once."
)
def tries_everything(inputs, saved):
    later = range(1, len(saved))
    cuts = itertools.chain.from_iterable(itertools.combinations(later, number) for number in range(len(saved)))
    return min(([0, *cut] for cut in cuts), key=lambda cut: peak_of(inputs, saved, cut))


@best_segments.also_right
def with_a_cache(inputs, saved):
    n = len(saved)
    total = [0, *itertools.accumulate(saved)]

    @functools.cache
    def best(i):
        if i == n:
            return 0, ()
        return min((inputs[i] + max(total[j] - total[i], best(j)[0]), (i, *best(j)[1])) for j in range(i + 1, n + 1))

    return list(best(0)[1])


@best_segments.also_right
def by_limit(inputs, saved):
    n, best = len(saved), (math.inf, [0])
    table = [(0, [])]
    for i in reversed(range(n)):
        options = [
            (inputs[i] + max(sum(saved[i:j]), table[n - j][0]), [i, *table[n - j][1]]) for j in range(i + 1, n + 1)
        ]
        table.append(min(options))
        best = table[-1]
    return best[1]
