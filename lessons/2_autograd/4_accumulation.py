# %% [markdown]
# # 2.4 Gradient accumulation
#
# A batch of 32 does not fit, so you accumulate 8 × 4 and the loss curve comes out worse. The maths says equal. Where is
# the difference?
#
# In October 2024 somebody asked exactly that (huggingface/trl#2175), and within two weeks several training libraries
# had the same line to repair. You will find that line, measure what it does to a gradient and to a model, learn what no
# accumulation can make equal (BatchNorm) and what only looks unequal (dropout), put clipping, scaler and scheduler in
# their places, start two processes and count what they send, and take home `accumulate` and `explain_accumulation`.

# %%
import contextlib  # for a kata
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed as dist  # for a kata
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel  # for a kata
from torch.nn.utils import clip_grad_norm_

from blackbelt import (
    accumulate,
    begin,
    check,
    claim,
    error_of,
    explain_accumulation,
    measure_growth,
    predict,
    summary,
)
from blackbelt.report import Cell, Curves, Drawing, Grid, Table, format_bytes

begin("autograd/accumulation")
torch.set_num_threads(1)  # the tensors here are small: several threads would mostly wait for each other

# %% [markdown]
# ## Predict
#
# `.grad` adds up: a second `backward()` adds to the first. So everyone writes accumulation like this, with `k`
# micro-batches and a loss that is a mean, as losses in PyTorch are:
#
# ```python
# for micro_batch in micro_batches:
#     (loss_of(model, micro_batch) / k).backward()
# optimizer.step()
# ```

# %%
equal_when = predict(
    "Texts of different lengths, a loss per token. When is this the gradient of the large batch?",
    {
        "A": "always: the gradient of a sum is the sum of the gradients",
        "B": "never, not even nearly: floating-point addition is not associative",
        "C": "when every micro-batch has the same number of tokens",
        "D": "when every micro-batch has the same number of texts",
    },
)

# %%
VOCABULARY, IGNORED = 12, -100


def language_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(VOCABULARY, 16), nn.Linear(16, VOCABULARY))


def padded(texts):
    """Stack texts of different lengths: tokens, and as labels the tokens that follow; padding is ignored."""
    longest = max(len(text) for text in texts) - 1
    tokens, labels = torch.zeros(len(texts), longest, dtype=torch.long), torch.full((len(texts), longest), IGNORED)
    for row, text in enumerate(texts):
        tokens[row, : len(text) - 1], labels[row, : len(text) - 1] = text[:-1], text[1:]
    return tokens, labels


def token_loss(model, batch, reduction="mean"):
    tokens, labels = batch
    logits = model(tokens).flatten(0, 1)
    return cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction=reduction)


