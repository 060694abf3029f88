"""Compile the Triton kernels for GPUs that need not be there, and say what each takes of one. Run as a program.

``python -m tests.reference.compiled_for_gpus kernels|attention`` prints one line of JSON for every kernel built.
The tiles are those the launchers choose; pointers and sizes are given the alignment that PyTorch's tensors have.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CAPABILITIES = (80, 90)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# The bits in which rows times columns is computed: 32 would not reach the end of a matrix of 2^31 elements.
ROW_OFFSETS = r"arith\.extsi %num_columns : i32 to (?:tensor<1x1x)?(i\d+)|arith\.muli .*: tensor<\d+x1x(i\d+)>"
ASSERTING = {"debug": True, "sanitize_overflow": False}


def build(kernel, types, constants, options, capability, *, odd: frozenset[str] | None = frozenset()) -> dict[str, Any]:
    """Compile one kernel; ``types`` gives the type of every argument that is no constant.

    Triton makes a kernel of its own for integers that 16 divides, which moves 16 bytes at once: all but those in
    ``odd`` (None: every integer) are taken to be such, and every pointer is, as PyTorch allocates.
    """
    signature = {name: "constexpr" if name in constants else types(name) for name in kernel.arg_names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, (name, kind) in enumerate(signature.items())
        if kind.startswith("*") or (kind == "i32" and odd is not None and name not in odd)
    }
    source = ASTSource(kernel, signature, constants, aligned)
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert built.asm["cubin"]
    registers = re.search(r"Used (\d+) registers", log.getvalue())
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log.getvalue())
    assert registers and spills, log.getvalue()
    return {
        "kernel": kernel.__name__,
        "capability": capability,
        "odd": odd is None,
        "constants": {name: value for name, value in constants.items() if not isinstance(value, str)},
        "warps": built.metadata.num_warps,
        "shared": built.metadata.shared,
        "registers": int(registers[1]),
        "spilled": int(spills[1]) + int(spills[2]),
        "offsets": sorted({a or b for a, b in re.findall(ROW_OFFSETS, built.asm["ttir"])}),
        "asserts": "__assertfail" in built.asm["ptx"],
        "tensor_cores": bool(re.search(r"wgmma\.mma_async|mma\.sync", built.asm["ptx"])),
    }


def row_kernels() -> Iterator[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Every kernel but the matmul's, with the tiles of rows of 1, 1000, 8192, 16384 and 128256 elements."""
    from blackbelt.reference.kernels import _triton_bias_gelu as gelu
    from blackbelt.reference.kernels import _triton_cross_entropy as loss
    from blackbelt.reference.kernels import _triton_rms_norm as norm
    from blackbelt.reference.kernels import _triton_softmax as soft
    from blackbelt.reference.kernels._triton_rows import row_tile

    for columns in (1, 1000, 8192, 16384, 128256):
        # An integer argument of 1 becomes a constant of the kernel: another kernel, which must compile too.
        sizes = {"num_columns": 1} if columns == 1 else {}
        column_tile = gelu.column_tile(4096, columns)[2]
        row = row_tile(columns)
        plain = {name: value for name, value in row.items() if name != "ONE_BLOCK"}
        yield gelu.bias_gelu_kernel, {**sizes, **gelu.pointwise_tile(columns)}, {}
        yield gelu.bias_gelu_backward_kernel, {**sizes, **column_tile}, {}
        for kernel in (soft.softmax_kernel, soft.softmax_backward_kernel, norm.rms_norm_kernel):
            yield kernel, {**sizes, **row}, {}
        backward = norm.backward_tile(columns)
        if backward is not None:
            yield norm.rms_norm_backward_kernel, {**sizes, **backward}, {}
        else:
            yield norm.long_input_kernel, norm.long_tile(), {}
            yield norm.long_weight_kernel, {**sizes, **column_tile}, {}
        yield loss.cross_entropy_kernel, {**sizes, **plain}, ASSERTING
        yield loss.cross_entropy_backward_kernel, {**sizes, **plain}, {}
        yield loss.cross_entropy_in_place_kernel, {**sizes, **row}, ASSERTING


