"""``explain_view`` and ``memory_map`` against PyTorch itself, on tens of thousands of layouts."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from blackbelt.tensors import memory
from blackbelt.tensors.memory import NotStridedError, TooLargeToCountError, memory_map
from blackbelt.tensors.strides import ShapeTypeError, explain_view, view_stride

NUM_TRIPLES = 30_000
ADDRESSES = torch.arange(2**18)  # the value of a cell is its position, so a value tells which cell was read
PROBLEMS = {
    "view size is not compatible": "layout",
    "is invalid for input of size": "count",
    "cannot reshape tensor of 0 elements": "count",
    "invalid shape dimension": "shape",
    "only one dimension can be inferred": "shape",
}


# --- random layouts ---------------------------------------------------------------------------------------------------


def random_layout(rng):
    size = [rng.choice((0, 1, 1, 2, 2, 3, 3, 4, 6)) for _ in range(rng.randint(0, 5))]
    if rng.random() < 0.85:
        size = [max(n, 1) for n in size]
    kind = rng.choice(("dense", "permuted", "permuted", "sliced", "expanded", "overlapping", "any"))
    order = list(range(len(size)))
    if kind in ("permuted", "expanded"):
        rng.shuffle(order)
    stride, step = [0] * len(size), 1
    for dim in reversed(order):
        if kind == "sliced" and rng.random() < 0.4:
            step *= rng.choice((2, 3))
        stride[dim] = step
        step *= max(size[dim], 1)
    for dim in range(len(size)):
        if kind == "expanded" and rng.random() < 0.5:
            stride[dim] = 0
        if kind == "any" or (kind == "overlapping" and rng.random() < 0.5) or (size[dim] == 1 and rng.random() < 0.5):
            stride[dim] = rng.randint(0, 9)
    return tuple(size), tuple(stride)


def random_shape(rng, size):
    """Mostly shapes of as many elements (neighbors merged and split), with ones, a -1 or plain nonsense mixed in."""
    shape = list(size)
    for _ in range(rng.randint(0, 3)):
        if len(shape) > 1 and rng.random() < 0.5:
            dim = rng.randrange(len(shape) - 1)
            shape[dim : dim + 2] = [shape[dim] * shape[dim + 1]]
        elif shape:
            dim = rng.randrange(len(shape))
            divisors = [d for d in range(1, shape[dim] + 1) if shape[dim] % d == 0] or [0]
            divisor = rng.choice(divisors)
            shape[dim : dim + 1] = [divisor, shape[dim] // divisor if divisor else rng.randint(0, 3)]
    for _ in range(rng.choice((0, 0, 1, 2))):
        shape.insert(rng.randint(0, len(shape)), 1)
    if shape and rng.random() < 0.25:
        shape[rng.randrange(len(shape))] = -1
    if shape and rng.random() < 0.15:
        shape[rng.randrange(len(shape))] = rng.choice((-3, -2, -1, 0, 2, 5, 7))
    if rng.random() < 0.05:
        rng.shuffle(shape)
    return tuple(shape)


def triples(seed, number):
    rng = random.Random(seed)
    for _ in range(number):
        size, stride = random_layout(rng)
        yield size, stride, random_shape(rng, size)


def problem_of(error):
    return next(problem for words, problem in PROBLEMS.items() if words in str(error))


def holds_evenly(addresses, shape):
    """Say whether any strides at all would read these cells in this order: the address must be linear in the index."""
    grid = addresses.reshape(shape)
    start = grid.flatten()[0]
    linear = start.clone()
    for dim, n in enumerate(shape):
        along = grid.select(dim, min(1, n - 1))
        step = along.flatten()[0] - start
        linear = linear + step * torch.arange(n).view([-1 if d == dim else 1 for d in range(len(shape))])
    return torch.equal(linear.expand(shape), grid)


# --- explain_view -----------------------------------------------------------------------------------------------------


def test_agrees_with_view_on_every_triple():
    seen = dict.fromkeys(("", "layout", "count", "shape"), 0)
    for size, stride, shape in triples(1, NUM_TRIPLES):
        tensor = ADDRESSES.as_strided(size, stride)
        report = explain_view(tensor, shape)
        try:
            viewed = tensor.view(shape)
        except RuntimeError as error:
            told = (False, problem_of(error), None, None)
        else:
            told = (True, "", tuple(viewed.shape), viewed.stride())
        shape_told = report.result_shape if report.possible else None
        assert (report.possible, report.problem, shape_told, report.result_stride) == told, (size, stride, shape)
        seen[report.problem] += 1
    assert min(seen.values()) > 500, seen


def test_where_view_is_refused_no_strides_would_do():
    refused = 0
    for size, stride, shape in triples(2, 4_000):
        tensor = ADDRESSES.as_strided(size, stride)
        report = explain_view(tensor, shape)
        if report.result_shape is None or tensor.numel() == 0:
            continue
        assert holds_evenly(tensor.reshape(report.result_shape), report.result_shape) == report.possible, (
            size,
            stride,
            shape,
        )
        refused += not report.possible
    assert refused > 300


def test_every_way_works_and_copies_what_it_says():
    tried = dict.fromkeys(("view", "reshape", "expand", "permute"), 0)
    for size, stride, shape in triples(3, 10_000):
        tensor = ADDRESSES.as_strided(size, stride)
        report = explain_view(tensor, shape)
        assert (report.bytes_copied > 0) == (report.problem == "layout")
        for way in report.ways:
            result = eval(way.code, {"tensor": tensor})
            shares = result.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
            copied = 0 if shares or not result.numel() else result.untyped_storage().nbytes()
            assert copied == way.bytes_copied, (size, stride, shape, way)
            if report.result_shape is not None:
                assert tuple(result.shape) == report.result_shape
            expected = tensor.reshape(result.shape)
            if way.same_order:
                assert torch.equal(result, expected), (size, stride, shape, way)
            else:
                assert torch.equal(result.flatten().sort().values, expected.flatten().sort().values), way
            tried[next(name for name in ("permute", "expand", "reshape", "view") if f".{name}(" in way.code)] += 1
        if report.problem in ("layout", ""):
            assert report.ways[0].bytes_copied == report.bytes_copied
            assert report.ways[0].same_order
    assert min(tried.values()) > 30, tried


def test_every_count_problem_with_a_dimension_offers_a_way():
    for size, stride, shape in triples(4, 4_000):
        report = explain_view(torch.empty_strided(size, stride, device="meta"), shape)
        if report.problem == "count":
            assert report.ways, (size, shape)


def test_another_order_keeps_the_elements_of_each_row():
    tensor = torch.arange(120).view(2, 3, 4, 5).to(memory_format=torch.channels_last)
    report = explain_view(tensor, 2, 60)
    way = report.ways[1]
    assert way.code == "tensor.permute(0, 2, 3, 1).view(2, 60)"
    result = eval(way.code, {"tensor": tensor})
    assert torch.equal(result.sort(dim=1).values, tensor.reshape(2, 60).sort(dim=1).values)


def test_stretched_rows_are_copied_once():
    tensor = torch.arange(24.0).view(6, 4).t().expand(64, 4, 6)
    report = explain_view(tensor, (64, 24))
    assert report.ways[0].code == "tensor[:1].reshape(1, 24).expand(64, 24)"
    assert (report.bytes_copied, report.ways[1].bytes_copied) == (96, 64 * 96)


def test_failure_is_located():
    report = explain_view(torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last), (2, 60))
    assert (report.failed_dim, report.failed_between) == (1, (1, 2))
    assert [chunk.dims for chunk in report.chunks] == [(0,), (1,), (2, 3)]
    assert report.reason == (
        "Tensor dimensions 2 to 3 are one run of memory: 20 elements, 3 apart. New dimension 1, of size 60, would have "
        "to leave that run and go on into tensor dimension 1. Going on evenly needs stride[1] to be 20 × 3 = 60, and "
        "it is 1. One dimension has one stride, so no view can do it."
    )


@pytest.mark.parametrize(
    ("shape", "problem", "reason", "ways"),
    [
        (
            (5, 5),
            "count",
            "24 elements do not fill the shape (5, 5), which has room for 25: 1 too many.",
            ["tensor.view(4, 6)"],
        ),
        (
            (5, 4),
            "count",
            "24 elements do not fill the shape (5, 4), which has room for 20: 4 are left over.",
            ["tensor.view(6, 4)"],
        ),
        (
            (-1, 5),
            "count",
            "24 elements do not divide into 5 equal parts, so no size fits the -1.",
            ["tensor.view(6, 4)"],
        ),
        (
            (),
            "count",
            "24 elements do not fill the shape (), which has room for 1: 23 are left over.",
            ["tensor.view(24)"],
        ),
        (
            (-1, 0),
            "count",
            "24 elements do not divide into 0 equal parts, so no size fits the -1.",
            ["tensor.view(24, 1)"],
        ),
        ((-1, 4, -1), "shape", "Dimensions 0 and 2 are both -1; one can be inferred: say the other.", []),
        ((4, -6), "shape", "Dimension 1 is -6: a size is 0 or more, or -1 once, for the one to infer.", []),
    ],
)
def test_wording_of_impossible_shapes(shape, problem, reason, ways):
    report = explain_view(torch.empty(24), shape)
    assert (report.possible, report.problem, report.reason) == (False, problem, reason)
    assert [way.code for way in report.ways] == ways


def test_ambiguous_inference_without_elements():
    report = explain_view(torch.empty(0, 3), -1, 0)
    assert report.reason == "0 elements fit (-1, 0) with any size in place of the -1: say which."
    assert report.ways[0].code == "tensor.view(0, 0)"


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((0, 3), (2**32, 2**32)),
        ((0, 3), (2**62, 2**62, 0)),
        ((0, 3), (0, 2**62, 2**62)),
        ((0, 3), (2**62, 0)),
        ((24,), (8, 2**61 + 3)),
        ((24,), (2**62, 2**62)),
        ((24,), (2**62, 4, -1)),
        ((0, 3), (2**62, 4, -1)),
        ((1,), (2**32, 2**32, 0)),
    ],
)
def test_sizes_near_the_limit_of_64_bits(size, shape):
    tensor = torch.empty(size)
    report = explain_view(tensor, shape)
    try:
        viewed = tensor.view(shape)
    except RuntimeError:
        assert not report.possible
    else:
        assert (report.result_shape, report.result_stride) == (tuple(viewed.shape), viewed.stride())


def test_shape_is_taken_as_view_takes_it():
    tensor = torch.empty(4, 6)
    asked = [explain_view(tensor, *shape).shape for shape in (((2, 12),), ([2, 12],), (2, 12), (torch.Size([2, 12]),))]
    assert asked == [(2, 12)] * 4
    assert explain_view(tensor, torch.tensor(24)).possible
    assert explain_view(torch.tensor(1.0), ()).possible


@pytest.mark.parametrize("shape", [("24",), (24.0,), (True,), ((2, None),), ((2, (12,)),), (2**63,), (torch.ones(2),)])
def test_shape_of_other_things_is_refused(shape):
    with pytest.raises(ShapeTypeError, match=r"explain_view got the (shape|size) .*; pass "):
        explain_view(torch.empty(24), *shape)


def test_meta_and_fake_tensors_are_explained():
    assert explain_view(torch.empty_strided((6, 4), (1, 6), device="meta"), 24).problem == "layout"
    with FakeTensorMode():
        assert explain_view(torch.empty(4, 6).t(), 24).problem == "layout"
        assert memory_map(torch.empty(4, 6)[1:]).num_unread == 6
    assert memory_map(torch.empty(4, 6, device="meta")[:, :2]).num_read == 8


def symbolic_tensor():
    mode = FakeTensorMode(shape_env=ShapeEnv())
    tensor = torch.empty(4, 6)
    return mode.from_tensor(tensor, static_shapes=False)


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning", "ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("tool", [memory_map, lambda tensor: explain_view(tensor, 4)])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: [1, 2, 3, 4], "got list, and needs a torch.Tensor"),
        (lambda: torch.eye(2).to_sparse(), "layout torch.sparse_coo, which has no strides; pass tensor.to_dense()"),
        (lambda: torch.eye(4).to_sparse_csr(), "layout torch.sparse_csr"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "got a nested tensor"),
        (lambda: torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged), "got a nested tensor"),
        (symbolic_tensor, "symbolic sizes"),
    ],
)
def test_what_has_no_strides_is_refused(tool, make, words):
    with pytest.raises(NotStridedError) as caught:
        tool(make())
    assert words in str(caught.value)
    assert " pass " in str(caught.value) or "makes one" in str(caught.value)


@pytest.mark.parametrize("tool", [memory_map, lambda tensor: explain_view(tensor, 4)])
def test_tensors_inside_transforms_are_refused(tool):
    def call(tensor):
        with pytest.raises(NotStridedError, match="outside the transform"):
            tool(tensor)
        return tensor

    torch.vmap(call)(torch.ones(3, 4))


# --- memory_map -------------------------------------------------------------------------------------------------------


def test_counts_agree_with_counting_every_read():
    overlapping = 0
    for size, stride, _ in triples(5, 4_000):
        report = memory_map(ADDRESSES.as_strided(size, stride, 3))
        reads = torch.bincount(ADDRESSES.as_strided(size, stride, 3).flatten(), minlength=1)
        assert (report.num_read, report.num_shared) == (int((reads > 0).sum()), int((reads > 1).sum())), (size, stride)
        overlapping += report.num_shared > 0
    assert overlapping > 300


def test_counts_are_exact_for_huge_layouts():
    windows = torch.empty_strided((999_998, 3), (1, 1), device="meta")
    report = memory_map(windows)
    assert (report.num_read, report.num_shared) == (1_000_000, 999_998)
    batched = torch.empty_strided((4, 998, 3, 5), (10**9, 1, 1, 0), device="meta")
    assert memory_map(batched).num_read == 4000
    with pytest.raises(TooLargeToCountError, match="pass a smaller tensor of the same kind"):
        memory_map(torch.empty_strided((2**31, 2), (1, 1), device="meta"))


def test_drawn_cells_name_the_indices_that_read_them():
    for size, stride, _ in triples(6, 500):
        tensor = torch.arange(90).as_strided(size, stride) if _reach(size, stride) < 90 else None
        if tensor is None:
            continue
        report = memory_map(tensor)
        assert [cell.position for cell in report.drawn] == list(range(90))
        for cell in report.drawn:
            assert cell.num_readers == min(int((tensor == cell.position).sum()), memory.MAX_READERS)
            assert all(tensor[index] == cell.position for index in cell.readers)


def _reach(size, stride):
    return sum((n - 1) * step for n, step in zip(size, stride)) if 0 not in size else 0


def test_in_place_says_what_pytorch_does():
    said = dict.fromkeys(("safe", "refused", "unchecked"), 0)
    for size, stride, _ in triples(7, 3_000):
        tensor = torch.zeros(2**14).as_strided(size, stride)
        report = memory_map(tensor)
        try:
            tensor.add_(1)
            refused = False
        except RuntimeError as error:
            refused = "more than one element of the written-to tensor" in str(error)
        assert (report.in_place == "refused") == refused, (size, stride)
        if report.in_place == "safe":
            assert report.num_shared == 0
        said[report.in_place] += 1
    assert min(said.values()) > 100, said


def test_slice_of_a_large_storage():
    big = torch.zeros(1_000_000)
    report = memory_map(big[500:510])
    assert (report.alive_bytes, report.needed_bytes, report.clone_bytes) == (4_000_000, 40, 40)
    assert big[500:510].clone().untyped_storage().nbytes() == report.clone_bytes
    assert len(report.drawn) <= memory.MAX_DRAWN_CELLS
    assert report.num_cells_before + len(report.drawn) + report.num_cells_after == 1_000_000
    text = str(report)
    assert "Reads 10 of 1,000,000 storage cells: 40 B of 3.815 MiB." in text
    assert "`tensor.clone()` keeps 40 B instead of 3.815 MiB" in text


@pytest.mark.parametrize(
    ("make", "verdict"),
    [
        (lambda: torch.ones(4, 6), "Reads 24 of 24 storage cells: 96 B of 96 B."),
        (lambda: torch.ones(24)[:0], "Reads no cell at all, and keeps 96 B alive."),
        (lambda: torch.empty(0), "Reads no cell at all, and keeps 0 B alive."),
        (lambda: torch.tensor(1.0), "Reads 1 of 1 storage cells: 4 B of 4 B."),
        (lambda: torch.ones(3).expand(4, 3), "3 of them are read by more than one index."),
        (lambda: torch.ones(8).view(torch.float64)[1:], "Reads 3 of 4 storage cells: 24 B of 32 B."),
        (lambda: torch.nn.Parameter(torch.ones(3)), "Reads 3 of 3 storage cells"),
    ],
)
def test_verdicts(make, verdict):
    assert verdict in " ".join(str(memory_map(make())).split())


# --- reports ----------------------------------------------------------------------------------------------------------


def reports():
    for size, stride, shape in triples(8, 80):
        tensor = ADDRESSES.as_strided(size, stride)
        yield explain_view(tensor, shape)
        yield memory_map(tensor)
        yield memory_map(torch.arange(90).as_strided(size, stride)) if _reach(size, stride) < 90 else memory_map(tensor)


def test_reports_are_readable_everywhere():
    for report in reports():
        assert max(map(len, str(report).splitlines())) <= 80, str(report)
        assert json.loads(json.dumps(report.to_dict()))
        html = report._repr_html_()
        assert html.startswith("<div")
        assert "<svg" not in html


def test_many_dimensions_and_large_sizes_stay_within_80_columns():
    tensor = torch.empty_strided((1,) * 20 + (123_456_789,), (7,) * 20 + (1_000_000,), device="meta")
    report = explain_view(tensor, (123_456_789, *(1,) * 20))
    assert report.possible
    assert max(map(len, str(report).splitlines())) <= 80


def test_inputs_and_random_state_are_left_alone():
    tensor = torch.randn(4, 6, requires_grad=True)
    transposed = tensor.t()
    before = (tensor.detach().clone(), torch.get_rng_state(), transposed.stride(), tensor._version)
    explain_view(transposed, 24)
    memory_map(transposed)
    assert torch.equal(before[0], tensor)
    assert torch.equal(before[1], torch.get_rng_state())
    assert (transposed.stride(), tensor._version, tensor.grad) == (before[2], before[3], None)


def test_view_stride_is_usable_alone():
    assert view_stride((6, 4), (1, 6), (2, 3, 4)) == (3, 1, 6)
    assert view_stride((6, 4), (1, 6), (24,)) is None
    assert math.prod((2, 3, 4)) == 24