def gradient_of(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def large_batch_gradient(parts):
    model = language_model()
    token_loss(model, padded([text for texts in parts for text in texts])).backward()
    return gradient_of(model)


def mean_of_means_gradient(parts):
    model = language_model()
    for texts in parts:
        (token_loss(model, padded(texts)) / len(parts)).backward()
    return gradient_of(model)


def relative_error(gradient, exact):
    return float((gradient - exact).norm() / exact.norm())


generator = torch.Generator().manual_seed(0)


def random_texts(*lengths):
    """Return one text per length; a text of n + 1 tokens has n labels."""
    return [torch.randint(VOCABULARY, (length + 1,), generator=generator) for length in lengths]


partitions = {
    "2 texts, 6 tokens each": [random_texts(3, 3), random_texts(2, 4)],
    "2 texts each, 4 and 20 tokens": [random_texts(2, 2), random_texts(10, 10)],
    "1 and 3 texts, 6 tokens each": [random_texts(6), random_texts(1, 2, 3)],
}
errors = {
    name: relative_error(mean_of_means_gradient(parts), large_batch_gradient(parts))
    for name, parts in partitions.items()
}
for name, error in errors.items():
    print(f"{name:30} relative error of the gradient: {error:.1e}")
same = tuple(error < 1e-5 for error in errors.values())
equal_when.settle(
    {(True, True, True): "A", (False, False, False): "B", (True, False, True): "C", (True, True, False): "D"}[same],
    because={
        "A": "The gradients do add up. What is wrong is what they are gradients of: each mean has its own denominator.",
        "B": "Rounding is there, in the seventh digit. It explains nothing that you could see in a loss curve.",
        "C": "",
        "D": "Two texts and two texts, and the gradient is off: a text of 2 tokens got the vote of one of 10.",
    },
)

# %% [markdown]
# ## See: what a token weighs
#
# The large batch divides once: (sum of all losses) / (number of all losses). Each of N tokens weighs 1/N. In a mean of
# k means, a token in a micro-batch of n tokens weighs 1/(k·n). Compared with what is right, that is N/(k·n).

# %%
counts = [2, 3, 12]
weights = [sum(counts) / (len(counts) * count) for count in counts]
Drawing(
    Grid(
        [
            [
                Cell(f"{weight:.2g}", 1 if weight > 1.05 else 0, strong=weight > 1.05) if i < count else Cell()
                for i in range(12)
            ]
            for count, weight in zip(counts, weights)
        ],
        row_labels=[f"micro-batch {i}" for i in (1, 2, 3)],
        column_labels=[str(i) for i in range(1, 13)],
        title="What each token weighs in the mean of means, if 1 is right",
        legend={0: "too little", 1: "too much"},
    )
)

# %%
parts = [random_texts(count) for count in counts]
model = language_model()


def sum_and_count(model, batch):
    return token_loss(model, batch, "sum"), int((batch[1] != IGNORED).sum())


report = accumulate(model, [padded(texts) for texts in parts], sum_and_count)
report

# %%
exact = large_batch_gradient(parts)
claim(
    "`accumulate` leaves the large batch's gradient in `.grad`; the mean of means is off by more than a third",
    relative_error(gradient_of(model), exact) < 1e-5 and relative_error(mean_of_means_gradient(parts), exact) > 1 / 3,
    figures={
        "accumulate": relative_error(gradient_of(model), exact),
        "mean of means": relative_error(mean_of_means_gradient(parts), exact),
    },
)
claim(
    "a token of the shortest micro-batch weighs six times as much as one of the longest",
    abs(report.naive_weights[0] / report.naive_weights[2] - 6) < 1e-9,
    figures={"weights": [round(weight, 3) for weight in report.naive_weights]},
)

# %% [markdown]
# `accumulate` asks your function for a *sum* and a *count*, never for a mean. Sums can be added; the one division comes
# at the end. You will write that yourself in the first katas.
#
# Weighting each mean by its own count would do as well. With one exception, which real data contain:

# %%
only_padding = (torch.zeros(1, 4, dtype=torch.long), torch.full((1, 4), IGNORED))
model = language_model()
loss = token_loss(model, only_padding)
loss.backward()
claim(
    "a micro-batch of padding only has the mean loss 0/0 = NaN, while its sum is 0",
    bool(loss.isnan()) and float(token_loss(model, only_padding, "sum").detach()) == 0.0,
)
claim(
    "and its gradient is 0, so the weights survive: it is the logged loss that turns NaN",
    float(gradient_of(model).abs().max()) == 0.0,
)

# %% [markdown]
# NaN times a count of 0 is NaN. Ask for the sum.
#
# ## Measure: the error grows with the unevenness
#
# Eight micro-batches, 504 tokens in all. Seven are equally short; the last takes the rest. The further the counts lie
# apart, the more the mean of means is a gradient of something else.

# %%
ratios, naive_errors, exact_errors = [], [], []
for short in (63, 56, 42, 24, 14, 8, 4):
    lengths = [short] * 7 + [504 - 7 * short]
    parts = [random_texts(length) for length in lengths]
    model = language_model()
    accumulate(model, [padded(texts) for texts in parts], sum_and_count)
    exact = large_batch_gradient(parts)
    ratios.append(lengths[-1] / short)
    naive_errors.append(relative_error(mean_of_means_gradient(parts), exact))
    exact_errors.append(relative_error(gradient_of(model), exact))
Drawing(
    Curves(
        {"mean of means": (ratios, naive_errors), "accumulate": (ratios, exact_errors)},
        "tokens in the longest / in the shortest micro-batch",
        "relative error of the gradient",
        "Eight micro-batches, 504 tokens",
    )
)

# %%
claim(
    "with equal counts both are the large batch's gradient, up to rounding",
    ratios[0] == 1 and naive_errors[0] < 1e-5 and exact_errors[0] < 1e-5,
    figures={"mean of means": naive_errors[0], "accumulate": exact_errors[0]},
)
claim(
    "with uneven ones the mean of means is off by more than half, and `accumulate` still by rounding only",
    naive_errors[-1] > 0.5 and max(exact_errors) < 1e-5,
    figures={f"{ratio:.3g} : 1": error for ratio, error in zip(ratios, naive_errors)},
)

# %% [markdown]
# ## Measure: what accumulation is for
#
# Memory. What grows with a batch are the tensors saved for backward; what does not are weights and gradients. Three
# ways to the same gradient of 1024 rows:
#
# - backward for each micro-batch, as it comes;
# - `total = total + loss` in the loop, and one `total.backward()` behind it;
# - all 1024 rows at once.

# %%
one_backward = predict(
    "Micro-batches of 8 rows, losses added up, one backward at the end. What is the peak memory?",
    {
        "A": "that of a micro-batch: no forward pass sees more than 8 rows",
        "B": "nearly that of the large batch",
        "C": "in between: of each micro-batch the loss is kept, and not the activations",
    },
)

# %%
WIDTH, ROWS = 64, 1024


def deep_model():
    torch.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(12) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())])


def backward_for_each(model, rows, size):
    for micro_batch in rows.split(size):
        (model(micro_batch).square().sum() / len(rows)).backward()


