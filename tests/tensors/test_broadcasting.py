"""explain_broadcast against PyTorch itself: shapes, PyTorch's own words, bytes, and every fix executed."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
import torch

from blackbelt.tensors.broadcasting import (
    BroadcastInputError,
    BroadcastReport,
    BroadcastTypeError,
    explain_broadcast,
)

NUM_RANDOM_CASES = 4000


def random_shapes(generator: random.Random) -> list[tuple[int, ...]]:
    """One to five shapes of rank 0 to 6: half of them cut from one common shape, so that successes are not rare."""
    common = [generator.choice((0, 1, 2, 3, 4)) for _ in range(6)]
    shapes = []
    for _ in range(generator.randint(1, 5)):
        rank = generator.randint(0, 6)
        sizes = [size if generator.random() < 0.6 else 1 for size in common[6 - rank :]]
        if generator.random() < 0.25 and rank:
            sizes[generator.randrange(rank)] = generator.choice((0, 1, 2, 3, 4))
        shapes.append(tuple(sizes))
    return shapes


def torch_says(shapes: list[tuple[int, ...]]) -> torch.Size | str:
    """The broadcast shape, or the words of the RuntimeError, from operators on meta tensors."""
    try:
        return torch.broadcast_tensors(*(torch.empty(shape, device="meta") for shape in shapes))[0].shape
    except RuntimeError as error:
        return str(error)


def padded(shape: tuple[int, ...], like: torch.Size) -> torch.Size:
    """The shape with as many dimensions as ``like``, ones on the left."""
    return torch.Size((1,) * (len(like) - len(shape)) + shape)


def apply_fix(report: BroadcastReport, edits: tuple[str, ...]) -> list[torch.Tensor]:
    """Run each edit as code on tensors of the report's shapes."""
    names = {operand.name: torch.empty(operand.shape, device="meta") for operand in report.operands}
    for edit in edits:
        name = re.match(r"\w+", edit)
        assert name is not None
        names[name.group()] = eval(edit, {}, {name.group(): names[name.group()]})
    return list(names.values())


def test_agrees_with_pytorch_on_random_shapes_and_every_fix_works():
    generator = random.Random(0)
    outcomes = {True: 0, False: 0}
    fixes = warnings = 0
    for _ in range(NUM_RANDOM_CASES):
        shapes = random_shapes(generator)
        report, truth = explain_broadcast(*shapes), torch_says(shapes)
        outcomes[report.possible] += 1
        if isinstance(truth, str):
            assert report.shape is None, shapes
            assert report.conflict is not None
            assert report.conflict.message == truth, shapes
            assert report.fixes, shapes
        else:
            assert report.shape == tuple(truth), shapes
            assert report.shape == tuple(torch.broadcast_shapes(*shapes))
            assert (report.warning is not None) == (not any(padded(shape, truth) == truth for shape in shapes)), shapes
            warnings += report.warning is not None
        for fix in report.fixes:
            edited = apply_fix(report, fix.edits)
            assert tuple(torch.broadcast_tensors(*edited)[0].shape) == fix.shape, (shapes, fix)
            fixes += 1
            if report.warning is not None:
                assert max(tensor.numel() for tensor in edited) == torch.Size(fix.shape).numel(), (shapes, fix)
    assert min(outcomes.values()) > NUM_RANDOM_CASES // 10
    assert warnings > 100
    assert fixes > NUM_RANDOM_CASES // 5


def test_who_is_stretched_agrees_with_the_strides_of_expand():
    generator = random.Random(1)
    checked = 0
    for _ in range(500):
        shapes = random_shapes(generator)
        report = explain_broadcast(*shapes)
        if report.shape is None or 0 in report.shape:
            continue
        for operand in report.operands:
            expanded = torch.empty(operand.shape, device="meta").expand(report.shape)
            for dimension in report.dimensions:
                size = expanded.shape[dimension.from_right]
                is_repeated = expanded.stride(dimension.from_right) == 0 and size > 1
                assert (operand.name in dimension.stretched) == is_repeated
                checked += 1
    assert checked > 1000


@pytest.mark.parametrize(
    ("shapes", "codes"),
    [
        (((4, 3), (4,)), ["b.unsqueeze(1)", "a.mT"]),
        (((2, 3), (3, 2)), ["a.mT", "b.mT"]),
        (((8, 16, 32), (8, 16)), ["b.unsqueeze(-1)"]),
        (((2, 3, 8, 8), (3,)), ["b[:, None, None]", "a.transpose(1, 3)"]),
        (((3,), (4,)), ["a.unsqueeze(1)", "b.unsqueeze(1)"]),
        (((5, 1, 4), (3, 4)), []),
        (((6, 1, 4), (6, 4, 1, 1), (5, 4, 4)), None),
    ],
)
def test_the_fixes_are_the_ones_a_colleague_would_suggest(shapes, codes):
    report = explain_broadcast(*shapes)
    if codes is None:
        assert report.fixes
    else:
        assert [fix.code for fix in report.fixes] == codes


