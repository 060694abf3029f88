# %% [markdown]
# # R.2 Memory-efficient attention
#
# `softmax(QKᵀ)V` is one line of PyTorch. At 16 thousand tokens that line holds a gibibyte for every head, and in
# training it holds it until backward comes by. FlashAttention gives the same numbers and holds none of it. Exercises
# that ask you to build it compare numbers, and so the one line passes them.
#
# You will see what the line keeps and why, compute a softmax without ever seeing its row, find out why that alone is
# worth nothing in training, derive the backward and check it step by step, and measure what is won. Then you will run
# a block of a GPT over 16 thousand tokens, and see two mistakes in masks that raise nothing. All of
# `blackbelt.reference.attention` is there to be read.

# %%
import itertools
import math
from collections.abc import Iterable  # for a kata

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from blackbelt import begin, check, claim, error_of, graph_report, measure, measure_growth, predict, summary
from blackbelt.reference.attention import (
    chunked_attention,
    memory_efficient_attention,
    naive_attention,
    recomputed_attention,
    skipping_attention,
)
from blackbelt.report import Cell, Curves, Drawing, Grid, Table, format_bytes, format_seconds

begin("reference/attention")

# %% [markdown]
# ## Predict
#
# One head, 2048 queries, 2048 keys, and the formula as it is written everywhere.

# %%
torch.manual_seed(0)
torch.set_num_threads(1)  # what one thread allocates is counted to the byte
LENGTH, SIZE = 2048, 64
MATRIX = LENGTH * LENGTH * 4  # bytes of one matrix of scores: a float32 for every query and key
query, key, value = (torch.randn(1, 1, LENGTH, SIZE, requires_grad=True) for _ in range(3))


def plain(query, key, value):
    scores = query @ key.mT / math.sqrt(query.size(-1))
    return scores.softmax(-1) @ value


kept = predict(
    f"Query, key and value take 1.5 MiB, a matrix of scores takes {format_bytes(MATRIX)}. What does autograd keep of "
    "`plain(query, key, value)` until backward, beside its inputs?",
    {
        "A": "next to nothing: backward computes the scores again from query and key",
        "B": "one matrix of scores",
        "C": "two: the scores, and what softmax makes of them",
    },
)

# %%


def kept_bytes(function, *inputs):
    """Return the bytes that autograd keeps for backward, each storage once, without those of the inputs."""
    seen = {}

    def pack(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.detach()  # keeps it, so no address is given out twice
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(*inputs)
    own = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in seen.items() if place not in own)


of_plain = kept_bytes(plain, query, key, value)
kept.settle(
    "ABC"[min(round(of_plain / MATRIX), 2)],
    because={
        "A": "Autograd never computes again what forward had. It keeps what the formulas of backward ask for.",
        "B": "",
        "C": "Backward of softmax asks for its result alone, and the product with `value` asks for that same tensor.",
    },
)
claim(
    "what is kept is one matrix of queries × keys, to the byte (and the number that divided the scores)",
    MATRIX <= of_plain <= MATRIX + 16,
    figures={"kept": format_bytes(of_plain)},
)

# %% [markdown]
# ## See: who keeps it
#
# `graph_report` of lesson 2.1 names the nodes.

# %%
graph_report(plain(query, key, value))

# %% [markdown]
# Softmax and the product after it hold the same tensor, the probabilities P. While the step runs, there are more:

# %%


def gradients(function, *inputs, **keywords):
    """One forward and backward; the loss is the sum of squares."""
    return torch.autograd.grad(function(*inputs, **keywords).square().sum(), inputs)


with torch.no_grad():
    forward_peak = measure(plain=lambda: plain(query, key, value), rounds=1)["plain"].peak_bytes
step_peak = measure(plain=lambda: gradients(plain, query, key, value), rounds=1)["plain"].peak_bytes
lengths = [2**n for n in range(11, 18)]
Drawing(
    Table(
        ("length", "query, key, value", "one matrix of scores"),
        [(f"{n:,}", format_bytes(3 * n * SIZE * 4), format_bytes(n * n * 4)) for n in lengths],
        title=f"One head of size {SIZE}, float32",
    )
)

# %%
claim(
    "forward alone holds two matrices at once: scores and probabilities",
    2 <= forward_peak / MATRIX < 2.1,
    figures={"matrices": forward_peak / MATRIX},
)
claim(
    "a training step holds three: P, the gradient of P, and what softmax's backward makes of the two",
    3 <= step_peak / MATRIX < 3.1,
    figures={"matrices": step_peak / MATRIX},
)

# %% [markdown]
# Per head, and what is kept, per layer. The inputs grow with the length, the scores with its square. This is rung 1 of
# the ladder; three more follow.
#
# ## See: a softmax that never sees its row
#
# softmax(x) is eˣ / Σ eˣ: every element needs a sum over the whole row. And before that, the row's maximum:

# %%
row = torch.tensor([1.0, 3.0, 2.0, 90.0, 88.0, 5.0])
claim(
    "e⁹⁰ is too large for float32; relative to the maximum nothing is",
    row.exp().isinf().any() and (row - row.max()).exp().max() == 1,
)

# %% [markdown]
# So there are two numbers to know: the maximum m, and the sum l of the exponentials relative to it. Take the row in
# chunks. When a chunk brings a larger maximum m′, what was added up so far is in the wrong unit: every term is
# `exp(x - m)` and should be `exp(x - m′)`. One factor puts that right for all terms at once: `exp(m - m′)`.