def backward_at_the_end(model, rows, size):
    total = 0
    for micro_batch in rows.split(size):
        total = total + model(micro_batch).square().sum() / len(rows)
    total.backward()


def with_accumulate(model, rows, size):
    accumulate(model, rows.split(size), lambda model, part: (model(part).square().sum(), len(part)))


growth = measure_growth(
    [8, 32, 128, 512, 1024],
    inputs=lambda size: (deep_model(), torch.randn(ROWS, WIDTH), size),
    rounds=1,
    warmup=0,
    backward_for_each=backward_for_each,
    accumulate=with_accumulate,
    backward_at_the_end=backward_at_the_end,
)
peaks = {name: growth.curve(name, "peak_bytes") for name in ("backward_for_each", "accumulate", "backward_at_the_end")}
gradient_bytes = sum(parameter.numel() * 4 for parameter in deep_model().parameters())
Drawing(
    Curves(
        {name: (growth.sizes, [value / gradient_bytes for value in values]) for name, values in peaks.items()},
        "rows in a micro-batch",
        "peak memory / size of the gradients",
        "1024 rows in micro-batches, the same gradient",
        limit=("gradients alone", 1),
    )
)

# %%
large, small = peaks["backward_for_each"][-1], peaks["backward_for_each"][0]
at_the_end = peaks["backward_at_the_end"][0]
one_backward.settle(
    "A" if at_the_end < 1.5 * small else "B" if at_the_end > 0.75 * large else "C",
    because={
        "A": "Each forward is small, and each leaves its graph alive until the one backward comes.",
        "B": "",
        "C": "A loss holds its `grad_fn`, that its inputs, and so on: the activations of every micro-batch.",
    },
)
claim(
    "backward for each of 128 micro-batches needs less than a quarter of the large batch's peak",
    small < large / 4,
    figures={"micro-batches of 8": format_bytes(small), "all 1024 rows": format_bytes(large)},
)
claim(
    "what is left does not shrink any further: most of it are the gradients themselves",
    gradient_bytes < small < 2 * gradient_bytes,
    figures={"gradients": format_bytes(gradient_bytes), "peak": format_bytes(small)},
)
claim(
    "`accumulate` is as small; one backward at the end takes over three quarters of the large batch's, at any size",
    peaks["accumulate"][0] < large / 4 and min(peaks["backward_at_the_end"]) > 0.75 * large,
)

# %% [markdown]
# That second way is lesson 2.1's leak with a happy end. It is also the one that people write when they have understood
# the first half of this lesson: "one loss, one denominator". Divide first, then backward at once.
#
# ## See: what no accumulation can make equal
#
# All this holds for losses that treat every row alone. BatchNorm does not: it normalizes each row with the mean and
# variance of those that came along.


# %%
def with_layer(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), layer, nn.Tanh(), nn.Linear(16, 1))


def two_gradients(model, rows, targets, size):
    """Return the gradient by exact accumulation and that of the large batch."""

    def run(parts):
        model.zero_grad()
        for part, target in parts:
            ((model(part) - target).square().sum() / len(rows)).backward()
        return gradient_of(model)

    return run(zip(rows.split(size), targets.split(size))), run([(rows, targets)])


rows = torch.randn(64, 8, generator=generator)
targets = rows[:, :1] * rows[:, 1:2]
layers = {
    "nothing": nn.Identity(),
    "LayerNorm": nn.LayerNorm(16),
    "GroupNorm": nn.GroupNorm(4, 16),
    "BatchNorm, training": nn.BatchNorm1d(16),
    "BatchNorm, eval": nn.BatchNorm1d(16).eval(),
    "Dropout": nn.Dropout(0.5),
}
differences = {
    name: relative_error(*two_gradients(with_layer(layer), rows, targets, 4)) for name, layer in layers.items()
}
Drawing(
    Table(
        ("layer", "difference to the large batch"),
        [(name, f"{difference:.1e}") for name, difference in differences.items()],
        title="Exact accumulation, 16 × 4 rows",
        marked=frozenset(index for index, difference in enumerate(differences.values()) if difference > 1e-4),
    )
)

# %%
exactly = ("nothing", "LayerNorm", "GroupNorm", "BatchNorm, eval")
claim("what normalizes each row by itself accumulates exactly", max(differences[name] for name in exactly) < 1e-5)
claim(
    "BatchNorm in training does not: off by more than a fifth with micro-batches of 4",
    differences["BatchNorm, training"] > 0.2,
    figures={"difference": differences["BatchNorm, training"]},
)
normalized = explain_accumulation(
    with_layer(nn.BatchNorm1d(16)),
    list(zip(rows.split(4), targets.split(4))),
    lambda model, part: ((model(part[0]) - part[1]).square().sum(), len(part[0])),
)
normalized

# %%
claim(
    "`explain_accumulation` says so and names BatchNorm as the reason",
    normalized.holds is not True and any("BatchNorm" in reason for reason in normalized.reasons),
)

