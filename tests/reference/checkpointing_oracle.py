"""An oracle for schedules: every schedule there is, and a walk through one that counts live buffers one by one.

It shares nothing with the dynamic program but the costs of units: buffers are made, held and dropped as autograd does,
and the peak is the most that was ever live.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from blackbelt.reference.checkpointing.schedule import Items, Keep, Rerun, Unit


@cache
def every_schedule(first: int, last: int, within: tuple[int, int] | None = None) -> tuple[Items, ...]:
    """Return all sequences of items over units ``first`` to ``last``, checkpoints in checkpoints to any depth.

    ``within`` is the range of the checkpoint they lie in: not to be checkpointed once more as a whole.
    """
    if first > last:
        return ((),)
    found: list[Items] = [(Keep(first), *rest) for rest in every_schedule(first + 1, last)]
    for middle in range(first, last + 1):
        if (first, middle) != within:
            found += [
                (Rerun(first, middle, inside), *rest)
                for inside in every_schedule(first, middle, (first, middle))
                for rest in every_schedule(middle + 1, last)
            ]
    return tuple(found)


class Walk:
    """One step of training by a schedule: ``peak`` bytes and ``seconds`` run again."""

    def __init__(self, units: Sequence[Unit], items: Items, state_bytes: int) -> None:
        self.units = units
        self.state_bytes = state_bytes
        self.sizes: list[int] = []
        self.holders: list[int] = []
        self.live = self.peak = 0
        self.seconds = 0.0
        records, _ = self.forward(items, self.new(0), rerun=False)  # the output stays with the caller
        self.backward(records)

    def new(self, num_bytes: int) -> int:
        self.sizes.append(num_bytes)
        self.holders.append(1)
        self.live += num_bytes
        self.touch(0)
        return len(self.sizes) - 1

    def hold(self, buffer: int) -> int:
        assert self.holders[buffer] > 0
        self.holders[buffer] += 1
        return buffer

    def drop(self, buffer: int) -> None:
        self.holders[buffer] -= 1
        assert self.holders[buffer] >= 0
        if not self.holders[buffer]:
            self.live -= self.sizes[buffer]

    def touch(self, extra: int) -> None:
        self.peak = max(self.peak, self.live + extra)

    def forward(self, items: Items, x: int, *, rerun: bool):
        """Run items on buffer ``x``, which is dropped; return what backward needs, and the output."""
        records = []
        for item in items:
            ends_here = rerun and item is items[-1]
            if isinstance(item, Rerun):
                records.append((item, [self.hold(x)]))
                inside = self.units[item.first : item.last + 1]
                state = self.new(self.state_bytes)  # made before it is known whether it is needed
                if any(unit.draws for unit in inside):
                    records[-1][1].append(self.hold(state))
                if ends_here:  # at the saved input of the inner checkpoint
                    self.drop(x)
                    self.drop(state)
                    return records, None
                for unit in inside:
                    self.touch(unit.light_peak)
                    output = self.new(unit.output_bytes)
                    self.drop(x)
                    x = output
                    self.seconds += unit.forward_seconds if rerun else 0
                self.drop(state)
                continue
            unit = self.units[item.unit]
            self.touch(unit.rerun_peak if ends_here else unit.forward_peak)
            saved = [self.hold(x)] if unit.saves_input else []
            saved.append(self.new(unit.saved_bytes))
            output = self.new(unit.output_bytes) if unit.saves_output or not ends_here else None
            if unit.saves_output:
                saved.append(self.hold(output))
            records.append((item, saved))
            self.drop(x)
            if ends_here:
                self.seconds += unit.rerun_seconds
                if output is not None:
                    self.drop(output)
                return records, None
            self.seconds += unit.forward_seconds if rerun else 0
            x = output
        return records, x

    def backward(self, records) -> None:
        for item, held in reversed(records):
            if isinstance(item, Keep):
                self.touch(self.units[item.unit].backward_peak)
                self.new(self.units[item.unit].parameter_bytes)
            else:
                gradient = self.new(self.units[item.last].gradient_bytes)
                present = self.new(self.state_bytes)
                again, _ = self.forward(item.items, self.hold(held[0]), rerun=True)
                self.drop(present)
                self.drop(gradient)
                self.backward(again)
            for buffer in held:
                self.drop(buffer)
