"""The Triton kernels on Triton's interpreter, which must be chosen before triton is imported: run as a program.

float32 and float16 through the public functions, with the tiles a GPU would get and with tiles so small that every loop
goes round several times; bfloat16 where a kernel widens what it loads, with PyTorch's rounding put in for the
interpreter's, which cuts bits off.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch.nn import functional
from triton.runtime import interpreter

from blackbelt.reference import kernels
from blackbelt.reference.kernels import (
    _triton,
    _triton_bias_gelu,
    _triton_matmul,
    _triton_rms_norm,
    _triton_rows,
)
from tests.reference.kernels_cases import (
    LAYOUTS,
    OPERATORS,
    Case,
    assert_accurate,
    assert_law,
    case,
    shapes_of,
)

COUNT = 0
INFINITY = torch.inf


def done(number: int = 1) -> None:
    global COUNT  # noqa: PLW0603  (one number for the whole program)
    COUNT += number


@contextlib.contextmanager
def small_tiles() -> Iterator[None]:
    """Tiles of a few elements: every row is long, every matrix has several tiles each way, every group several rows."""
    changes = {
        _triton_rows: {"LONGEST_IN_ONE_BLOCK": 16, "BLOCK_OF_A_LONG_ROW": 16, "SMALLEST_TILE": 32},
        _triton_rms_norm: {"LONGEST_IN_ONE_BLOCK": 64, "PROGRAMS": 2},
        _triton_bias_gelu: {
            "WIDEST_TILE": 16, "ELEMENTS_OF_A_TILE": 64, "ELEMENTS_OF_A_COLUMN_TILE": 512, "PROGRAMS": 4,
        },
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        for module, values in changes.items():
            stack.enter_context(mock.patch.multiple(module, **values))
        yield


@contextlib.contextmanager
def exact_functions() -> Iterator[None]:
    """Round exp, log, rsqrt and the sum of a tile once: numpy's are off by up to four units in the last place.

    The kernels' arithmetic is held to the law here, not numpy's. What a GPU's own exp does to it, no interpreter tells.
    """

    def rounded_once(function):
        def apply(builder, arg):
            return interpreter.TensorHandle(function(arg.data.astype(np.float64)).astype(arg.data.dtype), arg.dtype)

        return apply

    def total(reduction, tensor):
        # A GPU adds the elements of a tile in a tree; numpy adds rows one after the other.
        data = tensor.handle.data
        wide = np.sum(data, axis=reduction.axis, keepdims=reduction.keep_dims, dtype=np.float64)
        return reduction.to_tensor(wide.astype(data.dtype), tensor.dtype)

    functions = {"create_exp": np.exp, "create_log": np.log, "create_rsqrt": lambda x: 1 / np.sqrt(x)}
    changes = {name: rounded_once(function) for name, function in functions.items()}
    with (
        mock.patch.multiple(interpreter.InterpreterBuilder, **changes),
        mock.patch.object(interpreter.ReduceOps, "sum", total),
    ):
        yield


@contextlib.contextmanager
def rounding_to_bfloat16() -> Iterator[None]:
    """Round float32 to bfloat16 as a GPU and PyTorch do; the interpreter drops the lower half of the bits."""
    cut_off = interpreter._convert_float

    def convert(data, source, target, mode):
        if source == tl.float32 and target == tl.bfloat16:
            rounded = torch.from_numpy(np.ascontiguousarray(data)).bfloat16().view(torch.int16)
            return rounded.numpy().view(np.uint16).reshape(data.shape)
        return cut_off(data, source, target, mode)

    with mock.patch.object(interpreter, "_convert_float", convert):
        yield


def law(name: str, exact: torch.Tensor, got: torch.Tensor, theirs: torch.Tensor) -> None:
    assert_law(name, [exact], [got], [[theirs]])


def once(problem: Case) -> Case:
    """Where there are thousands of numbers their largest error is no matter of luck: one draw is enough."""
    return replace(problem, draws=())


def check_shapes() -> None:
    for name, operator in OPERATORS.items():
        for shape in shapes_of(name).values():
            if name == "matmul" and max(shape) > 1024:
                continue  # thousands of tiles or of steps along k, for the interpreter; check_rungs has some
            for dtype in (torch.float32, torch.float16):
                problem = case(operator, shape)
                problem = once(problem) if shape[-1] > 100 and math.prod(shape) > 10_000 else problem
                assert_accurate(operator, problem, dtype, backend="triton")
                done()


def check_layouts() -> None:
    for operator in OPERATORS.values():
        for layout in LAYOUTS.values():
            assert_accurate(operator, case(operator, (9, 17), layout), torch.float32, backend="triton")
            done()


def check_loops() -> None:
    """Small tiles: rows of several blocks, the last of them not full, groups of several rows."""
    with small_tiles():
        for operator in OPERATORS.values():
            for shape in ((7, 1), (3, 16), (37, 61), (11, 100)):
                for dtype in (torch.float32, torch.float16):
                    problem = case(operator, shape)
                    problem = once(problem) if shape[-1] > 100 and math.prod(shape) > 10_000 else problem
                    assert_accurate(operator, problem, dtype, backend="triton")
                    done()


def check_bfloat16() -> None:
    with rounding_to_bfloat16():
        for name in ("bias_gelu", "softmax", "rms_norm", "cross_entropy"):
            for tiles in (contextlib.nullcontext, small_tiles):
                with tiles():
                    operator = OPERATORS[name]
                    assert_accurate(operator, once(case(operator, (3, 5, 123))), torch.bfloat16, backend="triton")
                    done()


def infinite_rows() -> torch.Tensor:
    """Rows with −inf in their first blocks, in all, in some, and with +inf and NaN."""
    rows = torch.randn(7, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[0] = -INFINITY
    rows[1, :40] = -INFINITY
    rows[2, 40:] = -INFINITY
    rows[3, ::2] = -INFINITY
    rows[4, 7] = INFINITY
    rows[5, 45] = torch.nan
    return rows


def check_infinities() -> None:
    """Where PyTorch's result is NaN or infinite, ours is, with one block and with several."""
    rows = infinite_rows()
    targets = [torch.tensor([3, 45, 45, 2, 7, 1, 0]), torch.tensor([0, 3, 2, -100, 0, 45, 49])]
    for tiles in (contextlib.nullcontext, small_tiles):
        for dtype in (torch.float32, torch.float16):
            with tiles():
                assert_accurate(OPERATORS["softmax"], Case([rows]), dtype, backend="triton")
                for target in targets:
                    problem = Case([rows, target], {"reduction": "none"})
                    assert_accurate(OPERATORS["cross_entropy"], problem, dtype, backend="triton")
                    assert_in_place(rows, target, dtype)
                done(5)