# %% [markdown]
# And the running statistics, those for evaluation, move once per *forward*, not once per step. With the default
# momentum of 0.1, sixteen micro-batches are sixteen moves:

# %%
once, often = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
constant = torch.full((64, 8), 5.0)
once(constant)
for part in constant.split(4):
    often(part)
moved = {"one batch of 64": once.running_mean[0].item() / 5, "16 micro-batches": often.running_mean[0].item() / 5}
claim(
    "one step, and the running mean has gone 10 % of the way in one case and 81 % in the other: 1 − 0.9¹⁶",
    abs(moved["one batch of 64"] - 0.1) < 1e-5 and abs(moved["16 micro-batches"] - (1 - 0.9**16)) < 1e-5,
    figures=moved,
)

# %% [markdown]
# Ways out: freeze the statistics (`eval()`), use a norm that looks at one row, or compute the statistics of the large
# batch in a first pass: that is a kata. The wish that PyTorch should help with it is from 2020 (pytorch/pytorch#46516).
#
# Dropout stands in the same table and is another matter. It draws other masks, no worse ones. If that is noise and no
# bias, it must shrink in the mean over many draws:


# %%
def mean_gradients(layer, draws):
    """Return the mean gradient over many draws of the masks, by accumulation and for the large batch."""
    model = with_layer(layer)
    means = []
    for size in (4, 64):
        model.zero_grad()
        for _ in range(draws):
            for part, target in zip(rows.split(size), targets.split(size)):
                ((model(part) - target).square().sum() / len(rows)).backward()
        means.append(gradient_of(model) / draws)
    return relative_error(*means)


averaged = {
    "Dropout": mean_gradients(nn.Dropout(0.5), 200),
    "BatchNorm, training": mean_gradients(nn.BatchNorm1d(16), 2),
}
claim(
    "averaged over 200 draws, dropout's difference falls to less than a quarter: noise",
    averaged["Dropout"] < differences["Dropout"] / 4,
    figures={"one draw": differences["Dropout"], "200 draws": averaged["Dropout"]},
)
claim(
    "BatchNorm's stays where it was: another function",
    abs(averaged["BatchNorm, training"] - differences["BatchNorm, training"]) < 1e-4,
)

# %% [markdown]
# ## See: clip once
#
# Clipping is not linear, so it matters when you do it. Four micro-batches; one has an outlier.

# %%
outlier = [(torch.randn(4, 8, generator=generator), torch.randn(4, 1, generator=generator)) for _ in range(4)]
outlier[1][1][0] = 60.0


def clipped(inside, max_norm=1.0):
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    for part, target in outlier:
        ((model(part) - target).square().sum() / 16).backward()
        if inside:
            clip_grad_norm_(model.parameters(), max_norm)
    clip_grad_norm_(model.parameters(), max_norm)
    return gradient_of(model)


behind, inside = clipped(inside=False), clipped(inside=True)
cosine = float(torch.cosine_similarity(behind, inside, dim=0))
claim(
    "clipped inside the loop, the gradient is no longer than allowed and points elsewhere: cosine below 0.95",
    float(inside.norm()) < 1.0001 and cosine < 0.95,
    figures={"cosine with the right one": cosine},
)

# %% [markdown]
# ## See: the scaler's order, and its errors word by word
#
# With mixed precision in float16 a `GradScaler` multiplies the loss by a large number, so that small gradients do not
# become 0. While a window is open, `.grad` holds scaled gradients. So the order is: all
# backwards, **then once** `unscale_`, clip, `step`, `update`. A model in float32 shows the same order.


# %%
def scaled_step(unscale_first):
    """Return how far one step moves the weights, clipped to norm 1, with learning rate 1."""
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=1.0), torch.amp.GradScaler("cpu")
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    for part, target in outlier:
        scaler.scale((model(part) - target).square().sum() / 16).backward()
    if unscale_first:
        scaler.unscale_(optimizer)
    clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    return float((torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) - before).norm())


right, wrong = scaled_step(unscale_first=True), scaled_step(unscale_first=False)
claim("a new scaler multiplies by 65,536", torch.amp.GradScaler("cpu").get_scale() == 65536.0)
claim(
    "clipped before `unscale_`, the step is tens of thousands of times too short, and nothing is raised",
    abs(right - 1) < 1e-3 and wrong < right / 30_000,
    figures={"unscaled first": right, "clipped first": wrong},
)

# %% [markdown]
# Here PyTorch could not help you. For most other orders it does. Three of its messages:

# %%
model, half = nn.Linear(2, 1), nn.Linear(2, 1).half()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
weights_before = model.weight.detach().clone(), half.weight.detach().clone()


def unscale_each():
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(2):
        scaler.scale(model(torch.ones(1, 2)).sum()).backward()
        scaler.unscale_(optimizer)  # inside the loop


unscaled_twice = error_of(unscale_each)
unscaled_twice