# %%
maximum, total, states = torch.tensor(-math.inf), torch.tensor(0.0), []
for chunk in row.split(2):
    larger = torch.maximum(maximum, chunk.max())
    correction = (maximum - larger).exp()
    total = total * correction + (chunk - larger).exp().sum()
    maximum = larger
    states.append((chunk.tolist(), f"{correction:.3g}", f"{maximum:.3g}", f"{total:.4f}"))
Drawing(Table(("chunk", "correction", "maximum", "sum"), states, title="One pass, two numbers"))

# %%
log_sum_exp = maximum + total.log()
claim(
    "after one pass over the chunks, (x − m).exp() / l is the softmax of the whole row",
    torch.allclose((row - maximum).exp() / total, row.softmax(0), rtol=1e-6),
)
claim(
    "both numbers fit in one, log Σ eˣ = m + log l: with it, any probability is exp(x − lse), on its own",
    torch.allclose((row - log_sum_exp).exp(), row.softmax(0), rtol=1e-4),
    figures={"lse": log_sum_exp.item()},
)

# %% [markdown]
# Milakov and Gimelshein called it *online softmax* (2018). Two things to know before it can be trusted. First, masks. A
# hidden score is −∞, and a chunk may be hidden altogether:

# %%
hidden = torch.tensor([-math.inf, -math.inf])
naively = (hidden - hidden.max()).exp()
shift = torch.where(hidden.max() == -math.inf, 0.0, hidden.max())
claim(
    "−∞ − (−∞) is NaN, and a NaN in the sum stays there for good, even with a correction of 0",
    naively.isnan().all() and (naively.sum() * 0 + 1).isnan(),
)
claim("where nothing has been seen yet, subtract 0: the exponentials are 0", (hidden - shift).exp().eq(0).all())

# %% [markdown]
# Second, units. Fast kernels count in powers of 2: 2^(x · log₂ e) is eˣ. GPUs have an instruction for 2ˣ (`ex2` in
# NVIDIA's PTX) and none for eˣ, which takes one more product for every score. But every score is multiplied by a scale
# anyway, 1/√d, and log₂ e rides along in that factor, for nothing.

# %%
in_units_of_log2 = row * math.log2(math.e)
largest = in_units_of_log2.max()
binary = largest + (in_units_of_log2 - largest).exp2().sum().log2()
claim(
    "with exp2 and log2 it is the same softmax",
    torch.allclose((in_units_of_log2 - binary).exp2(), row.softmax(0), rtol=1e-4),
)

# %% [markdown]
# ## Rung 2: the forward, chunk by chunk
#
# The result of attention is a sum over the keys, too, of `exp(x - m) * v`. So it takes the same correction, and with it
# a tile of scores can be thrown away as soon as it has been added up. `chunked_attention` does that with tiles of
# 512 × 512. A kata below asks you to write it.

# %%
lengths = (1024, 2048, 4096, 8192)


def inputs(length, heads=1, size=SIZE, dtype=torch.float32):
    return tuple(torch.randn(1, heads, length, size, dtype=dtype).requires_grad_() for _ in range(3))


with torch.no_grad():
    growth = measure_growth(
        lengths, inputs=inputs, rounds=1, warmup=0, plain=plain, chunked=lambda *qkv: chunked_attention(*qkv)[0]
    )
Drawing(
    Curves(
        {name: (lengths, [n / 2**20 for n in growth.curve(name, "peak_bytes")]) for name in ("plain", "chunked")},
        "length",
        "MiB at the peak",
        "Forward alone",
    )
)

# %%
slopes = {name: growth.exponent(name, "peak_bytes") for name in ("plain", "chunked")}
claim(
    "plain grows with the square of the length, the chunked forward with the length at most",
    slopes["plain"] > 1.9 and slopes["chunked"] < 1.05,
    figures=slopes,
)
out, lse = chunked_attention(query, key, value)
claim("the result is the same", torch.allclose(out, plain(query, key, value), atol=1e-5))

# %%
in_training = predict(
    "`chunked_attention` is plain PyTorch, and differentiable. Put it into training. What does autograd keep of it, "
    f"at the length of the first question, where `plain` keeps {format_bytes(of_plain)}?",
    {
        "A": f"one tile of 512 × 512: {format_bytes(512 * 512 * 4)}",
        "B": "something that grows with the length: the running results of the rows",
        "C": "at least as much as `plain`",
    },
)

# %%
of_chunked = kept_bytes(lambda *qkv: chunked_attention(*qkv)[0], query, key, value)
in_training.settle(
    "C" if of_chunked >= of_plain else "A" if of_chunked <= 512 * 512 * 4 else "B",
    because={
        "A": "The loop lets go of each tile. The graph does not: exp keeps its result, in every round.",
        "B": "These are kept as well. But the exponentials of each tile are, and all tiles together are the matrix.",
        "C": "",
    },
)
claim(
    "a chunked forward saves nothing in training: all its tiles are kept, and more than `plain` keeps",
    of_chunked > of_plain,
    figures={"plain": format_bytes(of_plain), "chunked": format_bytes(of_chunked)},
)

# %% [markdown]
# The matrix is back, in pieces, and twice: `exp` keeps its result for its own backward, and `amax` keeps the scores, to
# find out where the maximum was. Whoever stops here has an attention for inference.
#
# ## See: the backward, without the matrix
#
# So backward has to make the tiles again. Here is all it needs, in words and in float64. S are the scaled scores, P the
# probabilities, O = P V the result, dX the gradient of X. Autograd tells us what is right for every one of them.

