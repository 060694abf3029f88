"""The Triton kernels of attention compile for GPUs that need not be there, and take no more of one than it has."""

from __future__ import annotations

import importlib.metadata

import pytest

pytest.importorskip("triton")

from tests.reference.test_kernels_triton import A100_SHARED_BYTES, compiled, names


@pytest.mark.slow
def test_kernels_compile_for_a100_and_h100(tmp_path):
    kernels = compiled(tmp_path, "attention")
    version = tuple(map(int, importlib.metadata.version("triton").split(".")[:2]))
    assert names(kernels) == {"_forward", "_query", "_key_value"}
    assert {(built["element"], built["capability"]) for built in kernels} == {
        (element, capability) for element in ("bf16", "fp16", "fp32") for capability in (80, 90)
    }
    for built in kernels:
        assert built["shared"] <= A100_SHARED_BYTES, built
        assert built["tensor_cores"] == (built["element"] != "fp32"), built
        # With a bool mask and dropout together ptxas parks a few words (12 to 60 bytes with Triton 3.9, with which the
        # blocks were chosen; with 3.5 up to 308).
        if version >= (3, 9):
            assert built["spilled"] <= (0 if built["constants"]["IS_CAUSAL"] else 64), built
