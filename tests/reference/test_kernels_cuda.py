"""The CUDA kernels: executed without a GPU on an emulator of threads, compiled for two generations of GPUs.

What the emulator proves is indexing, barriers and arithmetic (see ``cuda_emulator.h``); not speed, and not that nothing
races on a machine where threads run at the same time. On a GPU the last tests run the built backend.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from blackbelt.reference.kernels import _eager
from tests.reference.kernels_cases import DTYPES, OPERATORS, assert_accurate, assert_law, assert_same, case, shapes_of

HERE = Path(__file__).parent
SOURCES = Path(_eager.__file__).parent / "csrc" / "cuda"
PACKAGES = Path(torch.__file__).parents[1]
NVCC = shutil.which("nvcc")
CXX = shutil.which("g++")
ARCHITECTURES = ("sm_80", "sm_90")
ELEMENTS = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "__half",
    torch.bfloat16: "__nv_bfloat16",
}
# float16 goes the way of bfloat16. Each dtype is a program of its own: g++ takes ten seconds for it.
EMULATED = [
    torch.float32,
    torch.bfloat16,
    *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.float64, torch.float16)),
]
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc was not found")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def dtype_name(dtype):
    return str(dtype).removeprefix("torch.")


def command(*arguments, timeout=300, **kwargs):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False, **kwargs)


# Executed on the emulator.


def toolkit_headers():
    """Return the folder of CUDA's headers for a host compiler, or None."""
    folders = header_folders()
    if NVCC:  # asked where it looks itself
        told = command(NVCC, "--dryrun", "-c", "none.cu").stderr
        folders = [*map(Path, re.findall(r'"-I([^"]+)"', told)), *folders]
    return next((f for f in folders if (f / "crt" / "host_defines.h").exists()), None)


def header_folders():
    """Return the folders of CUDA's headers in the wheels that PyTorch installs."""
    return sorted(p.parent for p in (PACKAGES / "nvidia").glob("**/cuda_fp16.h"))


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
LONG_SHAPES = {"softmax": [(1, 8203), (2, 8208)]}  # the other operators have no kernel for longer rows


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


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_emulator_notices(mistake, tmp_path):
    name, right, wrong, rung = MISTAKES[mistake]
    shutil.copytree(SOURCES, tmp_path / "cuda")
    path = tmp_path / "cuda" / name
    text = path.read_text()
    assert text.count(right) == 1, "the line to break is no longer there"
    path.write_text(text.replace(right, wrong))
    program = build_emulator(
        tmp_path, torch.float32, f"-I{tmp_path / 'cuda'}", f'-DBROKEN="{tmp_path}/cuda/launch.cuh"'
    )
    a, b = torch.randn(40, 72), torch.randn(72, 36)
    jobs = Jobs(program, torch.float32, tmp_path)
    for order in (0, 1, 5):
        jobs.add(rung, (40, 36, 72), [a, b], [a @ b], order)
    if jobs.start().returncode:
        return
    assert any(not torch.allclose(got[0], a @ b, atol=0.1) for got in jobs.run())


# Compiled.


