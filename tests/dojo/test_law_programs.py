"""Programs on Triton's interpreter: the sectors that they read, what one of them loads, and the order they run in."""
# Triton's own conventions: pointers and constants in capitals, no types on a kernel's arguments.
# ruff: noqa: E402, N803

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from blackbelt.dojo.laws import LawBroken
from blackbelt.dojo.laws.interpreted import interpret
from blackbelt.dojo.laws.programs import LoadsWholeSectors, SameInAnyOrder, SharesTheWork
from blackbelt.dojo.trial import Case, Trial
from tests.dojo.exercise import kata_of

interpret()

import triton
import triton.language as tl
from triton.runtime.interpreter import interpreter_builder

NUMBERS = torch.tensor([1e8, 1.0, -1e8, 1.0]).repeat_interleave(8)  # added in another order, another number


@triton.jit
def _add_kernel(X, OUT, step, stride, ATOMIC: tl.constexpr, BLOCK: tl.constexpr):
    x = tl.load(X + tl.program_id(0) * step + tl.arange(0, BLOCK) * stride)
    if ATOMIC:
        tl.atomic_add(OUT + tl.arange(0, 1), tl.sum(x, 0, keep_dims=True))
    else:
        tl.store(OUT + tl.program_id(0), tl.sum(x, 0))


def _add(x, *, down=False, atomic=False, block=8):
    """Sum blocks of adjacent numbers, or with ``down`` the columns of a matrix that has eight."""
    stride, block = (8, x.numel() // 8) if down else (1, block)
    blocks = x.numel() // block
    out = x.new_zeros(1 if atomic else blocks)
    _add_kernel[(blocks,)](x, out, 1 if down else block, stride, ATOMIC=atomic, BLOCK=block)
    return out.sum()


def _trial(function, x=NUMBERS):
    return Trial(kata_of(function, [], x), function, Case((x,)))


def test_sectors_kept_and_broken():
    law = LoadsWholeSectors(at_most=lambda x: x.numel() * x.element_size())
    law.check(_trial(_add))  # eight adjacent numbers of 4 bytes are one sector
    with pytest.raises(LawBroken) as broken:
        law.check(_trial(lambda x: _add(x, down=True)))  # 32 numbers, each in a sector of its own
    assert (broken.value.expected, broken.value.got) == ("at most 128 B", "1 KiB")


def test_shared_work_kept_and_broken():
    law = SharesTheWork(at_most=8)
    law.check(_trial(_add))  # four programs of eight, counted one by one
    with pytest.raises(LawBroken, match="One program loads 16 elements"):
        law.check(_trial(lambda x: _add(x, block=16)))


def test_order_kept_and_broken():
    law = SameInAnyOrder()
    law.check(_trial(_add))
    with pytest.raises(LawBroken, match="depend on the order") as broken:
        law.check(_trial(lambda x: _add(x, atomic=True)))
    assert broken.value.got.startswith("a difference of ")


def test_the_interpreter_is_left_as_it_was():
    before = dict(vars(interpreter_builder))
    for law in (LoadsWholeSectors(at_most=lambda _: 10**6), SharesTheWork(at_most=10**6), SameInAnyOrder()):
        law.check(_trial(_add))
    after = vars(interpreter_builder)
    assert before.keys() <= after.keys()
    assert all(after.get(name) is before.get(name) for name in ("create_masked_load", "create_masked_store"))
    assert "set_grid_idx" not in after
