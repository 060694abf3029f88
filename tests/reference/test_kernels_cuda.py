"""The built CUDA backend, beside Triton's and PyTorch's, where there is a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.reference.cuda_sources import dtype_name
from tests.reference.kernels_cases import DTYPES, OPERATORS, assert_accurate, assert_law, assert_same, case, shapes_of

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


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
