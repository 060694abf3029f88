# %% [markdown]
# # R.1 Custom CUDA kernels
#
# An activation function uses a fraction of what the processor can compute, and no faster arithmetic changes that. A
# kernel written by hand takes a part of the time and computes the same. Another kernel written by hand passes its
# tests, and the model that it trains is worse.
#
# You will count the bytes that a line of PyTorch moves, climb from that line to a fused kernel, each idea with its
# measured gain, write a Triton kernel and read the same one in CUDA C++, see which bytes a warp really fetches and why
# matrix products are made of tiles, register an operator so that `torch.compile` and autograd know it, and catch a
# kernel that reads its gradient in the wrong order. All of `blackbelt.reference.kernels` is there to be read.
#
# You need no GPU. C++ kernels run here for real; they are **compiled once on this machine, which takes about a
# minute**, and are there at once the next time. Triton kernels run on Triton's interpreter. Of CUDA C++ you see the
# source; what takes a GPU to show is reported as not shown. A C++ compiler, ninja and Triton (so Linux) are needed.

# %%
import gc
import itertools
import logging
import math
from collections.abc import Callable  # for a kata
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.library import custom_op, opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from blackbelt import begin, check, claim, error_of, measure, predict, summary
from blackbelt.dojo.laws.interpreted import interpret, traffic
from blackbelt.reference import kernels
from blackbelt.reference.kernels import ladder
from blackbelt.report import Cell, Code, Curves, Drawing, Grid, Table, format_bytes, format_seconds

interpret()  # as TRITON_INTERPRET=1 does, and each address is checked; this has to come before the next line

import triton
import triton.language as tl

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of a CUDA toolkit without a GPU

begin("reference/kernels")

# %% tags=["warns"]
kernels.bias_gelu(torch.zeros(1, 1), torch.zeros(1))  # the first time on a machine, this builds the C++ kernels
torch.manual_seed(0)
torch.set_num_threads(1)  # one thread: gains that do not depend on how many cores you have

# %% [markdown]
# ## Predict
#
# The exact GELU of a linear layer with a bias, as its formula says: `u = x + bias`, and then `u · Φ(u)`, where Φ is
# the normal distribution, ½ · (1 + erf(u / √2)).

# %%
torch.empty(31 << 20, dtype=torch.uint8)  # freed again: from now on the C allocator keeps large blocks for later

x, bias = torch.randn(3840, 2048), torch.randn(2048)
ONE = x.numel() * x.element_size()  # bytes of x, and of the result


def formula(x, bias):
    u = x + bias
    return u * (0.5 * (1 + torch.erf(u / math.sqrt(2))))


moved = predict(
    f"`x` takes {format_bytes(ONE)}, and so does the result. A kernel that reads `x` once and writes the result once "
    f"moves {format_bytes(2 * ONE)}. How much does `formula(x, bias)` move?",
    {
        "A": "the same: what one operator has written is still in the cache when the next one reads it",
        "B": "twice as much: the bias is one operator, GELU is another",
        "C": "more than six times as much",
    },
)

# %%


class Bytes(TorchDispatchMode):
    """Adds up the bytes of the tensors that operators read and write."""

    def __init__(self):
        super().__init__()
        self.rows = []

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # else the first operator imports the compiler, which takes seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        read = sum(t.numel() * t.element_size() for t in args if isinstance(t, torch.Tensor))
        self.rows.append((str(func), read, result.numel() * result.element_size()))
        return result

    @property
    def total(self):
        return sum(read + written for _, read, written in self.rows)


def bytes_of(function, *arguments):
    with torch.no_grad(), Bytes() as seen:
        function(*arguments)
    return seen


by_formula = bytes_of(formula, x, bias)
times_fused = by_formula.total / (2 * ONE)
moved.settle(
    "A" if times_fused < 1.5 else "B" if times_fused < 3 else "C",
    because={
        "A": "It would have to be a cache of twice that size. Here each operator is through with all of x before the "
        "next one begins.",
        "B": "That is `F.gelu(x + bias)`. In a formula every sign is an operator: +, /, erf, +, · and · again.",
        "C": "",
    },
)
rows = [(name, format_bytes(read), format_bytes(written)) for name, read, written in by_formula.rows]
Drawing(Table(("operator", "reads", "writes"), rows, title="Six operators, each through memory"))

# %% [markdown]
# No operator knows of the next. Each reads its input from memory, does one thing, and writes the result to memory.

# %%
two_operators = bytes_of(lambda x, bias: F.gelu(x + bias), x, bias)
fused = bytes_of(lambda x, bias: torch.ops.blackbelt.bias_gelu(x, bias, "cpp"), x, bias)
claim(
    "the formula moves thirteen tensors, `F.gelu(x + bias)` four, a fused kernel two (and the bias)",
    [round(seen.total / ONE) for seen in (by_formula, two_operators, fused)] == [13, 4, 2],
    figures={
        name: format_bytes(seen.total)
        for name, seen in (("formula", by_formula), ("F.gelu(x + bias)", two_operators), ("fused", fused))
    },
)

# %% [markdown]
# ## Measure: what is the limit?
#
# A processor has two limits: how many bytes per second reach it, and how many operations per second it makes. Which
# one an operator meets depends on its **arithmetic intensity**, operations per byte. Both limits, measured here and
# now, on one thread: a copy for the bytes, a large matrix product (PyTorch's or ours, the faster one) for the
# operations.

# %%
square, out = torch.randn(1024, 1024), torch.empty_like(x)
limits = measure(
    rounds=9,
    copy=lambda: out.copy_(x),
    theirs=lambda: square @ square,
    ours=lambda: kernels.matmul(square, square),
)
best = {timing.name: min(timing.round_seconds) for timing in limits.timings}
bandwidth = 2 * ONE / best["copy"]  # bytes per second
peak = 2 * 1024**3 / min(best["theirs"], best["ours"])  # operations per second
ridge = peak / bandwidth

intensities = {"x + bias": 1 / 8, "bias + GELU, fused": 6 / 8}  # per element: operators of the formula, 8 bytes
intensities |= {f"matmul, {n} × {n}": round(2 * n**3 / (3 * n**2 * 4), 1) for n in (64, 1024)}
corners = sorted([*intensities.values(), round(ridge, 1)])
roof = {name: min(peak, intensity * bandwidth) for name, intensity in intensities.items()}
Drawing(
    Table(
        ("", "operations per byte", "the best that is possible", "of the peak"),
        [
            (name, f"{intensities[name]:.3g}", f"{roof[name] / 1e9:.3g} GFLOP/s", f"{roof[name] / peak:.1%}")
            for name in roof
        ],
        title=f"One thread: {bandwidth / 1e9:.3g} GB/s, {peak / 1e9:.3g} GFLOP/s, equal at {ridge:.2g} FLOP per byte",
    ),
    Curves(
        {
            "roof": (corners, [min(peak, corner * bandwidth) / 1e9 for corner in corners]),
            **{name: ([intensities[name]], [roof[name] / 1e9]) for name in roof},
        },
        "operations per byte",
        "GFLOP/s",
        "The roofline: under the slope memory is the limit, under the flat roof arithmetic is",
    ),
)

