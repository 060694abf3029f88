"""Einsum for two operands, from permute and bmm."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import Arguments, kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.tensors.einsum._shared import whole_numbers


def _pair(equation: str, **sizes: int) -> Arguments:
    terms = equation.partition("->")[0].split(",")
    return equation, *(whole_numbers(*(sizes[name] for name in term), seed=seed) for seed, term in enumerate(terms))


@st.composite
def _pairs(draw: st.DrawFn) -> Arguments:
    letters = "abcde"
    terms = [draw(st.lists(st.sampled_from(letters), max_size=4, unique=True)) for _ in range(2)]
    used = sorted({*terms[0], *terms[1]})
    output = draw(st.permutations(used))[: draw(st.integers(0, len(used)))]
    sizes = {name: draw(st.integers(2, 4)) for name in used}
    return _pair(f"{''.join(terms[0])},{''.join(terms[1])}->{''.join(output)}", **sizes)


def _pair_budget(equation: str, x: torch.Tensor, y: torch.Tensor) -> int:
    names, _, output = equation.partition("->")
    sizes = dict(zip(names.replace(",", ""), (*x.shape, *y.shape)))
    result: int = math.prod(sizes[name] for name in output)
    return 4 * (2 * x.numel() + 2 * y.numel() + result)


@kata(
    minutes=40,
    belt="blue",
    hints=(
        (
            "Sort the letters into four groups: in both and kept, only in x and kept, in both and summed, only "
            "in y and kept. What is left over is in one operand alone and not kept: sum it first."
        ),
        (
            "`bmm` multiplies (batch, rows, inner) with (batch, inner, columns). Each group becomes one dimension: "
            "permute, then reshape. A group without letters has size 1."
        ),
        (
            "The product comes out in the order batch, rows, columns. Unflatten it to one dimension per letter, then "
            "permute to the order of the output."
        ),
    ),
    cases=_pairs(),
    edge_cases=lambda: {
        "a matrix product": _pair("ij,jk->ik", i=2, j=3, k=4),
        "a batch": _pair("bij,bjk->bik", b=2, i=3, j=4, k=5),
        "the output in another order": _pair("bij,bjk->kbi", b=2, i=3, j=4, k=5),
        "operands in another order": _pair("jbi,kbj->bik", b=2, i=3, j=4, k=5),
        "square throughout": _pair("bij,bkj->bki", b=3, i=3, j=3, k=3),
        "a letter summed alone": _pair("ija,jk->ik", a=2, i=3, j=4, k=5),
        "an outer product": _pair("ab,c->cab", a=2, b=3, c=4),
        "a dot product": _pair("ab,ba->", a=3, b=4),
        "large": _pair("ij,jk->ik", i=32, j=64, k=32),
    },
    laws=[
        Forbids(
            {
                "torch.functional.einsum": "build it from permute, reshape and bmm.",
                "torch.functional.tensordot": "build it from permute, reshape and bmm.",
            }
        ),
        Value(),
        Allocates(at_most=_pair_budget),
    ],
)
def contract_pair(equation: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Einsum for two operands, from permute and bmm

    Return `torch.einsum(equation, x, y)` without calling it. The equation has an arrow, single letters, no spaces, no
    ellipsis; no letter stands twice in one operand, and sizes agree exactly. Everything else may happen: batch letters,
    letters summed in one operand alone, several letters summed, any order of the output, no letters at all.

    The budget allows a copy of each operand, as `reshape` may need, and no product of the operands but the result.

    ```python
    contract_pair("ij,jk->ki", torch.ones(2, 3), torch.ones(3, 4))   # (4, 2), every entry 3
    ```
    """
    terms, _, output = equation.partition("->")
    left, right = terms.split(",")
    x = (
        x.sum([i for i, name in enumerate(left) if name not in right + output])
        if set(left) - set(right + output)
        else x
    )
    y = (
        y.sum([i for i, name in enumerate(right) if name not in left + output])
        if set(right) - set(left + output)
        else y
    )
    left = "".join(name for name in left if name in right + output)
    right = "".join(name for name in right if name in left + output)
    batch = [name for name in left if name in right and name in output]
    summed = [name for name in left if name in right and name not in output]
    rows, columns = [name for name in left if name not in right], [name for name in right if name not in left]
    sizes = dict(zip(left + right, (*x.shape, *y.shape)))

    def grouped(tensor: torch.Tensor, term: str, *groups: list[str]) -> torch.Tensor:
        order = [term.index(name) for group in groups for name in group]
        return tensor.permute(order).reshape([math.prod(sizes[name] for name in group) for group in groups])

    product = torch.bmm(grouped(x, left, batch, rows, summed), grouped(y, right, batch, summed, columns))
    names = [*batch, *rows, *columns]
    return product.reshape([sizes[name] for name in names]).permute([names.index(name) for name in output])