# %%
q, k, v = (torch.randn(96, 16, dtype=torch.float64, requires_grad=True) for _ in range(3))
scale = 1 / math.sqrt(16)
s = scale * (q @ k.mT)
p = s.softmax(-1)
o = p @ v
d_o = torch.randn_like(o)
right = dict(zip("qkvsp", torch.autograd.grad(o, (q, k, v, s, p), d_o)))
lse = s.logsumexp(-1, keepdim=True)  # what forward keeps: one number per query


def same(one, other):
    return torch.allclose(one, other, rtol=1e-10, atol=1e-12)


queries, keys = slice(32, 64), slice(0, 32)
claim(
    "any tile of P comes back from its queries, its keys and the log-sum-exp: P = exp(S − lse)",
    same((scale * (q[queries] @ k[keys].mT) - lse[queries]).exp(), p[queries, keys]),
)
d_v = p.mT @ d_o
claim("dV = Pᵀ dO: each value gets what the queries that looked at it have to say", same(d_v, right["v"]))
d_p = d_o @ v.mT
claim("dP = dO Vᵀ: how much more of this value would have helped this query", same(d_p, right["p"]))

# %% [markdown]
# Now softmax. The probabilities of a row add up to 1, so what one gains the others lose. The gradient of a score is its
# probability times how far its dP is above the row's average: dS = P ∘ (dP − δ), with δ = Σ P ∘ dP over the row.
#
# An average over the row: does that not take all tiles of the row first? It does not. Σⱼ Pᵢⱼ dPᵢⱼ = Σⱼ Pᵢⱼ (dOᵢ · vⱼ) =
# dOᵢ · Σⱼ Pᵢⱼ vⱼ = dOᵢ · Oᵢ. The row's average is in the result, which everybody keeps anyway.

# %%
delta = (d_o * o).sum(-1, keepdim=True)
claim("δ = the row's sum of dO ∘ O, and that is its sum of P ∘ dP", same(delta, (p * d_p).sum(-1, keepdim=True)))
d_s = p * (d_p - delta)
claim("dS = P ∘ (dP − δ)", same(d_s, right["s"]))
claim(
    "dQ = scale · dS K, dK = scale · dSᵀ Q",
    same(scale * d_s @ k, right["q"]) and same(scale * d_s.mT @ q, right["k"]),
)

# %% [markdown]
# Every line holds for a tile on its own: each dQ is a sum over the tiles of its row, each dK and dV over those of its
# column. That is the second large kata below.
#
# ## Rung 3: save one number per query
#
# An `autograd.Function` (lesson 2.3) whose forward is rung 2, and whose backward is these lines, tile by tile:
# `recomputed_attention`. `memory_efficient_attention` is the one to use. It has all modes of PyTorch's own function,
# which is here too, as `sdpa`.

# %%
sdpa = F.scaled_dot_product_attention
contestants = {
    "plain": plain,
    "chunked": lambda *qkv: chunked_attention(*qkv)[0],
    "recomputed": recomputed_attention,
    "memory_efficient": memory_efficient_attention,
    "sdpa": sdpa,
}
exact_inputs = tuple(t.detach().double().requires_grad_() for t in (query, key, value))
exact = plain(*exact_inputs), *gradients(plain, *exact_inputs)
rows, passes, keeps, peaks = [], {}, {}, {}
for name, function in contestants.items():
    found = function(query, key, value), *gradients(function, query, key, value)
    errors = [float(((a - b).abs().max() / b.abs().max()).detach()) for a, b in zip(found, exact)]
    passes[name] = max(errors) < 1e-4
    keeps[name] = kept_bytes(function, query, key, value)
    peaks[name] = measure(f=lambda f=function: gradients(f, query, key, value), rounds=1)["f"].peak_bytes
    rows.append((name, f"{errors[0]:.0e}", f"{max(errors[1:]):.0e}", *map(format_bytes, (keeps[name], peaks[name]))))
Drawing(
    Table(
        ("", "value off by", "gradients off by", "kept for backward", "peak of a step"),
        rows,
        title="The same numbers, reached in five ways",
    )
)

# %%
claim("a test of values passes all five, and so does a test of gradients", all(passes.values()))
result_and_lse = LENGTH * SIZE * 4 + LENGTH * 4
claim(
    "bytes tell them apart: the result, which is there in any case, and 4 bytes per query",
    keeps["recomputed"] == keeps["memory_efficient"] == result_and_lse and keeps["plain"] > 30 * result_and_lse,
    figures={name: format_bytes(number) for name, number in keeps.items()},
)
claim(
    "a step takes as many bytes as with PyTorch's own kernel, or fewer, within 5 %",
    peaks["memory_efficient"] <= 1.05 * peaks["sdpa"],
    figures={name: format_bytes(peaks[name]) for name in ("memory_efficient", "sdpa")},
)

# %%
lengths = (1024, 2048, 4096)
trained = {name: contestants[name] for name in ("plain", "chunked", "recomputed", "memory_efficient")}
growth = measure_growth(
    lengths,
    inputs=inputs,
    rounds=1,
    warmup=0,
    **{name: lambda *qkv, f=function: gradients(f, *qkv) for name, function in trained.items()},
)
Drawing(
    Curves(
        {name: (lengths, [n / 2**20 for n in growth.curve(name, "peak_bytes")]) for name in trained},
        "length",
        "MiB at the peak",
        "Forward and backward",
    )
)