# %%
claim(
    "bias + GELU lies under the slope and a large matrix product under the flat roof",
    intensities["bias + GELU, fused"] < ridge < intensities["matmul, 1024 × 1024"],
    figures={"FLOP per byte where both are equal": ridge, "of an H100, by its data sheet": 67e12 / 3.35e12},
)

# %% [markdown]
# Under the slope only one thing helps: to move fewer bytes. (One operator counts as one operation here. An error
# function is some thirty inside, and as you will see, that matters to a loop that makes them one at a time.) A GPU has
# more of both, and more operations for each byte: an H100 67 TFLOP/s (float32, no tensor cores) and 3.35 TB/s.
#
# ## The ladder: bias + GELU
#
# The rungs are in `ladder.py`, their C++ in `csrc/cpu/ladder.cpp`:
#
# 1. **formula**: PyTorch's operators, thirteen tensors.
# 2. **loop**: one loop over the elements, compiled. What was passed on in memory is in a register now.
# 3. **vectors**: a register of numbers at a time (16 with AVX-512), and an error function made for vectors.
# 4. **inlined**: the normal distribution in the loop itself, some thirty instructions fitted for the purpose. A call,
#    even to a function made for vectors, puts every register on the stack and takes it back.
# 5. **threads**: rows are shared out among cores. With one thread, as here, that is nothing.
# 6. **exported**: stores of large results go past the caches (see below). This is `kernels.bias_gelu`.
#
# The limit is a copy: it reads one tensor, writes another and computes nothing.

# %%


def climb(rungs, *arguments, leave_out=("threads",), **others):
    """Measure the rungs of a ladder and others beside them."""
    functions = {name: lambda f=f: f(*arguments) for name, f in rungs.items() if name not in leave_out}
    return measure(rounds=5, warmup=2, copy=lambda: out.copy_(x), **functions, **others)


def table(times, title):
    seconds = {timing.name: min(timing.round_seconds) for timing in times.timings}
    rungs = [name for name in seconds if name in ladder.RUNGS["bias_gelu"] | ladder.RUNGS["softmax"]]
    gain = {name: f"{seconds[before] / seconds[name]:.2g}×" for before, name in itertools.pairwise(rungs)}
    rows = [
        (name, format_seconds(took), gain.get(name, ""), f"{seconds['copy'] / took:.0%}")
        for name, took in seconds.items()
    ]
    columns = ("", "best of 5", "to the rung before", "of a copy's speed")
    return Drawing(Table(columns, rows, title=title))


climbed = climb(ladder.RUNGS["bias_gelu"], x, bias, **{"F.gelu(x + bias)": lambda: F.gelu(x + bias)})
table(climbed, f"bias + GELU of {format_bytes(ONE)}, one thread")

# %%
fastest = {timing.name: min(timing.round_seconds) for timing in climbed.timings}
claim(
    "the exported kernel takes less than half of the formula's time",
    fastest["formula"] > 2 * fastest["exported"],
    figures={"formula to exported": fastest["formula"] / fastest["exported"]},
)
claim(
    "fusing alone is not enough: with vectors the loop takes less than half of its time",
    fastest["loop"] > 2 * fastest["vectors"],
    figures={"loop to vectors": fastest["loop"] / fastest["vectors"]},
)
claim(
    "the formula allocates three tensors at its peak, the kernel its result",
    3 <= climbed["formula"].peak_bytes / ONE < 3.001 and climbed["exported"].peak_bytes == ONE,
    figures={name: format_bytes(climbed[name].peak_bytes) for name in ("formula", "exported")},
)
right = F.gelu(x.double() + bias)
claim(
    "and every rung computes the same",
    all(torch.allclose(f(x, bias), right.float(), atol=1e-6) for f in ladder.RUNGS["bias_gelu"].values()),
)

# %% [markdown]
# Compare the first two rungs. The loop moves a sixth of the bytes, and that need not make it faster: it computes one
# error function after the other, so now arithmetic is its limit. Each rung shifts the limit, and the next idea has to
# be about the new one.
#
# Could PyTorch not fuse the formula on its own? Eager mode cannot: when `x + bias` is called, nobody knows yet that
# `erf` will come, and the caller might look at the sum in between. `torch.compile` sees the whole function first:

# %%
compiled = torch.compile(formula, fullgraph=True)
compiled(x, bias)  # compiles
fusing = measure(
    rounds=5,
    warmup=1,
    formula=lambda: formula(x, bias),
    compiled=lambda: compiled(x, bias),
    exported=lambda: kernels.bias_gelu(x, bias),
)
claim(
    "compiled, the formula allocates one tensor, its result: six operators became one loop",
    fusing["compiled"].peak_bytes == ONE and torch.allclose(compiled(x, bias), right.float(), atol=1e-6),
    figures={"peak": format_bytes(fusing["compiled"].peak_bytes)}
    | {f"formula to {name}": fusing.ratio("formula", name) for name in ("compiled", "exported")},
)

# %% [markdown]
# So for a chain of elementwise operators you need no kernel by hand: compare the two ratios. You need one where the
# compiler does not find the idea. Below are a softmax in one pass less, a loss without its logits, a product in tiles.
#
# ## See: why a copy moves three bytes for two
#
# You write one byte of memory. The processor cannot: its unit is a cache line of 64 bytes. So it reads the line first,
# to *own* it, changes the byte, and writes the line back later. If you write the whole line, that reading was for
# nothing, but the processor did not know. A **streaming store** says: I write all of it, past the caches.

# %%
lines = ONE // 64
Drawing(
    Table(
        ("", "lines read", "lines read to own them", "lines written", "bytes moved"),
        [
            ("ordinary stores", f"{lines:,}", f"{lines:,}", f"{lines:,}", format_bytes(3 * lines * 64)),
            ("streaming stores", f"{lines:,}", 0, f"{lines:,}", format_bytes(2 * lines * 64)),
        ],
        title=f"A copy of {format_bytes(ONE)}",
    )
)

# %%
source_folder = Path(kernels.__file__).parent / "csrc"