def test_no_cheaper_fix_is_missed():
    report = explain_broadcast((8, 12, 10, 10), (8, 10))
    assert {fix.code for fix in report.fixes} >= {"b[:, None, None]", "b[:, None, :, None]"}


def test_where_no_reshaping_makes_sizes_equal_it_says_so():
    report = explain_broadcast((4, 3), (4, 2))
    assert all(fix.every_pair for fix in report.fixes)
    assert "If 3 and 2 were meant to be equal, no reshaping helps" in " ".join(str(report).split())


def test_regression_trap_warns_and_names_both_ways_out():
    report = explain_broadcast(torch.zeros(32, 1), torch.zeros(32))
    assert report.possible
    assert report.shape == (32, 32)
    assert [fix.code for fix in report.fixes] == ["a.squeeze(1)", "b.unsqueeze(1)"]
    assert "32 times as many elements as a" in str(report.warning)
    assert str(report).startswith("! They broadcast to (32, 32), and both sides stretch: a and b.")


def test_an_outer_operation_is_warned_about_without_fixes_that_would_undo_it():
    report = explain_broadcast((32, 1), (1, 64))
    assert report.warning is not None
    assert report.fixes == ()


def test_no_warning_where_one_operand_has_the_shape_of_the_result():
    assert explain_broadcast((32, 10), (10,)).warning is None
    assert explain_broadcast((4, 1), (1, 5), (4, 5)).warning is None
    assert explain_broadcast((1, 1), (1,)).warning is None
    assert explain_broadcast(()).warning is None


def test_bytes_of_result_and_inputs_and_the_promoted_dtype():
    a, b = torch.randn(64, 1), torch.randn(1000, dtype=torch.float64)
    report = explain_broadcast(a, b)
    total = a + b
    assert (report.unit, report.dtype) == ("bytes", "float64")
    assert report.result_size == total.numel() * total.element_size()
    assert report.input_size == 64 * 4 + 1000 * 8


def test_an_expanded_input_counts_for_the_memory_it_occupies():
    wide = torch.randn(64, 1).expand(64, 1000)
    assert explain_broadcast(wide, torch.ones(1000)).input_size == 64 * 4 + 1000 * 4
    assert explain_broadcast(torch.ones(1, 3).expand(0, 3)).input_size == 0


DTYPES = (
    torch.uint8,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.bool,
)


def test_dtype_agrees_with_result_type_for_every_pair_with_and_without_dimensions():
    for left in DTYPES:
        for right in DTYPES:
            for shape in ((2,), ()):
                a, b = torch.ones(3, 2, dtype=left), torch.ones(shape, dtype=right)
                expected = str(torch.result_type(a, b)).removeprefix("torch.")
                assert explain_broadcast(a, b).dtype == expected


def test_dtype_of_three_operands_does_not_depend_on_a_lone_scalar():
    a, b, scalar = torch.ones(2, dtype=torch.float16), torch.ones(2, dtype=torch.int64), torch.tensor(1.0).double()
    assert explain_broadcast(a, b, scalar).dtype == "float16"
    assert explain_broadcast(b, b, scalar).dtype == "float64"


def test_dtypes_that_do_not_promote_leave_sizes_in_elements():
    report = explain_broadcast(torch.ones(2, 2).to(torch.float8_e4m3fn), torch.ones(2))
    assert (report.dtype, report.unit, report.result_size) == (None, "elements", 4)


def test_shapes_count_elements():
    report = explain_broadcast((32, 1), 64)
    assert (report.unit, report.input_size, report.result_size, report.dtype) == ("elements", 96, 2048, None)


@pytest.mark.parametrize(
    "operands",
    [
        (torch.zeros(()), torch.zeros(3)),
        (torch.zeros(0, 3), torch.zeros(1, 3)),
        (torch.zeros(3, 1).expand(3, 4), (4,)),
        (torch.zeros(3, 1, device="meta"), torch.Size([4])),
        ([2, 3], 3),
        ((np.int64(5),), (np.int32(4), 1)),
        (torch.eye(3).to_sparse(), torch.zeros(3, 3)),
    ],
)
def test_takes_tensors_and_shapes_of_every_kind(operands):
    report = explain_broadcast(*operands)
    tensors = [o if isinstance(o, torch.Tensor) else torch.empty(o, device="meta") for o in operands]
    assert report.shape == tuple(torch.broadcast_shapes(*(tensor.shape for tensor in tensors)))
    json.dumps(report.to_dict())


def test_operands_go_by_their_keyword():
    report = explain_broadcast((2, 3, 8, 8), mean=(3,), a=(8,))
    assert [operand.name for operand in report.operands] == ["b", "mean", "a"]
    assert report.fixes[0].code == "mean[:, None, None]"