# %% [markdown]
# - *unscale_() has already been called on this optimizer*: the scaler keeps a small state for each optimizer, `READY`,
#   `UNSCALED` or `STEPPED`. Unscaling twice would divide what the first micro-batch has left a second time.
# - *since the last update()*: only `update()` sets the state back. So the message has two causes: `unscale_` inside the
#   accumulation loop, or a forgotten `update()` in the step before.
#
# This is the classic of accumulation with clipping: huggingface/accelerate#641, microsoft/Swin-Transformer#311,
# huggingface/transformers#24840.


# %%
def clear_before_step():
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(1, 2)).sum()).backward()
    optimizer.zero_grad()  # too early
    scaler.step(optimizer)


nothing_checked = error_of(clear_before_step)
nothing_checked

# %% [markdown]
# *No inf checks were recorded*: `unscale_` looks at every gradient of *this optimizer* for infinities, and found no
# gradient at all. Either they were cleared, or the optimizer holds other parameters than the loss has reached.


# %%
def half_weights():
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(half(torch.ones(1, 2).half()).sum()).backward()
    scaler.step(torch.optim.SGD(half.parameters(), lr=0.1))


half_refused = error_of(half_weights)
half_refused

# %% [markdown]
# *FP16 gradients*: the weights themselves are float16. A scaler belongs to float32 weights under `autocast`; after
# `model.half()` the sum would be rounded to float16 after every micro-batch. Keep the weights in float32.

# %%
claim(
    "all three are refused by the scaler itself, before a weight has changed",
    "unscale_() has already been called" in unscaled_twice.message
    and "No inf checks were recorded" in nothing_checked.message
    and "Attempting to unscale FP16 gradients" in half_refused.message
    and torch.equal(model.weight, weights_before[0])
    and torch.equal(half.weight, weights_before[1]),
)

# %% [markdown]
# ## See: count steps, not micro-batches
#
# A schedule is written in optimizer steps. Stepped with every micro-batch, it is over before training is.


# %%
def rates(per_micro_batch, steps=40, micro_batches=8):
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    seen = []
    for _ in range(steps):
        for _ in range(micro_batches):
            (model(torch.ones(1, 1)).sum() / micro_batches).backward()
            if per_micro_batch:
                scheduler.step()
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        optimizer.zero_grad()
        if not per_micro_batch:
            scheduler.step()
    return seen


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    too_fast = rates(per_micro_batch=True)
planned = rates(per_micro_batch=False)
Drawing(
    Curves(
        {"once per step": (range(1, 41), planned), "once per micro-batch": (range(1, 41), too_fast)},
        "optimizer step",
        "learning rate",
        "A linear schedule over 40 steps, 8 micro-batches each",
        log=False,
    )
)

# %%
hints = [str(warning.message) for warning in caught if "lr_scheduler.step()" in str(warning.message)]
print(hints[0].split(". ")[0])
claim(
    "stepped per micro-batch, the learning rate is 0 after an eighth of the steps",
    too_fast[4] == 0.0 and planned[4] > 0.8,
    figures={"at step 5, planned": planned[4], "got": too_fast[4]},
)
claim("PyTorch warns, once, on the very first micro-batch: the scheduler stepped before the optimizer", len(hints) == 1)

# %% [markdown]
# Take that warning seriously: under accumulation it means this mistake. The libraries have all had it
# (huggingface/accelerate#963 in 2023, tracel-ai/burn#5695 in 2026).
#
# ## See: the end of the epoch
#
# `if (i + 1) % 4 == 0: optimizer.step()` stands in thousands of scripts. What becomes of the last two of ten
# micro-batches? Let the gradient itself count: the loss of every micro-batch is `w`, so `w.grad` is how many are in it.


# %%
def micro_batches_per_step(epochs, clear_at_the_start=False, flush=False):
    w = torch.zeros((), requires_grad=True)
    steps = []
    for _ in range(epochs):
        if clear_at_the_start:
            w.grad = None
        for i in range(10):
            w.backward()
            if (i + 1) % 4 == 0 or (flush and i == 9):
                steps.append(int(w.grad))
                w.grad = None
    return steps


leaking, dropping, complete = (
    micro_batches_per_step(2),
    micro_batches_per_step(2, clear_at_the_start=True),
    micro_batches_per_step(2, flush=True),
)
Drawing(
    Table(
        ("loop", "micro-batches in each step, two epochs of ten"),
        [
            ("as above", leaking),
            ("with zero_grad() at the start of an epoch", dropping),
            ("with a step for the rest", complete),
        ],
        marked=frozenset({0, 1}),
    )
)

# %%
claim(
    "the rest of an epoch leaks into the first step of the next, which is half as large again",
    leaking == [4, 4, 6, 4],
)
claim(
    "or a fifth of the data is computed and never learned from; with a step for the rest nothing is lost",
    (20 - sum(dropping)) / 20 == 1 / 5 and sum(complete) == 20,
)