def source(name, first, last):
    """Show the lines of a file from the one with `first` to the one that begins with `last`."""
    found = (source_folder / name).read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(found) if first in line)
    end = next(n for n in range(start, len(found)) if found[n].startswith(last))
    return Code("\n".join(found[start : end + 1]), title=f"csrc/{name}")


claim(
    "streamed or not, the numbers are the same to the bit",
    torch.equal(ladder.inlined_bias_gelu(x, bias), ladder.exported_bias_gelu(x, bias)),
)
Drawing(source("cpu/rows.h", "inline bool streams", "}"))

# %% [markdown]
# It is right for large results only: whoever reads a streamed one next will not find it in the cache. Hence the
# threshold in these lines. In the ladder it is the step from `inlined` to `exported`: 1.5× at most, and less where the
# processor notices by itself that whole lines are written, as newer ones do. Where the last cache is about as large as
# these tensors it is even a loss. What does your table say?
#
# ## See: softmax in one pass less
#
# A softmax needs the row's maximum, then the sum of `exp(x - maximum)`, and then its result: three readings. In lesson
# R.2 you met the *online* softmax, which gets maximum and sum in one. Its heart is a rule that merges two parts of a
# row, each a pair of (maximum, sum relative to it):

# %%
NOTHING = (-math.inf, 0.0)


def merge(one, other):
    largest = max(one[0], other[0])
    if largest == -math.inf:
        return NOTHING  # -inf - (-inf) would be NaN
    return largest, one[1] * math.exp(one[0] - largest) + other[1] * math.exp(other[0] - largest)


row = torch.randn(32, dtype=torch.float64) * 10
parts = [(value, 1.0) for value in row.tolist()]  # of one element: itself, and exp(0)


def any_order(parts, seed):
    """Merge two parts drawn by chance, until one part is left."""
    parts, generator = list(parts), torch.Generator().manual_seed(seed)
    while len(parts) > 1:
        one, other = (parts.pop(int(torch.randint(len(parts), (), generator=generator))) for _ in range(2))
        parts.append(merge(one, other))
    return parts[0]


largest, total = row.max().item(), (row - row.max()).exp().sum().item()
merged = [any_order(parts, seed) for seed in range(100)]
claim(
    "merged in a hundred different orders, the pairs are the same: the rule is associative and commutative",
    all(m == largest and math.isclose(s, total, rel_tol=1e-12) for m, s in merged),
    figures={"maximum": largest, "sum": total},
)
claim("a part with nothing in it (or with −∞ only) changes nothing", merge(NOTHING, parts[0]) == parts[0])

# %% [markdown]
# This is what lets many threads share one row. In CUDA the 32 lanes of a warp do so without any memory: each merges
# its pair with that of the lane 16 away, then 8, 4, 2, 1. Run here with 32 pairs:

# %%
lanes = list(parts)
for offset in (16, 8, 4, 2, 1):
    lanes = [merge(lanes[lane], lanes[lane ^ offset]) for lane in range(32)]
claim(
    "after five exchanges every one of the 32 lanes has the pair of the whole row, each the same to the bit",
    len(set(lanes)) == 1 and math.isclose(lanes[0][1], total, rel_tol=1e-12),
)
Drawing(
    source("cuda/online.cuh", "static Online<W> merge", "  }"),
    source("cuda/common.cuh", "inline V over_group", "  for"),
)

# %%
rows_of_logits = torch.randn(3840, 2048)
softmaxes = climb(ladder.RUNGS["softmax"], rows_of_logits, **{"torch.softmax": lambda: rows_of_logits.softmax(-1)})
table(softmaxes, f"Softmax of {format_bytes(ONE)}, one thread")

# %%
claim(
    "the formula holds two matrices at its peak, every rung above it only its result",
    softmaxes["formula"].peak_bytes >= 2 * ONE
    and all(softmaxes[name].peak_bytes < 1.01 * ONE for name in ("loop", "online", "vectors", "exported")),
)
claim(
    "and from a loop over numbers to the exported kernel, the time falls to less than half",
    min(softmaxes["loop"].round_seconds) > 2 * min(softmaxes["exported"].round_seconds),
    figures={"loop to exported": min(softmaxes["loop"].round_seconds) / min(softmaxes["exported"].round_seconds)},
)

# %% [markdown]
# `online` alone gains little here: a row of 8 KiB stays in the cache, so its second reading is not from memory. On a
# GPU, or with rows of a megabyte, it is. Measure before you believe, also in an idea that is famous.
#
# ## See: a Triton kernel, line by line
#
# A kernel is a function that runs many times at once. In Triton, each run is a **program**: it finds out its number
# and works on one **block** of elements.

# %%


@triton.jit
def phi(u):
    return 0.5 * (1.0 + tl.erf(u * 0.7071067811865476))  # 1 / √2


@triton.jit
def bias_gelu_kernel(x_ptr, bias_ptr, out_ptr, numel, columns, block: tl.constexpr):
    place = tl.program_id(0) * block + tl.arange(0, block)  # which elements are mine: `block` numbers
    inside = place < numel  # the last program has fewer: a mask
    u = tl.load(x_ptr + place, mask=inside, other=0.0)  # addresses: a pointer plus numbers
    u += tl.load(bias_ptr + place % columns, mask=inside, other=0.0)
    tl.store(out_ptr + place, u * phi(u), mask=inside)


odd = torch.randn(5, 123)
odd_bias, odd_out = torch.randn(123), torch.full((5, 123), math.nan)
programs = triton.cdiv(odd.numel(), 256)  # rounded up
with traffic() as seen:
    bias_gelu_kernel[(programs,)](odd, odd_bias, odd_out, odd.numel(), 123, block=256)
claim(
    "three programs of 256 compute all 615 elements, and nothing of the 153 beyond the end is read",
    torch.allclose(odd_out, F.gelu(odd + odd_bias), atol=1e-6) and programs == 3 and seen.loaded == 2 * 615,
    figures={"elements read": seen.loaded},
)

# %% [markdown]
# - `tl.program_id(0)`: the number of this program, 0, 1 or 2. They run in any order, or at the same time.
# - `tl.arange(0, block)`: a vector. Everything computed from it is a vector too. `block` must be a power of 2.
# - `x_ptr + place`: a vector of addresses. There is no shape, no stride and no dtype check any more. **A pointer is a
#   number.**
# - `mask`: the addresses that do not count. Without it:

# %%


@triton.jit
def double_without_mask(x_ptr, block: tl.constexpr):
    place = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(x_ptr + place, tl.load(x_ptr + place) * 2.0)  # in place


beyond = error_of(lambda: double_without_mask[(3,)](odd.clone(), block=256))
beyond

