"""The CUDA kernels executed without a GPU, on an emulator of threads.

What the emulator proves is indexing, barriers and arithmetic (see ``cuda_emulator.h``); not speed, and not that nothing
races on a machine where threads run at the same time.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from blackbelt.reference.kernels import _eager
from tests.reference.cuda_sources import CXX, ELEMENTS, HERE, NVCC, SOURCES, command, dtype_name, header_folders
from tests.reference.kernels_cases import assert_law

# float16 goes the way of bfloat16. Each dtype is a program of its own: g++ takes ten seconds for it.
EMULATED = [
    torch.float32,
    torch.bfloat16,
    *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.float64, torch.float16)),
]


def toolkit_headers():
    """Return the folder of CUDA's headers for a host compiler, or None."""
    folders = header_folders()
    if NVCC:  # asked where it looks itself
        told = command(NVCC, "--dryrun", "-c", "none.cu").stderr
        folders = [*map(Path, re.findall(r'"-I([^"]+)"', told)), *folders]
    return next((f for f in folders if (f / "crt" / "host_defines.h").exists()), None)


def build_emulator(folder, dtype, *flags, operators=None):
    headers = toolkit_headers()
    if CXX is None or headers is None:
        pytest.skip("g++ or the headers of the CUDA toolkit were not found")
    program = folder / f"emulated_{dtype_name(dtype)}"
    options = ["-std=c++17", "-O0", "-w", "-fsanitize=address,alignment", "-fno-sanitize-recover=all"]
    names = [f"-DELEMENT={ELEMENTS[dtype]}", f'-DNAME="{dtype_name(dtype)}"']
    sources = [f"-I{SOURCES}", f"-I{HERE}", f"-I{headers}", str(HERE / "cuda_emulated.cpp")]
    done = command(CXX, *options, *names, *flags, *sources, "-o", str(program))
    assert done.returncode == 0, done.stderr[-3000:]
    return program


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    """Return a function that gives the emulator for a dtype, built once in a session."""
    folder = tmp_path_factory.mktemp("emulator")
    return functools.cache(lambda dtype: build_emulator(folder, dtype))