# %% [markdown]
# Stepping for the rest is not all: divide by what is in it. Two micro-batches divided by 4 are half a gradient
# (Lightning-AI/pytorch-lightning#19987). That is the kata `train_epochs`.
#
# ## Measure: two processes
#
# `DistributedDataParallel` averages gradients over processes, *during* backward. While you accumulate you do not want
# that: it would send after every micro-batch what is needed once. `ddp.no_sync()` switches it off. Seven of eight
# micro-batches run like this, the last one without `no_sync`:
#
# ```python
# loss = loss_of(ddp(x), y)
# with ddp.no_sync():
#     loss.backward()
# ```

# %%
sent = predict(
    "How many all-reduces of the gradients does this step send?",
    {
        "A": "1: `no_sync` is about gradients, and gradients come in backward",
        "B": "8: as if `no_sync` were not there",
        "C": "0: the last one finds nothing to synchronize",
    },
)

# %% [markdown]
# No simulation: two processes, connected by gloo, each with its own uneven micro-batches. `torchrun --nproc-per-node 2`
# would start them in the same way. A communication hook counts what DDP sends.

# %%
TWO_RANKS = '''
import json, os, sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from blackbelt import accumulate

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=sys.argv[3], rank=rank, world_size=2)
data = torch.load(f"{folder}/data.pt")[rank]
own_rows = sum(len(x) for x, _ in data)

def loss_sum(model, part):
    return (model(part[0]) - part[1]).square().sum()

def every_time(ddp):
    for part in data:
        (loss_sum(ddp, part) / own_rows).backward()

def no_sync_around_backward(ddp):
    for part in data[:-1]:
        loss = loss_sum(ddp, part) / own_rows
        with ddp.no_sync():
            loss.backward()
    (loss_sum(ddp, data[-1]) / own_rows).backward()

def no_sync_around_both(ddp):
    with ddp.no_sync():
        for part in data[:-1]:
            (loss_sum(ddp, part) / own_rows).backward()
    (loss_sum(ddp, data[-1]) / own_rows).backward()

def forwards_first(ddp):
    for loss in [loss_sum(ddp, part) / own_rows for part in data]:
        loss.backward()

def with_accumulate(ddp):
    accumulate(ddp, data, lambda model, part: (loss_sum(model, part), len(part[0])))

def observed(way):
    """Return this rank's gradient, and how often and how many bytes DDP sent."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 1))
    ddp, sizes = DistributedDataParallel(model), []

    def hook(_, bucket):
        sizes.append(bucket.buffer().nbytes)
        work = dist.all_reduce(bucket.buffer().div_(2), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    ddp.register_comm_hook(None, hook)
    way(ddp)
    return {"gradient": model[0].weight.grad.flatten().tolist(), "all_reduces": len(sizes), "bytes": sum(sizes)}

ways = (every_time, no_sync_around_backward, no_sync_around_both, forwards_first, with_accumulate)
found = {way.__name__: observed(way) for way in ways}

class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)

ddp = DistributedDataParallel(TwoHeads())
try:
    for _ in range(2):
        ddp(torch.ones(1, 2)).sum().backward()
except RuntimeError as error:
    found["error"] = str(error)
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(found, file)
os._exit(0)  # DDP was stopped half-way by that error: no orderly farewell
'''

sizes = ([1, 5, 2, 3, 1, 2, 4, 2], [9, 6, 8, 9, 7, 9, 8, 8])
ranks = [
    [(torch.randn(size, 32, generator=generator), torch.randn(size, 1, generator=generator) + rank) for size in each]
    for rank, each in enumerate(sizes)
]
with tempfile.TemporaryDirectory() as folder:
    script = Path(folder, "two_ranks.py")
    script.write_text(TWO_RANKS)
    torch.save(ranks, Path(folder, "data.pt"))
    store = Path(folder, "store").as_uri()
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), folder, store], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 0, complaint
    found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(2)]

# %%
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 1))
rows, targets = (torch.cat(tensors) for tensors in zip(*ranks[0], *ranks[1]))
(model(rows) - targets).square().mean().backward()
exact = model[0].weight.grad.flatten()

ways = {}
for name in (name for name in found[0] if name != "error"):
    gradients = [torch.tensor(rank[name]["gradient"]) for rank in found]
    ways[name] = {
        "all_reduces": found[0][name]["all_reduces"],
        "bytes": found[0][name]["bytes"],
        "error": max(relative_error(gradient, exact) for gradient in gradients),
        "apart": relative_error(gradients[0], gradients[1]),
    }
Drawing(
    Table(
        ("loop", "all-reduces", "bytes sent", "ranks differ by", "error to the large batch"),
        [
            (name, way["all_reduces"], format_bytes(way["bytes"]), f"{way['apart']:.2g}", f"{way['error']:.2g}")
            for name, way in ways.items()
        ],
        title="Two processes, eight micro-batches each",
        marked=frozenset({3}),
    )
)