def exported_kernels():
    """Return the names of all instantiations that launch.cuh chooses from, as C++ writes them."""
    names = set()
    for dtype, element in ELEMENTS.items():
        size = dtype.itemsize
        wide = max(size, 4)
        names |= {f"{kernel}<{element}>" for kernel in ("sum_partials", "matmul_naive", "matmul_tiles")}
        names.add(f"matmul_registers<{element}>")
        if size < 8:
            names |= {f"matmul_tensor_cores<{element}, {flag}>" for flag in ("true", "false")}
        for width in (1, 16 // size):
            for kernel in ("bias_gelu", "bias_gelu_backward", "rms_norm_backward_weight"):
                names.add(f"{kernel}<{element}, {width}>")
            for group in (32, 256):
                for kernel in (
                    "softmax_backward",
                    "rms_norm",
                    "cross_entropy",
                    "cross_entropy_backward",
                    "cross_entropy_in_place",
                ):
                    names.add(f"{kernel}<{element}, {width}, {group}>")
                names.add(f"softmax_in_registers<{element}, {width}, {group}, {(8 if size == 8 else 32) // width}>")
                names.add(f"rms_norm_backward_in_registers<{element}, {width}, {group}, {64 // wide // width}>")
            names.add(f"softmax_in_two_passes<{element}, {width}, 1024>")
            names.add(f"rms_norm_backward_input<{element}, {width}, 256>")
    return names


def resources(log):
    """Return {mangled kernel: (registers, bytes spilled)} of what ``ptxas -v`` says."""
    found = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        spills = sum(map(int, re.findall(r"(\d+) bytes spill", part)))
        found[part.split("'")[0]] = (int(re.search(r"Used (\d+) registers", part)[1]), spills)
    return found


def compile_for(arch, source, folder, *flags):
    done = command(
        NVCC, "-std=c++17", "-cubin", f"-arch={arch}", "-Xptxas", "-v", f"-I{SOURCES}", *flags, str(source),
        "-o", str(folder / "kernels.cubin"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return resources(done.stderr)


def demangled(names):
    lines = command("c++filt", input="\n".join(names)).stdout.splitlines()
    without_casts = [re.sub(r"\((int|bool)\)", "", line) for line in lines]
    return [line.replace("void blackbelt::", "").split("(")[0].strip() for line in without_casts]


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_exported_kernel_spills(arch, tmp_path):
    found = compile_for(arch, HERE / "cuda_exported.cu", tmp_path)
    names = dict(zip(found, demangled(found)))
    assert set(names.values()) == exported_kernels()
    for mangled, (registers, spills) in sorted(found.items(), key=lambda item: -item[1][0]):
        print(f"{arch} {names[mangled]}: {registers} registers")  # noqa: T201  (shown by pytest -s)
        assert spills == 0, f"{names[mangled]} spills {spills} bytes"


@needs_nvcc
def test_a_kernel_that_spills_is_noticed(tmp_path):
    source = tmp_path / "spilling.cu"
    source.write_text("""#include "matmul_registers.cuh"
        namespace blackbelt {
        __global__ void __launch_bounds__(1024, 2) spilling(const float* x, float* out) {
          float values[96];
          #pragma unroll
          for (int i = 0; i < 96; ++i) values[i] = x[i * blockDim.x + threadIdx.x];
          __syncthreads();
          #pragma unroll
          for (int i = 0; i < 96; ++i) out[i * blockDim.x + threadIdx.x] = values[i] * values[95 - i];
        }}""")
    ((registers, spills),) = compile_for("sm_80", source, tmp_path).values()
    assert registers <= 32 and spills > 0


def nvrtc():
    """Return the NVRTC of the wheel that PyTorch installs, or None."""
    major = (torch.version.cuda or "0").split(".")[0]
    paths = sorted((PACKAGES / "nvidia").glob(f"**/lib/libnvrtc.so.{major}"))
    return ctypes.CDLL(str(paths[0])) if paths else None


def compile_with_nvrtc(arch, source, names):
    """Compile to a cubin; return its log and the mangled names of the instantiations."""
    library = nvrtc()
    if library is None or not header_folders():
        pytest.skip("this PyTorch brings no NVRTC")
    program = ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"all.cu", 0, None, None) == 0
    for name in names:
        assert library.nvrtcAddNameExpression(program, name.encode()) == 0
    folders = [SOURCES, *header_folders()]
    options = [f"--gpu-architecture={arch}", "-std=c++17", *(f"-I{folder}" for folder in folders)]
    array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    status = library.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()[-3000:]
    lowered = []
    for name in names:
        pointer = ctypes.c_char_p()
        assert library.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(pointer)) == 0
        lowered.append(pointer.value.decode())
    assert library.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
    cubin = ctypes.create_string_buffer(size.value)
    assert library.nvrtcGetCUBIN(program, cubin) == 0
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin.raw, lowered


HEADERS = [
    "softmax.cuh", "cross_entropy.cuh", "bias_gelu.cuh", "rms_norm.cuh", "columns.cuh", "matmul.cuh",
    "matmul_registers.cuh", "matmul_tensor_cores.cuh",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nvrtc_compiles_every_exported_kernel(arch):
    source = "".join(f'#include "{header}"\n' for header in HEADERS)
    names = [f"blackbelt::{name}" for name in sorted(exported_kernels())]
    cubin, lowered = compile_with_nvrtc(arch, source, names)
    assert len(set(lowered)) == len(names)
    for name in lowered:
        assert name.encode() in cubin, name


@pytest.mark.parametrize("header", HEADERS)
def test_every_file_compiles_alone_with_nvrtc(header):
    compile_with_nvrtc("sm_80", f'#include "{header}"\n', [])


@needs_nvcc
@pytest.mark.slow
def test_bindings_compile_against_pytorch(tmp_path):
    include = Path(torch.__file__).parent / "include"
    done = command(
        NVCC, "-std=c++20", "-c", "-arch=sm_90", f"-I{include}", f"-I{include}/torch/csrc/api/include",
        "-Xcompiler", "-fPIC", str(SOURCES / "bindings.cu"), "-o", str(tmp_path / "bindings.o"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


# On a GPU.


@needs_gpu
@pytest.mark.parametrize("backend", ["cuda", "triton", "eager"])
@pytest.mark.parametrize("name", OPERATORS)
class TestOnAGPU:
    """All backends of a GPU, by the numeric law."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
    def test_error_is_at_most_twice_pytorchs(self, name, backend, dtype):
        for shape in shapes_of(name).values():
            assert_accurate(OPERATORS[name], case(OPERATORS[name], shape, device="cuda"), dtype, backend=backend)

    def test_equals_pytorch_in_float64(self, name, backend):
        if backend == "triton":
            pytest.skip("the Triton kernels take no float64")
        for shape in shapes_of(name).values():
            assert_same(OPERATORS[name], case(OPERATORS[name], shape, device="cuda"), backend=backend)

    @pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
    def test_rows_of_a_million_columns(self, name, backend, dtype):
        if name not in {"matmul", "linear_cross_entropy"}:
            long = case(OPERATORS[name], (2, 2**20), device="cuda")
            assert_accurate(OPERATORS[name], long, dtype, backend=backend)


@needs_gpu
@pytest.mark.parametrize("rung", ["naive", "tiles", "registers", "tensor_cores"])
@pytest.mark.parametrize("size", [(3, 5, 7), (130, 260, 70), (512, 512, 512), (1, 1000, 333)])
def test_every_rung_on_a_gpu(rung, size):
    from blackbelt.reference.kernels import _build

    _build.load("cuda")
    from blackbelt.reference.kernels import _cuda

    m, n, k = size
    for dtype in (torch.float16, torch.bfloat16):
        a, b = (torch.randn(s, device="cuda").to(dtype) for s in ((m, k), (k, n)))
        assert_law(rung, [a.double() @ b.double()], [_cuda.matmul(a, b, rung)], [[a @ b]])