def raw(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


class Jobs:
    """Collects launches, runs them in one process, reads the results."""

    def __init__(self, program, dtype, folder):
        self.program, self.dtype, self.folder, self.lines, self.outputs = program, dtype, folder, [], []

    def add(self, name, sizes, inputs, outputs, order=0, shift=0):
        """``outputs`` are tensors whose shapes and dtypes the results have."""
        folder = self.folder / f"job{len(self.lines)}"
        folder.mkdir()
        for i, tensor in enumerate(inputs):
            (folder / f"in{i}").write_bytes(raw(tensor))
        rows, columns, depth = (*sizes, 0)[:3]
        self.lines.append(f"{name} {dtype_name(self.dtype)} {order} {shift} {rows} {columns} {depth} {folder}")
        self.outputs.append((folder, [(t.shape, t.dtype) for t in outputs]))

    def start(self):
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
        return command(str(self.program), input="\n".join(self.lines), env=environment)

    def run(self):
        done = self.start()
        assert done.returncode == 0, done.stderr[-3000:]
        return [
            [
                torch.frombuffer(bytearray((folder / f"out{i}").read_bytes()), dtype=dtype).reshape(shape)
                for i, (shape, dtype) in enumerate(outputs)
            ]
            for folder, outputs in self.outputs
        ]


def arguments_of(name, rows, columns, dtype, seed):
    """Return the arguments of a function of a backend, in float64 and as ``dtype`` holds them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul(2).to(dtype).double()

    grad, x, row = normal(rows, columns), normal(rows, columns), normal(columns)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    target = torch.randint(columns, (rows,), generator=generator)
    target[::3] = -100
    lse, factor = x.logsumexp(-1), torch.rand(rows, generator=generator, dtype=torch.float64).to(wide).double()
    rstd = (x.square().mean(-1) + 1e-6).rsqrt().to(wide).double()
    return {
        "bias_gelu": (x, row),
        "bias_gelu_backward": (grad, x, row),
        "softmax": (x,),
        "softmax_backward": (grad, x.softmax(-1).to(dtype).double()),
        "rms_norm": (x, row, 1e-6),
        "rms_norm_backward": (grad, x, row, rstd),
        "cross_entropy": (x, target, -100),
        "cross_entropy_backward": (factor, x, target, lse, -100),
        "cross_entropy_": (x, target, -100, factor[0]),
    }[name]


WIDE_ARGUMENTS = {"rms_norm_backward": {3}, "cross_entropy_backward": {0}, "cross_entropy_": {3}}


def held(name, arguments, dtype):
    """Return float64 arguments in the dtypes that the function of a backend takes."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    special = WIDE_ARGUMENTS.get(name, set())
    lse = {3} if name == "cross_entropy_backward" else set()
    return [
        a.to(torch.float64 if i in lse else wide if i in special else dtype).clone()
        if isinstance(a, torch.Tensor) and a.is_floating_point()
        else a
        for i, a in enumerate(arguments)
    ]


def called(name, arguments):
    """Return all results of the formulas of ``_eager``, the overwritten logits among them."""
    out = getattr(_eager, name)(*arguments)
    out = out if isinstance(out, tuple) else (out,)
    return (*out, arguments[0]) if name == "cross_entropy_" else out


ROW_OPERATORS = [
    "bias_gelu", "bias_gelu_backward", "softmax", "softmax_backward", "rms_norm", "rms_norm_backward",
    "cross_entropy", "cross_entropy_backward", "cross_entropy_",
]  # fmt: skip
# A warp for a row and a block for a row, in registers and in passes; with vectors of 16 bytes and without.
ROW_SHAPES = [(1, 1), (5, 3), (11, 123), (9, 128), (2, 1025), (3, 2048), (1, 4103), (2, 4104)]
# Softmax has another kernel for longer rows; sums of squares and products are where length costs digits.
LONG_SHAPES = {
    "softmax": [(1, 8203), (2, 8208)],
    "rms_norm": [(1, 33_003)],
    "rms_norm_backward": [(1, 33_003)],
    "softmax_backward": [(1, 33_003)],
}


def row_jobs(name, dtype, program, folder):
    jobs, expected = Jobs(program, dtype, folder), []
    for (rows, columns), order in itertools.product([*ROW_SHAPES, *LONG_SHAPES.get(name, [])], (0, 1, 5)):
        if order > 1 and columns > 1025:
            continue  # those without vectors are among the others
        arguments = arguments_of(name, rows, columns, dtype, rows + columns)
        exact = called(name, held(name, arguments, torch.float64))
        theirs = called(name, held(name, arguments, dtype))
        inputs = [a for a in held(name, arguments, dtype) if isinstance(a, torch.Tensor)]
        # With arrays out of step by one element too: the kernels must not use vectors then.
        jobs.add(name, (rows, columns), inputs, theirs, order, shift=1 if order > 1 else 0)
        expected.append((f"{name} {rows} × {columns}, order {order}", exact, theirs))
    return jobs, expected


@pytest.mark.parametrize("dtype", EMULATED, ids=dtype_name)
@pytest.mark.parametrize("name", ROW_OPERATORS)
def test_rows_on_the_emulator(name, dtype, emulator, tmp_path):
    jobs, expected = row_jobs(name, dtype, emulator(dtype), tmp_path)
    for got, (label, exact, theirs) in zip(jobs.run(), expected):
        for i, (a, b, c) in enumerate(zip(got, exact, theirs)):
            check_accuracy(f"{label}, result {i}", dtype, a, b, c)


def check_accuracy(label, dtype, got, exact, theirs):
    if dtype == torch.float64:  # PyTorch's result is the oracle itself
        torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-12, msg=lambda m: f"{label}: {m}")
    else:
        assert_law(label, [exact.double()], [got], [[theirs]])


SPECIAL = torch.tensor(
    [
        [-torch.inf] * 40,
        [torch.inf, *range(39)],
        [torch.nan, *range(39)],
        [*range(38), -torch.inf, -torch.inf],
        [-torch.inf] * 39 + [2.0],
        [3e4, -3e4] * 20,
    ]
)  # fmt: skip


@pytest.mark.parametrize("name", ["softmax", "cross_entropy", "cross_entropy_"])
@pytest.mark.parametrize("repeated", [1, 40], ids=["one warp", "one block"])
def test_nan_and_infinities_on_the_emulator(name, repeated, emulator, tmp_path):
    x = SPECIAL.repeat(1, repeated)
    target = torch.tensor([0, 1, 2, 3, -100, 0])
    arguments = {"softmax": [x], "cross_entropy": [x, target, -100]}.get(name, [x, target, -100, torch.tensor(0.5)])
    expected = called(name, held(name, arguments, torch.float32))
    jobs = Jobs(emulator(torch.float32), torch.float32, tmp_path)
    if name == "cross_entropy":
        expected[1][0] = -torch.inf  # of a row of −inf, as torch.logsumexp has it; the formulas have NaN on their way
    jobs.add(name, x.shape, [a for a in arguments if isinstance(a, torch.Tensor)], expected)
    for a, b in zip(jobs.run()[0], expected):
        torch.testing.assert_close(a, b, equal_nan=True)


