"""explain_einsum against torch.einsum, opt_einsum's own figures, FlopCounterMode, einops, and loops that are run."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from typing import Any

import einops
import opt_einsum
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from blackbelt.tensors.einsum import EinsumError, EinsumReport, explain_einsum

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Case:
    equation: str
    shapes: tuple[tuple[int, ...], ...]

    def tensors(self) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes]


@st.composite
def cases(draw: st.DrawFn, min_operands: int = 1, max_operands: int = 4, broadcast: bool = True) -> Case:
    letters = "abcXY"
    sizes = {name: draw(st.sampled_from([0, 1, 2, 3, 3, 4])) for name in letters}
    ellipsis_shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3]), max_size=2)))
    terms, shapes = [], []
    for _ in range(draw(st.integers(min_operands, max_operands))):
        names = draw(st.lists(st.sampled_from(letters), max_size=3))
        own = {name: 1 if broadcast and draw(st.integers(0, 9)) == 0 else sizes[name] for name in set(names)}
        parts: list[tuple[str, tuple[int, ...]]] = [(name, (own[name],)) for name in names]
        if draw(st.integers(0, 3)) == 0:
            covered = ellipsis_shape[draw(st.integers(0, len(ellipsis_shape))) :]
            parts.insert(draw(st.integers(0, len(parts))), ("...", covered))
        terms.append(draw(st.sampled_from(["", " "])).join(name for name, _ in parts))
        shapes.append(tuple(size for _, part in parts for size in part))
    equation = draw(st.sampled_from([",", ", "])).join(terms)
    if draw(st.integers(0, 3)):
        used = sorted({name for term in terms for name in term if name.isalpha()})
        output = draw(st.permutations(used))[: draw(st.integers(0, len(used)))]
        if any("..." in term for term in terms) and draw(st.booleans()):
            output = [*output]
            output.insert(draw(st.integers(0, len(output))), "...")
        equation += draw(st.sampled_from(["->", " -> "])) + "".join(output)
    return Case(equation, tuple(shapes))


def run_loops(report: EinsumReport, tensors: list[torch.Tensor]) -> torch.Tensor:
    scope = {"torch": torch, **{f"x{i}": tensor for i, tensor in enumerate(tensors)}}
    exec(report.loop_form.replace("torch.zeros(", "torch.zeros(size="), scope)
    result = scope["out"]
    assert isinstance(result, torch.Tensor)
    return result


# --- against torch ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(cases())
def test_loops_and_einops_compute_what_torch_computes(case: Case) -> None:
    tensors = case.tensors()
    expected = torch.einsum(case.equation, *tensors)
    report = explain_einsum(case.equation, *tensors)
    assert report.output_shape == tuple(expected.shape)
    torch.testing.assert_close(torch.einsum(report.canonical, *tensors), expected)
    torch.testing.assert_close(run_loops(report, tensors).double(), expected, rtol=1e-5, atol=1e-5)
    in_einops: Any = einops.einsum
    torch.testing.assert_close(in_einops(*tensors, report.einops_pattern), expected)
    scope = {"einops": einops, **{f"x{i}": tensor for i, tensor in enumerate(tensors)}}
    torch.testing.assert_close(eval(report.einops, scope), expected)


@PROPERTY
@given(cases(), st.booleans())
def test_bmm_flops_are_those_counted_when_it_runs(case: Case, planned: bool) -> None:
    tensors = case.tensors()
    with torch.backends.opt_einsum.flags(enabled=planned):
        with FlopCounterMode(display=False) as counter:
            torch.einsum(case.equation, *tensors)
        report = explain_einsum(case.equation, *case.shapes)
    assert report.bmm_flops == counter.get_total_flops()
    if len(case.shapes) > 1:
        assert len(report.lowering) == len(case.shapes) - 1


@PROPERTY
@given(cases(min_operands=2))
def test_the_groups_of_a_bmm_have_its_sizes(case: Case) -> None:
    report = explain_einsum(case.equation, *case.shapes)
    assume("e0" not in {index.name for index in report.indices})
    sizes = {index.name: index.size for index in report.indices}
    for step in report.lowering:
        if step.operator == "bmm":
            named = (step.batch, step.rows, step.summed, step.columns)
            assert tuple(math.prod(sizes[name] for name in group) for group in named) == step.sizes


@PROPERTY
@given(cases(min_operands=2, broadcast=False))
def test_orders_agree_with_opt_einsum(case: Case) -> None:
    report = explain_einsum(case.equation, *case.shapes)
    for order in report.orders:
        _, info = opt_einsum.contract_path(case.equation, *case.shapes, shapes=True, optimize=list(order.path))
        assert order.flops == int(info.opt_cost)
        assert order.largest_intermediate == int(info.largest_intermediate)
    if len(case.shapes) > 2:
        by_name = {order.name: order for order in report.orders}
        _, info = opt_einsum.contract_path(case.equation, *case.shapes, shapes=True, optimize="optimal")
        assert by_name["best"].flops == int(info.opt_cost)
        _, info = opt_einsum.contract_path(case.equation, *case.shapes, shapes=True, optimize=False)
        assert by_name["all at once"].flops == int(info.opt_cost)


BROKEN = [
    ("ij,jk->ik", ((2, 3),)),
    ("ij->ij", ((2, 3), (2, 3))),
    ("ij->ij", ((2,),)),
    ("i->i", ((2, 3),)),
    ("...ij->...", ((2,),)),
    (",i->i", ((2,), (2,))),
    ("ij,jk->ik", ((2, 3), (4, 5))),
    ("...i,...i->...", ((2, 3, 4), (5, 4))),
    ("ii->i", ((2, 3),)),
    ("ii->i", ((1, 3),)),
    ("ij->ijk", ((2, 3),)),
    ("ij->ii", ((2, 2),)),
    ("i1->i", ((2, 3),)),
    ("i\tj->ij", ((2, 3),)),
    ("i..j->i", ((2, 3),)),
    (". . .->", ((2, 3),)),
    ("......->", ((2, 3),)),
    ("...i->......", ((2, 3),)),
    ("ij->i->j", ((2, 3),)),
    ("ij- >i", ((2, 3),)),
    ("ij,jk,kl->il", ((2, 3), (3, 4), (5, 5))),
    ("ij,jk,kl->im", ((2, 3), (3, 4), (4, 5))),
    ("", ((2,),)),
    ("é->é", ((2,),)),
]


@pytest.mark.parametrize(("equation", "shapes"), BROKEN)
def test_refuses_what_torch_refuses(equation: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        torch.einsum(equation, *(torch.zeros(shape) for shape in shapes))
    with pytest.raises(EinsumError, match=r"Expected .*Try: ") as caught:
        explain_einsum(equation, *shapes)
    assert isinstance(caught.value, ValueError)


@PROPERTY
@given(cases(max_operands=2), st.data())
def test_agrees_with_torch_on_what_is_an_error(case: Case, data: st.DataObject) -> None:
    """One character or one size changed: both accept, or both refuse."""
    equation, shapes = case.equation, [list(shape) for shape in case.shapes]
    if data.draw(st.booleans()) and equation:
        at = data.draw(st.integers(0, len(equation) - 1))
        equation = equation[:at] + data.draw(st.sampled_from("abX.,->3 ")) + equation[at + 1 :]
    elif any(shapes):
        shape = data.draw(st.sampled_from([shape for shape in shapes if shape]))
        shape[data.draw(st.integers(0, len(shape) - 1))] = data.draw(st.integers(0, 5))
    try:
        expected = tuple(torch.einsum(equation, *(torch.zeros(shape) for shape in shapes)).shape)
    except RuntimeError:
        with pytest.raises(EinsumError):
            explain_einsum(equation, *map(tuple, shapes))
    else:
        assert explain_einsum(equation, *map(tuple, shapes)).output_shape == expected


# --- wording ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("ij,jk->ik", (2, 3), (4, 4)),
            (
                "`j` has size 3 in operand 0 and 4 in operand 1 of `ij,jk->ik` (shapes (2, 3), (4, 4)). Expected "
                "one size (or 1). Try: check the order of the letters of operand 1, or give the two dimensions two "
                "letters."
            ),
        ),
        (
            ("ij->i", (2, 3, 4)),
            (
                "Operand 0 of `ij->i` has shape (2, 3, 4): 3 dimensions, and `ij` names 2 indices. Expected 2 "
                "dimensions. Try: `...ij` if the 1 on the left are a batch, or reshape the operand."
            ),
        ),
        (
            ("ij,jk->ik", (2, 3)),
            (
                "`ij,jk->ik` names 2 operands and 1 operand came with it. Expected one term per operand. "
                "Try: pass the missing operand."
            ),
        ),
        (
            ("ij->ijk", (2, 3)),
            (
                "The result of `ij->ijk` asks for `k`, which no operand has. Expected letters of the operands: i j. "
                "Try: to get a new dimension, `unsqueeze` the result."
            ),
        ),
        (
            ("ij->ii", (2, 2)),
            (
                "The result of `ij->ii` has `i` twice. Expected each letter once: einsum reads a diagonal and cannot "
                "write one. Try: `torch.diag_embed` on the result with a single `i`."
            ),
        ),
        (
            (torch.ones(2), [0]),
            (
                "explain_einsum got a Tensor where the equation stands. Expected the equation first, as a string; "
                "the sublist format (tensor, [0, 1], …) is not explained. Try: explain_einsum('ij,jk->ik', x, y)."
            ),
        ),
        (
            ("i->", (-1,)),
            (
                "Operand 0 is (-1,). Expected a tensor, or a shape as a tuple of sizes 0 or more. "
                "Try: explain_einsum('ij,jk->ik', (2, 3), (3, 4))."
            ),
        ),
        (
            ("i->",),
            (
                "explain_einsum('i->') got no operands. Expected one tensor or shape per term. "
                "Try: explain_einsum('ij,jk->ik', (2, 3), (3, 4))."
            ),
        ),
    ],
)
def test_errors_say_what_was_passed_expected_and_what_to_try(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(EinsumError) as caught:
        explain_einsum(*arguments)  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize("names", [{"z": "batch"}, {"b": "_b"}, {"b": "two words"}, {"i": "batch"}])
def test_impossible_names_are_refused(names: dict[str, str]) -> None:
    with pytest.raises(EinsumError, match=r"Expected .*Try: "):
        explain_einsum("bi->b", (2, 3), names=names)


@pytest.mark.parametrize(
    ("equation", "shapes", "told"),
    [
        (
            "bii->b",
            ((2, 3, 3),),
            "`i` stands twice in operand 0: einsum takes the diagonal and reads 6 of its 18 elements.",
        ),
        ("bi,ij->j", ((2, 3), (3, 4)), "`b` (size 2) is in operand 0 alone and not in the result"),
        ("bij,bjk->ik", ((8, 2, 3), (8, 3, 4)), "Every operand starts with `b` and the result does not have it: the 8"),
        ("zi,ij", ((2, 3), (3, 4)), "alphabetical order (capitals first): `jz`, not `zj`. Write the arrow: `->jz`."),
        ("ba", ((2, 3),), "`ab`, not `ba`"),
        ("ij,jk->ik", ((2, 1), (3, 4)), "`j` has size 1 in operand 0 and 3 elsewhere: einsum broadcasts it"),
        ("...i->i", ((2, 3),), "The ellipsis is missing from the result, so einsum sums over it"),
        ("bI,ij->bI", ((2, 3), (4, 5)), "`i` and `I` are two different indices."),
    ],
)
def test_warns_of_what_einsum_lets_through(equation: str, shapes: tuple[tuple[int, ...], ...], told: str) -> None:
    torch.einsum(equation, *(torch.zeros(shape) for shape in shapes))  # accepted without a word
    report = explain_einsum(equation, *shapes)
    assert any(told in warning for warning in report.warnings)
    assert "may not be what you meant" in " ".join(str(report).split())


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", ((2, 3), (3, 4))),
        ("bij,bjk->bik", ((5, 2, 3), (5, 3, 4))),
        ("bqhd,bkhd->bhqk", ((2, 5, 3, 4), (2, 6, 3, 4))),
        ("bi,bo->io", ((8, 2), (8, 3))),
        ("i,i->", ((3,), (3,))),
        ("ij->i", ((2, 3),)),
        ("...ij,...jk", ((2, 2, 3), (3, 4))),
        ("bi,oij,bj->bo", ((2, 3), (4, 3, 5), (2, 5))),
    ],
)
def test_is_silent_on_everyday_equations(equation: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    assert explain_einsum(equation, *shapes).warnings == ()


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_the_order_taken_follows_the_setting() -> None:
    chain = ("ij,jk,kl->il", (2, 1000), (1000, 1000), (1000, 1))
    assert explain_einsum(*chain).chosen.name == "best"
    with torch.backends.opt_einsum.flags(enabled=False):
        report = explain_einsum(*chain)
    assert report.chosen.name == "left to right"
    assert report.flops > report.best.flops
    assert "enabled is False" in str(report)


def test_left_to_right_is_what_torch_does_without_a_planner() -> None:
    equation, shapes = "ij,jk,kl,lm->im", ((2, 3), (3, 5), (5, 7), (7, 11))
    with torch.backends.opt_einsum.flags(enabled=False):
        report = explain_einsum(equation, *shapes)
    assert report.chosen.path == ((0, 1), (0, 2), (0, 1))
    assert [step.sizes[2] for step in report.lowering] == [3, 5, 7]


def test_another_strategy_is_named() -> None:
    shapes = [(8, 8)] * 7
    equation = "ab,bc,cd,de,ef,fg,ga->"
    with torch.backends.opt_einsum.flags(enabled=True, strategy="greedy"):
        report = explain_einsum(equation, *shapes)
    assert "strategy greedy" in report.planner
    assert {order.name for order in report.orders} >= {"all at once", "left to right", "best found"}
    assert sum(order.chosen for order in report.orders) >= 1


def test_copies_are_those_of_the_layout() -> None:
    heads_inside = explain_einsum("bqhd,bkhd->bhqk", torch.zeros(2, 5, 3, 4), torch.zeros(2, 6, 3, 4))
    heads_outside = explain_einsum("bhqd,bhkd->bhqk", torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 6, 4))
    assert heads_inside.lowering[0].copied_bytes == 4 * (2 * 5 * 3 * 4 + 2 * 6 * 3 * 4)
    assert heads_outside.lowering[0].copied_bytes == 0
    assert heads_inside.lowering[0].sizes == heads_outside.lowering[0].sizes == (6, 5, 4, 6)


def test_many_letters_stay_within_the_page() -> None:
    equation = "abcdefgh,efghijkl,ijklmnop->abcdmnop"
    report = explain_einsum(equation, (2,) * 8, (2,) * 8, (2,) * 8)
    assert max(map(len, str(report).splitlines())) <= 80


# --- as a report ------------------------------------------------------------------------------------------------------


@PROPERTY
@given(cases())
def test_reads_at_80_columns_and_as_json_and_html(case: Case) -> None:
    report = explain_einsum(case.equation, *case.shapes)
    assert max(map(len, str(report).splitlines())) <= 80
    assert json.loads(json.dumps(report.to_dict()))["canonical"] == report.canonical
    assert "<table" in report._repr_html_()


def test_leaves_inputs_and_random_state_alone() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    y = torch.randn(4, 3).t()
    before = (x.detach().clone(), y.clone(), x._version, y._version, y.stride())
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    explain_einsum("ij,jk->ik", x, y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert (x._version, y._version, y.stride()) == before[2:]
    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), torch_state) and random.getstate() == python_state


def test_costs_nothing_however_large() -> None:
    report = explain_einsum("ij,jk->ik", (10**6, 10**6), (10**6, 10**6))
    assert report.flops == 2 * 10**18


def test_takes_the_old_list_form_and_other_dtypes() -> None:
    x = torch.zeros(2, 2, dtype=torch.float64)
    assert explain_einsum("ij,jk->ik", [x, x]).element_size == 8
    assert explain_einsum("ij,jk->ik", (2, 2), (2, 2), dtype=torch.bfloat16).element_size == 2
    with pytest.raises(EinsumError, match="strided"):
        explain_einsum("ij->i", x.to_sparse())


def test_names_reach_the_einops_spelling() -> None:
    report = explain_einsum("bi,oi->bo", (2, 3), (4, 3), names={"o": "out", "i": "inside"})
    assert report.einops_pattern == "batch inside, out inside -> batch out"