# %% [markdown]
# - *a load outside of every tensor of this launch*: the third program reads on where the tensor has ended.
# - *(153 of 256 addresses)*: 3 · 256 − 615.
#
# This error comes from our interpreter, which looks at every address. **On a GPU there is none** in most cases: memory
# behind a tensor belongs to another one. What is read is garbage, and the store overwrites somebody else's numbers.
# With 512 or 1024 elements everything works, and that is what people test with.

# %%
even = torch.randn(4, 128)
doubled = even.clone()
double_without_mask[(2,)](doubled, block=256)
claim(
    "where the size is a multiple of the block, the kernel without a mask is right",
    torch.equal(doubled, 2 * even) and "153 of 256" in beyond.message,
)

# %% [markdown]
# ## See: the same kernel in CUDA C++
#
# CUDA says what one **thread** does. 32 threads are a **warp**: they execute the same instruction in the same moment,
# each on numbers of its own. Some warps are a **block**, which runs on one multiprocessor and shares a small, fast
# memory there. All blocks together are the **grid**. A Triton program is a block, and who does what inside it is left
# to the compiler. `__global__` marks a kernel:

# %%
Drawing(
    source("cuda/bias_gelu.cuh", "inline W normal_cdf", "}"),
    source("cuda/bias_gelu.cuh", "A thread keeps to its N columns", "}"),
)

# %% [markdown]
# - `T` is the dtype in memory, `W` the *wide* one to compute in: float32 for half precision. `widen` and `narrow` go
#   between them. Rounded once, at the very end.
# - `N` neighbors at a time: 16 bytes with one instruction. A thread keeps to its columns and walks down the rows, so
#   the bias is loaded once, and no index is divided.
# - `place.column >= columns` is the mask, `Index` is a 64-bit number. With 32 bits the offset of a tensor of more than
#   2³¹ elements becomes negative, and a negative offset passes `place < numel`.
#
# (Where there is a GPU, and nvcc, the next cell builds the CUDA kernels: once, about two minutes.)

# %%
small = torch.randn(64, 2048)
claim(
    "on a GPU `bias_gelu` runs this kernel (or Triton's, where there is no nvcc) and agrees with PyTorch's",
    lambda: torch.allclose(
        kernels.bias_gelu(small.cuda(), bias.cuda()), F.gelu(small.cuda() + bias.cuda()), rtol=1e-5, atol=1e-6
    ),
    needs="cuda",
)
wrapped = int(torch.tensor(131_072, dtype=torch.int32) * 16_384)  # 131,073 rows of 16,384 columns: 4 GiB of float16
claim(
    "the 32-bit offset of row 131,072, with 16,384 columns, is negative, and so it passes the mask",
    wrapped < 0 and wrapped < 131_073 * 16_384,
    figures={"offset": f"{wrapped:,}", "it should be": f"{131_072 * 16_384:,}"},
)

# %% [markdown]
# ## See: what a warp really fetches
#
# Lanes ask for 4 bytes each. Memory answers in **sectors of 32 bytes**.

# %%
fetched = predict(
    "A matrix of float32, row-major, has 1024 columns. A warp reads one column: lane i reads row i. Of the bytes "
    "that memory delivers, which part is used?",
    {
        "A": "all: each lane asked for 4 bytes and gets 4 bytes",
        "B": "half",
        "C": "an eighth",
    },
)

# %%