# Rungs, and sizes (rows, columns, depth): odd, with aligned rows, more than one tile, more steps than stages.
MATMUL_SIZES = {
    "naive": [(3, 5, 7), (17, 33, 1)],
    "tiles": [(3, 5, 7), (40, 33, 70)],
    "registers": [(3, 5, 7), (130, 70, 21), (64, 136, 24)],
    "tensor_cores": [(3, 5, 7), (64, 136, 200), (130, 40, 64)],
}


@pytest.mark.parametrize("dtype", EMULATED, ids=dtype_name)
@pytest.mark.parametrize("rung", MATMUL_SIZES)
def test_matmul_on_the_emulator(rung, dtype, emulator, tmp_path):
    if rung == "tensor_cores" and dtype == torch.float64:
        pytest.skip("the rung takes no float64")
    jobs, expected = Jobs(emulator(dtype), dtype, tmp_path), []
    for (m, n, k), (order, shift) in itertools.product(MATMUL_SIZES[rung], ((0, 0), (1, 0), (7, 1))):
        if shift and m > 100:
            continue  # seconds, for what the small sizes show
        generator = torch.Generator().manual_seed(m + n + k)
        a, b = (torch.randn(s, generator=generator).to(dtype) for s in ((m, k), (k, n)))
        exact, theirs = a.double() @ b.double(), a @ b
        if rung == "tensor_cores" and dtype == torch.float32:  # 10 bits of mantissa, as tf32 has
            theirs = exact + (a.abs().double() @ b.abs().double()) * 2.0**-12
            theirs = theirs.float()
        jobs.add(rung, (m, n, k), [a, b], [theirs], order, shift)
        expected.append((f"{rung} {m} × {n} × {k}, order {order}", exact, theirs))
    for got, (label, exact, theirs) in zip(jobs.run(), expected):
        check_accuracy(label, dtype, got[0], exact, theirs)


# The emulator notices what it is there for. Each mistake is one that a change of one line makes.
MISTAKES = {
    "no barrier before the tiles are read": (
        "matmul.cuh", "    __syncthreads();  // the tiles are complete\n", "", "tiles",
    ),
    "no barrier before the tiles are written": (
        "matmul.cuh", "    __syncthreads();  // nobody reads them any more\n", "", "tiles",
    ),
    "a read one row too far": ("matmul.cuh", "down < k && column < n ?", "down <= k && column < n ?", "tiles"),
    "a barrier that some threads miss": (
        "matmul.cuh", "  for (Index start = 0;", "  if (row >= m) return;\n  for (Index start = 0;", "tiles",
    ),
    "a copy that nobody waited for": (
        "matmul_tensor_cores.cuh", "wait_for_copies<STAGES - 2>();", "wait_for_copies<STAGES - 1>();", "tensor_cores",
    ),
}  # fmt: skip


def run_copy(folder, rung):
    """Build the emulator from the copy of the sources in ``folder``; return a, b, the jobs, and how they ended."""
    program = build_emulator(folder, torch.float32, f"-I{folder / 'cuda'}", f'-DBROKEN="{folder}/cuda/launch.cuh"')
    a, b = torch.randn(40, 72), torch.randn(72, 36)
    jobs = Jobs(program, torch.float32, folder)
    for order in (0, 1, 5):
        jobs.add(rung, (40, 36, 72), [a, b], [a @ b], order)
    return a, b, jobs, jobs.start()


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_emulator_notices(mistake, tmp_path):
    name, right, wrong, rung = MISTAKES[mistake]
    shutil.copytree(SOURCES, tmp_path / "cuda")
    path = tmp_path / "cuda" / name
    text = path.read_text()
    assert text.count(right) == 1, "the line to break is no longer there"
    path.write_text(text.replace(right, wrong))
    a, b, jobs, ended = run_copy(tmp_path, rung)
    if not ended.returncode:
        assert any(not torch.allclose(got[0], a @ b, atol=0.1) for got in jobs.run())


@pytest.mark.slow
@pytest.mark.parametrize("rung", sorted({rung for *_, rung in MISTAKES.values()}))
def test_a_copy_without_a_mistake_is_right(rung, tmp_path):
    """Without it, whatever keeps a copy from running would pass for a mistake that was noticed."""
    shutil.copytree(SOURCES, tmp_path / "cuda")
    a, b, jobs, ended = run_copy(tmp_path, rung)
    assert ended.returncode == 0, ended.stderr
    assert all(torch.allclose(got[0], a @ b, atol=0.1) for got in jobs.run())