# %%
sent.settle(
    {1: "A", 8: "B", 0: "C"}[ways["no_sync_around_backward"]["all_reduces"]],
    because={
        "A": "The hooks that send do sit in backward. Whether they will is decided in forward.",
        "B": "",
        "C": "What was accumulated lies in `.grad`, and the last backward sends `.grad`, all of it.",
    },
)
claim(
    "`no_sync` around forward and backward sends an eighth of the bytes",
    ways["no_sync_around_both"]["all_reduces"] == 1
    and 8 * ways["no_sync_around_both"]["bytes"] == ways["every_time"]["bytes"],
    figures={"with": ways["no_sync_around_both"]["bytes"], "without": ways["every_time"]["bytes"]},
)
claim(
    "around backward alone it changes nothing", ways["no_sync_around_backward"]["bytes"] == ways["every_time"]["bytes"]
)

# %% [markdown]
# `DistributedDataParallel.forward` calls `reducer.prepare_for_backward`, and it does so only outside of `no_sync`
# (`torch/nn/parallel/distributed.py`). The documentation warns of it, and still: KellerJordan/modded-nanogpt#31,
# huggingface/accelerate#1726, baidu-baige/LoongForge#163.
#
# Now the marked line. All forwards first, then all backwards. No error. One all-reduce.

# %%
claim(
    "with all forwards first the two ranks end up with different gradients, and nothing is raised",
    ways["forwards_first"]["apart"] > 0.1 and ways["every_time"]["apart"] == 0.0,
    figures={"ranks differ by": ways["forwards_first"]["apart"]},
)

# %% [markdown]
# The first backward sends, and DDP is done. For the others nobody has called forward since, so `Reducer::autograd_hook`
# (`torch/csrc/distributed/c10d/reducer.cpp`) returns at once: "This may be the case if the user wants to accumulate
# gradients". You did not, and your ranks now train two models.
#
# The last column: three loops agree with each other and are all wrong. Each rank divides by *its own* rows, and DDP
# takes the mean: a mean of means again, this time over processes. The ranks do not have the same number of rows.

# %%
claim(
    "divided by each rank's own rows the gradient is off by more than a tenth; `accumulate` counts over all ranks",
    ways["no_sync_around_both"]["error"] > 0.1 and ways["with_accumulate"]["error"] < 1e-5,
    figures={
        "rows of the ranks": [sum(each) for each in sizes],
        **{name: ways[name]["error"] for name in ("no_sync_around_both", "with_accumulate")},
    },
)
claim(
    "and `accumulate` sends the gradients once, with `no_sync` before",
    ways["with_accumulate"]["bytes"] == ways["no_sync_around_both"]["bytes"],
)

# %% [markdown]
# huggingface/transformers#34373 added that count over devices to the Trainer, after the repair for one device.
#
# One message of DDP you will meet sooner or later. Both processes have just raised it:

# %%
print(found[0]["error"])
claim(
    "both ranks refuse the second forward, and each names the parameters that got no gradient",
    all("Expected to have finished reduction" in rank["error"] and "2 3" in rank["error"] for rank in found),
)

# %% [markdown]
# - *Expected to have finished reduction in the prior iteration*: DDP waits until every parameter of a bucket has a
#   gradient. One that took no part in the loss never gets one, so the bucket was never sent.
# - *before starting a new one*: it is noticed one forward too late. The first step had raised nothing.
# - *Parameter indices which did not receive grad … 2 3*: read this line first. Positions in `model.parameters()`.
# - *find_unused_parameters=True*: costs a walk over the graph in every forward. First ask whether that parameter
#   *should* have been unused. Under accumulation: is it used only in some micro-batches?
#
# ## Trap: the model that learns to be brief
#
# Texts, half of them short answers, half long. Micro-batches of 4, sorted by length, as loaders do to save padding.
# A small model predicts the next token. Three runs, same seed, same 32 texts per step: all at once; 8 × 4 with
# `accumulate`; 8 × 4 with the mean of means.

# %%
END, START = 0, 1


def write_texts(number, generator):
    texts = []
    for _ in range(number):
        is_short = torch.rand((), generator=generator) < 0.5
        low, high = (1, 5) if is_short else (30, 60)
        length = int(torch.randint(low, high, (), generator=generator))
        words = torch.randint(2, VOCABULARY, (length,), generator=generator)
        texts.append(torch.cat([torch.tensor([START]), words, torch.tensor([END])]))
    return texts


generator = torch.Generator().manual_seed(0)
batches = [write_texts(32, generator) for _ in range(20)]
held_out = padded(write_texts(300, generator))


def micro_batches_of(texts):
    texts = sorted(texts, key=len)
    return [padded(texts[start : start + 4]) for start in range(0, 32, 4)]


def all_at_once(model, texts):
    loss = token_loss(model, padded(texts))
    loss.backward()
    return loss.item()


def exact_sums(model, texts):
    return float(accumulate(model, micro_batches_of(texts), sum_and_count).mean_loss)


def mean_of_means(model, texts):
    logged = 0.0
    for micro_batch in micro_batches_of(texts):
        loss = token_loss(model, micro_batch) / 8
        loss.backward()
        logged += loss.item()
    return logged


