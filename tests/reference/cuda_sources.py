"""What the tests of the CUDA kernels share: where the sources and the compilers are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import torch

from blackbelt.reference.kernels import _eager

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


def dtype_name(dtype):
    return str(dtype).removeprefix("torch.")


def command(*arguments, timeout=300, **kwargs):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False, **kwargs)


def header_folders():
    """Return the folders of CUDA's headers in the wheels that PyTorch installs."""
    return sorted(p.parent for p in (PACKAGES / "nvidia").glob("**/cuda_fp16.h"))
