"""The Triton kernels: executed on the interpreter, and compiled for GPUs that need not be there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
COMPILE = """
import sys
from blackbelt.reference.attention import _triton
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

def compile(kernel, element, capability, mask, is_causal, dropout):
    constants = {"MASK": mask, "IS_CAUSAL": is_causal, "DROPOUT": dropout, "BLOCK_M": 64, "BLOCK_N": 64,
                 "BLOCK_D": 64, "BLOCK_V": 64}
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("LSE", "DELTA"):
            signature[name] = "*fp32"
        elif name == "MASK_POINTER":
            signature[name] = "*u8" if mask == 1 else f"*{element}"
        elif name.isupper() or "_" in name and name.split("_")[0] == "GRAD":
            signature[name] = f"*{element}"
        elif name in ("scale", "factor", "dropout_p"):
            signature[name] = "fp32"
        else:
            signature[name] = "i64" if name == "seed" else "i32"
    source = ASTSource(kernel, signature, constants)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))

count = 0
for capability in (80, 90):
    for kernel in (_triton._forward_kernel, _triton._query_kernel, _triton._key_value_kernel):
        for element, mask, is_causal, dropout in (("bf16", 0, True, False), ("fp16", 1, False, True)):
            built = compile(kernel, element, capability, mask, is_causal, dropout)
            assert built.asm["cubin"], kernel
            assert built.metadata.shared <= 163 * 1024, built.metadata.shared
            count += 1
print(count, "built")
"""


def run(arguments, **environment):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_kernels_compute_on_the_interpreter():
    assert run(["-m", "tests.reference.attention_on_interpreter"]) == "18 checks\n"


@pytest.mark.slow
def test_kernels_compile_for_a100_and_h100(tmp_path):
    environment = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    assert run(["-c", COMPILE], **environment) == "12 built\n"