def test_names_do_not_run_out():
    names = [operand.name for operand in explain_broadcast(*[(2, 1)] * 30).operands]
    assert names[25:28] == ["z", "a1", "b1"]
    assert len(set(names)) == 30


def test_a_conflict_is_counted_from_both_ends():
    conflict = explain_broadcast((5, 4, 3), (2, 3)).conflict
    assert conflict is not None
    assert (conflict.from_right, conflict.from_left, conflict.operands, conflict.sizes) == (-2, 1, ("a", "b"), (4, 2))


def test_the_culprit_is_named_among_more_than_two():
    report = explain_broadcast((4, 1), (1, 3), (5,))
    assert report.conflict is not None
    assert report.conflict.operands == ("b", "c")
    assert "Its tensor a is what it has broadcast so far" in str(report)


@pytest.mark.parametrize(
    ("operands", "error", "words"),
    [
        (
            (),
            BroadcastInputError,
            "Nothing was passed; expected tensors or shapes. Try explain_broadcast((32, 1), (32,))",
        ),
        (
            ((3, -1),),
            BroadcastInputError,
            "Operand a is the shape (3, -1), with the negative size -1; expected sizes of 0",
        ),
        ((3, -2), BroadcastInputError, "Operand b is the shape (-2,), with the negative size -2"),
        (((3, 2.0),), BroadcastTypeError, "whose size 2.0 is a float; expected whole numbers. Try int(…) on it"),
        (((True, 2),), BroadcastTypeError, "whose size True is a bool"),
        (
            (1.5,),
            BroadcastTypeError,
            "Operand a is 1.5 (float); expected a tensor or a shape such as (32, 1). Try torch.as",
        ),
        (
            ("(3, 1)",),
            BroadcastTypeError,
            "Operand a is '(3, 1)' (str); expected a tensor or a shape such as (32, 1). Try (32",
        ),
        (
            (np.zeros(3),),
            BroadcastTypeError,
            "(ndarray); expected a tensor or a shape such as (32, 1). Try torch.as_tensor(…)",
        ),
        ((None,), BroadcastTypeError, "Try x.shape, or the tensor itself."),
        ((((3, 1), (3,)),), BroadcastTypeError, "whose size (3, 1) is a tuple"),
    ],
)
def test_bad_input_is_named_with_what_was_expected_and_what_to_try(operands, error, words):
    with pytest.raises(error) as raised:
        explain_broadcast(*operands)
    assert words in str(raised.value)


REPORTS = [
    ((32, 1), (32,)),
    ((4, 3), (4, 2)),
    ((), ()),
    ((2, 3), (4, 5), (6, 7)),
    ((123456, 1, 98765, 3, 1, 7), (123456, 54321, 98765, 3, 9, 7), (7,), (1, 1), ()),
    tuple((2, 1, 3) for _ in range(12)),
]


@pytest.mark.parametrize("shapes", REPORTS)
def test_renders_in_80_columns_as_html_and_as_json(shapes):
    report = explain_broadcast(*shapes)
    assert max(len(line) for line in str(report).splitlines()) <= 80
    assert "<table" in report._repr_html_() or not any(shapes)
    assert json.loads(json.dumps(report.to_dict()))["possible"] is report.possible


def test_the_text_of_a_failure_is_complete():
    assert str(explain_broadcast((4, 3), (4,))) == (
        "✗ They do not broadcast: dimension -1 is 3 in a and 4 in b, and neither is 1.\n"
        "\n"
        " from right   from left   a   b   result   what happens\n"
        " ────────────────────────────────────────────────────────────────────────\n"
        "         -2           0   4   –   4        b: none → 4\n"
        "         -1           1   3   4   ✗        conflict: a has 3, b has 4   ◀\n"
        "\n"
        "PyTorch says: The size of tensor a (3) must match the size of tensor b (4) at\n"
        "non-singleton dimension 1\n"
        "Shortest fixes:\n"
        "\n"
        " write            result\n"
        " ───────────────────────\n"
        " b.unsqueeze(1)   (4, 3)\n"
        " a.mT             (3, 4)"
    )


def test_inputs_gradients_and_random_state_are_left_alone():
    a = torch.randn(3, 1, requires_grad=True)
    b = torch.randn(4).expand(2, 4)
    before = (a.detach().clone(), b.clone(), a._version, b.stride(), torch.get_rng_state())
    explain_broadcast(a, b)
    assert torch.equal(a.detach(), before[0])
    assert torch.equal(b, before[1])
    assert (a._version, b.stride(), a.grad) == (before[2], before[3], None)
    assert torch.equal(torch.get_rng_state(), before[4])


def test_a_report_cannot_be_changed():
    with pytest.raises(AttributeError):
        explain_broadcast((1,)).shape = (2,)