def sectors(stride, lanes=32, size=4):
    """The sectors of 32 bytes that the lanes of a warp touch, reading numbers that are `stride` apart."""
    return {lane * stride * size // 32 for lane in range(lanes)}


share = {stride: 32 * 4 / (32 * len(sectors(stride))) for stride in (1, 2, 32, 1024)}
fetched.settle(
    {1.0: "A", 0.5: "B", 0.125: "C"}[share[1024]],
    because={
        "A": "The smallest thing that memory delivers is a sector of 32 bytes.",
        "B": "That is stride 2: every other number of each sector is used.",
        "C": "",
    },
)


def drawn(stride, cells=16):
    asked = {lane * stride: lane for lane in range(32)}

    def cell(number):
        if number in asked:
            return Cell(str(asked[number]), 1)
        return Cell("", 3 if number // 8 in sectors(stride) else None)

    return [cell(number) for number in range(cells)]


Drawing(
    Grid(
        [drawn(stride) for stride in (1, 2, 32)],
        row_labels=[f"stride {stride}" for stride in (1, 2, 32)],
        column_labels=[f"byte {4 * n}" if n % 8 == 0 else "" for n in range(16)],
        title="The first two sectors of memory; a number is the lane that asks",
        legend={1: "asked for", 3: "delivered for nothing; a white sector is not touched"},
    )
)

# %%
claim(
    "neighbors in a warp that read neighbors in memory fetch 4 sectors; 2 apart 8, and 32 or more apart one each",
    [len(sectors(stride)) for stride in (1, 2, 32, 1024)] == [4, 8, 32, 32],
    figures={f"used at stride {stride}": f"{part:.1%}" for stride, part in share.items()},
)

# %% [markdown]
# That is **coalescing**, and it is the first thing to get right: the fastest index of the thread along the fastest
# index of the tensor. A transposed input of the right shape and the right numbers costs eight times the bytes.
#
# ## The ladder: matrix multiplication
#
# A product of n × n matrices has 2n³ operations and 3n² numbers, so it *could* be bound by arithmetic. The naive kernel
# is not: each result reads a row and a column of its own. A **tile** of T × T results shares them. Triton's
# interpreter counts:

# %%
a, b = torch.randn(16, 24), torch.randn(24, 40)
with traffic() as naive:
    product = ladder.naive_matmul(a, b, backend="triton")
with traffic() as tiled:
    shared = ladder.tiles_matmul(a, b, backend="triton")
tile = 32  # of this backend on the interpreter
across, down = math.ceil(40 / tile), math.ceil(16 / tile)
claim(
    "naive: 2K numbers are read for each result",
    naive.loaded == 2 * 24 * 16 * 40 and torch.allclose(product, a @ b, atol=1e-4),
    figures={"read": naive.loaded},
)
claim(
    "in tiles: each number of A once for each column of tiles, each number of B once for each row of tiles",
    tiled.loaded == a.numel() * across + b.numel() * down and torch.allclose(shared, a @ b, atol=1e-4),
    figures={"read": tiled.loaded, "times fewer": naive.loaded / tiled.loaded},
)
Drawing(source("cuda/matmul.cuh", "Tiles: a block", "}"))

# %% [markdown]
# In CUDA the tile is `__shared__`: 32 × 32 threads load one number each of A and of B, wait for one another
# (`__syncthreads`), and use each number 32 times. Without the first wait a thread may read what has not come yet;
# without the second one it may overwrite what others still read. Neither raises anything.
#
# Now shared memory is the limit: two reads for one multiplication. **Register blocking**: a thread makes 8 × 8 results
# and reads 8 + 8 numbers for 64 multiplications. **Tensor cores** go on in hardware: one instruction, `mma.m16n8k16`,
# multiplies a 16 × 16 by a 16 × 8 matrix of half precision, its numbers spread over the registers of a warp.

# %%
steps = {  # multiply-adds, and the numbers that are read for them
    "naive, from memory": (1, 2),
    "tiles of 32, from memory": (32 * 32, 2 * 32),
    "tiles of 32, from shared memory": (1, 2),
    "8 × 8 in registers, from shared memory": (8 * 8, 8 + 8),
    "mma, from registers": (16 * 8 * 16, 16 * 16 + 16 * 8),
}
Drawing(
    Table(
        ("", "multiply-adds", "numbers read", "multiply-adds per number"),
        [(name, work, read, f"{work / read:.3g}") for name, (work, read) in steps.items()],
        title="What a number is used for, once it is there",
    )
)

# %%
halves = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)  # all there are
halves = halves[halves.isfinite()]
others = halves[torch.randperm(len(halves))]
claim(
    "the product of two float16 is exact in float32, so that only its sums round: what mma computes",
    torch.equal((halves.float() * others.float()).double(), halves.double() * others.double()),
    figures={"pairs": len(halves)},
)

# %% [markdown]
# The same ideas on your CPU, with a cache in place of shared memory and vector registers in place of a thread's:

# %%
square_a, square_b = torch.randn(512, 512), torch.randn(512, 512)
on_cpu = {name: f for name, f in ladder.RUNGS["matmul"].items() if name != "tensor_cores"}
products = measure(
    rounds=3,
    warmup=1,
    **{name: lambda f=f: f(square_a, square_b) for name, f in on_cpu.items()},
    **{"torch.mm": lambda: square_a @ square_b},
)
rates = {timing.name: 2 * 512**3 / min(timing.round_seconds) for timing in products.timings}
Drawing(
    Table(
        ("", "GFLOP/s", "to naive", "of the limit measured above"),
        [
            (name, f"{rate / 1e9:.3g}", f"{rate / rates['naive']:.3g}×", f"{rate / peak:.0%}")
            for name, rate in rates.items()
        ],
        title="512 × 512, float32, one thread",
    )
)

# %%
claim(
    "from three loops to packed tiles and blocks in registers: more than ten times as fast, on the same processor",
    rates["registers"] > 10 * rates["naive"],
    figures={f"registers to {name}": rates["registers"] / rates[name] for name in ("naive", "torch.mm")},
)

# %% [markdown]
# That is no reason to ship a matrix product of your own: `torch.mm` has one for each shape and dtype, and where ours is
# ahead, it is on one shape and your processor. But know what it is made of: attention and fused losses are built
# around one.
#
# ## See: an operator that PyTorch knows
#
# Autograd does not see your kernel, and no compiler looks into one in C++ or CUDA (of one in Triton `torch.compile` can
# take the source). `torch.library` wants three declarations. First the **schema**, from the annotations: what comes
# in, what goes out, what is changed (`mutates_args`). Second a **fake** kernel, which says what comes out, without
# numbers. Third a **backward**.

# %%


@triton.jit
def bias_gelu_backward_kernel(grad_ptr, x_ptr, bias_ptr, out_ptr, numel, columns, block: tl.constexpr):  # noqa: PLR0917
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < numel
    u = tl.load(x_ptr + place, mask=inside, other=0.0) + tl.load(bias_ptr + place % columns, mask=inside, other=0.0)
    slope = phi(u) + u * 0.3989422804014327 * tl.exp(-0.5 * u * u)  # Φ(u) + u · φ(u)
    tl.store(out_ptr + place, tl.load(grad_ptr + place, mask=inside, other=0.0) * slope, mask=inside)


BLOCK = 8192


@custom_op("lesson::bias_gelu", mutates_args=())
def my_bias_gelu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    bias_gelu_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, bias, out, x.numel(), x.size(-1), block=BLOCK)
    return out


@my_bias_gelu.register_fake
def fake(x, bias):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@custom_op("lesson::bias_gelu_backward", mutates_args=())
def my_bias_gelu_backward(grad: torch.Tensor, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    bias_gelu_backward_kernel[(triton.cdiv(x.numel(), BLOCK),)](grad, x, bias, out, x.numel(), x.size(-1), block=BLOCK)
    return out


@my_bias_gelu_backward.register_fake
def fake_backward(grad, x, bias):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def backward(ctx, grad):
    grad_x = my_bias_gelu_backward(grad, *ctx.saved_tensors)
    return grad_x, grad_x.flatten(0, -2).sum(0)


my_bias_gelu.register_autograd(backward, setup_context=keep)

# %%
odd.requires_grad_()
odd_bias.requires_grad_()
through = torch.compile(lambda x, bias: my_bias_gelu(x, bias).square(), fullgraph=True, backend="aot_eager")
wish = torch.randn(5, 123)
found = torch.autograd.grad(through(odd, odd_bias), (odd, odd_bias), wish)
expected = torch.autograd.grad(F.gelu(odd + odd_bias).square(), (odd, odd_bias), wish)
claim(
    "with these three, `torch.compile(fullgraph=True)` goes through it, forward and backward",
    all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected)),
)
promises = ("test_schema", "test_autograd_registration", "test_faketensor")
verdicts = opcheck(my_bias_gelu, (odd, odd_bias), test_utils=promises)
claim("`opcheck` finds schema, registration and fake in order", set(verdicts.values()) == {"SUCCESS"})

# %% [markdown]
# `opcheck` runs the operator and compares what it does with what it declares. The fake is what people get wrong. Here
# is one by somebody who thought of matrices, checked with a matrix and with a batch of them:

# %%
my_bias_gelu.register_fake(lambda x, bias: x.new_empty(x.size(0), x.size(-1)))
batched = torch.randn(2, 5, 123, requires_grad=True)
passes = opcheck(my_bias_gelu, (odd, odd_bias), test_utils="test_faketensor")
caught = error_of(lambda: opcheck(my_bias_gelu, (batched, odd_bias), test_utils="test_faketensor"))
my_bias_gelu.register_fake(fake)
caught

# %% [markdown]
# - *the output of lesson.bias_gelu.default on FakeTensor and concrete Tensors*: the declaration beside the fact.
# - *Shapes torch.Size([2, 5, 123]) and torch.Size([2, 123])*: the fact first, then what the fake said.
#
# The compiler trusts the fake. It generates code from it before the kernel ever runs, and computes addresses with its
# *strides* as well. `torch.empty_like(x)`, which most people write, keeps those of `x`:

# %%
transposed = torch.randn(123, 5).t()
kept, returned = torch.empty_like(transposed).stride(), my_bias_gelu(transposed, odd_bias).stride()
claim(
    "a wrong fake passes with one sample and is caught with another",
    "SUCCESS" in passes.values() and "are not equal" in caught.message,
)
claim(
    "for a transposed x, `torch.empty_like(x)` declares a transposed result; the kernel returns a contiguous one",
    kept == (1, 5) and returned == (123, 1),
    figures={"declared": kept, "returned": returned},
)

# %% [markdown]
# So give `opcheck` more than one sample: other numbers of dimensions, half precision, a transposed one. (Of the strides
# only newer versions of PyTorch complain, so look at them yourself, too.)
#
# ## See: a loss without its softmax, and without its logits
#
# In a language model the logits are the largest tensor: one row for each token, one column for each word. The gradient
# of cross-entropy is softmax − onehot. PyTorch keeps the log-softmax for it, as large as the logits. What is enough is
# one number per row, the log-sum-exp: exp(logit − lse) is the softmax. And then the gradient may take the logits'
# place, and the logits need never be there at once (`linear_cross_entropy` makes them a chunk of rows at a time).

# %%
TOKENS, FEATURES, WORDS = 512, 64, 16384
LOGITS = TOKENS * WORDS * 4
logits = torch.randn(TOKENS, WORDS, requires_grad=True)
target = torch.randint(WORDS, (TOKENS,))
hidden = torch.randn(TOKENS, FEATURES, requires_grad=True)
words = (torch.randn(WORDS, FEATURES) / 8).requires_grad_()


def of_loss(loss):
    return torch.autograd.grad(loss(logits.clone(), target), logits)  # the clone: logits as a model makes them


def of_layer(loss):
    return torch.autograd.grad(loss(hidden, words, target), (hidden, words))


losses = {
    "F.cross_entropy": lambda: of_loss(F.cross_entropy),
    "cross_entropy": lambda: of_loss(kernels.cross_entropy),
    "cross_entropy, in place": lambda: of_loss(lambda *a: kernels.cross_entropy(*a, inplace=True)),
}
layers = {
    "F.linear, F.cross_entropy": lambda: of_layer(lambda h, w, t: F.cross_entropy(F.linear(h, w), t)),
    "linear_cross_entropy": lambda: of_layer(lambda h, w, t: kernels.linear_cross_entropy(h, w, t, chunk_rows=64)),
}
gc.collect()  # what the compiler left behind would be freed during the measurement
held = {t.name: t.peak_bytes for t in measure(rounds=1, warmup=1, **losses, **layers).timings}
Drawing(
    Table(
        ("forward and backward", "peak", "in logits"),
        [(name, format_bytes(number), f"{number / LOGITS:.2f}") for name, number in held.items()],
        title=f"{TOKENS} tokens, {WORDS:,} words: the logits take {format_bytes(LOGITS)}",
    )
)

# %%
in_logits = [held[name] / LOGITS for name in losses]
claim(
    "with the logits themselves: three of them for PyTorch's, two without a stored softmax, one in place",
    all(number <= taken < number + 0.05 for number, taken in zip((3, 2, 1), in_logits)),
)
claim(
    "linear and loss in one: less than half of the logits, for everything",
    held["linear_cross_entropy"] < 0.5 * LOGITS < held["F.linear, F.cross_entropy"] / 4,
    figures={name: format_bytes(held[name]) for name in layers},
)
claim(
    "and the gradients are those of PyTorch's",
    all(
        torch.allclose(one, other, atol=1e-6)
        for pair in (losses, layers)
        for (first, *rest) in [[f() for f in pair.values()]]
        for found in rest
        for one, other in zip(found, first)
    ),
)

# %% [markdown]
# In place has a price: whoever needs the logits afterwards reads a gradient. A kernel that writes through a pointer
# does not tell autograd. Ours declares it (`Tensor(a!) logits` in the schema), so that autograd can object:

# %%
probabilities = (hidden @ words.mT).softmax(-1)  # saves its result for backward, and then that is overwritten
overwritten = error_of(lambda: kernels.cross_entropy(probabilities, target, inplace=True).backward())
overwritten

# %% [markdown]
# - *one of the variables needed for gradient computation*: the result that `softmax` saved for its backward.
# - *is at version 2; expected version 0*: each write counts one up, and backward compares (lesson 1.4). A pointer that
#   writes counts nothing, unless the operator's schema says so.

# %%
claim(
    "a declared write is found by autograd",
    "modified by an inplace operation" in overwritten.message and "version" in overwritten.message,
)

# %% [markdown]
# ## See: a backward by hand
#
# RMSNorm: n = x · rstd, with rstd = 1/√(mean(x²) + eps), and the result is n · w. In backward g = grad · w is what
# reaches n. If rstd were a constant, x would get g · rstd. It is made of x: what points along n is taken off, since a
# longer x changes rstd and nothing else.

# %%
rows_x = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
weight = torch.randn(10, dtype=torch.float64, requires_grad=True)
wish = torch.randn(6, 10, dtype=torch.float64)
rstd = (rows_x.square().mean(-1, keepdim=True) + 1e-6).rsqrt().detach()
n, g = rows_x.detach() * rstd, wish * weight.detach()
from_autograd = torch.autograd.grad(F.rms_norm(rows_x, (10,), weight, 1e-6), (rows_x, weight), wish)
from_kernel = torch.autograd.grad(kernels.rms_norm(rows_x, weight, 1e-6), (rows_x, weight), wish)
claim(
    "grad_x = rstd · (g − n · mean(g · n)), and grad_weight = Σ grad · n over the rows: autograd's, and the kernel's",
    torch.allclose(rstd * (g - n * (g * n).mean(-1, keepdim=True)), from_autograd[0])
    and torch.allclose((wish * n).sum(0), from_autograd[1])
    and all(torch.allclose(one, other) for one, other in zip(from_kernel, from_autograd)),
)
claim(
    "without the second term it is wrong by a good part of its size",
    (rstd * g - from_autograd[0]).norm() > 0.1 * from_autograd[0].norm(),
    figures={"off by": float((rstd * g - from_autograd[0]).norm() / from_autograd[0].norm())},
)

# %% [markdown]
# ## Measure: numbers
#
# Half precision is for memory. Sums in it go wrong in a way that nobody sees:

# %%
ones, total = torch.ones(4096, dtype=torch.float16), torch.tensor(0.0, dtype=torch.float16)
for number in ones:
    total += number
