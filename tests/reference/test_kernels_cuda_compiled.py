"""The CUDA kernels compiled for two generations of GPUs, by nvcc and by the NVRTC that PyTorch brings."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
import torch

from tests.reference.cuda_sources import ARCHITECTURES, ELEMENTS, HERE, NVCC, PACKAGES, SOURCES, command, header_folders

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc was not found")


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