def train(step, steps=100):
    model = language_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    logged, losses = [], []
    for i in range(steps):
        optimizer.zero_grad()
        logged.append(step(model, batches[i % len(batches)]))
        optimizer.step()
        if i % 5 == 4:
            with torch.no_grad():
                losses.append(float(token_loss(model, held_out)))
    return model, logged, losses


runs = {step.__name__: train(step) for step in (all_at_once, exact_sums, mean_of_means)}
Drawing(
    Curves(
        {name: (range(5, 101, 5), losses) for name, (_, _, losses) in runs.items()},
        "step",
        "loss per token, on 300 texts held out",
        "32 texts a step, three ways",
        log=False,
    )
)

# %%
final = {name: losses[-1] for name, (_, _, losses) in runs.items()}
logged = {name: sum(losses[-20:]) / 20 for name, (_, losses, _) in runs.items()}
print("on held-out texts:", {name: round(loss, 3) for name, loss in final.items()})
print("logged in training:", {name: round(loss, 3) for name, loss in logged.items()})
claim(
    "8 × 4 with exact sums ends where 32 at once does; the mean of means ends higher",
    abs(final["exact_sums"] - final["all_at_once"]) < 1e-3 and final["mean_of_means"] > final["all_at_once"] + 0.05,
    figures=final,
)
claim(
    "the loss that the bad run logs is lower than the good one's: a mean of means as well, over other weights",
    logged["mean_of_means"] < logged["exact_sums"],
)

# %% [markdown]
# The log looks better and the model is worse. What has it learned? Half the texts are short, but few of all *tokens*
# are followed by an end. Let the models write.


# %%
@torch.no_grad()
def words_written(model, number=1000):
    torch.manual_seed(1)
    probabilities = model(torch.arange(VOCABULARY)).softmax(-1)  # of the next token, after each token
    token, going, words = torch.full((number,), START), torch.ones(number, dtype=torch.bool), torch.zeros(number)
    while going.any():
        token = torch.multinomial(probabilities[token], 1)[:, 0]
        going &= token != END
        words += going
    return float(words.mean())


in_the_data = float((held_out[1] != IGNORED).sum() / len(held_out[1])) - 1
written = {name: words_written(model) for name, (model, _, _) in runs.items()}
claim(
    "the texts it writes are less than half as long as those it was trained on; with exact sums they are not",
    written["mean_of_means"] < in_the_data / 2 and abs(written["exact_sums"] / in_the_data - 1) < 0.25,
    figures={"words per text in the data": in_the_data, **written},
)

# %% [markdown]
# A run like that ends in "the model answers too briefly, let us try another learning rate". One call would have told:

# %%
verdict = explain_accumulation(language_model(), micro_batches_of(batches[0]), sum_and_count, joined=padded(batches[0]))
verdict

# %%
claim(
    "`explain_accumulation` finds it before training: exact accumulation holds, the mean of means does not",
    verdict.holds is True and verdict.overall.exact < 1e-5 and verdict.overall.naive > 0.5,
    figures={"exact": verdict.overall.exact, "mean of means": verdict.overall.naive},
)
claim(
    "and shows whose tokens are too loud: those of the shortest micro-batch weigh more than ten times the longest's",
    max(verdict.weights) > 10 * min(verdict.weights),
    figures={"weights": [round(weight, 2) for weight in verdict.weights]},
)

# %% [markdown]
# ## Katas

# %% kata="accumulate_uneven"

# %% kata="accumulate_tokens"

# %% kata="accumulate_and_clip"

# %% kata="accumulate_scaled"

# %% kata="train_epochs"

# %% kata="accumulate_statistics"

# %% kata="accumulate_over_ranks"

# %% [markdown]
# ## In the wild
#
# The line `loss / gradient_accumulation_steps`, where `loss` is a mean over tokens:
#
# - July 2023: huggingface/transformers#24725 describes it precisely, with two samples of 11 and 101 tokens.
# - October 2024: huggingface/trl#2175, "Gradient accumulation yields worse results than the equivalent batch size".
#   Unsloth measures it (unsloth.ai/blog/gradient, which traces a first report to 2021) and repairs it in
#   unslothai/unsloth#1134; the repair in transformers is huggingface/transformers#34191.
# - December 2024: huggingface/transformers#35203, "gradient calculation is not correct with gradient accumulation in LM
#   training". The count over all micro-batches was there by then. One denominator is easy to say and needs one owner.
# - June 2026: ml-explore/mlx-lm#1413, the same line in another framework.
#
# ## What to read next
#
# - `torch/amp/grad_scaler.py`, the functions `unscale_` and `step`: sixty lines, and you know every message above.
# - `DistributedDataParallel.no_sync` and `forward` in `torch/nn/parallel/distributed.py`.
# - Lesson 2.1 shows the graphs that `total = total + loss` keeps alive; 5.1 goes on with scalers, 6.3 with DDP.

# %%
summary()