# %%
slopes = {name: growth.exponent(name, "peak_bytes") for name in trained}
claim(
    "in training, plain and chunked both grow with the square; what recomputes grows no faster than the length",
    min(slopes["plain"], slopes["chunked"]) > 1.75 and max(slopes["recomputed"], slopes["memory_efficient"]) < 1.1,
    figures=slopes,
)

# %% [markdown]
# This is why every kata below is judged by bytes. `plain` would pass a comparison of numbers, here as anywhere.
#
# ## Rung 4: half of the tiles are empty
#
# Under a causal mask a query sees no key after itself. A mask hides these scores. It does not spare them: they are
# computed, and then set to −∞. With tiles, whole ones can be left out.

# %%
tiles = 4096 // 512


def tone(row, column):
    return Cell("", None) if column > row else Cell("½", 3, strong=True) if column == row else Cell("", 1)


Drawing(
    Grid(
        [[tone(row, column) for column in range(tiles)] for row in range(tiles)],
        row_labels=[f"queries {512 * n}…" for n in range(tiles)],
        column_labels=[f"{512 * n}…" for n in range(tiles)],
        title="Tiles of a causal mask, length 4096: queries down, keys across",
        legend={1: "computed, needs no mask", 3: "on the diagonal: computed and masked; all others are left out"},
    )
)

# %%


class Counter(TorchDispatchMode):
    """Counts the floating-point operations of matrix products, by PyTorch's own formulas."""

    def __init__(self):
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # else the first operator imports the compiler, which takes seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def flops(function, qkv):
    with Counter() as counter:
        gradients(function, *qkv, is_causal=True)
    return counter.flops


qkv = inputs(4096, size=16)
masked, skipped = flops(recomputed_attention, qkv), flops(skipping_attention, qkv)
claim(
    "of n × n tiles n(n + 1)/2 are computed: 36 of 64 here, forward and backward",
    skipped / masked == tiles * (tiles + 1) / 2 / tiles**2 == 36 / 64,
    figures={"operations, of those of a mask": skipped / masked},
)

# %% [markdown]
# The longer the sequence, the closer to one half. A mask given as a tensor hides this from every kernel:
# `is_causal=True` is worth a factor of two.
#
# ## See: what causal means when the lengths differ
#
# You generate text. The keys of the past are in a cache, and the new token asks. One query, eight keys:

# %%
newest = predict(
    "`scaled_dot_product_attention(query, keys, values, is_causal=True)` with one query and eight keys, of which the "
    "last is the query's own. Which keys does it see?",
    {
        "A": "all eight: it is the newest token, and everything is in its past",
        "B": "the first one only",
        "C": "none: it raises, since a causal mask must be square",
    },
)

# %%


