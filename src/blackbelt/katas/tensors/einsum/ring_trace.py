"""Four tensors in a ring, in the cheapest order."""

from __future__ import annotations

import torch

from blackbelt.dojo.kata import Arguments, kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.flops import Flops
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.tensors.einsum._shared import of_sizes, whole_numbers


def _ring(p: int, q: int, r: int, s: int) -> Arguments:
    return whole_numbers(p, q), whole_numbers(q, r, seed=1), whole_numbers(r, s, seed=2), whole_numbers(s, p, seed=3)


def _ring_budget(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> int:
    p, q, r, s = a.shape[0], b.shape[0], c.shape[0], d.shape[0]
    return 2 * min(p * r * (q + s + 1), q * s * (p + r + 1))


@kata(
    minutes=25,
    belt="green",
    hints=(
        "Four tensors in a ring: two cuts split it into two pairs, and there are two ways to place them.",
        (
            "Pairing (a, b) and (c, d) costs p·q·r + r·s·p multiplications; pairing (b, c) and (d, a) costs q·r·s + "
            "s·p·q. Both leave two small matrices."
        ),
        (
            "Compare p·r·(q + s) with q·s·(p + r) and take the smaller. The last step is the trace of a "
            "product, and that needs no product: you solved it in the kata before."
        ),
    ),
    cases=of_sizes("pq", "qr", "rs", "sp"),
    edge_cases=lambda: {
        "all different": _ring(2, 3, 4, 5),
        "all equal": _ring(3, 3, 3, 3),
        "thin at a": _ring(2, 24, 2, 24),
        "thin at b": _ring(24, 2, 24, 2),
        "one thin cut": _ring(2, 24, 24, 24),
    },
    laws=[
        Forbids(
            {
                "torch.functional.einsum": "it plans for you; here you are the planner. Use `@`.",
                "torch.linalg.multi_dot": "it plans for you; here you are the planner. Use `@`.",
            }
        ),
        Value(),
        Flops(at_most=_ring_budget),
        Allocates(at_most=lambda a, b, c, d: 4 * 4 * max(a.shape[0] * c.shape[0], b.shape[0] * d.shape[0])),
    ],
)
def ring_trace(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Four tensors in a ring, in the cheapest order

    `a` is (p, q), `b` is (q, r), `c` is (r, s), `d` is (s, p). Return `einsum("pq,qr,rs,sp->", a, b, c, d)`, a tensor
    without dimensions, within the operations of the best order. The sizes change from case to case, and the best order
    with them.

    ```python
    ring_trace(torch.ones(2, 3), torch.ones(3, 2), torch.ones(2, 3), torch.ones(3, 2))   # 36.
    ```
    """
    p, q, r, s = a.shape[0], b.shape[0], c.shape[0], d.shape[0]
    if p * r * (q + s) <= q * s * (p + r):
        return ((a @ b) * (c @ d).t()).sum()
    return ((b @ c) * (d @ a).t()).sum()


@ring_trace.also_right
def one_by_one(a, b, c, d):
    ring = (a, b, c, d)
    p, q, r, s = (tensor.shape[0] for tensor in ring)
    start = 0 if p * r * (q + s) <= q * s * (p + r) else 1
    first, second, third, fourth = ring[start:] + ring[:start]
    return ((first @ second).t() * (third @ fourth)).sum()


@ring_trace.wrong(
    "Left to right, whatever the sizes. Each order is the best one for some sizes: compare the two costs first."
)
def always_left_to_right(a, b, c, d):
    return ((a @ b) * (c @ d).t()).sum()


@ring_trace.wrong("Always (b, c) with (d, a): right for some sizes and many times the operations for others.")
def always_the_other(a, b, c, d):
    return ((b @ c) * (d @ a).t()).sum()


@ring_trace.wrong(
    "The last product is computed in full and only its diagonal is used. Close the ring with an element-wise product "
    "and a sum."
)
def product_then_trace(a, b, c, d):
    return torch.trace(a @ b @ c @ d)


@ring_trace.wrong(
    "The two halves are multiplied position by position as they lie. One runs from p to r, the other from r to p: "
    "transpose one of them."
)
def halves_not_transposed(a, b, c, d):
    p, q, r, s = a.shape[0], b.shape[0], c.shape[0], d.shape[0]
    if p * r * (q + s) <= q * s * (p + r):
        return ((a @ b) * (c @ d)).sum()
    return ((b @ c) * (d @ a)).sum()


@ring_trace.wrong("The comparison is the wrong way round: this takes the worse of the two orders each time.")
def worse_order(a, b, c, d):
    p, q, r, s = a.shape[0], b.shape[0], c.shape[0], d.shape[0]
    if p * r * (q + s) > q * s * (p + r):
        return ((a @ b) * (c @ d).t()).sum()
    return ((b @ c) * (d @ a).t()).sum()
