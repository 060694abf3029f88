"""The Triton kernels of the operators: executed on the interpreter, and compiled for GPUs that need not be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
A100_SHARED_BYTES = 163 * 1024  # of a block; an H100 has more


def run(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_kernels_compute_on_the_interpreter():
    count, word = run("tests.reference.kernels_on_interpreter").split()
    assert word == "checks"
    assert int(count) > 250


def compiled(tmp_path, *arguments):
    environment = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    lines = run("tests.reference.compiled_for_gpus", *arguments, **environment).splitlines()
    return [json.loads(line) for line in lines]


def names(kernels):
    return {built["kernel"].removesuffix("_kernel") for built in kernels}


@pytest.mark.slow
def test_row_kernels_compile_for_a100_and_h100_without_spilling(tmp_path):
    kernels = compiled(tmp_path, "kernels", "bf16", "fp32")
    assert names(kernels) == {
        "bias_gelu", "bias_gelu_backward", "softmax", "softmax_backward", "rms_norm", "rms_norm_backward", "long_input",
        "long_weight", "cross_entropy", "cross_entropy_backward", "cross_entropy_in_place",
    }  # fmt: skip
    for built in kernels:
        # Rows that start anywhere take a register for every address, and rows of one column take a tile of 1024 rows:
        # there ptxas parks a few words (8 to 48 bytes with Triton 3.9). Rows of a multiple of 16 columns spill nothing.
        is_regular = not built["odd"] and "num_columns" not in built["constants"]
        assert built["spilled"] <= (0 if is_regular else 64), built
        assert built["shared"] <= A100_SHARED_BYTES, built
        assert built["offsets"] == ([] if "num_columns" in built["constants"] else ["i64"]), built
        # The device assertion about targets is compiled only where the launcher asks for it.
        assert built["asserts"] == (built["kernel"] in {"cross_entropy_kernel", "cross_entropy_in_place_kernel"}), built


@pytest.mark.slow
def test_matmul_compiles_for_a100_and_h100_without_spilling(tmp_path):
    kernels = compiled(tmp_path, "matmul")
    assert names(kernels) == {"naive", "tiles"}
    assert {built["element"] for built in kernels} == {"fp32", "fp16", "bf16"}
    for built in kernels:
        assert not built["spilled"], built
        assert built["shared"] <= A100_SHARED_BYTES, built
        # `tl.dot` is what reaches the tensor cores; "ieee" keeps float32 away from them.
        assert built["tensor_cores"] == (built["kernel"] == "tiles_kernel" and built["element"] != "fp32"), built
