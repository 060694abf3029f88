"""The summands of a loss, read from its graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from blackbelt.doctor.rules._losses import node_name

AVERAGE, TOTAL = 1, 2  # ATen's numbers of reductions, as nodes save them


@dataclass(frozen=True)
class Term:
    """One summand of the loss: how it was reduced, over how many elements, and whether it was weighted."""

    node: Any
    reduction: int
    sizes: tuple[int, ...]
    weight: float | None  # None: divided, or multiplied by what is no number


def terms_of(node: Any, scaled: int, weight: float | None = 1.0) -> Iterator[Term]:
    """Yield the summands of a loss. ``scaled``: so many products at the top are a gradient scaler's."""
    name = node_name(node)
    if name in ("MulBackward0", "DivBackward0"):
        if name == "MulBackward0" and scaled:
            scaled -= 1
        else:
            saved = (node._saved_other, node._saved_self)  # noqa: SLF001 - have no public name
            constants = [value for value in saved if isinstance(value, Tensor) and not value.requires_grad]
            is_number = name == "MulBackward0" and len(constants) == 1 and constants[0].numel() == 1
            weight = weight * float(constants[0]) if weight is not None and is_number else None
        inputs = [following for following, _ in node.next_functions if following is not None]
        if len(inputs) == 1:
            yield from terms_of(inputs[0], scaled, weight)
    elif name in ("AddBackward0", "SubBackward0", "NegBackward0", "SqueezeBackward0", "ToCopyBackward0"):
        for following, _ in node.next_functions:
            yield from terms_of(following, scaled, -weight if name == "NegBackward0" and weight is not None else weight)
    elif name in ("MeanBackward0", "SumBackward0"):
        yield Term(node, AVERAGE if name[0] == "M" else TOTAL, tuple(node._saved_self_sym_sizes), weight)  # noqa: SLF001
    elif (reduction := getattr(node, "_saved_reduction", None)) in (AVERAGE, TOTAL):
        yield Term(node, reduction, tuple(node._saved_self.shape), weight)  # noqa: SLF001


def nodes_behind(term: Term) -> set[int]:
    """Return the sequence numbers of the nodes that a term comes from, those of leaves left out."""
    nodes, found = [term.node], set()
    for node in nodes:
        for following, _ in node.next_functions:
            if node_name(following) not in ("", "AccumulateGrad") and following._sequence_nr() not in found:  # noqa: SLF001
                found.add(following._sequence_nr())  # noqa: SLF001
                nodes.append(following)
    return found