claim(
    "4096 ones, added in float16 one by one, are 2048: there is no float16 between 2048 and 2050",
    total == 2048 and ones.sum() == 4096,
    figures={"one by one": total.item(), "`sum`, which adds in float32": ones.sum().item()},
)

# %% [markdown]
# And sums depend on their order. The gradient of a bias is a sum over all rows, of which each program has some. With an
# atomic addition they are added in the order in which the programs happen to come by:

# %%
addends = torch.randn(1000)


def added(order):
    total = torch.tensor(0.0)
    for number in addends[order]:
        total = total + number
    return total.item()


sums = {added(torch.randperm(1000)) for _ in range(10)}
claim(
    "the same thousand numbers, added in float32 in ten different orders, give more than one sum",
    len(sums) > 1,
    figures={"different sums": len(sums), "apart by": max(sums) - min(sums)},
)

# %% [markdown]
# A training run that is never the same twice is hard to debug. So each program of `bias_gelu_backward` writes a line of
# partial sums of its own, and these are added in a fixed order (`csrc/cuda/columns.cuh`). A kata asks you for that.
#
# With all sums in float32 and one rounding at the end, how good are the kernels? The judge is float64.

# %%
half_x, half_w = torch.randn(256, 1000, dtype=torch.float16), torch.rand(1000, dtype=torch.float16)
pairs = {
    "bias_gelu": (kernels.bias_gelu, lambda x, w: F.gelu(x + w)),
    "softmax": (lambda x, w: kernels.softmax(x), lambda x, w: x.softmax(-1)),
    "rms_norm": (kernels.rms_norm, lambda x, w: F.rms_norm(x, (1000,), w)),
}
rows, worse, mean = [], {}, {}
for name, (ours, theirs) in pairs.items():
    truth = theirs(half_x.double(), half_w.double())
    off = [(f(half_x, half_w) - truth).abs() for f in (theirs, ours)]
    worse[name], mean[name] = float(off[1].max() / off[0].max()), float(off[1].mean() / off[0].mean())
    rows.append((name, *(f"{error.max():.1e}" for error in off), f"{worse[name]:.2f}", f"{mean[name]:.2f}"))
columns = ("float16", "PyTorch", "kernel", "ratio", "ratio of the mean errors")
Drawing(Table(columns, rows, title="Largest error against float64"))

# %%
claim(
    "the error of each kernel is at most twice that of PyTorch in the same precision",
    max(worse.values()) <= 2,
    figures={name: f"{ratio:.2f}" for name, ratio in worse.items()},
)
claim(
    "bias and GELU in one are closer on average: the sum in between is not rounded to float16",
    mean["bias_gelu"] < 0.9,
)

# %% [markdown]
# ## Trap: a gradient in the wrong order
#
# Back to `lesson::bias_gelu`. It has a mask, a fake, a backward. It is tested as kernels are:

# %%
truth_x, truth_bias = torch.randn(4, 6, 10, requires_grad=True), torch.randn(10, requires_grad=True)
upstream = torch.randn(4, 6, 10)
mine = torch.autograd.grad(my_bias_gelu(truth_x, truth_bias), (truth_x, truth_bias), upstream)
theirs = torch.autograd.grad(F.gelu(truth_x + truth_bias), (truth_x, truth_bias), upstream)
doubles = truth_x.double().detach().requires_grad_(), truth_bias.double().detach().requires_grad_()
claim(
    "values and gradients are those of PyTorch, and `gradcheck` passes",
    torch.allclose(my_bias_gelu(truth_x, truth_bias), F.gelu(truth_x + truth_bias), atol=1e-6)
    and all(torch.allclose(one, other, atol=1e-5) for one, other in zip(mine, theirs))
    and torch.autograd.gradcheck(my_bias_gelu, doubles, fast_mode=True),
)

# %% [markdown]
# Now a model uses it. A small mixer: a layer over the channels, then one over the tokens. For the latter the result is
# transposed, as everybody does it. The task: which of four classes a random network of the same kind would choose.

# %%


