"""What `memory_efficient_attention` holds: bytes that grow with the length, and no more than PyTorch's own kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from blackbelt.measurement import allocation, measure_growth
from blackbelt.reference.attention import memory_efficient_attention, naive_attention, recomputed_attention

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread():
    """The profiler sees what the calling thread allocates; with one thread that is everything."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def forward_and_backward(function, **kwargs):
    def call(*inputs):
        leaves = [t.requires_grad_() for t in inputs]
        return torch.autograd.grad(function(*leaves, **kwargs).sum(), leaves)

    return call


def inputs(length, heads=2, head_size=64):
    return tuple(torch.randn(1, heads, length, head_size) for _ in range(3))


@pytest.mark.slow
@pytest.mark.parametrize("is_causal", [False, True])
def test_bytes_grow_with_the_length_from_1k_to_16k(is_causal):
    ours = forward_and_backward(memory_efficient_attention, is_causal=is_causal)
    growth = measure_growth([1024, 4096, 16384], inputs=lambda n: inputs(n, 1, 16), rounds=1, warmup=0, ours=ours)
    assert growth.exponent("ours", "peak_bytes") <= 1.05


@pytest.mark.parametrize("function", [recomputed_attention, memory_efficient_attention])
def test_extra_bytes_are_linear_and_those_of_naive_are_not(function):
    growth = measure_growth(
        [512, 1024, 2048], inputs=lambda n: inputs(n, 1, 64), rounds=1, warmup=0,
        ours=forward_and_backward(function), naive=forward_and_backward(naive_attention),
    )  # fmt: skip
    assert growth.exponent("naive", "peak_bytes") > 1.7
    ours = growth.curve("ours", "peak_bytes")
    assert ours[2] - ours[1] <= 2.1 * max(ours[1] - ours[0], 4 * 512 * 64 * 4)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("length", [1024, 2048])
def test_forward_and_backward_hold_no_more_than_pytorchs_kernel(length, head_size, is_causal):
    arguments = inputs(length, 4, head_size)
    ours, theirs = (
        allocation(forward_and_backward(f, is_causal=is_causal), *arguments).peak_bytes
        for f in (memory_efficient_attention, scaled_dot_product_attention)
    )
    assert ours <= theirs


@pytest.mark.parametrize("kwargs", [{"dropout_p": 0.2}, {"attn_mask": torch.rand(2048, 2048) < 0.5}])
def test_modes_pytorch_computes_densely_stay_linear_here(kwargs):
    arguments = inputs(2048, 4, 64)
    ours, theirs = (
        allocation(forward_and_backward(f, **kwargs), *arguments).peak_bytes
        for f in (memory_efficient_attention, naive_attention)
    )
    assert ours * 8 < theirs


def test_nothing_but_inputs_result_and_one_number_per_query_is_saved():
    query, key, value = (t.requires_grad_() for t in inputs(300, 2, 16))
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.setdefault(t.data_ptr(), t), lambda t: t):
        out = memory_efficient_attention(query, key, value)
    own = {t.data_ptr() for t in (query, key, value, out)}
    assert sum(t.nbytes for pointer, t in saved.items() if pointer not in own) == 2 * 300 * 4


LONG = """
import resource, sys, torch
from torch import nn
from blackbelt.reference.attention import memory_efficient_attention, naive_attention

class Block(nn.Module):
    def __init__(self, width, heads, attend):
        super().__init__()
        self.norm, self.project, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.heads, self.attend = heads, attend
    def forward(self, x):
        parts = self.project(self.norm(x)).chunk(3, -1)
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in parts)
        x = x + self.out(self.attend(query, key, value, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(x)

torch.manual_seed(0)
attend = {"ours": memory_efficient_attention, "naive": naive_attention}[sys.argv[1]]
block, x = Block(32, 2, attend), torch.randn(1, 32768, 32)
block(x[:, :600]).sum().backward()  # threads and libraries take their memory first
with open("/proc/self/status") as status:
    held = next(int(line.split()[1]) for line in status if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + 512 * 2**20,) * 2)
try:
    block(x).pow(2).mean().backward()
except RuntimeError as error:
    print("failed:", str(error)[:200])
else:
    print("ran", bool(block.project.weight.grad.isfinite().all()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are set and read as Linux has them")
def test_gpt_block_trains_on_32k_tokens_in_512_mib_where_the_naive_one_cannot():
    def run(which):
        done = subprocess.run(
            [sys.executable, "-c", LONG, which], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
        )
        return done.stdout.strip()

    assert run("ours") == "ran True"
    assert "can't allocate memory" in run("naive")  # one matrix of scores is 8 GiB