@contract_pair.also_right
def with_matmul_and_movedim(equation, x, y):
    terms, _, output = equation.partition("->")
    left, right = terms.split(",")
    sizes = dict(zip(left + right, (*x.shape, *y.shape)))
    for name in [name for name in left if name not in right + output]:
        x, left = x.sum(left.index(name)), left.replace(name, "")
    for name in [name for name in right if name not in left + output]:
        y, right = y.sum(right.index(name)), right.replace(name, "")
    batch = sorted(set(left) & set(right) & set(output))
    inner = sorted(set(left) & set(right) - set(output))
    rows, columns = sorted(set(left) - set(right)), sorted(set(right) - set(left))
    x = (
        x.permute([left.index(n) for n in (*batch, *rows, *inner)]).flatten(len(batch) + len(rows))
        if inner
        else (x.permute([left.index(n) for n in (*batch, *rows)]).unsqueeze(-1))
    )
    y = y.permute([right.index(n) for n in (*batch, *inner, *columns)])
    y = y.reshape(
        [sizes[n] for n in batch] + [math.prod(sizes[n] for n in inner), math.prod(sizes[n] for n in columns)]
    )
    x = x.reshape([sizes[n] for n in batch] + [math.prod(sizes[n] for n in rows), x.shape[-1]])
    out = (x @ y).reshape([sizes[n] for n in (*batch, *rows, *columns)])
    return out.permute([(*batch, *rows, *columns).index(n) for n in output])


@contract_pair.wrong(
    "The operands are aligned and multiplied before anything is summed: every letter of the equation is in memory at "
    "once. `bmm` sums while it multiplies."
)
def multiply_then_sum(equation, x, y):
    terms, _, output = equation.partition("->")
    names = [*output, *sorted(set(terms) - {",", *output})]

    def aligned(tensor: torch.Tensor, term: str) -> torch.Tensor:
        present = tensor.permute([term.index(name) for name in names if name in term])
        return present[tuple(slice(None) if name in term else None for name in names)]

    left, right = terms.split(",")
    product = aligned(x, left) * aligned(y, right)
    return product.sum(list(range(len(output), len(names)))) if len(names) > len(output) else product


@contract_pair.wrong(
    "The product is right and its dimensions stand in the order batch, rows, columns: permute them last."
)
def order_of_bmm(equation, x, y):
    terms, _, output = equation.partition("->")
    left, right = terms.split(",")
    batch = [name for name in left if name in right and name in output]
    rows = [name for name in left if name not in right and name in output]
    columns = [name for name in right if name not in left and name in output]
    return contract_pair.reference(f"{terms}->{''.join([*batch, *rows, *columns])}", x, y)


@contract_pair.wrong(
    "A letter that one operand has alone and the output does not is never summed. Do it before the product, where it "
    "is cheapest."
)
def nothing_summed_alone(equation, x, y):
    terms, _, output = equation.partition("->")
    left, right = terms.split(",")
    alone = "".join(sorted(set(left) ^ set(right) - set(output) - set(left) & set(right)))
    alone = "".join(name for name in alone if name not in output)
    return contract_pair.reference(f"{terms}->{output}{alone}", x, y)


@contract_pair.wrong(
    "`reshape` without `permute` first: the numbers stay in the order they lie in memory, and the letters do not. It "
    "works only where the operand has its letters in order already."
)
def reshape_only(equation, x, y):
    left, right = equation.partition("->")[0].split(",")
    sizes = dict(zip(left + right, (*x.shape, *y.shape)))
    ordered = [sorted(term, key=lambda name: (name not in left or name not in right, name)) for term in (left, right)]
    x, y = (t.reshape([sizes[name] for name in names]) for t, names in zip((x, y), ordered))
    return contract_pair.reference(f"{','.join(map(''.join, ordered))}->{equation.partition('->')[2]}", x, y)


@contract_pair.wrong("This calls einsum. The kata is to build what einsum does.")
def einsum_itself(equation, x, y):
    return torch.einsum(equation, x, y)