class Mixer(nn.Module):
    """(batch, 8 tokens, 16 channels) → (batch, 4 classes)."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation
        self.up, self.bias = nn.Parameter(torch.randn(16, 32) / 2), nn.Parameter(torch.zeros(32))
        self.over_tokens, self.head = nn.Linear(8, 8), nn.Linear(32, 4)

    def forward(self, x):
        h = self.activation(x @ self.up, self.bias)  # (B, 8, 32)
        mixed = self.over_tokens(h.mT).mT
        return self.head(mixed.relu().mean(1))


goes_on = predict(
    "`h.mT` is a view, so in backward the gradient of `h` arrives transposed: right shape, other strides. The backward "
    "kernel reads addresses. What happens?",
    {
        "A": "it raises: shapes or strides do not fit",
        "B": "nothing: autograd makes a gradient contiguous before it passes it on",
        "C": "training goes on with wrong gradients",
    },
)

# %%


def batch(number, seed):
    return torch.randn(number, 8, 16, generator=torch.Generator().manual_seed(seed))


torch.manual_seed(0)
teacher = Mixer(lambda x, bias: F.gelu(x + bias)).requires_grad_(False)
scores = teacher(batch(2000, 9))
center, spread = scores.mean(0), scores.std(0)


def answers(x):
    return ((teacher(x) - center) / spread).argmax(-1)


def train(activation, steps=150):
    torch.manual_seed(1)
    model = Mixer(activation)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    losses = []
    for step in range(steps):
        x = batch(128, 100 + step)
        loss = F.cross_entropy(model(x), answers(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


runs = {"F.gelu(x + bias)": train(lambda x, bias: F.gelu(x + bias)), "lesson::bias_gelu": train(my_bias_gelu)}
smooth = {name: [sum(run[n : n + 10]) / 10 for n in range(0, 150, 10)] for name, (_, run) in runs.items()}
Drawing(
    Curves(
        {name: (range(10, 151, 10), losses) for name, losses in smooth.items()},
        "step",
        "cross-entropy",
        "The same model from the same seed",
        log=False,
    )
)

# %%
probe = batch(1000, 7)
accuracy = {
    name: float((model(probe).argmax(-1) == answers(probe)).float().mean()) for name, (model, _) in runs.items()
}
ended = {name: losses[-1] for name, losses in smooth.items()}
model = Mixer(my_bias_gelu)
arrived = []
h = my_bias_gelu(probe[:2] @ model.up, model.bias)
h.register_hook(lambda grad: arrived.append(grad.stride()))
model.over_tokens(h.mT).mT.square().sum().backward()
goes_on.settle(
    "C" if ended["lesson::bias_gelu"] > 1.2 * ended["F.gelu(x + bias)"] else "B",
    because={
        "A": "A pointer has no shape and no strides. There are as many numbers as expected, in another order.",
        "B": "It passes on what the next operator's backward made, with whatever strides that has.",
        "C": "",
    },
)
claim(
    "the gradient of h (2, 8, 32) has the strides of its transpose",
    arrived == [(256, 1, 8)],
    figures={"strides": arrived[0]},
)
claim(
    "the loss goes down all the same, to a value that is worse: the layers behind the kernel learn",
    smooth["lesson::bias_gelu"][-1] < 0.9 * smooth["lesson::bias_gelu"][0]
    and ended["lesson::bias_gelu"] > 1.2 * ended["F.gelu(x + bias)"],
    figures={f"loss, {name}": loss for name, loss in ended.items()}
    | {f"accuracy, {name}": part for name, part in accuracy.items()},
)

# %% [markdown]
# Nothing was raised, no NaN, a loss that falls. Here you have the right curve beside it. At work you have one curve,
# and change the learning rate.
#
# How to catch it: **gradients in every layout that autograd makes.** It makes transposed ones (`.mT`), slices (behind
# `torch.cat`, which is what a fused QKV projection is), and expanded ones: behind `.sum()` one number, with strides 0.


# %%
def layouts(shape):
    """Gradients of one shape, each in a layout that autograd really passes on."""
    return {
        "contiguous": torch.randn(shape),
        "transposed": torch.randn(*shape[:-2], shape[-1], shape[-2]).mT,
        "a slice": torch.randn(*shape[:-1], 3 * shape[-1])[..., : shape[-1]],
        "expanded": torch.randn(()).expand(shape),
    }


def layouts_that_fail(operator):
    failing = []
    for name, upstream in layouts((4, 6, 10)).items():
        right = torch.autograd.grad(F.gelu(truth_x + truth_bias), (truth_x, truth_bias), upstream)
        try:
            found = torch.autograd.grad(operator(truth_x, truth_bias), (truth_x, truth_bias), upstream)
            is_right = all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, right))
        except Exception:  # the interpreter's, of an address outside; a GPU would read what is there
            is_right = False
        if not is_right:
            failing.append(name)
    return failing


summed = error_of(lambda: my_bias_gelu(truth_x, truth_bias).sum().backward())
claim(
    "three of four layouts are wrong, and none of them is the one that was tested",
    layouts_that_fail(my_bias_gelu) == ["transposed", "a slice", "expanded"],
)
summed

# %% [markdown]
# - *a load outside of every tensor of this launch*: `.sum()` passes on a single number, expanded to the shape. Of the
#   240 numbers that the kernel reads, one is there. The others are whatever lies behind it.
#
# `opcheck` has a fourth test, `test_aot_dispatch_dynamic`, which runs a backward too, behind a sum. And the repair is
# one word, in the operator, where its kernel says what it needs:

# %%
behind_a_sum = error_of(lambda: opcheck(my_bias_gelu, (odd, odd_bias), test_utils="test_aot_dispatch_dynamic"))


def repaired_backward(ctx, grad):
    return backward(ctx, grad.contiguous())


my_bias_gelu.register_autograd(repaired_backward, setup_context=keep)
repaired_losses = train(my_bias_gelu)[1]
claim(
    "on the interpreter `opcheck` finds it as well; after `.contiguous()` it is content, and so are all layouts",
    "outside of every tensor" in behind_a_sum.message
    and opcheck(my_bias_gelu, (odd, odd_bias)).items() >= {("test_aot_dispatch_dynamic", "SUCCESS")}
    and layouts_that_fail(my_bias_gelu) == [],
)
claim(
    "and the model learns as with PyTorch's operators",
    math.isclose(sum(repaired_losses[-10:]) / 10, ended["F.gelu(x + bias)"], rel_tol=0.05),
    figures={"loss": sum(repaired_losses[-10:]) / 10},
)

# %% [markdown]
# (On a GPU, where nobody looks at addresses, `opcheck` would compare one wrong gradient with the same wrong gradient,
# compiled. It tests whether an operator is what it declares, not whether it is right. That is what layouts and odd
# shapes are for.)
#
# ## Katas
#
# Kernels are judged by what they load, operators by what they declare. In the cell of a kernel, write it as above; it
# runs on the interpreter.

# %% kata="online_softmax_kernel"

# %% kata="tiled_matmul"

# %% kata="bias_gradient"

# %% kata="cross_entropy_in_place"

# %% kata="rms_norm_backward"

# %% kata="normalize_operator"

# %% [markdown]
# ## In the wild
#
# - Gradients in another layout: unslothai/unsloth#10617 (September 2026) is the trap above in an RMSNorm, 254 of 472
#   cases wrong. fla-org/flash-linear-attention#871 is a slice behind `torch.cat`, and
#   fla-org/flash-linear-attention#1138 an expanded gradient behind `.sum()`; ROCm/TransformerEngine#623 read past its
#   single number. Dao-AILab/flash-attention#355 is the same in attention.
# - Inputs in another layout: NVIDIA/TransformerEngine#2746, a guard that looked at the last stride only.
# - 32-bit offsets: deepspeedai/DeepSpeed#8590 (a negative offset passes the mask) and
#   fla-org/flash-linear-attention#1080. NVIDIA/apex#411 was right for 65,535 rows and wrong for 65,536.
# - Undeclared writes: linkedin/Liger-Kernel#343 and linkedin/Liger-Kernel#1251, a cross-entropy that overwrites its
#   input past autograd; unslothai/unsloth#5002 is its sister.
# - One gradient for all rows: linkedin/Liger-Kernel#968 and linkedin/Liger-Kernel#1298, where backward multiplied every
#   row by the first row's gradient. "The failure is silent", says the repair.
# - Fakes: pytorch/pytorch#182328 and NVIDIA/cuEquivariance#223; pytorch/pytorch#144717 asked for the assertion that
#   finds such strides today.
# - Masks: triton-lang/triton#770, a tutorial's matmul with sizes that its blocks do not divide.
#
# ## What to read next
#
# - `blackbelt.reference.kernels`: `ladder.py`, then `csrc/cuda/matmul*.cuh` in the order of the rungs, then
#   `_operators.py`.
# - Williams, Waterman and Patterson, *Roofline* (2009); Goto and van de Geijn, *Anatomy of High-Performance Matrix
#   Multiplication* (2008); Milakov and Gimelshein, *Online normalizer calculation for softmax* (2018).
# - Hsu and others, *Liger Kernel* (2024), for losses without logits.
# - PyTorch's *Custom Operators Manual*, and Triton's tutorials, now that you know what a block is.

# %%
summary()
