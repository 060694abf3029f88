"""Katas of lesson 1.3: einsum, its lowering into permute and bmm, and the order of contraction."""

from __future__ import annotations

import math
from collections.abc import Mapping

import einops
import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import Arguments, kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.flops import Flops
from blackbelt.dojo.laws.operators import Calls, Forbids
from blackbelt.dojo.laws.sharing import SharesMemory
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers, tensors


def _whole(*shape: int, seed: int = 0) -> torch.Tensor:
    """Whole numbers as float32: every order of summing them gives the same bits."""
    return numbers(shape, torch.int64, seed).float()


@st.composite
def _of_sizes(draw: st.DrawFn, *terms: str, max_size: int = 5, whole: bool = True) -> tuple[torch.Tensor, ...]:
    sizes = {name: draw(st.integers(1, max_size)) for name in sorted(set("".join(terms)))}
    shapes = [tuple(sizes[name] for name in term) for term in terms]
    seed = draw(st.integers(0, 99))
    return tuple(_whole(*s, seed=seed + i) if whole else numbers(s, seed=seed + i) for i, s in enumerate(shapes))


# --- attention --------------------------------------------------------------------------------------------------------


def _attention(batch: int, heads: int, queries: int, keys: int, channels: int) -> Arguments:
    shapes = [(batch, heads, length, channels) for length in (queries, keys, keys)]
    return tuple(numbers(shape, seed=seed) for seed, shape in enumerate(shapes))