def build_kernels(elements: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    wide = {"RSTD", "LOSSES", "PARTIAL", "FACTOR"}

    def types_of(kernel, element):
        def types(name):
            if name == "LSE":
                return "*fp64"
            if name in wide or (name == "GRAD" and kernel.__name__ == "cross_entropy_backward_kernel"):
                return "*fp32"
            if name.isupper():
                return "*i64" if name == "TARGET" else f"*{element}"
            return "fp32" if name == "eps" else "i32"

        return types

    for capability in CAPABILITIES:
        for element in elements:
            for kernel, arguments, options in row_kernels():
                constants = dict(arguments)
                given = {"num_warps": constants.pop("num_warps"), **options}
                types = types_of(kernel, element)
                for odd in (frozenset({"ignore_index"}), None):
                    yield {"element": element, **build(kernel, types, constants, given, capability, odd=odd)}


def build_matmul() -> Iterator[dict[str, Any]]:
    from blackbelt.reference.kernels import _triton_matmul as matmul

    for capability in CAPABILITIES:
        for element, dtype in DTYPES.items():
            types = lambda name, element=element: f"*{element}" if name.isupper() else "i32"  # noqa: E731
            yield {"element": element, **build(matmul.naive_kernel, types, {"BLOCK_K": 128}, {}, capability)}
            for n, odd in ((64, frozenset()), (63, None)):
                for config in matmul.configs(dtype, n, n):
                    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
                    built = build(matmul.tiles_kernel, types, config.kwargs, options, capability, odd=odd)
                    yield {"element": element, **built}
        one = {**matmul.FULL_CONFIGS[-1].kwargs, "m": 1, "n": 1, "k": 1}
        yield {"element": "fp32", **build(matmul.tiles_kernel, lambda name: "*fp32", one, {}, capability)}
        one = {"BLOCK_K": 128, "n": 1, "k": 1}
        yield {"element": "fp32", **build(matmul.naive_kernel, lambda name: "*fp32", one, {}, capability)}


def build_attention() -> Iterator[dict[str, Any]]:
    """The forward and both backward kernels: causal without dropout, and with a bool mask and dropout."""
    from blackbelt.reference.attention import _triton

    kernels = (_triton._forward_kernel, _triton._query_kernel, _triton._key_value_kernel)
    heads = (("bf16", 64), ("fp16", 128), ("fp32", 64), ("fp32", 128))
    for capability, kernel, (element, head) in itertools.product(CAPABILITIES, kernels, heads):
        query = torch.empty(1, 1, 1, head, dtype=DTYPES[element])
        for mask, is_causal, dropout in ((0, True, False), (1, False, True)):
            constants = {"MASK": mask, "IS_CAUSAL": is_causal, "DROPOUT": dropout, "m_s": 1}
            constants |= _triton._blocks(kernel, query, query)
            options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
            types, odd = attention_types(element, has_mask=mask == 1), frozenset({"heads", "group"})
            yield {"element": element, **build(kernel, types, constants, options, capability, odd=odd)}


def attention_types(element, *, has_mask):
    special = {
        "LSE": "*fp32",
        "DELTA": "*fp32",
        "seed": "i64",
        **dict.fromkeys(("scale", "factor", "dropout_p"), "fp32"),
    }
    if has_mask:
        special["MASK_POINTER"] = "*u8"
    return lambda name: special.get(name, f"*{element}" if name.isupper() else "i32")


def main(what: str, *elements: str) -> None:
    """Build ``kernels`` (of the elements named), ``matmul`` or ``attention``."""
    knobs.nvidia.dump_ptxas_log = knobs.compilation.always_compile = True  # ptxas speaks only when it runs
    built = {"matmul": build_matmul, "attention": build_attention}
    for line in build_kernels(elements) if what == "kernels" else built[what]():
        print(json.dumps(line), flush=True)  # noqa: T201  (what the test that runs this reads)


if __name__ == "__main__":
    main(*sys.argv[1:])