def weights(function, queries, keys, **keywords):
    """Return the probabilities: with the unit matrix for a value, the result is P itself."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, n, 16, generator=generator) for n in (queries, keys))
    return function(q, k, torch.eye(keys)[None, None], **keywords)[0, 0]


try:
    seen = int((weights(sdpa, 1, 8, is_causal=True) > 0).sum())
    letter = {8: "A", 1: "B"}[seen]
except RuntimeError:
    letter = "C"
newest.settle(
    letter,
    because={
        "A": "That is what you want, and what other libraries do. PyTorch counts queries and keys from 0 both.",
        "B": "",
        "C": "It takes any lengths: query i sees the keys 0 … i, whatever the number of keys.",
    },
)


def drawn(probabilities):
    return [[Cell(f"{p:.2f}", 2) if p > 0 else Cell("", None) for p in row] for row in probabilities.tolist()]


lower_right = torch.ones(3, 8, dtype=torch.bool).tril(8 - 3)
labels = {"row_labels": [f"query {n}" for n in range(3)], "column_labels": [f"key {n}" for n in range(8)]}
Drawing(
    Grid(drawn(weights(sdpa, 3, 8, is_causal=True)), title="is_causal=True: aligned at the upper left", **labels),
    Grid(
        drawn(weights(sdpa, 3, 8, attn_mask=lower_right)),
        title="attn_mask=torch.ones(L, S, dtype=torch.bool).tril(S - L): at the lower right",
        **labels,
    ),
)

# %%
claim(
    "`is_causal` counts from the upper left, in PyTorch's function, in ours and in the formula alike",
    all(
        torch.equal(weights(function, 3, 8, is_causal=True) > 0, torch.ones(3, 8).tril().bool())
        for function in (sdpa, memory_efficient_attention, naive_attention)
    ),
)

# %% [markdown]
# PyTorch says so in its documentation, and it is open as pytorch/pytorch#108108 whether it should stay. FlashAttention
# counted from the upper left in version 2.0 and from the lower right since 2.1. Know which one you call. The rule for a
# cache: the mask above, or `torch.nn.attention.bias.causal_lower_right(L, S)`, and for one query no mask at all.
#
# And a query that sees nothing at all, as a padded one may? A softmax over nothing is 0/0.

# %%
nothing = torch.tensor([[True] * 4, [False] * 4])
blind = torch.zeros(2, 4).masked_fill(~nothing, -math.inf).softmax(-1)
q, k, v = (torch.randn(1, 1, n, 8, requires_grad=True) for n in (2, 4, 4))
for function in (sdpa, memory_efficient_attention):
    seen = function(q, k, v, attn_mask=nothing)
    finite = all(g.isfinite().all() for g in torch.autograd.grad(seen.sum(), (q, k, v)))
    claim(
        f"the formula gives NaN for such a row; `{function.__name__}` gives 0, and finite gradients",
        blind[1].isnan().all() and seen[0, 0, 1].eq(0).all() and finite,
    )

# %% [markdown]
# ## See: dropout keeps a seed
#
# Dropout on P draws a number for every score, and backward needs the same ones. Keeping them would be another matrix. A
# generator gives the same numbers for the same seed, so the seed is enough, if every tile knows where in the stream it
# is.

# %%
dropped = {
    name: kept_bytes(lambda *qkv, f=function: f(*qkv, dropout_p=0.1), query, key, value)
    for name, function in (("naive", naive_attention), ("sdpa", sdpa), ("memory_efficient", memory_efficient_attention))
}
claim(
    "the formula keeps at least two matrices more with dropout; ours keeps 8 bytes more",
    dropped["naive"] >= 3 * MATRIX and dropped["memory_efficient"] - keeps["memory_efficient"] == 8,
    figures={name: format_bytes(number) for name, number in dropped.items()},
)
claim(
    "PyTorch's function has no fused kernel with dropout on a CPU: it keeps the matrix, and does not say so",
    dropped["sdpa"] > MATRIX > keeps["sdpa"],
)

# %% [markdown]
# Is it the same mask in backward? For a fixed mask the result is linear in the value. So however far you move it, the
# gradient must tell the difference exactly. A gradient with another mask cannot.

# %%
q, k, v = inputs(300, heads=2, size=16, dtype=torch.float64)
direction, wish = torch.randn_like(v), torch.randn_like(v)


def noisy(value, seed=1):
    torch.manual_seed(seed)
    return memory_efficient_attention(q, k, value, dropout_p=0.5)


moved = ((noisy(v + direction) - noisy(v)) * wish).sum()
predicted = {seed: (torch.autograd.grad(noisy(v, seed), v, wish)[0] * direction).sum() for seed in (1, 2)}
claim(
    "the gradient is that of the mask which forward drew",
    torch.isclose(moved, predicted[1], rtol=1e-9) and not torch.isclose(moved, predicted[2], rtol=1e-3),
    figures={"moved by": moved.item(), "gradient": predicted[1].item(), "with another mask": predicted[2].item()},
)

# %% [markdown]
# ## See: heads that share their keys
#
# In grouped-query attention several query heads share one head of keys and values, so that the cache is small. Repeat
# the keys for each query head, and it is as large as before. One step of generation, 32 query heads, 4 of keys:

# %%
new = torch.randn(1, 32, 1, 64)
cache = [torch.randn(1, 4, 4096, 64) for _ in range(2)]
cache_bytes = sum(t.numel() * 4 for t in cache)
with torch.no_grad():
    grouped = measure(
        rounds=1,
        repeated=lambda: naive_attention(new, *cache, enable_gqa=True),
        memory_efficient=lambda: memory_efficient_attention(new, *cache, enable_gqa=True),
    )
claim(
    "repeating the keys allocates the cache eight times over; `memory_efficient_attention` less than half of it",
    grouped["repeated"].peak_bytes > 8 * cache_bytes and grouped["memory_efficient"].peak_bytes < cache_bytes / 2,
    figures={"cache": format_bytes(cache_bytes)} | {t.name: format_bytes(t.peak_bytes) for t in grouped.timings},
)

# %% [markdown]
# ## The errors, word by word
#
# Three calls that PyTorch refuses. Below its words stand those of `memory_efficient_attention`. First, eight query
# heads and two of keys:

# %%
few = torch.randn(1, 2, 6, 16)
heads = [error_of(lambda f=f: f(torch.randn(1, 8, 4, 16), few, few)) for f in (sdpa, memory_efficient_attention)]
Drawing(*heads[0].blocks(), *heads[1].blocks())

# %% [markdown]
# - *The size of tensor a (8) must match the size of tensor b (2)*: a and b are query and key, and 8 and 2 are heads.
# - *at non-singleton dimension 1*: that is (batch, **heads**, length, size). With one head of keys it would have
#   passed: a size of 1 is repeated. For groups, `enable_gqa=True` is missing.

#
# Second, a padding mask as it comes, one row for each sequence of the batch:

# %%
three = torch.randn(3, 2, 4, 16)
padding_mask = torch.ones(3, 4, dtype=torch.bool)  # (batch, keys)
shapes = [
    error_of(lambda f=f: f(three, three, three, attn_mask=padding_mask)) for f in (sdpa, memory_efficient_attention)
]
Drawing(*shapes[0].blocks(), *shapes[1].blocks())

# %% [markdown]
# - The mask is broadcast to (batch, heads, queries, keys), from the right: its (3, 4) are taken for queries and keys.
#   It is (batch, keys), so it has to be `padding_mask[:, None, None, :]`.
# - It raises because 3 is not 4. With a batch as large as the sequence is long, it is a mask for something else:

# %%
four = torch.randn(4, 2, 4, 16)
padding_mask = torch.arange(4) < torch.tensor([[1], [2], [3], [4]])  # sequences of 1, 2, 3 and 4 tokens
accepted = sdpa(four, four, four, attn_mask=padding_mask)
meant = sdpa(four, four, four, attn_mask=padding_mask[:, None, None])
claim(
    "with batch = length, a padding mask without its two dimensions is accepted, and means another thing",
    not torch.allclose(accepted, meant) and torch.allclose(accepted, sdpa(four, four, four, is_causal=True), atol=1e-6),
)

# %% [markdown]
# Third, the mask as a tokenizer returns it: integers, 1 for a token and 0 for padding.

# %%
from_tokenizer = padding_mask.long()[:, None, None]
integers = error_of(lambda: sdpa(four, four, four, attn_mask=from_tokenizer))
integers

# %% [markdown]
# - *attn_mask dtype to be bool or float*: these are two languages. True means that a key takes part; a number is added
#   to its score.
# - So `.float()` silences the error, and says: add 1 to the tokens and 0 to the padding. `.bool()` is what was meant.

# %%
half = torch.tensor([[1, 1, 0, 0]])  # two tokens, two paddings
as_float, as_bool = (weights(sdpa, 4, 4, attn_mask=mask) for mask in (half.float(), half.bool()))
claim(
    "as `float()` the mask hides nothing; as `bool()` the padding has the weight 0",
    as_float[:, 2:].min() > 0 and as_bool[:, 2:].max() == 0 and "bool" in integers.message,
    figures={"weight of the padding, float": as_float[:, 2:].sum(1).mean().item()},
)

# %%
claim(
    "PyTorch names the numbers, and ours the argument as well",
    all("must match" in theirs.message for theirs, _ in (heads, shapes))
    and "enable_gqa" in heads[1].message
    and "attn_mask" in shapes[1].message,
)

# %% [markdown]
# ## Measure: time
#
# Backward computes the scores once more: seven products instead of six. What does that cost? The limit is what a large
# matrix product reaches here, now, on one thread.

# %%
square = torch.randn(1024, 1024)
product = measure(product=lambda: square @ square, rounds=5)["product"]
peak = 2 * 1024**3 / min(product.round_seconds)
qkv = inputs(4096)
times = measure(
    rounds=3,
    warmup=1,
    **{
        name: lambda f=contestants[name]: gradients(f, *qkv)
        for name in ("sdpa", "memory_efficient", "recomputed", "plain")
    },
)
products = {"plain": 6}  # of L × S × D; the others make the scores twice
reached = {
    timing.name: products.get(timing.name, 7) * 2 * 4096**2 * SIZE / timing.median_seconds / peak
    for timing in times.timings
}
Drawing(
    Table(
        ("", "median", "to sdpa", "of the limit", "peak bytes"),
        [
            (
                timing.name,
                format_seconds(timing.median_seconds),
                f"{times.ratio(timing.name, 'sdpa'):.2f}×",
                f"{reached[timing.name]:.0%}",
                format_bytes(timing.peak_bytes),
            )
            for timing in times.timings
        ],
        title=f"Forward and backward at length 4096 on one thread; the limit is {peak / 1e9:.0f} GFLOP/s",
    )
)

# %%
claim(
    "`memory_efficient_attention` does one product more than `plain`, and takes less time",
    times.ratio("plain", "memory_efficient") > 1,
    figures={
        "plain to it": times.ratio("plain", "memory_efficient"),
        "it to sdpa": times.ratio("memory_efficient", "sdpa"),
    },
)

# %% [markdown]
# How can more work take less time? A matrix of 64 MiB goes out to memory and comes back, several times; a tile stays
# in the cache. Attention by the formula is bound by memory, not by arithmetic, and so it stays far from the
# arithmetic's limit.
#
# ## Measure: numbers
#
# Another order of additions, other roundings. Are they worse? The judge is float64.

# %%
rows, worst = [], {}
for dtype, factor in itertools.product((torch.float32, torch.bfloat16), (1, 8)):
    given = [t.detach().to(dtype) * factor for t in inputs(1024)]
    with torch.no_grad():
        truth = plain(*(t.double() for t in given))
        off = [float((f(*given) - truth).abs().max()) for f in (plain, sdpa, memory_efficient_attention)]
    worst[str(dtype).removeprefix("torch."), factor] = off[2] / off[0]
    rows.append((str(dtype).removeprefix("torch."), f"× {factor}", *(f"{error:.1e}" for error in off)))
Drawing(Table(("", "inputs", "plain", "sdpa", "memory_efficient"), rows, title="Largest error against float64"))

# %%
claim(
    "the error is at most twice that of the formula in the same precision",
    max(worst.values()) <= 2,
    figures={f"{dtype}, × {factor}": f"{ratio:.2f}" for (dtype, factor), ratio in worst.items()},
)
claim(
    "with large scores in bfloat16 it is at most half: the formula rounds its scores, and a tile stays in float32",
    worst["bfloat16", 8] <= 0.5,
)

# %% [markdown]
# ## Long context
#
# A block of a GPT, forward and backward, over 16 thousand tokens. First at a length where both can run: does the
# formula for the bytes hold, and are the gradients the same?

# %%


class Block(nn.Module):
    def __init__(self, attention, width=32, heads=2):
        super().__init__()
        self.attention, self.heads = attention, heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.join(self.attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


def block_step(attention, length):
    torch.manual_seed(0)
    block, tokens = Block(attention), torch.randn(1, length, 32)
    return torch.autograd.grad(block(tokens).square().mean(), list(block.parameters()))


def block_peak(attention, length):
    return measure(step=lambda: block_step(attention, length), rounds=1, warmup=0)["step"].peak_bytes


def formula(length):
    """Bytes of three matrices of scores for each of two heads: what the formula holds at the least."""
    return 3 * 2 * length**2 * 4


short = block_peak(naive_attention, 2048)
agree = all(
    torch.allclose(a, b, rtol=1e-3, atol=1e-6)
    for a, b in zip(block_step(naive_attention, 1024), block_step(memory_efficient_attention, 1024))
)
long = block_peak(memory_efficient_attention, 16384)
claim(
    "at 2048 tokens the formula for the naive block's bytes holds; it is on the low side",
    1 <= short / formula(2048) < 1.5 and agree,
    figures={"measured": format_bytes(short), "formula": format_bytes(formula(2048))},
)
claim(
    "at 16,384 tokens the block trains in less than a fiftieth of what the naive one would hold",
    long < formula(16384) / 50 and formula(16384) == 6 * 2**30,
    figures={"memory_efficient": format_bytes(long), "naive, by the formula": format_bytes(formula(16384))},
)

# %% [markdown]
# ## Trap: a model that learned everything, and cannot say it
#
# The task: eight digits, and then the same digits backward. The model is one layer of causal attention. It trains
# without a cache, as models do. Generation has a cache, as generation does, and somebody left `is_causal=True` where it
# was.

# %%


class Reverser(nn.Module):
    """A causal transformer of one layer; `cached_mask(L, S)` gives the mask keywords when there is a cache."""

    def __init__(self, cached_mask):
        super().__init__()
        self.cached_mask = cached_mask
        self.digits, self.places = nn.Embedding(10, 64), nn.Embedding(16, 64)
        self.qkv, self.head = nn.Linear(64, 192), nn.Linear(64, 10)
        self.cache = None

    def forward(self, digits, first=0):
        x = self.digits(digits) + self.places(torch.arange(first, first + digits.size(1)))
        q, k, v = self.qkv(x).chunk(3, -1)
        keywords = {"is_causal": True}
        if self.cache is not None:
            past_keys, past_values = self.cache
            k, v = torch.cat([past_keys, k], 1), torch.cat([past_values, v], 1)
            self.cache = k, v
            keywords = self.cached_mask(q.size(1), k.size(1))
        q, k, v = (t.unflatten(-1, (4, 16)).transpose(1, 2) for t in (q, k, v))
        seen = memory_efficient_attention(q, k, v, **keywords)
        return self.head(x + seen.transpose(1, 2).flatten(2))

    @torch.no_grad()
    def generate(self, prompt):
        """Return eight more digits for each prompt of eight: the prompt at once, then token by token."""
        self.cache = torch.empty(len(prompt), 0, 64), torch.empty(len(prompt), 0, 64)
        token, digits = prompt, []
        for first in (0, *range(8, 15)):
            token = self(token, first)[:, -1:].argmax(-1)
            digits.append(token)
        self.cache = None
        return torch.cat(digits, 1)


def left_as_it_was(queries, keys):
    return {"is_causal": True}


def lower_right_mask(queries, keys):
    return {"attn_mask": torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)}


def problems(number, seed):
    digits = torch.randint(10, (number, 8), generator=torch.Generator().manual_seed(seed))
    return torch.cat([digits, digits.flip(1)], 1)


torch.manual_seed(0)
model = Reverser(left_as_it_was)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
losses = []
for number in range(80):
    batch = problems(64, number)
    logits = model(batch[:, :-1])[:, 7:]
    loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 8:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
Drawing(Curves({"loss": (range(1, 81, 2), losses[::2])}, "step", "cross-entropy", "Training", log=False))

# %%
test = problems(200, seed=10_000)
prompts, answers = test[:, :8], test[:, 8:]


def accuracy(cached_mask):
    model.cached_mask = cached_mask
    return float((model.generate(prompts) == answers).float().mean())


with torch.no_grad():
    teacher = float((model(test[:, :-1])[:, 7:].argmax(-1) == answers).float().mean())
scores = {"as it was": accuracy(left_as_it_was), "lower right": accuracy(lower_right_mask)}
model.cached_mask = left_as_it_was
said = model.generate(prompts[:1])[0]
print("prompt:   ", *prompts[0].tolist())
print("right:    ", *answers[0].tolist())
print("generated:", *said.tolist())
claim(
    "in the evaluation of the training loop the model has all digits right",
    teacher > 0.99,
    figures={"accuracy": teacher},
)
claim(
    "generating with a cache and `is_causal=True`, the same weights have less than half of them right",
    scores["as it was"] < 0.5,
    figures=scores,
)

# %% [markdown]
# Nothing was raised. The first digit is right: for the prompt, the lengths are equal. From then on every new token sees
# the first key and no other. People blame the sampling, the training, the data.
#
# How to catch it: a cache may change the time, and no number. One assertion compares the two ways, token by token.

# %%


@torch.no_grad()
def cache_changes(model, tokens, prompt=8):
    """Return the largest difference in the logits that the cache makes."""
    whole = model(tokens)
    model.cache = torch.empty(len(tokens), 0, 64), torch.empty(len(tokens), 0, 64)
    parts = [model(tokens[:, :prompt])]
    parts += [model(tokens[:, n : n + 1], n) for n in range(prompt, tokens.size(1))]
    model.cache = None
    return float((torch.cat(parts, 1) - whole).abs().max())


differences = {}
for name, mask in (("as it was", left_as_it_was), ("lower right", lower_right_mask)):
    model.cached_mask = mask
    differences[name] = cache_changes(model, test[:16, :-1])
claim(
    "the assertion finds it at once, and the mask at the lower right passes it and generates all digits right",
    differences["as it was"] > 0.1 and differences["lower right"] < 1e-3 and scores["lower right"] > 0.99,
    figures=differences,
)

# %% [markdown]
# ## Trap: the mask that means its opposite
#
# `nn.MultiheadAttention` takes a `key_padding_mask`: True means *ignore*. `scaled_dot_product_attention` takes an
# `attn_mask`: True means *take part*. Somebody replaces the one by the other and passes the mask on. The task: padded
# sequences of 3 to 12 digits; is there a 9 among them? About every second one has it.

# %%
PAD = 10


def padded(number, seed):
    generator = torch.Generator().manual_seed(seed)
    digits = torch.randint(10, (number, 12), generator=generator)
    sizes = torch.randint(3, 13, (number, 1), generator=generator)
    digits[torch.arange(12) >= sizes] = PAD
    return digits, (digits == 9).any(1).long()


class Asker(nn.Module):
    """One learned query looks at the digits."""

    def __init__(self, inverted):
        super().__init__()
        self.inverted = inverted
        self.embed, self.query, self.kv = nn.Embedding(11, 32), nn.Parameter(torch.randn(1, 1, 32)), nn.Linear(32, 64)
        self.head = nn.Linear(32, 2)

    def forward(self, digits, embedded=None):
        padding = digits == PAD  # as for nn.MultiheadAttention
        k, v = self.kv(self.embed(digits) if embedded is None else embedded).chunk(2, -1)
        mask = (padding if self.inverted else ~padding)[:, None]
        return self.head(memory_efficient_attention(self.query.expand(len(k), -1, -1), k, v, attn_mask=mask)[:, 0])


def train_asker(inverted):
    torch.manual_seed(0)
    model = Asker(inverted)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for number in range(80):
        digits, nine = padded(128, number)
        loss = F.cross_entropy(model(digits), nine)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


askers = {"inverted": train_asker(True), "right": train_asker(False)}
Drawing(
    Curves(
        {name: (range(1, 81, 2), losses[::2]) for name, (_, losses) in askers.items()},
        "step",
        "cross-entropy",
        "The same model, one `~` apart",
        log=False,
    )
)

# %%
ends = {name: sum(losses[-20:]) / 20 for name, (_, losses) in askers.items()}
claim(
    "with the mask inverted the loss stays at that of tossing a coin, ln 2, and nothing is raised",
    ends["inverted"] > 0.9 * math.log(2) and ends["right"] < 0.1,
    figures={**ends, "ln 2": math.log(2)},
)
full = torch.randint(10, (8, 12), generator=torch.Generator().manual_seed(0))
answers_to_full = {name: model(full).detach() for name, (model, _) in askers.items()}
claim(
    "a sequence without padding sees nothing, and gets the same answer whatever it says: 0 instead of NaN hides it",
    torch.equal(answers_to_full["inverted"], answers_to_full["inverted"][:1].expand(8, -1))
    and answers_to_full["right"][:, 0].unique().numel() > 1,
)

# %% [markdown]
# How to catch it: what is hidden can have no influence, so no gradient may flow to it.

# %%


def padding_matters(model):
    """Return the largest gradient of the result with respect to what the padding contains: 0, if the mask is right."""
    digits, _ = padded(64, 1)
    embedded = model.embed(digits).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(digits, embedded).square().sum(), embedded)
    return float(gradient[digits == PAD].abs().max())


leaks = {name: padding_matters(model) for name, (model, _) in askers.items()}
claim(
    "one gradient catches it: nothing may flow to what the padding contains",
    leaks["inverted"] > 0 and leaks["right"] == 0,
    figures=leaks,
)

# %% [markdown]
# Nobody overlooks a loss that stands still. In a network with many layers the other paths go on learning, and what is
# left is a model that is weaker than it should be. The gradient tells in either case.
#
# ## Katas
#
# Each is judged by the bytes it allocates, too. What holds the whole matrix fails, however right its numbers are.

# %% kata="online_softmax"

# %% kata="attention_forward"

# %% kata="merge_partial_attention"

# %% kata="attention_backward"

# %% kata="cached_causal"

# %% kata="grouped_query"

# %% [markdown]
# ## In the wild
#
# - Causal alignment: pytorch/pytorch#103082 and pytorch/pytorch#144858 are people with a cache and one query;
#   pytorch/pytorch#108108 proposes the lower right. Dao-AILab/flash-attention#282 asked for it, version 2.1 changed it,
#   and Dao-AILab/flash-attention#951 asks for the old one back. time-series-foundation-models/lag-llama#81 found it
#   through bad forecasts. Mikyx-1/TinyLLM#17 is its sister: a prompt that goes into a cache without any mask.
# - The inverted mask: rasbt/LLMs-from-scratch#1061 (August 2026) found it in a book's bonus notebook.
#   pytorch/pytorch#120668 put a note about it into the documentation.
# - Rows that see nothing: pytorch/pytorch#103749 and pytorch/pytorch#103963, from the time when PyTorch gave NaN.
# - Merging by the log-sum-exp is what ring attention and split-K decoding do between devices and thread blocks.
#   SHI-Labs/NATTEN#299 repairs its backward: after a merge, the log-sum-exp to use is the merged one.
#
# ## What to read next
#
# - `blackbelt.reference.attention`: `ladder.py` has rungs 1 to 4; the modules beside it have all modes.
# - `aten/src/ATen/native/cpu/FlashAttentionKernel.cpp` in PyTorch: what `sdpa` ran here.
# - Milakov and Gimelshein, *Online normalizer calculation for softmax* (2018); Rabe and Staats, *Self-attention Does
#   Not Need O(n²) Memory* (2021); Dao and others, *FlashAttention* (2022) and *FlashAttention-2* (2023).
# - Lesson R.3 recomputes whole layers, by the same trade.

# %%
summary()