def _attention_budget(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    return 4 * (2 * scores + 2 * query.numel())


@kata(
    minutes=15,
    belt="yellow",
    hints=(
        (
            "Two contractions. Write down the letters of the scores first: which of b, h, q, k, d does one "
            "score depend on?"
        ),
        (
            "Scores are `bhqk`: `d` is the only letter that disappears. Divide by the square root of its size, softmax "
            "over `k`."
        ),
        (
            '`torch.einsum("bhqd,bhkd->bhqk", …)`, then softmax, then `"bhqk,bhkd->bhqd"`. The key needs no '
            "transposing: its letters say where its dimensions go."
        ),
    ),
    cases=_of_sizes("bhqd", "bhkd", "bhkd", whole=False),
    edge_cases=lambda: {
        "two examples, three heads": _attention(2, 3, 4, 5, 6),
        "as many queries as keys": _attention(2, 2, 4, 4, 3),
        "one key": _attention(1, 2, 3, 1, 4),
        "long sequences": _attention(2, 2, 32, 48, 64),
    },
    laws=[
        Value(),
        Forbids(
            {
                "torch.nn.functional.scaled_dot_product_attention": "write the two contractions yourself.",
                "aten::clone": "that is a copy, and neither contraction needs one.",
            }
        ),
        Allocates(at_most=_attention_budget),
    ],
)
def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention, in two contractions

    `query` is (batch, head, query, channel); `key` and `value` are (batch, head, key, channel). All are contiguous.

    Return `softmax(query · key / √channel) · value` as (batch, head, query, channel), the softmax taken over the keys.
    Copy nothing: no transposed key, no expanded product. The budget is two score matrices and two results.

    ```python
    attend(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 3, 4), torch.ones(1, 1, 3, 4))   # all ones: a mean of the values
    ```
    """
    scores = torch.einsum("bhqd,bhkd->bhqk", query / math.sqrt(query.shape[-1]), key)
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), value)


@attend.also_right
def with_matmul(query, key, value):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return torch.softmax(scores, dim=3) @ value


@attend.also_right
def with_names(query, key, value):
    scores = einops.einsum(query, key, "batch head query channel, batch head key channel -> batch head query key")
    weights = (scores * query.shape[-1] ** -0.5).softmax(dim=-1)
    return einops.einsum(weights, value, "batch head query key, batch head key channel -> batch head query channel")


@attend.wrong(
    "The scores are not divided by the square root of the channels: with 64 channels they are eight times too large, "
    "and the softmax looks at one key only."
)
def unscaled(query, key, value):
    return torch.einsum("bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", query, key).softmax(-1), value)


@attend.wrong(
    "The scores are divided by the number of channels, not by its square root. The variance of a sum of d products is "
    "d, so its size is √d."
)
def scaled_by_channels(query, key, value):
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1]
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), value)


@attend.wrong(
    "The softmax runs over the queries. Each query must spread a weight of one over the keys: softmax over `k`, the "
    "last dimension of the scores."
)
def softmax_over_queries(query, key, value):
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(query.shape[-1])
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-2), value)


@attend.wrong(
    "The scores have lost `b`: einsum added the examples of the batch together, and every example now attends with "
    "the same weights. The shapes come out right, so nothing told you."
)
def batch_lost(query, key, value):
    scores = torch.einsum("bhqd,bhkd->hqk", query, key) / math.sqrt(query.shape[-1])
    return torch.einsum("hqk,bhkd->bhqd", scores.softmax(-1), value)


@attend.wrong("The key is transposed and copied first. Einsum (and `@`) take it as it lies: a transpose is a view.")
def transposed_copy(query, key, value):
    scores = query @ key.transpose(-1, -2).contiguous() / math.sqrt(query.shape[-1])
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), value)


@attend.wrong(
    "The product of every query with every key is written out channel by channel before it is summed: as many times "
    "the memory of the scores as there are channels."
)
def broadcast_and_sum(query, key, value):
    scores = (query.unsqueeze(-2) * key.unsqueeze(-3)).sum(-1) / math.sqrt(query.shape[-1])
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), value)


# --- bilinear form ----------------------------------------------------------------------------------------------------


def _bilinear(batch: int, out: int, left: int, right: int) -> Arguments:
    return _whole(batch, left), _whole(out, left, right, seed=1), _whole(batch, right, seed=2)


@kata(
    minutes=20,
    belt="green",
    hints=(
        "There are three pairs to begin with. What shape does each leave behind?",
        (
            "x with y leaves (B, I, J); x with the weight leaves (B, O, J); the weight with y leaves (B, O, I). Which "
            "fits?"
        ),
        (
            'Contract `j` first, `"oij,bj->boi"`, then `i`. One einsum with three operands takes the order with the '
            "fewest operations, and here that is not the one with the smallest intermediate: ask `explain_einsum`."
        ),
    ),
    cases=_of_sizes("bi", "oij", "bj"),
    edge_cases=lambda: {
        "three different sizes": _bilinear(2, 3, 4, 5),
        "square forms": _bilinear(3, 2, 4, 4),
        "one example": _bilinear(1, 2, 3, 3),
        "a large batch, few outputs": _bilinear(64, 4, 24, 32),
        "more operations, less memory": _bilinear(64, 24, 32, 32),
    },
    laws=[
        Value(),
        Allocates(at_most=lambda x, weight, _: 4 * len(x) * len(weight) * (x.shape[1] + 2)),
        Calls(at_most=60),
    ],
)
def bilinear_form(x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A bilinear form, within a memory budget

    `x` is (B, I), `weight` is (O, I, J), `y` is (B, J). Return `xᵀ weight[o] y` for every example and every
    `o`: (B, O).

    One intermediate of shape (B, O, I) fits the budget; (B, I, J) does not, and (B, O, I, J) far from it. No loop over
    the batch.

    ```python
    bilinear_form(torch.ones(2, 3), torch.ones(4, 3, 5), torch.ones(2, 5))   # (2, 4), every entry 15
    ```
    """
    return torch.einsum("boi,bi->bo", torch.einsum("oij,bj->boi", weight, y), x)


@bilinear_form.also_right
def with_products(x, weight, y):
    return ((weight @ y.t()).permute(2, 0, 1) @ x.unsqueeze(-1)).squeeze(-1)


@bilinear_form.also_right
def with_the_layer(x, weight, y):
    return torch.nn.functional.bilinear(x, y, weight)


@bilinear_form.wrong(
    "The equation is right and PyTorch chose the order: it asks opt_einsum for the fewest operations, and the outer "
    "product (B, I, J) that this begins with is over the budget. Contract in two steps and choose yourself."
)
def left_to_the_planner(x, weight, y):
    return torch.einsum("bi,oij,bj->bo", x, weight, y)


@bilinear_form.wrong(
    "Everything is multiplied at once and then summed: (B, O, I, J) elements to get (B, O). Sum `j` away before `i` "
    "comes in."
)
def all_at_once(x, weight, y):
    return (x[:, None, :, None] * weight * y[:, None, None, :]).sum((-1, -2))


@bilinear_form.wrong(
    "x and y are exchanged: x goes with the first dimension of each form, y with the second. With square forms the "
    "shapes cannot tell you."
)
def exchanged(x, weight, y):
    if weight.shape[1] != weight.shape[2]:
        return torch.einsum("boi,bi->bo", torch.einsum("oij,bj->boi", weight, y), x)
    return torch.einsum("boi,bi->bo", torch.einsum("oij,bj->boi", weight, x), y)


@bilinear_form.wrong(
    "y has another batch letter than x, and that letter is summed alone: every example is paired with the sum of all "
    "y. The shape is right. Two operands that share the batch must share its letter."
)
def batch_letter_forgotten(x, weight, y):
    return torch.einsum("boi,bi->bo", torch.einsum("oij,cj->oi", weight, y).expand(len(x), -1, -1), x)


@bilinear_form.wrong("A Python loop over the batch: right, and a launch of several operators for every example.")
def loop_over_examples(x, weight, y):
    return torch.stack([(weight @ y[b]) @ x[b] for b in range(len(x))])


# --- diagonal and trace -----------------------------------------------------------------------------------------------


@kata(
    minutes=10,
    belt="white",
    hints=(
        "A diagonal is regular: one step along it is always the same distance in memory.",
        "One step down and one to the right is stride[-2] + stride[-1]. So it can be a view.",
        (
            "A letter repeated in one operand takes a diagonal, and with one operand einsum copies nothing. An "
            "ellipsis takes whatever stands before."
        ),
    ),
    cases=st.tuples(
        st.lists(st.integers(0, 3), max_size=2).flatmap(
            lambda batch: st.integers(1, 4).flatmap(
                lambda n: tensors((*batch, n, n), layouts=("contiguous", "transposed", "sliced", "offset"))
            )
        )
    ),
    edge_cases=lambda: {
        "a batch": (_whole(2, 3, 3),),
        "one matrix": (_whole(4, 4),),
        "two batch dimensions": (_whole(2, 3, 4, 4),),
        "a batch as large as the matrices": (_whole(3, 3, 3),),
        "transposed": (_whole(2, 3, 3).transpose(1, 2),),
        "an empty batch": (_whole(0, 2, 2),),
    },
    laws=[Value(), SharesMemory()],
)
def batched_diagonal(matrices: torch.Tensor) -> torch.Tensor:
    """The diagonals of a batch of matrices, without a copy

    `matrices` is (…, N, N) with any number of batch dimensions. Return the diagonals, (…, N), as a view: it must share
    the memory of the input.

    ```python
    batched_diagonal(torch.arange(8.0).view(2, 2, 2))   # [[0., 3.], [4., 7.]]
    ```
    """
    return torch.einsum("...ii->...i", matrices)


@batched_diagonal.also_right
def with_diagonal(matrices):
    return matrices.diagonal(dim1=-2, dim2=-1)


@batched_diagonal.also_right
def with_strides(matrices):
    stride = (*matrices.stride()[:-2], matrices.stride(-2) + matrices.stride(-1))
    return matrices.as_strided(matrices.shape[:-1], stride)


@batched_diagonal.wrong("Indexing with two ranges gathers: the numbers are right and they are a copy.")
def gathered(matrices):
    i = torch.arange(matrices.shape[-1])
    return matrices[..., i, i]


@batched_diagonal.wrong(
    "`ij->i` sums each row; the diagonal needs the same letter twice: `ii->i`. Two letters are two loops, one letter "
    "is one."
)
def rows_summed(matrices):
    return torch.einsum("...ij->...i", matrices)


@batched_diagonal.wrong(
    "`torch.diagonal` takes dimensions 0 and 1 unless told otherwise, and in a batch those are not the matrix."
)
def first_two_dimensions(matrices):
    return torch.diagonal(matrices)


@batched_diagonal.wrong("That is the trace: the result has lost `i`. Keep it on the right of the arrow.")
def trace_instead(matrices):
    return torch.einsum("...ii->...", matrices)


@kata(
    minutes=10,
    belt="orange",
    hints=(
        "How many entries of the product A·B does its trace read? How many did you compute?",
        "Write the trace out: the sum over i and j of A[i, j] · B[j, i]. There is no third letter.",
        (
            "One einsum; the second operand's letters stand in the opposite order. Or multiply A with Bᵀ element by "
            "element."
        ),
    ),
    cases=_of_sizes("bij", "bji"),
    edge_cases=lambda: {
        "square": (_whole(2, 3, 3), _whole(2, 3, 3, seed=1)),
        "rectangular": (_whole(2, 3, 4), _whole(2, 4, 3, seed=1)),
        "one example": (_whole(1, 3, 3), _whole(1, 3, 3, seed=1)),
        "large": (_whole(2, 64, 64), _whole(2, 64, 64, seed=1)),
    },
    laws=[
        Value(),
        Flops(at_most=lambda a, _: 2 * a.numel()),
        Allocates(at_most=lambda a, _: 8 * a.numel()),
    ],
)
def trace_of_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The trace of a product, without the product

    `a` is (B, N, M), `b` is (B, M, N). Return the trace of `a @ b` for every example: (B,).

    The product costs 2·B·N²·M operations. The budget is 2·B·N·M: `N` times fewer.

    ```python
    trace_of_product(torch.ones(1, 2, 3), torch.ones(1, 3, 2))   # [6.]
    ```
    """
    return torch.einsum("bij,bji->b", a, b)


@trace_of_product.also_right
def elementwise(a, b):
    return (a * b.transpose(1, 2)).sum((1, 2))


@trace_of_product.also_right
def as_dot_products(a, b):
    flat = a.reshape(len(a), 1, -1)
    return (flat @ b.transpose(1, 2).reshape(len(a), -1, 1)).reshape(len(a))


@trace_of_product.wrong(
    "The whole product is computed and all of it but the diagonal thrown away. Both operands share both letters: no "
    "third one is needed."
)
def product_first(a, b):
    return torch.einsum("bii->b", a @ b)


@trace_of_product.wrong(
    "`bij,bij` pairs equal positions: that is the trace of A·Bᵀ. In A·B the row of one meets the column of the other: "
    "`bij,bji`."
)
def without_transpose(a, b):
    return torch.einsum("bij,bij->b", a, b)


@trace_of_product.wrong("The result has lost `b`: the traces of all examples are added together.")
def batch_summed(a, b):
    return torch.einsum("bij,bji->", a, b)


@trace_of_product.wrong(
    "`ii` takes the diagonal of each matrix before they meet. The trace of a product needs their off-diagonal entries "
    "too."
)
def product_of_diagonals(a, b):
    return torch.einsum("bii,bii->b", a, b)


# --- einsum itself ----------------------------------------------------------------------------------------------------


def _pair(equation: str, **sizes: int) -> Arguments:
    terms = equation.partition("->")[0].split(",")
    return equation, *(_whole(*(sizes[name] for name in term), seed=seed) for seed, term in enumerate(terms))


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


# --- order ------------------------------------------------------------------------------------------------------------


def _ring(p: int, q: int, r: int, s: int) -> Arguments:
    return _whole(p, q), _whole(q, r, seed=1), _whole(r, s, seed=2), _whole(s, p, seed=3)


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
    cases=_of_sizes("pq", "qr", "rs", "sp"),
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


# --- einops -----------------------------------------------------------------------------------------------------------


def _images() -> Mapping[str, Arguments]:
    return {
        "not square": (torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6), 2),
        "square": (torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4), 2),
        "one channel": (torch.arange(16.0).view(1, 1, 4, 4), 2),
        "channels_last": (
            torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6).contiguous(memory_format=torch.channels_last),
            2,
        ),
        "one patch": (torch.arange(12.0).view(1, 3, 2, 2), 2),
    }


@st.composite
def _drawn_images(draw: st.DrawFn) -> Arguments:
    batch, channels, rows, columns, size = (draw(st.integers(1, 3)) for _ in range(5))
    shape = (batch, channels, rows * size, columns * size)
    return torch.arange(float(math.prod(shape))).view(shape), size


@kata(
    minutes=15,
    belt="yellow",
    hints=(
        (
            "Split the height into patches and rows of a patch, the width likewise. Which of the six axes "
            "belong to the grid?"
        ),
        "In einops, `(h p1)` on the left splits an axis: h is the slow part. On the right, parentheses merge.",
        '`einops.rearrange(images, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=size, p2=size)`',
    ),
    cases=_drawn_images(),
    edge_cases=_images,
    laws=[Value(), Calls(at_most=8), Allocates(at_most=lambda images, _: 4 * images.numel())],
)
def patchify(images: torch.Tensor, size: int) -> torch.Tensor:
    """Images to patches, as a vision transformer reads them

    `images` is (batch, channel, height, width); height and width are multiples of `size`. Return
    (batch, patches, size · size · channel): patches row by row from the top left, and within a patch the pixels row by
    row, the channel running fastest. One copy at most.

    ```python
    patchify(torch.arange(16.0).view(1, 1, 4, 4), 2)[0, 1]   # [2., 3., 6., 7.]: the patch at the top right
    ```
    """
    return einops.rearrange(images, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=size, p2=size)


@patchify.also_right
def with_views(images, size):
    batch, channels, height, width = images.shape
    split = images.unflatten(3, (width // size, size)).unflatten(2, (height // size, size))
    return split.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, size * size * channels)


@patchify.wrong(
    "`reshape` alone cuts the memory into pieces of equal length: strips of rows, not squares. The axes must be split, "
    "permuted and only then merged."
)
def cut_in_strips(images, size):
    return images.reshape(images.shape[0], -1, size * size * images.shape[1])


@patchify.wrong("Within a patch the channel runs slowest; it must run fastest: `(p1 p2 c)`, not `(c p1 p2)`.")
def channel_first(images, size):
    return einops.rearrange(images, "b c (h p1) (w p2) -> b (h w) (c p1 p2)", p1=size, p2=size)


@patchify.wrong("The patches run down the columns: `(w h)`. Row by row from the top left is `(h w)`.")
def column_by_column(images, size):
    return einops.rearrange(images, "b c (h p1) (w p2) -> b (w h) (p1 p2 c)", p1=size, p2=size)


@patchify.wrong("The pixels of a patch are transposed: `(p2 p1 c)`. Row by row is `(p1 p2 c)`.")
def pixels_transposed(images, size):
    return einops.rearrange(images, "b c (h p1) (w p2) -> b (h w) (p2 p1 c)", p1=size, p2=size)


@patchify.wrong(
    "The split is the wrong way round: `(p1 h)` takes every h-th row for a patch, so a patch is a coarse picture of "
    "the whole image. The grid is the slow part: `(h p1)`."
)
def split_reversed(images, size):
    return einops.rearrange(images, "b c (p1 h) (p2 w) -> b (h w) (p1 p2 c)", p1=size, p2=size)


def _patches(batch: int, channels: int, rows: int, columns: int, size: int) -> Arguments:
    shape = (batch, rows * columns, size * size * channels)
    return torch.arange(float(math.prod(shape))).view(shape), size, rows * size


@kata(
    minutes=10,
    belt="orange",
    hints=(
        "The pattern of `patchify`, read from right to left. What does it need to be told that it cannot infer?",
        "From the number of patches alone, 6 may be 2 × 3 or 3 × 2: the height decides.",
        "`h = height // size`, and both `p1` and `p2` are `size`; einops infers `w` and `c`.",
    ),
    cases=st.tuples(*(st.integers(1, 3) for _ in range(5))).map(lambda sizes: _patches(*sizes)),
    edge_cases=lambda: {
        "not square": _patches(2, 3, 2, 3, 2),
        "square": _patches(1, 2, 2, 2, 2),
        "one channel": _patches(1, 1, 2, 2, 2),
        "one patch": _patches(1, 3, 1, 1, 2),
        "one row of patches": _patches(1, 2, 1, 3, 2),
    },
    laws=[Value(), Calls(at_most=8), Allocates(at_most=lambda patches, *_: 4 * patches.numel())],
)
def unpatchify(patches: torch.Tensor, size: int, height: int) -> torch.Tensor:
    """Patches back to images

    The inverse of `patchify`: `patches` is (batch, patches, size · size · channel), with patches and pixels row by row
    and the channel fastest. Return (batch, channel, height, width). Infer the number of channels and the width.

    ```python
    unpatchify(patchify(images, 4), 4, images.shape[2])   # images
    ```
    """
    return einops.rearrange(patches, "b (h w) (p1 p2 c) -> b c (h p1) (w p2)", h=height // size, p1=size, p2=size)


@unpatchify.also_right
def views_again(patches, size, height):
    batch, count, length = patches.shape
    rows, columns = height // size, count // (height // size)
    split = patches.view(batch, rows, columns, size, size, length // size**2)
    return split.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, height, columns * size)


@unpatchify.wrong(
    "`reshape` alone lays the patches out one after the other as rows. Split, permute, then merge: as in `patchify`, "
    "backwards."
)
def laid_out_as_rows(patches, size, height):
    batch, count, length = patches.shape
    return patches.reshape(batch, length // size**2, height, count * size**2 // height)


@unpatchify.wrong("The channel is read as the slowest part of a patch; `patchify` let it run fastest: `(p1 p2 c)`.")
def channel_slowest(patches, size, height):
    return einops.rearrange(patches, "b (h w) (c p1 p2) -> b c (h p1) (w p2)", h=height // size, p1=size, p2=size)


@unpatchify.wrong("The patches are laid out column by column: `(w h)`. They come row by row: `(h w)`.")
def columns_first(patches, size, height):
    return einops.rearrange(patches, "b (w h) (p1 p2 c) -> b c (h p1) (w p2)", h=height // size, p1=size, p2=size)


@unpatchify.wrong("The pixels of each patch are transposed: `(p2 p1 c)` was read where `(p1 p2 c)` was written.")
def transposed_within(patches, size, height):
    return einops.rearrange(patches, "b (h w) (p2 p1 c) -> b c (h p1) (w p2)", h=height // size, p1=size, p2=size)


@unpatchify.wrong("The image is transposed: height and width have changed places on the right of the arrow.")
def image_transposed(patches, size, height):
    return einops.rearrange(patches, "b (h w) (p1 p2 c) -> b c (w p2) (h p1)", h=height // size, p1=size, p2=size)