def assert_in_place(rows: torch.Tensor, target: torch.Tensor, dtype: torch.dtype, **kwargs: object) -> None:
    """The losses, and what lies over the logits, against PyTorch's loss and its gradient."""
    ignored = int(kwargs.get("ignore_index", -100))
    held, factor = rows.to(dtype).double(), torch.tensor(0.25)
    results = []
    for precision in (torch.float64, dtype):
        leaf = held.to(precision).requires_grad_()
        losses = functional.cross_entropy(leaf, target, ignore_index=ignored, reduction="none")
        (grad,) = torch.autograd.grad(losses, leaf, torch.full_like(losses, 0.25))
        results.append((losses.detach(), grad))
    logits = held.to(dtype)
    losses = _triton.cross_entropy_(logits, target, ignored, factor)
    assert losses.dtype == torch.float32
    (right, right_grad), (theirs, their_grad) = results
    law("losses in place", right, losses.to(dtype), theirs)
    gone = target == ignored
    assert not logits[gone].any()  # PyTorch's is NaN · 0 there where the row is −inf alone
    law("gradient in place", right_grad[~gone], logits[~gone], their_grad[~gone])


def check_in_place() -> None:
    generator = torch.Generator().manual_seed(2)
    for tiles in (contextlib.nullcontext, small_tiles):
        for shape in ((1, 1), (5, 123), (33, 50)):
            rows = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
            target = torch.randint(shape[1], shape[:1], generator=generator)
            for ignored in (-100, 0, 1, 2**40):
                with tiles():
                    assert_in_place(rows, target, torch.float32, ignore_index=ignored)
                    assert_in_place(rows, target, torch.float16, ignore_index=ignored)
                done(2)
    logits = torch.randn(6, 40, generator=generator).requires_grad_()
    target = torch.tensor([3, -100, 39, 0, 1, -100])
    loss = kernels.cross_entropy(logits.clone(), target, inplace=True, backend="triton")
    (grad,) = torch.autograd.grad(loss, logits)
    (expected,) = torch.autograd.grad(functional.cross_entropy(logits, target), logits)
    torch.testing.assert_close(grad, expected)
    done()


def check_confident_rows() -> None:
    """Large logits and a sure target: the loss is a small number, and must not be the difference of large ones."""
    rows = torch.full((4, 40), -20.0, dtype=torch.float64)
    rows[range(4), [0, 13, 20, 39]] = torch.tensor([-12.0, -9.0, -5.0, 0.0], dtype=torch.float64)
    target = torch.tensor([0, 13, 20, 39])
    for tiles in (contextlib.nullcontext, small_tiles):
        with tiles():
            for offset in (0.0, 1024.0):
                problem = Case([rows + offset, target], {"reduction": "none"})
                exact = OPERATORS["cross_entropy"].theirs(rows + offset, target, reduction="none")
                held = (rows + offset).float()
                losses, lse = _triton.cross_entropy(held, target, -100)
                theirs = OPERATORS["cross_entropy"].theirs(held, target, reduction="none")
                law("losses", exact, losses, theirs)
                torch.testing.assert_close(lse.double(), problem.tensors[0].logsumexp(-1), rtol=0, atol=2e-7)
                done(2)


