"""In which order an einsum is contracted, and what each contraction becomes.

The orders are counted here, in opt_einsum's convention (one operation per multiplication and per addition); opt_einsum
itself is asked only for the best order. The lowering is not modeled but recorded: ``torch.einsum`` runs on meta tensors
of the same shapes and strides, which costs no memory and no arithmetic, and what it dispatches is written down.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import opt_einsum
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from blackbelt.tensors._einsum_equation import Equation

EXACT_SEARCH = 6  # operands up to which every order is tried; the search is factorial


@dataclass(frozen=True)
class Contraction:
    """One step of an order: which terms become which, its operations, and the elements of what it leaves."""

    positions: tuple[int, ...]
    terms: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]
    flops: int
    num_elements: int

    def __str__(self) -> str:
        return f"{','.join(map(spell, self.terms))}->{spell(self.result)}"


@dataclass(frozen=True)
class ContractionOrder:
    """A whole order. ``path`` reads as opt_einsum's: positions taken out, the result appended at the end."""

    name: str
    path: tuple[tuple[int, ...], ...]
    steps: tuple[Contraction, ...]
    flops: int
    largest_intermediate: int
    chosen: bool


@dataclass(frozen=True)
class Lowering:
    """What PyTorch dispatches for one step. ``sizes`` is the bmm's (batch, rows, summed, columns).

    ``flops`` counts what the bmm multiplies and adds (``FlopCounterMode``'s figure; 0 where there is no bmm), and
    ``copied_bytes`` the copies that a reshape of permuted dimensions made before it.
    """

    equation: str
    operator: str
    batch: str
    rows: str
    summed: str
    columns: str
    sizes: tuple[int, ...]
    summed_first: str
    copied_bytes: int
    flops: int


def find_orders(equation: Equation, enabled: bool, strategy: str) -> tuple[ContractionOrder, ...]:
    """Count every order worth comparing: all at once, left to right, the best, and the one PyTorch will take."""
    count = len(equation.terms)
    everything = (tuple(range(count)),)
    if count <= 2:
        return (_follow(equation, "the only one", everything, chosen=True),)
    left_to_right = ((0, 1), *((0, last) for last in range(count - 2, 0, -1)))
    exact = count <= EXACT_SEARCH
    best = _search(equation, "optimal" if exact else "auto-hq")
    chosen = _search(equation, strategy) if enabled else left_to_right
    orders = {
        "all at once": everything,
        "left to right": left_to_right,
        "best" if exact else "best found": best,
    }
    found = [_follow(equation, name, path, chosen=path == chosen) for name, path in orders.items()]
    if not any(order.chosen for order in found):
        found.append(_follow(equation, f"opt_einsum, {strategy}", chosen, chosen=True))
    return tuple(found)


def _search(equation: Equation, strategy: str) -> tuple[tuple[int, ...], ...]:
    path, _ = opt_einsum.contract_path(equation.text, *equation.shapes, shapes=True, optimize=strategy)
    return tuple(tuple(sorted(step)) for step in path)


def _follow(equation: Equation, name: str, path: Sequence[Sequence[int]], chosen: bool) -> ContractionOrder:
    terms = list(equation.terms)
    steps: list[Contraction] = []
    for positions in path:
        taken = [terms.pop(i) for i in sorted(positions, reverse=True)][::-1]
        involved = frozenset().union(*taken)
        kept = involved & frozenset(equation.output).union(*terms)
        result = equation.output if not terms else tuple(index for index in equation.sizes if index in kept)
        flops = _operations(equation, involved, kept, len(taken))
        steps.append(Contraction(tuple(positions), tuple(taken), result, flops, equation.num_elements(kept)))
        terms.append(result)
    return ContractionOrder(
        name,
        tuple(tuple(positions) for positions in path),
        tuple(steps),
        sum(step.flops for step in steps),
        max(step.num_elements for step in steps),
        chosen,
    )


def _operations(equation: Equation, involved: frozenset[str], kept: frozenset[str], num_terms: int) -> int:
    """Per point of the loops: one multiplication fewer than terms, and one addition where something is summed."""
    return equation.num_elements(involved) * (num_terms - 1 + (1 if involved - kept else 0))


def spell(names: Sequence[str]) -> str:
    """Write indices as in an equation; those of an ellipsis stand together as ``...``."""
    runs = itertools.groupby(names, key=lambda name: len(name) > 1)
    return "".join("..." if is_ellipsis else "".join(run) for is_ellipsis, run in runs)


# --- the lowering -----------------------------------------------------------------------------------------------------


class _Recorder(TorchDispatchMode):
    """Writes down what einsum dispatches: the product that ends each step and the copies made on the way to it."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[str, tuple[tuple[int, ...], ...]]] = []
        self.copied_bytes = [0]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator imports the whole compiler, several seconds (torch 2.15)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "clone":
            self.copied_bytes[-1] += out.numel() * out.element_size()
        elif name in ("bmm", "mul"):
            self.products.append((name, tuple(tuple(operand.shape) for operand in args[:2])))
            self.copied_bytes.append(0)
        return out


def record_lowering(
    equation: Equation, order: ContractionOrder, operands: Sequence[torch.Tensor]
) -> tuple[Lowering, ...]:
    """Run ``torch.einsum`` on meta tensors and read off what each step of the chosen order became."""
    recorder = _Recorder()
    with recorder:
        torch.einsum(equation.text, *operands)
    if len(equation.terms) == 1:
        return (_single(equation, recorder.copied_bytes[0]),)
    held = [_stretching(equation, term, shape) for term, shape in zip(equation.terms, equation.shapes)]
    lowered = []
    for number, step in enumerate(order.steps):
        left, right = [held.pop(i) for i in sorted(step.positions, reverse=True)][::-1]
        kept = (left | right) & frozenset(equation.output).union(*held)
        held.append(kept)
        groups = [left & right & kept, (left - right) & kept, (left & right) - kept, (right - left) & kept]
        operator, shapes = recorder.products[number]
        sizes: tuple[int, ...] = ()
        if operator == "bmm":
            sizes = (*shapes[0], shapes[1][2])
            # sumproduct_pair swaps its operands where that puts the result in order.
            if sizes[1] != equation.num_elements(groups[1]):
                groups[1], groups[3] = groups[3], groups[1]
        batch, rows, summed, columns, alone = (_named(equation, group) for group in (*groups, (left ^ right) - kept))
        copied = recorder.copied_bytes[number]
        flops = 2 * math.prod(sizes) if sizes else 0
        lowered.append(Lowering(str(step), operator, batch, rows, summed, columns, sizes, alone, copied, flops))
    return tuple(lowered)


def _named(equation: Equation, group: frozenset[str]) -> str:
    return spell([name for name in equation.sizes if name in group])


def _stretching(equation: Equation, term: Sequence[str], shape: Sequence[int]) -> frozenset[str]:
    """The indices an operand really has: einsum takes a dimension of size 1 for an absent one."""
    return frozenset(name for name, size in zip(term, shape) if size == equation.sizes[name])


def _single(equation: Equation, copied_bytes: int) -> Lowering:
    (term,) = equation.terms
    words = ["diagonal"] * (len(set(term)) < len(term)) + ["permute"] + ["sum"] * bool(equation.summed)
    text = f"{spell(term)}->{spell(equation.output)}"
    return Lowering(text, " + ".join(words), "", "", "", "", (), spell(equation.summed), copied_bytes, 0)
