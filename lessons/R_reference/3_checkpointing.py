# %% [markdown]
# # R.3 Gradient checkpointing
#
# The promise is known to all: less memory, for the price of a second forward pass. Then somebody checkpoints every
# layer of a network and saves nothing. Somebody fine-tunes adapters, checkpoints the blocks around them, and trains
# the output layer alone. Somebody turns checkpointing off, to go faster, and gets a better model.
#
# You will see what backward needs and what a checkpoint keeps, climb from twenty lines to a checkpoint that can be
# trusted, each idea with its measured gain, read PyTorch's errors word by word, and let dynamic programming find the
# cheapest schedule for a number of bytes. All of `blackbelt.reference.checkpointing` is there to be read.

# %%
import itertools
import warnings
from collections.abc import Callable, Sequence  # for katas, as the next one
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint as torch_checkpoint
from torch.utils.flop_counter import flop_registry

from blackbelt import begin, check, claim, error_of, measure, measure_growth, predict, summary
from blackbelt.reference.checkpointing import (
    checkpoint,
    checkpoint_chain,
    keep_matmuls,
    plan_checkpoints,
    rerun_as_it_was,
    rerun_in_function,
    rerun_on_hooks,
    rerun_until_enough,
)
from blackbelt.report import Curves, Drawing, Table, format_bytes

begin("reference/checkpointing")

# %% [markdown]
# ## Predict
#
# A chain of 64 equal layers, `tanh(x @ w)`. They share one weight, so that nothing but activations counts. It is cut
# into segments, and each segment is checkpointed: its input is kept, and what happens inside is computed again when
# backward comes by.

# %%
torch.manual_seed(0)
torch.set_num_threads(1)  # the tensors of this lesson are small: one thread is as fast, and its times are steadier
ROWS, WIDTH, DEPTH = 1024, 32, 64
ONE = ROWS * WIDTH * 4  # bytes of one activation
weight = (torch.randn(WIDTH, WIDTH) / WIDTH**0.5).requires_grad_()
inputs = torch.randn(ROWS, WIDTH)

lowest = predict(
    "Which of these needs the least memory in a training step?",
    {
        "A": "64 segments: every layer checkpointed, as little as possible is kept of each",
        "B": "8 segments of 8 layers",
        "C": "1 segment: one checkpoint around all, and only the very first input is kept",
        "D": "it makes no difference: each layer is computed again in any case",
    },
)

# %%


def layers(number):
    """Return a function that applies the layer so many times."""

    def run(x):
        for _ in range(number):
            x = torch.tanh(x @ weight)
        return x

    return run