def check_long_rows() -> None:
    """2^20 columns, with the tiles that a GPU would get."""
    for name in ("softmax", "rms_norm", "cross_entropy"):
        operator = OPERATORS[name]
        assert_accurate(operator, once(case(operator, (1, 2**20))), torch.float16, backend="triton")
        done()
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(2, 2**20, generator=generator, dtype=torch.float64)
    assert_in_place(rows, torch.tensor([2**20 - 1, -100]), torch.float32)
    done()


def check_targets_are_asserted() -> None:
    """A target that is no class stops the kernel: here an AssertionError, on a GPU a device assertion."""
    debug = replace(interpreter.interpreter_builder.options, debug=True, sanitize_overflow=False)
    for wrong in (-1, 5, 2**33):
        target = torch.tensor([0, wrong, 2])
        calls = (
            lambda target: _triton.cross_entropy(torch.zeros(3, 5), target, -100),
            lambda target: _triton.cross_entropy_(torch.zeros(3, 5), target, -100, torch.tensor(1.0)),
        )
        for call in calls:
            with mock.patch.object(interpreter.interpreter_builder, "options", debug):
                call(torch.tensor([0, -100, 2]))
                with pytest.raises(interpreter.InterpreterError, match="target is no class"):
                    call(target)
            done()


def check_rungs() -> None:
    generator = torch.Generator().manual_seed(4)
    for m, n, k in ((1, 1, 1), (5, 7, 3), (33, 17, 130), (20, 70, 40)):
        a = torch.randn(m, k, generator=generator, dtype=torch.float64)
        b = torch.randn(k, n, generator=generator, dtype=torch.float64)
        for dtype in (torch.float32, torch.float16):
            held = a.to(dtype), b.to(dtype)
            exact = held[0].double() @ held[1].double()
            for rung in _triton.RUNGS:
                law(rung, exact, _triton.matmul(*held, rung), held[0] @ held[1])
                done()
    for rung in ("registers", "tensor_cores", "fast"):
        with pytest.raises(ValueError, match=f"rung is {rung!r}.*tl.dot"):
            _triton.matmul(torch.ones(2, 2), torch.ones(2, 2), rung)
        done()


def check_tuning() -> None:
    """The tuned kernel, with a clock of our own: every candidate is run, and the one that the clock likes is used."""
    a, b = torch.randn(150, 48), torch.randn(48, 80)
    for dtype in (torch.float32, torch.float16):
        candidates = _triton_matmul.configs(dtype, 80, 48)
        assert candidates != _triton_matmul.configs(dtype, 81, 48)
        times = iter(range(len(candidates), 0, -1))

        def clock(call, quantiles, times=times):
            call()
            return [float(next(times))] * len(quantiles)

        kernel, out = _triton_matmul.tuned(candidates, clock), torch.empty(150, 80, dtype=dtype)
        kernel[lambda meta: (triton.cdiv(150, meta["BLOCK_M"]) * triton.cdiv(80, meta["BLOCK_N"]),)](
            a.to(dtype), b.to(dtype), out, 150, 80, 48
        )
        torch.testing.assert_close(out, a.to(dtype) @ b.to(dtype))
        assert kernel.best_config.kwargs == candidates[-1].kwargs
        assert next(times, None) is None
        done()


@triton.jit
def _visit(VISITS, m, n, BAND: tl.constexpr):  # noqa: N803
    down, right = _triton_matmul.tile_of_program(m, n, 1, 1, BAND)
    place = VISITS + down * n + right
    tl.store(place, tl.load(place) + 1)


def check_order() -> None:
    """Every tile belongs to exactly one program, whatever the height of the last band."""
    for m, n, band in ((1, 1, 8), (16, 3, 8), (19, 5, 8), (3, 11, 2), (7, 4, 3)):
        visits = torch.zeros(m, n, dtype=torch.int32)
        _visit[(m * n,)](visits, m, n, BAND=band)
        assert (visits == 1).all()
        done()


def main() -> None:
    """Check everything and say how much it was."""
    # numpy says that inf − inf is invalid; that NaN comes of it is what is checked here.
    with np.errstate(all="ignore"), exact_functions():
        check_shapes()
        check_layouts()
        check_loops()
        check_bfloat16()
        check_infinities()
        check_in_place()
        check_confident_rows()
        check_long_rows()
        check_targets_are_asserted()
        check_rungs()
        check_tuning()
        check_order()
    print(f"{COUNT} checks")  # noqa: T201  (what the test that runs this reads)


if __name__ == "__main__":
    main()
