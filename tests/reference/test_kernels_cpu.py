"""What is particular to the kernels in C++: ends of rows, special numbers, threads, and rows that threads share."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.nn import functional

from tests.reference.kernels_cases import DTYPES, OPERATORS, assert_accurate, available, case

ALL_DTYPES = (*DTYPES, torch.float64)
ROWS = ("bias_gelu", "softmax", "rms_norm", "cross_entropy")
INFINITY, NAN = float("inf"), float("nan")
SHARED = (1, 100_003)  # fewer rows than threads, more than two blocks


@pytest.fixture(autouse=True)
def _has_compiler():
    available("cpp")


@pytest.fixture(name="cpp")
def backend_module():
    from blackbelt.reference.kernels import _build

    _build.load("cpu")
    from blackbelt.reference.kernels import _cpp

    return _cpp


@contextlib.contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def calls(cpp, shape, dtype):
    """Return each kernel with arguments bound: what it returns, as a list of tensors."""
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    vector = torch.randn(shape[1], generator=generator, dtype=torch.float64).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    target = torch.randint(shape[1], shape[:1], generator=generator)
    target[::3] = -100
    ones, factor = torch.ones(shape[0], dtype=wide), torch.tensor(0.5, dtype=wide)

    def in_place():
        logits = x.clone()
        return [cpp.cross_entropy_(logits, target, -100, factor), logits]

    rstd, lse = cpp.rms_norm(x, vector, 1e-6)[1], cpp.cross_entropy(x, target, -100)[1]
    return {
        "bias_gelu": lambda: [cpp.bias_gelu(x, vector)],
        "bias_gelu_backward": lambda: [*cpp.bias_gelu_backward(g, x, vector)],
        "softmax": lambda: [cpp.softmax(x)],
        "softmax_backward": lambda: [cpp.softmax_backward(g, cpp.softmax(x))],
        "rms_norm": lambda: [*cpp.rms_norm(x, vector, 1e-6)],
        "rms_norm_backward": lambda: [*cpp.rms_norm_backward(g, x, vector, rstd)],
        "cross_entropy": lambda: [*cpp.cross_entropy(x, target, -100)],
        "cross_entropy_backward": lambda: [cpp.cross_entropy_backward(ones, x, target, lse, -100)],
        "cross_entropy_": in_place,
    }


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(70, 33), (130, 1030), SHARED], ids=str)
def test_one_thread_and_two_give_the_same_bits(cpp, shape, dtype):
    # Of a row that is shared the blocks are summed one by one, of another the whole: bits may differ, the law holds.
    same_bits = shape != SHARED
    for name, call in calls(cpp, shape, dtype).items():
        with threads(1):
            alone = call()
        with threads(2):
            together = call()
        for a, b in zip(alone, together):
            if same_bits:
                assert torch.equal(a, b), name
            else:
                torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_threads_share_obey_the_law(name, dtype):
    with threads(2):
        assert_accurate(OPERATORS[name], case(OPERATORS[name], SHARED), dtype, backend="cpp")


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_every_end_of_a_row(cpp, dtype):
    """1 to 70 columns, each column as large as in a row of its own: a lane too many or too few would show."""
    for columns in range(1, 71):
        x = torch.linspace(-3, 3, 3 * columns, dtype=torch.float64).reshape(3, columns).to(dtype)
        vector = torch.linspace(1, 2, columns, dtype=torch.float64).to(dtype)
        exact = x.double(), vector.double()
        pairs = {
            "softmax": (cpp.softmax(x), exact[0].softmax(-1)),
            "bias_gelu": (cpp.bias_gelu(x, vector), functional.gelu(sum(exact))),
            "rms_norm": (cpp.rms_norm(x, vector, 1e-6)[0], functional.rms_norm(exact[0], (columns,), exact[1], 1e-6)),
        }
        for name, (got, right) in pairs.items():
            torch.testing.assert_close(got, right.to(dtype), msg=lambda m, n=name, c=columns: f"{n}, {c} columns: {m}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_streamed_stores_reach_every_element(cpp, dtype):
    """Results of more than 16 MiB, in rows of which none but the first begins at a multiple of 64 bytes."""
    x = torch.randn(129, 70_001).to(dtype)
    assert x.nbytes > 16 << 20
    bias = torch.zeros(x.size(1), dtype=dtype)
    for got, call in ((cpp.softmax(x), cpp.softmax), (cpp.bias_gelu(x, bias), lambda t: cpp.bias_gelu(t, bias))):
        few = torch.cat([call(rows.contiguous()) for rows in x.split(43)])  # 12 MiB; none alone, which is shared
        assert torch.equal(got, few)


def special_rows(dtype):
    row = torch.linspace(-3, 3, 70)
    rows = torch.stack([row, row, row, row, torch.full((70,), -INFINITY), row])
    rows[0, 3], rows[1, 69], rows[2, 40], rows[3, :60] = NAN, NAN, INFINITY, -INFINITY
    return rows.to(dtype)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_nan_and_infinities_come_out_where_pytorchs_do(cpp, dtype):
    rows, target = special_rows(dtype), torch.full((6,), 65)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert torch.equal(cpp.softmax(rows).isnan(), rows.softmax(-1).isnan())

    leaf = rows.clone().requires_grad_()
    losses = functional.cross_entropy(leaf.to(wide), target, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    got, lse = cpp.cross_entropy(rows, target, -100)
    torch.testing.assert_close(got, losses.detach(), equal_nan=True)
    ones, overwritten = torch.ones(6, dtype=wide), rows.clone()
    cpp.cross_entropy_(overwritten, target, -100, torch.tensor(1.0, dtype=wide))
    for of_ours in (cpp.cross_entropy_backward(ones, rows, target, lse, -100), overwritten):
        assert torch.equal(of_ours.isnan(), gradient.isnan())
        torch.testing.assert_close(of_ours, gradient, equal_nan=True)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_nan_comes_through_gelu_and_rms_norm(cpp, dtype):
    rows, ones = special_rows(dtype), torch.ones(70, dtype=dtype)
    out = cpp.bias_gelu(rows, ones - 1)
    assert torch.equal(out.isnan(), rows.isnan() | (rows == -INFINITY))  # −∞·Φ(−∞) is −∞·0
    assert out[2, 40] == INFINITY
    assert torch.equal(
        cpp.rms_norm(rows, ones, 1e-6)[0].isnan(), functional.rms_norm(rows, (70,), ones, 1e-6).isnan()
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(0, 7), (5, 0), (0, 0)], ids=str)
def test_nothing_gives_nothing(cpp, shape):
    for name, call in calls(cpp, (3, 7), torch.float32).items():
        assert all(t.isfinite().all() for t in call()), name
    empty, vector = torch.empty(shape), torch.ones(shape[1])
    assert cpp.softmax(empty).shape == cpp.bias_gelu(empty, vector).shape == shape
    grad_input, grad_bias = cpp.bias_gelu_backward(empty, empty, vector)
    assert grad_input.shape == shape and torch.equal(grad_bias, torch.zeros_like(vector))


@pytest.mark.parametrize("rung", ["naive", "tiles", "registers"])
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_matmul_at_every_edge_of_its_blocks(cpp, rung, dtype):
    """Whole numbers, whose products and sums are exact: every block, and every edge of one, must be equal."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(1, 1, 1), (13, 31, 5), (14, 32, 256), (15, 33, 257), (169, 65, 300), (5, 2050, 3), (3, 4, 0), (0, 4, 3)]
    for m, n, k in sizes:
        a, b = (torch.randint(-2, 3, s, generator=generator).to(dtype) for s in ((m, k), (k, n)))
        right = (a.double() @ b.double()).to(dtype)
        assert torch.equal(cpp.matmul(a, b, rung), right), (m, n, k)


def test_target_out_of_range_is_an_index_error(cpp):
    with pytest.raises(IndexError, match="Target 7 is out of bounds for 7 classes"):
        cpp.cross_entropy(torch.randn(3, 7), torch.tensor([0, 7, 1]), -100)


def test_unknown_rung_is_refused(cpp):
    with pytest.raises(ValueError, match=r"rung is 'tensor_cores'; on the CPU there are 'naive', 'tiles', 'registers'"):
        cpp.matmul(torch.randn(2, 2), torch.randn(2, 2), "tensor_cores")
