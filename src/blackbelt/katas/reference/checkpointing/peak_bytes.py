"""The peak of a schedule."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.reference.checkpointing._segments import chains


@kata(
    minutes=15,
    belt="orange",
    hints=(
        "Stand in the middle of backward: which segments have had their turn, and what is gone with them?",
        (
            "When a segment's turn comes, in memory are: its own saved tensors, and the inputs of this segment and of "
            "all *before* it. Those behind it are gone."
        ),
        (
            "Pair up `starts` with the next start (`len(saved)` for the last). Go through the segments from the front, "
            "add up the inputs as you go, and take the largest of `inputs so far + saved of this segment`."
        ),
    ),
    cases=chains().flatmap(
        lambda chain: (
            st.sets(st.integers(1, len(chain[0]) - 1)).map(lambda cuts: (*chain, sorted({0, *cuts})))
            if len(chain[0]) > 1
            else st.just((*chain, [0]))
        )
    ),
    edge_cases=lambda: {
        "one segment": ([5, 7, 9], [10, 20, 30], [0]),
        "a large segment at the end": ([5, 7, 9], [10, 20, 90], [0, 1, 2]),
        "a large segment in front": ([5, 7, 9], [90, 20, 30], [0, 1, 2]),
        "in the middle": ([5, 7, 9, 11], [10, 60, 50, 20], [0, 1, 3]),
        "small inputs": ([1, 1, 1], [50, 60, 70], [0, 2]),
    },
    laws=[Value()],
)
def peak_bytes(inputs: Sequence[int], saved: Sequence[int], starts: Sequence[int]) -> int:
    """The peak of a schedule.

    A chain of stages is cut into segments, each of them checkpointed. `inputs[i]` is what stage i's input weighs, in
    bytes, `saved[i]` what the stage saves for backward. `starts` are the numbers of the stages at which a segment
    begins; the first is 0.

    Forward keeps the input of every segment and nothing else. Backward goes through the segments from the last to the
    first: it runs the segment again, which brings back what all of its stages save, and walks it. After that, both the
    saved tensors and the segment's input are gone.

    Return the number of these bytes in memory at the worst moment.

    ```python
    peak_bytes([5, 7, 9], [10, 20, 30], [0])        # 65: one input, and everything saved
    peak_bytes([5, 7, 9], [10, 20, 30], [0, 1, 2])  # 51: at the last stage, 5 + 7 + 9 + 30
    ```
    """
    held = peak = 0
    for start, end in itertools.pairwise([*starts, len(saved)]):
        held += inputs[start]
        peak = max(peak, held + sum(saved[start:end]))
    return peak


def _segments(saved: Sequence[int], starts: Sequence[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise([*starts, len(saved)]))


@peak_bytes.wrong("It adds up what every stage saves, as if nothing were checkpointed: one segment is there at a time.")
def nothing_recomputed(inputs, saved, starts):
    return sum(inputs[start] for start in starts) + sum(saved)


@peak_bytes.wrong(
    "It holds the input of every segment until the end. When the first segment's turn comes, those behind it are gone."
)
def all_inputs_until_the_end(inputs, saved, starts):
    return sum(inputs[start] for start in starts) + max(
        sum(saved[start:end]) for start, end in _segments(saved, starts)
    )


@peak_bytes.wrong(
    "It counts only the input of the segment that is being recomputed. The inputs of all before it are waiting, too."
)
def only_its_own_input(inputs, saved, starts):
    return max(inputs[start] + sum(saved[start:end]) for start, end in _segments(saved, starts))


@peak_bytes.wrong(
    "It holds the inputs of the segments behind, which are gone by then, and not of those before, which are waiting."
)
def the_other_way_round(inputs, saved, starts):
    held = peak = 0
    for start, end in reversed(_segments(saved, starts)):
        held += inputs[start]
        peak = max(peak, held + sum(saved[start:end]))
    return peak


@peak_bytes.wrong("It forgets the checkpoints: the inputs that forward keeps weigh something as well.")
def without_inputs(inputs, saved, starts):
    return max(sum(saved[start:end]) for start, end in _segments(saved, starts))


@peak_bytes.wrong(
    "It counts the largest stage of a segment. The recomputed segment is walked from its end, and needs all its stages."
)
def one_stage_at_a_time(inputs, saved, starts):
    held = peak = 0
    for start, end in _segments(saved, starts):
        held += inputs[start]
        peak = max(peak, held + max(saved[start:end]))
    return peak


@peak_bytes.wrong("It keeps the input of every stage. Only where a segment starts is an input kept.")
def every_input(inputs, saved, starts):
    held = peak = 0
    for start, end in _segments(saved, starts):
        held += sum(inputs[start:end])
        peak = max(peak, held + sum(saved[start:end]))
    return peak


@peak_bytes.also_right
def by_prefix_sums(inputs, saved, starts):
    total = [0, *itertools.accumulate(saved)]
    held = itertools.accumulate(inputs[start] for start in starts)
    return max(before + total[end] - total[start] for before, (start, end) in zip(held, _segments(saved, starts)))