def step(depth, segments, way=checkpoint):
    """One forward and backward through `depth` layers in equal segments; 0 segments: no checkpoint."""
    x = inputs
    if segments:
        for _ in range(segments):
            x = way(layers(depth // segments), x)
    else:
        x = layers(depth)(x)
    return torch.autograd.grad(x.sum(), weight)[0]


cuts = {"no checkpoint": 0, "64 segments": 64, "8 segments": 8, "1 segment": 1}
peaks = measure(rounds=1, warmup=1, **{name: lambda n=n: step(DEPTH, n) for name, n in cuts.items()})
held = {name: peaks[name].peak_bytes / ONE for name in cuts}
Drawing(
    Table(
        ("", "peak of a step", "in activations"),
        [(name, format_bytes(peaks[name].peak_bytes), f"{held[name]:.1f}") for name in cuts],
        title=f"{DEPTH} layers, one activation is {format_bytes(ONE)}",
    )
)

# %%
order = sorted(("64 segments", "8 segments", "1 segment"), key=held.__getitem__)
letters = {"64 segments": "A", "8 segments": "B", "1 segment": "C"}
lowest.settle(
    letters[order[0]] if held[order[0]] < 0.9 * held[order[1]] else "D",
    because={
        "A": "What a segment keeps is its input. 64 segments keep 64 inputs, and `tanh` saved no more than that.",
        "B": "",
        "C": "Forward keeps almost nothing. But backward needs what all 64 layers save at once, and there it is again.",
        "D": "The work is the same in all three. What is in memory at the same time is not.",
    },
)
claim(
    "every layer checkpointed, or one checkpoint around all: both need at least as much as no checkpoint",
    min(held["64 segments"], held["1 segment"]) > 0.95 * held["no checkpoint"],
    figures={name: round(number, 1) for name, number in held.items()},
)
claim("8 segments of 8 need less than a third of that", held["8 segments"] < held["no checkpoint"] / 3)
plain = step(DEPTH, 0)
claim(
    "and the gradient is the same to the bit, however it is cut",
    all(torch.equal(step(DEPTH, segments), plain) for segments in (1, 8, 64)),
)

# %% [markdown]
# ## See: one step, from the first allocation to the last
#
# Memory over time says why. The profiler notes every allocation and every release; adding them up gives what is there.

# %%


def memory_over_a_step(run):
    """Return the bytes in memory after every allocation and release, from the start of the call to its end."""
    with profile(use_cpu=True, profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    return list(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def thinned(values, number=80):
    """Return so many of the values, the largest of each stretch, and where they are on a scale from 0 to 100."""
    size = max(1, len(values) // number)
    stretches = [values[i : i + size] for i in range(0, len(values), size)]
    return [100 * i / (len(stretches) - 1) for i in range(len(stretches))], [max(part) / ONE for part in stretches]


Drawing(
    Curves(
        {name: thinned(memory_over_a_step(lambda n=n: step(DEPTH, n))) for name, n in cuts.items()},
        "progress of the step, %",
        "activations in memory",
        "Where the memory goes",
        log=False,
    )
)

# %% [markdown]
# - *No checkpoint*: up in forward, down in backward. The peak is in the middle.
# - *64 segments*: the same mountain. What climbs are now the inputs, and there is one for each layer.
# - *1 segment*: flat, and then the whole mountain in backward.
# - *8 segments*: a low ramp of 8 inputs, then a saw. Each tooth is one segment that came back and went.
#
# So the peak is the inputs that wait, plus the largest segment: with k segments of n layers, k + n/k activations. That
# is lowest at k = √n, and then 2√n. The first kata makes this exact for stages that differ, the second finds the best
# cut.
#
# ## Measure: growth with depth
#
# A checkpoint may contain checkpoints. `halved` below cuts the chain in two, checkpoints the first half, and goes on
# cutting inside, down to single layers.

# %%


def halved(number):
    """Return a function that applies the layer so many times, half of it checkpointed, and so on within both halves."""
    if number == 1:
        return layers(1)
    first, second = halved(number // 2), halved(number - number // 2)
    return lambda x: second(checkpoint(first, x))


def halved_step(depth):
    return torch.autograd.grad(halved(depth)(inputs).sum(), weight)[0]


depths = (16, 64, 256)
growth = measure_growth(
    depths,
    inputs=lambda n: (n,),
    rounds=1,
    warmup=0,
    no_checkpoint=lambda n: step(n, 0),
    every_layer=lambda n: step(n, n),
    square_root=lambda n: step(n, round(n**0.5)),
    halved=halved_step,
)
names = [timing.name for timing in growth.points[0].timings]
Drawing(
    Curves(
        {name: (depths, [peak / ONE for peak in growth.curve(name, "peak_bytes")]) for name in names},
        "layers",
        "activations at the peak",
        "Memory of a training step",
    )
)

# %%
slopes = {name: growth.exponent(name, "peak_bytes") for name in names}
claim(
    "no checkpoint, or one at every layer: memory grows like the depth",
    all(0.9 < slopes[name] < 1.1 for name in ("no_checkpoint", "every_layer")),
    figures={name: slopes[name] for name in ("no_checkpoint", "every_layer")},
)
claim("√n segments: like its root", 0.35 < slopes["square_root"] < 0.6, figures={"exponent": slopes["square_root"]})
smallest, *_, largest = growth.curve("halved", "peak_bytes")
claim(
    "halved again and again: like its logarithm, one activation more whenever the depth doubles",
    largest - smallest < 4.5 * ONE,  # from 16 to 256 layers it doubles four times
    figures={f"{n} layers": round(peak / ONE, 1) for n, peak in zip(depths, growth.curve("halved", "peak_bytes"))},
)
claim("with the same gradient", torch.equal(halved_step(64), plain))

# %% [markdown]
# These are the two results of Chen and others (*Training Deep Nets with Sublinear Memory Cost*, 2016): √n for one more
# forward pass, log n for log n of them.
#
# What does it cost? Time on a busy machine is a poor witness, so count as well: `Counter` sees every operator below
# autograd, and adds up the arithmetic of the matrix products by PyTorch's own formulas.

# %%


class Counter(TorchDispatchMode):
    """Counts operators by name, and the floating-point operations of matrix products."""

    def __init__(self):
        super().__init__()
        self.calls, self.flops = {}, 0

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # else the first operator imports the compiler, which takes seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


def counted(run, *arguments):
    with Counter() as counter:
        run(*arguments)
    return counter


tanhs = {
    "no checkpoint": counted(step, DEPTH, 0).calls["tanh"],
    "8 segments": counted(step, DEPTH, 8).calls["tanh"],
    "64 segments": counted(step, DEPTH, 64).calls["tanh"],
    "halved": counted(halved_step, DEPTH).calls["tanh"],
}
times = measure(
    no_checkpoint=lambda: step(DEPTH, 0),
    square_root=lambda: step(DEPTH, 8),
    halved=lambda: halved_step(DEPTH),
    rounds=5,
)
print("forward passes per layer:", {name: round(number / DEPTH, 2) for name, number in tanhs.items()})
times

# %%
claim(
    "with one level of checkpoints every layer runs at most twice; halved, at most 1 + log₂ 64 = 7 times",
    tanhs["no checkpoint"] == DEPTH
    and max(tanhs["8 segments"], tanhs["64 segments"]) <= 2 * DEPTH
    and 2 * DEPTH < tanhs["halved"] <= 7 * DEPTH,
    figures=tanhs,
)
arithmetic = counted(step, DEPTH, 8).flops / counted(step, DEPTH, 0).flops
claim(
    "one forward pass more is a third more arithmetic, since backward multiplies twice for each forward once",
    1.32 < arithmetic < 1.36,
    figures={"arithmetic": arithmetic},
)
claim(
    "and the time of a step grows by less than a factor of 3, on a busy machine too",
    times.ratio("square_root", "no_checkpoint") < 3,
    figures={"time": times.ratio("square_root", "no_checkpoint")},
)

# %% [markdown]
# ## The ladder, rung 1: run it again inside a Function
#
# The oldest idea, and the one behind PyTorch's `use_reentrant=True`. Forward runs without a graph. Backward runs the
# function again, this time with one, and calls backward on that graph, inside the backward that is going on: it
# *re-enters* the engine.


# %%
class Rerun(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, x):
        ctx.function = function
        ctx.save_for_backward(x)
        with torch.no_grad():
            return function(x)

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.function(x)
        torch.autograd.backward(y, gradient)  # the parameters' gradients go straight into .grad
        return None, x.grad


def block(width=32, inner=128):
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))


torch.manual_seed(1)
blocks = nn.ModuleList([block() for _ in range(4)])
x = torch.randn(256, 32, requires_grad=True)


def through(way, x):
    for each in blocks:
        x = x + way(each, x)
    return x.square().mean()


def grads_by_backward(way, x):
    blocks.zero_grad()
    through(way, x).backward()
    return [parameter.grad for parameter in blocks.parameters()]


def call(function, x):
    return function(x)


right = grads_by_backward(call, x)
claim(
    "twenty lines give the right gradients",
    all(map(torch.equal, grads_by_backward(Rerun.apply, x), right))
    and all(map(torch.equal, grads_by_backward(rerun_in_function, x), right)),
)

# %% [markdown]
# It works, for a function of one tensor, as long as you do exactly this. Now take a step to the side, and ask for the
# gradient of `x` alone:

# %%
blocks.zero_grad()
torch.autograd.grad(through(Rerun.apply, x), x)
written = sum(parameter.grad is not None for parameter in blocks.parameters())
claim(
    "asked for the gradient of `x` alone, it writes into `.grad` of every parameter all the same",
    written == len(right),
    figures={"parameters written": written},
)


def reentrant(function, x):
    return torch_checkpoint(function, x, use_reentrant=True)


refused = error_of(lambda: torch.autograd.grad(through(reentrant, x), x))
refused

# %% [markdown]
# PyTorch's version of the twenty lines prefers to stop. Word by word:
#
# - *When use_reentrant=True*: this is about rung 1, and only about it.
# - *incompatible with .grad()*: that is `torch.autograd.grad`.
# - *or passing an `inputs` parameter to .backward()*: both mean "only these gradients". But the parameters are no
#   inputs of the Function. The outer engine does not know that they are involved, and the inner `backward` writes into
#   every `.grad` it comes to.
# - *set use_reentrant=False*: rung 2. In `torch/utils/checkpoint.py` the two are `CheckpointFunction` and
#   `_checkpoint_without_reentrant_generator`; they have nothing in common but the name.

# %%
claim("PyTorch refuses `autograd.grad` with a reentrant checkpoint, and says so", "inputs" in refused.message)

# %% [markdown]
# There is a second step to the side, and that one is silent.

# %%
adapters = predict(
    "A frozen embedding, 4 blocks with frozen weights and a small trainable adapter in each, a trainable head. The "
    "blocks are checkpointed with `use_reentrant=True`. What does `backward()` give?",
    {
        "A": "gradients for adapters and head: that is what requires grad",
        "B": "an error: the input of the first block requires no grad",
        "C": "gradients for the head, none for the adapters, and no error",
    },
)

# %%


class Adapted(nn.Module):
    """A frozen linear layer and a small trainable detour beside it, as in LoRA."""

    def __init__(self, width=32, rank=8):
        super().__init__()
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return torch.tanh(self.frozen(x) + self.up(self.down(x)))


class Classifier(nn.Module):
    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.embedding = nn.Embedding(24, 32).requires_grad_(False)
        self.blocks = nn.ModuleList([Adapted() for _ in range(4)])
        self.head = nn.Linear(32, 2)

    def forward(self, tokens):
        x = self.embedding(tokens).mean(1)
        for each in self.blocks:
            x = self.way(each, x)
        return self.head(x)


tokens = torch.randint(24, (512, 2), generator=torch.Generator().manual_seed(0))
labels = (tokens[:, 0] % 2 == tokens[:, 1] % 2).long()  # are both even, or both odd?


def without_gradient(model):
    """Return the names of parameters that should learn and have no gradient after a backward."""
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = Classifier(reentrant)
    try:
        F.cross_entropy(model(tokens), labels).backward()
        silent = "C" if len(without_gradient(model)) == 8 and model.head.weight.grad is not None else "A"
    except RuntimeError:
        silent = "B"
adapters.settle(
    silent,
    because={
        "A": "So it is with rung 2. Here a Function gets one tensor, `x`, and that one requires no grad: autograd "
        "records nothing, and the block's result is a constant.",
        "B": "There is a path with gradients, through the head. An error comes only where the head is frozen, too.",
        "C": "",
    },
)
print("no gradient:", ", ".join(without_gradient(model)))
print("warning:    ", *{str(warning.message) for warning in caught})

# %% [markdown]
# There *is* a warning, from `check_backward_validity` in `torch/utils/checkpoint.py`. Word by word:
#
# - *None of the inputs have requires_grad=True*: the tensors that you passed. What the function holds besides is not
#   looked at.
# - *Gradients will be None*: not "of the inputs", which you would expect. Of everything in the segment.
#
# It is shown once per line of code and process, between the progress bars, in the first step.
#
# ## Rung 2: on the hooks of saved tensors
#
# `torch.autograd.graph.saved_tensors_hooks(pack, unpack)` puts two functions where autograd saves: the graph keeps what
# `pack` returns, and in backward gets the tensor from `unpack`. So run forward as ever, with a graph, and let `pack`
# return a number instead of the tensor. The first `unpack` runs the function again and collects what it saves.
#
# The graph is then the very graph of a plain call. Everything that works on a graph works. You will write it as a kata.

# %%
model = Classifier(rerun_on_hooks)
F.cross_entropy(model(tokens), labels).backward()
claim("on hooks, every adapter has its gradient: no tensor argument needs one", not without_gradient(model))
claim(
    "and `autograd.grad` works, with the same gradients to the bit",
    all(map(torch.equal, torch.autograd.grad(through(rerun_on_hooks, x), list(blocks.parameters())), right)),
)


def curvature(way):
    """The gradient of the gradient's square: a backward through backward."""
    (first,) = torch.autograd.grad(through(way, x), x, create_graph=True)
    return torch.autograd.grad(first.square().sum(), x)[0]


claim("and so does a second derivative", torch.equal(curvature(checkpoint), curvature(call)))

# %% [markdown]
# ## Rung 3: stop when you have enough
#
# Look at a block: `Linear`, `GELU`, `Linear`. The last linear layer saves its *input*. Its output nobody needs, and it
# is half of the arithmetic. A rerun that leaves by an exception once the last tensor is saved never computes it.

# %%
stops = {
    "no checkpoint": call,
    "rung 2, the whole function": rerun_on_hooks,
    "rung 3, until enough": rerun_until_enough,
    "checkpoint": checkpoint,
    "torch.utils.checkpoint": lambda function, x: torch_checkpoint(function, x, use_reentrant=False),
}
work = {
    name: counted(lambda way=way: torch.autograd.grad(through(way, x), list(blocks.parameters())))
    for name, way in stops.items()
}
base = work["no checkpoint"]
Drawing(
    Table(
        ("", "matrix products", "arithmetic, to no checkpoint"),
        [
            (name, sum(each.calls.get(op, 0) for op in ("mm", "addmm")), f"{each.flops / base.flops:.3f}")
            for name, each in work.items()
        ],
        title="One step through four blocks",
    )
)

# %%
extra = {name: (each.flops - base.flops) / base.flops for name, each in work.items()}
claim(
    "stopping early halves what is recomputed in such a block",
    extra["rung 3, until enough"] == extra["rung 2, the whole function"] / 2 > 0
    and extra["checkpoint"] == extra["rung 3, until enough"],
    figures={name: extra[name] for name in ("rung 2, the whole function", "rung 3, until enough")},
)

# %% [markdown]
# Where you cut decides what an early stop is worth. A segment that ends behind a matrix product gives it away; one that
# ends behind a `tanh`, which saves its output, has to run to its end.
#
# ## Rung 4: the same surroundings
#
# A rerun is only as good as its likeness. Backward comes later, and elsewhere: the random number generator has moved
# on, and an `autocast` block has been left.

# %%
noisy = nn.Sequential(nn.Linear(32, 64), nn.Dropout(0.5), nn.Linear(64, 32))


def noisy_gradient(way):
    """Return the loss, a gradient, and the random number that the caller draws next."""
    torch.manual_seed(3)
    loss = way(noisy, x).square().mean()
    return loss, torch.autograd.grad(loss, noisy[0].weight)[0], torch.rand(1)


def cosine(a, b):
    return float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))


no_state = lambda function, x: checkpoint(function, x, preserve_rng_state=False)  # noqa: E731  # one of a row of ways
with_state, without_state, plainly = (noisy_gradient(way) for way in (checkpoint, no_state, call))
claim(
    "with the generator's state kept, dropout's gradient is right to the bit, and the caller's next number is the same",
    all(map(torch.equal, with_state, plainly)),
)
claim(
    "without it the gradient is another one, at the same loss and without a word",
    torch.equal(without_state[0], plainly[0]) and cosine(without_state[1], plainly[1]) < 0.9,
    figures={"cosine to the right gradient": cosine(without_state[1], plainly[1])},
)

# %%


def cast_gradient(way):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = way(blocks[0], x)
    return torch.autograd.grad(y.float().sum(), blocks[0][0].weight)[0]


outside = error_of(lambda: cast_gradient(rerun_until_enough))
claim(
    "under autocast rung 3 recomputes in float32 and stops with an error; `checkpoint` gives the right gradient",
    "dtype" in outside.message and torch.equal(cast_gradient(checkpoint), cast_gradient(call)),
)
outside

# %% [markdown]
# That one is lucky: the dtypes clash. A wrong mask fits perfectly.
#
# ## Rung 5: keep the dear, recompute the cheap
#
# Not all bytes cost the same to compute again. A matrix product of width w costs w multiplications for each number it
# returns; a GELU, a norm, a dropout a handful. `policy` decides operator by operator. `keep_matmuls` keeps what matrix
# products and attention return, and lets the rest be computed again.

# %%
torch.manual_seed(2)
tall = nn.Sequential(
    nn.LayerNorm(64), nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 64), nn.Dropout(0.1)
)
batch = torch.randn(2048, 64, requires_grad=True)
policies = {
    "no checkpoint": call,
    "keep_matmuls": lambda function, x: checkpoint(function, x, policy=keep_matmuls),
    "checkpoint": checkpoint,
}


def left_by_forward(way):
    """Return the bytes in memory when forward has returned, the result included."""
    return memory_over_a_step(lambda: kept_alive.append(way(tall, batch)))[-1]


kept_alive = []
rows = {}
for name, way in policies.items():
    cost = counted(lambda way=way: way(tall, batch).sum().backward())
    rows[name] = left_by_forward(way), cost.flops
    kept_alive.clear()
least = rows["no checkpoint"][1]
Drawing(
    Table(
        ("", "held after forward", "arithmetic of a step"),
        [(name, format_bytes(num_bytes), f"{flops / least:.3f}") for name, (num_bytes, flops) in rows.items()],
        title="A transformer's feed-forward block",
    )
)

# %%
claim(
    "kept matrix products: no multiplication is done twice, for less than two thirds of the memory",
    rows["keep_matmuls"][1] == least and rows["keep_matmuls"][0] < rows["no checkpoint"][0] * 2 / 3,
    figures={name: format_bytes(num_bytes) for name, (num_bytes, _) in rows.items()},
)

# %% [markdown]
# That is the middle way: memory between the two, at the price of pointwise operations. It pays where the products are
# large and what lies between them is wide.
#
# ### The ladder, tried
#
# Each rung, and PyTorch's two, on what you have met so far: is the gradient right to the bit?

# %%
rungs = {
    "1": rerun_in_function,
    "2": rerun_on_hooks,
    "3": rerun_until_enough,
    "4": rerun_as_it_was,
    "checkpoint": checkpoint,
    "reentrant": reentrant,
    "torch": lambda function, x: torch_checkpoint(function, x, use_reentrant=False),
}


def by_backward(model, loss):
    """Return the gradients that backward leaves; `loss()` computes the loss."""
    model.zero_grad()
    loss().backward()
    return [parameter.grad for parameter in model.parameters()]


def dropped(way):
    torch.manual_seed(3)
    return by_backward(noisy, lambda: way(noisy, x).square().mean())


def cast(way):
    def loss():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return way(blocks[0], x).float().square().mean()

    return by_backward(blocks[0], loss)


def two_backwards(way):
    loss = through(way, x)
    return [g for last in (False, True) for g in torch.autograd.grad(loss, blocks[0][0].weight, retain_graph=not last)]


trials = {
    "backward()": lambda way: grads_by_backward(way, x),
    "input needs no gradient": lambda way: grads_by_backward(way, x.detach()),
    "autograd.grad": lambda way: torch.autograd.grad(through(way, x), list(blocks.parameters())),
    "second derivative": lambda way: [curvature(way)],
    "two backwards": two_backwards,
    "dropout": dropped,
    "autocast": cast,
}


def verdict(trial, way):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = trial(way)
    except Exception:
        return "error"
    same = all(one is not None and torch.equal(one, other) for one, other in zip(got, trial(call)))
    return "right" if same else "WRONG"


tried = {name: [verdict(trial, way) for trial in trials.values()] for name, way in rungs.items()}
rows = [(trial, *verdicts) for trial, verdicts in zip(trials, zip(*tried.values()))]
Drawing(Table(("", *rungs), rows, title="Right to the bit?"))

# %%
claim(
    "`checkpoint` is right in all seven, the first rung in one",
    set(tried["checkpoint"]) == {"right"} and tried["1"].count("right") == 1,
)
claim(
    "dropout is where rungs 1 to 3 are wrong and raise nothing",
    all(tried[rung][list(trials).index("dropout")] == "WRONG" for rung in "123"),
)

# %% [markdown]
# An error costs you a morning; a wrong gradient costs a run. Each rung is in `ladder.py`, a page in all.
#
# ## Planning for a number of bytes
#
# Equal layers are an exercise. Real chains are uneven: here are rows that are merged two by two, between blocks of
# different width. Where do you cut, and what may simply stay? Uniform segments, as `checkpoint_sequential` makes them,
# know nothing of that.

# %%
torch.manual_seed(3)


class Block(nn.Module):
    def __init__(self, inner, width=48):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Merge(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.linear = nn.Linear(2 * width, width)

    def forward(self, x):
        return self.linear(x.reshape(len(x) // 2, -1))


uneven = nn.Sequential(
    *(Block(192), Block(48), Merge(), Block(384), Block(48), Merge()),
    *(Block(384), Block(96), Block(384), Block(48), Merge(), Block(384), Block(384)),
)
table = torch.randn(4096, 48)


def uneven_step(run):
    return torch.autograd.grad(run(table).square().mean(), list(uneven.parameters()))


all_kept = measure(step=lambda: uneven_step(uneven), rounds=1)["step"].peak_bytes
plan = plan_checkpoints(uneven, all_kept // 2, table)
plan

# %% [markdown]
# `plan_checkpoints` has measured every stage: what it saves, what it needs for a moment, how long it takes. Dynamic
# programming then finds the schedule that runs least again, over all ways to keep stages and to put checkpoints into
# checkpoints. It finds them for every budget at once. Compare with uniform segments, whose peak is measured:

# %%


def uniform(size):
    """Return the chain in checkpointed segments of so many stages, the last one kept, and what it runs again."""
    starts = range(0, len(uneven), size)

    def run(x):
        for start in starts[:-1]:
            x = checkpoint(uneven[start : start + size], x)
        return uneven[starts[-1] :](x)

    costs = [unit.cost for unit in plan.units]
    again = sum(
        sum(cost.forward_seconds for cost in costs[start : start + size - 1]) + costs[start + size - 1].rerun_seconds
        for start in starts[:-1]
    )
    return run, again


def best_within(num_bytes):
    """Return the seconds that the best schedule within so many bytes runs again; None where there is none."""
    return min((seconds for needed, seconds in plan.frontier if needed <= num_bytes), default=None)


forward_seconds = sum(unit.cost.forward_seconds for unit in plan.units)
compared = {}
for size in (1, 2, 3, 5, 7):
    run, again = uniform(size)
    peak = measure(step=lambda run=run: uneven_step(run), rounds=1, warmup=0)["step"].peak_bytes
    compared[size] = peak, again, best_within(1.02 * peak)
Drawing(
    Curves(
        {
            "plan": tuple(zip(*[(n / 2**20, s / forward_seconds) for n, s in plan.frontier])),
            "uniform segments": tuple(
                zip(*sorted((peak / 2**20, again / forward_seconds) for peak, again, _ in compared.values()))
            ),
        },
        "MiB at the peak",
        "forward passes run again",
        "What a byte costs",
        log=False,
    )
)

# %%
claim(
    "within the bytes of any of these uniform segmentations the plan runs at least 10 % less again",
    all(best is not None and best < 0.9 * again for _, again, best in compared.values()),
    figures={
        f"segments of {size}": f"{best / again:.0%} of it, in {format_bytes(peak)}"
        for size, (peak, again, best) in compared.items()
        if best is not None
    },
)
chain = checkpoint_chain(uneven, all_kept // 2)
gradients_agree = all(map(torch.equal, uneven_step(chain), uneven_step(uneven)))
peak = measure(step=lambda: uneven_step(chain), rounds=1, warmup=0)["step"].peak_bytes
claim(
    "`checkpoint_chain` takes half the bytes, as it was told, within 5 % of what it predicts, for the same gradients",
    peak <= 1.02 * (all_kept // 2) and abs(peak / chain.plan.predicted_peak_bytes - 1) < 0.05 and gradients_agree,
    figures={"measured": format_bytes(peak), "predicted": format_bytes(chain.plan.predicted_peak_bytes)},
)
impossible = error_of(lambda: plan_checkpoints(uneven, all_kept // 10, table))
impossible

# %% [markdown]
# The last is an error of the course's own: no schedule fits a tenth of the bytes, and it says what the least is.
#
# ## The errors, word by word
#
# A rerun that goes another way than forward can be noticed, if it saves other tensors. Two ways to get there. First:
# somebody evaluates between forward and backward, and leaves the model in evaluation mode.

# %%
between = nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.5))


def evaluated_in_between(way):
    between.train()
    loss = way(between, x).square().mean()
    between.eval()  # and a validation pass
    loss.backward()


def torch_way(function, x):
    return torch_checkpoint(function, x, use_reentrant=False)


number = error_of(lambda: evaluated_in_between(torch_way))
print(number.message.split("Tip:")[0])

# %% [markdown]
# - *A different number of tensors was saved during the original forward and recomputation*: it counts. In training
#   dropout saves its mask; in evaluation it is not there.
# - *saved during forward: 3 … during recomputation: 2*: the difference is a hint at what is missing, not at where.
# - It comes out of `loss.backward()`. The line that did it, `between.eval()`, is long over.
#
# Second: the same operators, on other shapes. Here a function reads a setting that changes.

# %%
settings = {"rows": 3, "scale": 1.0}


def first_rows(x):
    return x[: settings["rows"]].exp() * 2


def resized_in_between(way):
    settings["rows"] = 3
    loss = way(first_rows, x).sum()
    settings["rows"] = 2
    loss.backward()


metadata = error_of(lambda: resized_in_between(torch_way))
print(metadata.message.split("Tip:")[0])

# %% [markdown]
# - *Recomputed values*: misleading. No value is compared.
# - *have different metadata*: shape, dtype and device, and that is all (`_default_meta_extractor`).
# - *tensor at position 0*: the first tensor saved in the segment. To find it you would have to count.
#
# In real life it is seldom a setting. It is a mixture of experts whose router, in the recomputation, sends one token
# elsewhere (pytorch/torchtitan#1117: 965 rows in forward, 964 then), or a cache that forward has filled.
#
# The course's checkpoint compares while it recomputes. So it can say who saved the tensor, and its traceback ends in
# the line of your function where the two ways part:

# %%
named = error_of(lambda: resized_in_between(checkpoint))
named

# %%
claim(
    "both find the two mistakes; the course's names the operation",
    "number of tensors" in number.message and "metadata" in metadata.message and "ExpBackward0" in named.message,
)

# %% [markdown]
# What neither can see are other numbers in the same shape:

# %%


def scaled(x):
    return (x * settings["scale"]).exp()


def rescaled_in_between(way):
    """Return the gradient where a setting changes between forward and backward, and where it does not."""
    gradients = []
    for later in (3.0, 1.0):
        settings["scale"] = 1.0
        loss = way(scaled, x).sum()
        settings["scale"] = later
        gradients.append(torch.autograd.grad(loss, x)[0])
    return gradients


wrong_and_right = {name: rescaled_in_between(way) for name, way in (("torch", torch_way), ("ours", checkpoint))}
claim(
    "another number in the rerun, in the same shape: no error from either, and another gradient",
    not any(torch.equal(changed, same) for changed, same in wrong_and_right.values()),
    figures={name: f"cosine {cosine(changed, same):.2f}" for name, (changed, same) in wrong_and_right.items()},
)

# %% [markdown]
# So the rule is yours to keep: **what a checkpointed function does may depend on its arguments, its parameters and
# PyTorch's random numbers.** Everything else, be it `random.random()`, a counter or a global, has to stand still until
# backward has run. And what the function *changes*, it changes twice:

# %%
norm = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32))
counts = {}
for name, way in (("no checkpoint", call), ("torch.utils.checkpoint", torch_way), ("checkpoint", checkpoint)):
    norm[1].reset_running_stats()
    way(norm, x).sum().backward()
    counts[name] = int(norm[1].num_batches_tracked)
claim(
    "BatchNorm counts a checkpointed batch twice, PyTorch's checkpoint or ours",
    counts == {"no checkpoint": 1, "torch.utils.checkpoint": 2, "checkpoint": 2},
    figures=counts,
)

# %% [markdown]
# It is open as pytorch/pytorch#96136, and a kata below.
#
# ## Trap: the adapters that never learned
#
# Back to the frozen blocks, now with an optimizer. The head learns, so the loss goes down, and everything looks fine.

# %%


def fine_tune(way, steps=100):
    """Return the losses, and how far the adapters have moved."""
    model = Classifier(way)
    start = [each.up.weight.detach().clone() for each in model.blocks]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    moved = sum(float((each.up.weight.detach() - before).norm()) for each, before in zip(model.blocks, start))
    return losses, moved


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    runs = {name: fine_tune(way) for name, way in (("reentrant", reentrant), ("checkpoint", checkpoint))}
marks = range(0, 100, 4)
Drawing(
    Curves(
        {name: ([step + 1 for step in marks], [losses[step] for step in marks]) for name, (losses, _) in runs.items()},
        "step",
        "loss",
        "Fine-tuning adapters in checkpointed blocks",
        log=False,
    )
)

# %%
bad, good = runs["reentrant"], runs["checkpoint"]
claim("both runs begin at the same loss, and both losses go down", bad[0][0] == good[0][0] and bad[0][-1] < bad[0][0])
claim(
    "with the reentrant checkpoint not one adapter has moved; with the other the loss comes out below two thirds of it",
    bad[1] == 0 < good[1] and good[0][-1] < bad[0][-1] * 2 / 3,
    figures={name: f"loss {losses[-1]:.3f}, moved {moved:.2f}" for name, (losses, moved) in runs.items()},
)

# %% [markdown]
# `AdamW` passes over parameters whose `.grad` is None, so nothing stumbles. One line after the first backward catches
# it, whatever the reason: `without_gradient(model)` above. Put it into your training loop as an assertion.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    suspect = Classifier(reentrant)
    F.cross_entropy(suspect(tokens), labels).backward()
claim("the check names all eight adapter weights after one step", len(without_gradient(suspect)) == 8)

# %% [markdown]
# ## Trap: the mask that was drawn twice
#
# The other silent one. A helper from a famous repository, a few lines, no generator state. The network has dropout.

# %%


def train_with_dropout(way, steps=150):
    """Return the error in evaluation mode after every tenth step."""
    torch.manual_seed(0)
    sizes = (16, 64, 64, 64, 64)
    layers = [(nn.Linear(a, b), nn.GELU(), nn.Dropout(0.5)) for a, b in itertools.pairwise(sizes)]
    body, head = nn.Sequential(*itertools.chain.from_iterable(layers)), nn.Linear(64, 1)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=3e-3)
    features = torch.randn(512, 16, generator=torch.Generator().manual_seed(1))
    targets = torch.tanh(features[:, :1] * features[:, 1:2] + features[:, 2:3])
    errors = []
    for number in range(1, steps + 1):
        loss = F.mse_loss(head(way(body.train(), features)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if number % 10 == 0:
            with torch.no_grad():
                errors.append(F.mse_loss(head(body.eval()(features)), targets).item())
    return errors


masks = {
    "no checkpoint": train_with_dropout(call),
    "checkpoint": train_with_dropout(checkpoint),
    "without the generator's state": train_with_dropout(no_state),
}
Drawing(
    Curves(
        {name: (range(10, 151, 10), errors) for name, errors in masks.items()},
        "step",
        "mean squared error",
        "The same network, the same seed",
        log=False,
    )
)

# %%
claim("checkpointed, the run is the same to the bit", masks["checkpoint"] == masks["no checkpoint"])
claim(
    "with a second mask in backward the error is left more than three times as large",
    masks["without the generator's state"][-1] > 3 * masks["no checkpoint"][-1],
    figures={name: errors[-1] for name, errors in masks.items()},
)

# %% [markdown]
# How to catch it: one step with and one without the checkpoint, from the same seed, and `torch.equal` on the gradients.

# %%
without, with_ours, with_helper = dropped(call), dropped(checkpoint), dropped(no_state)
claim(
    "one step from the same seed tells them apart: equal to the bit, or not",
    all(map(torch.equal, with_ours, without)) and not all(map(torch.equal, with_helper, without)),
)

# %% [markdown]
# Turning checkpointing on is a change of memory and time. If it changes a number, it is broken.
#
# ## Katas

# %% kata="peak_bytes"

# %% kata="best_segments"

# %% kata="checkpointed"

# %% kata="same_dropout"

# %% kata="statistics_once"

# %% kata="keep_products"

# %% [markdown]
# ## In the wild
#
# - Adapters without gradients: huggingface/transformers#21381 (2023), huggingface/transformers#26221 ("Gradient
#   checkpointing should have no functional impact") and cloneofsimo/lora#26, where the weights of a trained adapter
#   were found to be zero. locuslab/open-unlearning#178 is from March 2026. In January 2026
#   huggingface/transformers#43203 made `use_reentrant=False` the default, years after PyTorch had recommended it.
# - Dropout: openai/guided-diffusion#167 shows a run that diverges because its checkpoint restores no generator.
#   allenai/OLMo-core#828 (August 2026) has the numbers of a 4-billion-parameter run: after 150 steps a cross-entropy of
#   2.495 with checkpointing and 2.195 without. pytorch/pytorch#14253 proposed `preserve_rng_state`, in 2018.
# - Autocast: pytorch/pytorch#141896 is a `CheckpointError` of the non-reentrant checkpoint under autocast.
# - `CheckpointError` as such: pytorch/torchtitan#1117 (a router) and hiyouga/LlamaFactory#6438 are two of many.
#
# ## What to read next
#
# - `blackbelt.reference.checkpointing`: `ladder.py` has rungs 1 to 4, `frame.py` what is exported.
# - The long note in the middle of `torch/utils/checkpoint.py`, with its numbered rules, now that you know the problem.
# - Chen and others, *Training Deep Nets with Sublinear Memory Cost* (2016); Beaumont and others, *Optimal checkpointing
#   for heterogeneous chains* (2019), for the dynamic program.
# - Lesson 2.1 shows what each node saves; lesson 2.3 writes a Function whose backward recomputes.

# %%
summary()
