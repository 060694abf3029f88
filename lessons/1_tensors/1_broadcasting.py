# %% [markdown]
# # 1.1 Broadcasting dojo
#
# Two tensors of different shapes meet, PyTorch stretches one of them, and the arithmetic goes on as if nothing had
# happened. This is the most used rule of the library and the one that ruins the most training runs without a word.
#
# You will find the rule in PyTorch's own source, watch what stretching costs (nothing) and what its backward does (a
# sum), meet its four error messages, and take home `explain_broadcast`, which says who is stretched where and what to
# write instead.

# %%
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from blackbelt import (
    begin,
    check,
    claim,
    error_of,
    explain_broadcast,
    measure,
    measure_growth,
    memory_map,
    predict,
    summary,
)
from blackbelt.report import Cell, Curves, Drawing, Grid, Table

begin("tensors/broadcasting")

# %% [markdown]
# ## Predict
#
# Here is a regression. The targets are `10 + 9·x₀ - 2·x₁` plus noise, the model is a linear layer: it can represent
# them exactly. The data are those of a bug report from 2019 that comes up again at the end.

# %%
generator = torch.Generator().manual_seed(0)
x = torch.randn(512, 2, generator=generator)  # (N, 2)
y = 10 + 9 * x[:, 0] - 2 * x[:, 1] + torch.randn(512, generator=generator)  # (N,)


def train(loss_function, steps=150, lr=0.1):
    """Train the linear layer; return the losses and its predictions for all of x."""
    batches = torch.Generator().manual_seed(1)
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        rows = torch.randint(512, (64,), generator=batches)
        loss = loss_function(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model(x).detach()


def explained(prediction):
    """R²: the share of the targets' variance that the predictions explain. 1 is perfect, 0 is the mean of y."""
    return 1 - ((prediction.flatten() - y) ** 2).mean().item() / y.var(correction=0).item()


def loss_as_written(prediction, target):
    return ((prediction - target) ** 2).mean()


losses, prediction = train(loss_as_written)
print(f"loss, first ten steps {sum(losses[:10]) / 10:.0f}, last ten {sum(losses[-10:]) / 10:.0f}")
print(f"predictions {prediction.mean().item():.1f} ± {prediction.std().item():.1f}")
print(f"targets     {y.mean().item():.1f} ± {y.std().item():.1f}")

# %% [markdown]
# The loss falls. Nothing is thrown. And the predictions are the mean of the targets, for every input.

# %%
culprit = predict(
    "The loss is `((prediction - target) ** 2).mean()`. Which character keeps this model from learning?",
    {
        "A": "the `-`: it does not subtract what you think it subtracts",
        "B": "the `2`: outliers rule a squared loss, an absolute one would learn",
        "C": "the `mean`: averaging makes the gradient too small, `sum` would learn",
        "D": "none: the loss is right, it needs four times as many steps",
    },
)

# %% [markdown]
# Keep your answer. First the rule.
#
# ## See: shapes align at the right
#
# Write the shapes under each other, last dimension under last dimension. In each column the sizes must be equal, or
# 1, or missing. Ones and missing dimensions stretch to what the others have. That is all of it. (The tool frowns at
# this example, because neither side keeps its shape. Hold that thought.)

# %%
explain_broadcast((8, 1, 6, 1), (7, 1, 5))

# %%
total = torch.zeros(8, 1, 6, 1) + torch.zeros(7, 1, 5)
claim("(8, 1, 6, 1) and (7, 1, 5) broadcast to (8, 7, 6, 5)", tuple(total.shape) == (8, 7, 6, 5))

# %% [markdown]
# The larger size does not win. The 1 gives way, whatever it meets, and it may meet a 0: then nothing is left.

# %%
claim(
    "a 1 that meets a 0 becomes 0, although 1 is larger: (3, 1) and (3, 0) give (3, 0)",
    (torch.ones(3, 1) + torch.ones(3, 0)).shape == (3, 0),
)

# %% [markdown]
# In PyTorch this is `infer_size` in `aten/src/ATen/ExpandUtils.cpp`, a loop of a dozen lines that walks both shapes
# from the last dimension to the first. Every elementwise operator reaches it through
# `TensorIteratorBase::compute_shape`. Its complaint is the first error of this lesson. A batch of four rows, and
# one number per row:

# %%
rows, per_row = torch.arange(12.0).reshape(4, 3), torch.tensor([10.0, 20.0, 30.0, 40.0])
error_of(lambda: rows + per_row)

# %% [markdown]
# Word by word. *Tensor a* is your first operand, or, with three operands, whatever the first two made together.
# *Must match* is not quite true: it may also be 1. *At non-singleton dimension 1*: neither size is 1 there, and the
# dimension is counted from the left, although the rule works from the right. So read the message as "the last
# columns are 3 and 4". Your four numbers stood in line with the three columns; you meant them to stand in line with
# the four rows.

# %%
explain_broadcast(rows, per_row)

# %%
by_hand = torch.stack([row + number for row, number in zip(rows, per_row, strict=True)])
claim(
    "`per_row.unsqueeze(1)`, the first fix, adds to each row its own number",
    torch.equal(rows + per_row.unsqueeze(1), by_hand),
)

# %% [markdown]
# The message is a gift: sizes 3 and 4 disagreed. With a 4 × 4 matrix the same mistake runs, and adds along the
# wrong axis. That is the pattern of this lesson. The rule protects you only where sizes happen to differ.
#
# ## See: stretching is a stride of 0
#
# A tensor finds element `[i, j]` at `offset + i · stride₀ + j · stride₁`. Give the first dimension stride 0 and
# every row is the same memory. `expand` does this, and so does every operator that broadcasts:
# `inferExpandGeometry`, same file.

# %%
row = torch.arange(4.0)
three = row.expand(3, 4)
memory_map(three)

# %%
claim(
    "expanding 4 numbers to 3 × 4 gives strides (0, 1) and still 16 bytes of storage, the same ones",
    three.stride() == (0, 1)
    and three.untyped_storage().nbytes() == 16
    and three.untyped_storage().data_ptr() == row.untyped_storage().data_ptr(),
)

# %% [markdown]
# Only a 1 can be stretched this way: no stride makes 4 cells read as 8.

# %%
error_of(lambda: row.expand(8))

# %% [markdown]
# *Expanded size* is what you asked for, *existing size* what there is, and *non-singleton* means that what there is
# is not 1. To write the row twice in a row is `row.repeat(2)`, and that is a copy.
#
# ## See: the backward of a broadcast is a sum
#
# An element that was read four times in the forward pass took part in the loss four times, so four gradients come
# back to it. They add up. But who adds them? Ask the node itself: call `AddBackward0` by hand.

# %%
features, bias = torch.randn(4, 3, requires_grad=True), torch.zeros(3, requires_grad=True)
out = features + bias
upstream = torch.arange(12.0).reshape(4, 3)
from_node = out.grad_fn(upstream)[1]
out.backward(upstream)
claim(
    "`AddBackward0` hands the bias a gradient of shape (4, 3); what arrives in `bias.grad` is its sum over the rows",
    from_node.shape == (4, 3) and torch.equal(bias.grad, upstream.sum(0)),
    figures={"from the node": tuple(from_node.shape), "in bias.grad": tuple(bias.grad.shape)},
)

# %% [markdown]
# The node knows nothing of broadcasting. The engine does: after each node, `validate_outputs`
# (`torch/csrc/autograd/engine.cpp`) compares every gradient with the shape of the input it belongs to, and
# `InputMetadata::reduce_grad` calls `at::sum_to` where it is too large. Addition, multiplication and the rest get
# the backward of broadcasting for free. One consequence: a parameter that is stretched over the batch costs a
# reduction over the whole batch.

# %%
scale = torch.randn(2, 1, 5, requires_grad=True)
values = torch.randn(7, 2, 6, 5)
(values * scale).sum().backward()
claim(
    "the gradient of a (2, 1, 5) factor in a (7, 2, 6, 5) product is summed over dimensions 0 and 2",
    torch.allclose(scale.grad, values.sum((0, 2), keepdim=True)[0], atol=1e-5),
)

# %% [markdown]
# ## See: what may not be stretched
#
# Reading one number many times is harmless. Writing is not. Two messages guard this, and a door stays open.

# %%
running = torch.zeros(3)
error_of(lambda: running.add_(torch.ones(2, 3)))

# %% [markdown]
# *Output with shape [3]* is your tensor, *the broadcast shape [2, 3]* is what the rule makes of both operands. An
# in-place result must already have that shape: memory cannot grow under a tensor that others may be looking at
# (`TensorIteratorBase::mark_resize_outputs`). The other operand may stretch; the one that is written to may not.

# %%
error_of(lambda: three.add_(1))

# %% [markdown]
# *More than one element of the written-to tensor refers to a single memory location*: that is stride 0 in words
# (`at::assert_no_internal_overlap`, `aten/src/ATen/MemoryOverlap.cpp`). Adding 1 to each of three rows that are one
# row would have to add 3, or 1, depending on the order. `clone()` gives every element a place of its own.
#
# Now write to one row only.

# %%
table = torch.zeros(1, 4).expand(3, 4)
leak = predict(
    "`table` is (1, 4) zeros expanded to (3, 4). What does `table[0] += 1` do?",
    {
        "A": "it raises, like `three.add_(1)`",
        "B": "row 0 becomes 1, rows 1 and 2 stay 0",
        "C": "all three rows become 1, without a word",
    },
)

# %%
try:
    table[0] += 1
    happened = "C" if bool((table == 1).all()) else "B"
except RuntimeError:
    happened = "A"
leak.settle(
    happened,
    because={
        "A": "The check looks at the tensor that is written to: `table[0]`, a view of four distinct cells, no overlap.",
        "B": "There is no row 0 apart from the others: all three have the same address.",
        "C": "The check looks at the whole tensor.",
    },
)
claim("writing to one row of an expanded tensor changes all rows, and raises nothing", happened == "C")

# %% [markdown]
# So: never hand out an expanded tensor as a buffer. `repeat`, or `expand(…).clone()`, is what a buffer needs.
#
# ## Measure: `expand` against `repeat`

# %%
copies = measure(
    expand=lambda v: v.expand(256, -1), repeat=lambda v: v.repeat(256, 1), inputs=lambda: (torch.randn(1, 4096),)
)
copies


# %%
def about(num_bytes, expected):
    """Equal, but for the few bytes of scalars and headers that an operator may ask for on the way."""
    return abs(num_bytes - expected) < 1024


claim(
    "`expand` allocates nothing, `repeat` allocates all 256 copies: 4 MiB",
    copies["expand"].peak_bytes == 0 and about(copies["repeat"].peak_bytes, 256 * 4096 * 4),
    figures={"expand": copies["expand"].peak_bytes, "repeat": copies["repeat"].peak_bytes},
)
claim(
    "`expand` is more than 5 times as fast as `repeat` here",
    copies.ratio("repeat", "expand") > 5,
    figures={"ratio": copies.ratio("repeat", "expand")},
)
claim(
    "`expand` allocates nothing on the GPU either",
    lambda: (
        measure(e=lambda v: v.expand(256, -1), inputs=lambda: (torch.ones(64, device="cuda"),))["e"].peak_bytes == 0
    ),
    needs="cuda",
)

# %% [markdown]
# The time of `expand` does not depend on the size at all: it writes two numbers into a header. And you seldom need
# either. An operator that broadcasts on its own allocates its result and nothing else; a `repeat` in front of it
# doubles the peak.

# %%
added = measure(
    implicit=lambda m, v: m + v,
    with_repeat=lambda m, v: m + v.repeat(256, 1),
    inputs=lambda: (torch.randn(256, 4096), torch.randn(1, 4096)),
)
claim(
    "`m + v` allocates its result only; `m + v.repeat(256, 1)` allocates twice that",
    about(added["implicit"].peak_bytes, 4 * 2**20) and about(added["with_repeat"].peak_bytes, 8 * 2**20),
    figures={"implicit": added["implicit"].peak_bytes, "with repeat": added["with_repeat"].peak_bytes},
)

# %% [markdown]
# ## Measure: the price of a broadcast is its result
#
# Stretching costs nothing, but the *result* of a broadcast is as large as it says. The classic: distances between
# all rows of `p` and all rows of `q`. `p[:, None] - q` is one line, and an (N, N, D) tensor. The expanded square,
# |p - q|² = |p|² + |q|² - 2 p·q, needs a matrix product and nothing larger than (N, N). `torch.cdist` is the
# library's.


# %%
def by_broadcasting(p, q):
    return (p[:, None] - q).square().sum(-1)


def by_expanded_square(p, q):
    squares = p.square().sum(1)[:, None] + q.square().sum(1)
    return torch.addmm(squares, p, q.mT, alpha=-2).clamp_(min=0)


D = 64
growth = measure_growth(
    [64, 128, 256, 512],
    inputs=lambda n: (torch.randn(n, D), torch.randn(n, D)),
    rounds=3,
    broadcasting=by_broadcasting,
    expanded_square=by_expanded_square,
    cdist=torch.cdist,
)
growth

# %% [markdown]
# In the second plot the lines run up side by side: all three are quadratic in N. What separates them is the factor
# D, and a constant factor of 64 is the difference between a program that runs and one that does not. (In the first
# plot the left end is flat: there you see the cost of a call, not of the arithmetic.)

# %%
peaks = {name: growth.points[-1][name].peak_bytes for name in ("broadcasting", "expanded_square", "cdist")}
claim(
    "broadcasting holds two (N, N, D) tensors at its peak, the difference and its square: 128 MiB for N = 512, D = 64",
    about(peaks["broadcasting"], 2 * 512 * 512 * D * 4),
    figures={"bytes": peaks["broadcasting"]},
)
claim(
    "the expanded square and `cdist` need less than a fiftieth of that",
    max(peaks["expanded_square"], peaks["cdist"]) * 50 < peaks["broadcasting"],
    figures=peaks,
)
claim(
    "memory grows with exponent 2 for broadcasting and for the expanded square alike",
    abs(growth.exponent("broadcasting", "peak_bytes") - 2) < 0.02
    and abs(growth.exponent("expanded_square", "peak_bytes") - 2) < 0.02,
)
claim(
    "at N = 512 broadcasting takes more time than the expanded square",
    growth.points[-1].ratio("broadcasting", "expanded_square") > 1,
    figures={"ratio": growth.points[-1].ratio("broadcasting", "expanded_square")},
)

# %% [markdown]
# Nothing is free. The expanded square subtracts large numbers that are nearly equal, and float32 keeps seven
# digits. How much that hurts depends on where your points are, and in `cdist` on how many there are.

# %%
far = torch.randn(40, 3, generator=torch.Generator().manual_seed(5)) + 1000  # a cloud around (1000, 1000, 1000)
crowd = predict(
    "`torch.cdist(far[:25], far[:25])[0, 1]` is a distance of two points. You pass 26 points. Does it change?",
    {
        "A": "no: the two points are the same, so is their distance",
        "B": "in the last digit: the order of summation differs",
        "C": "visibly, by more than a thousandth of its value",
    },
)

# %%
with_25 = torch.cdist(far[:25], far[:25])[0, 1].item()
with_26 = torch.cdist(far[:26], far[:26])[0, 1].item()
exact = (far[0].double() - far[1].double()).norm().item()
change = abs(with_26 - with_25) / exact
crowd.settle(
    "A" if change == 0 else "B" if change < 1e-3 else "C",
    because={
        "A": "From 26 rows on `cdist` takes another road: the expanded square instead of the difference.",
        "B": "It is no reordering: the terms it subtracts are three million, the squared distance is 17.",
        "C": "Here both roads agree.",
    },
)
claim(
    "one more point changes the distance of two others: `cdist` switches to the matrix product above 25 rows",
    change > 1e-3,
    figures={"25 points": with_25, "26 points": with_26, "in float64": exact},
)
direct = torch.cdist(far, far, compute_mode="donot_use_mm_for_euclid_dist")[0, 1].item()
claim(
    "`compute_mode='donot_use_mm_for_euclid_dist'` is right to six digits on the same 40 points",
    abs(direct - exact) < 1e-6 * exact,
    figures={"direct": direct},
)

# %% [markdown]
# The switch is one line in `cdist_impl`, `aten/src/ATen/native/Distance.cpp`: `r1 > 25 || r2 > 25`. Subtracting the
# mean of the points first would cost almost nothing and repair both; a kata below asks you for that.
#
# ## Trap: a column of predictions, a flat row of targets
#
# Back to the model that learns the mean. `nn.Linear(2, 1)` returns (N, 1). The targets are (N,). Ask.

# %%
explain_broadcast(prediction=prediction, target=y)


# %% [markdown]
# Both sides stretch. Every prediction is compared with every target:


# %%
pairs = [[Cell("", 2 if i == j else 5, strong=i == j) for j in range(6)] for i in range(6)]
Drawing(
    Grid(
        pairs,
        row_labels=[f"prediction {i}" for i in range(6)],
        column_labels=[f"t{j}" for j in range(6)],
        title="What `(prediction - target) ** 2` averages, for a batch of 6",
        legend={2: "the 6 residuals you meant", 5: "30 comparisons of strangers"},
    )
)

# %% [markdown]
# In a batch of 64, one pair in 64 is meant. The rest pull every prediction toward every target, and the point with
# the least pull from all sides is the mean. That is an identity, not a tendency: the loss over all pairs is the
# distance of the predictions to the *mean* target, plus a constant. The input occurs in it nowhere.

# %%
p, t = torch.randn(64, 1, dtype=torch.float64) * 5, y[:64].double()
all_pairs = ((p - t) ** 2).mean()
to_the_mean = ((p - t.mean()) ** 2).mean() + t.var(correction=0)
claim(
    "the loss over all pairs equals mean((p - mean(t))²) + var(t), so its best prediction is the mean, for every input",
    torch.allclose(all_pairs, to_the_mean, rtol=1e-12),
    figures={"all pairs": all_pairs.item(), "to the mean": to_the_mean.item()},
)

# %% [markdown]
# Now settle the puzzle. Four runs, one suspect replaced in each.

# %%
suspects = {
    "A": train(lambda p, t: ((p.squeeze(1) - t) ** 2).mean()),
    "B": train(lambda p, t: (p - t).abs().mean()),
    "C": train(lambda p, t: ((p - t) ** 2).sum(), lr=0.1 / 64**2),
    "D": train(loss_as_written, steps=600),
}
scores = {letter: explained(prediction) for letter, (_, prediction) in suspects.items()}
culprit.settle(
    max(scores, key=scores.__getitem__),
    because={
        "A": "`-` subtracts elementwise after broadcasting; nothing was broadcast here.",
        "B": "An absolute loss over all pairs learns the median of the targets, as blind to the input as the mean.",
        "C": "`sum` scales the same gradient. The direction is wrong, not the length.",
        "D": "It has converged already: to the mean. More steps keep it there.",
    },
)
changes = ("`prediction.squeeze(1) - target`", "`.abs()`", "`.sum()`", "600 steps instead of 150")
rows_shown = [(*change, f"{score:.3f}") for change, score in zip(zip(scores, changes), scores.values())]
Drawing(Table(("", "replaced by", "R²"), rows_shown, marked=frozenset({0})))

# %%
broken, fixed = losses, suspects["A"][0]
steps = [1, 2, 4, 8, 16, 32, 64]


def by_doublings(losses):
    """Mean loss of steps n to 2n - 1: single batches are noisy."""
    return [sum(losses[n - 1 : 2 * n - 1]) / n for n in steps]


Drawing(
    Curves(
        {"(N, 1) - (N,)": (steps, by_doublings(broken)), "(N,) - (N,)": (steps, by_doublings(fixed))},
        x_label="step",
        y_label="loss",
        title="The same model, data and seed",
        limit=("variance of the targets", y.var().item()),
    )
)

# %%
claim(
    "the trapped run looks healthy: its loss falls by more than a third",
    sum(broken[-10:]) / 10 < broken[0] * 2 / 3,
    figures={"first": broken[0], "last ten": sum(broken[-10:]) / 10},
)
claim(
    "it explains less than a tenth of the variance; its fixed twin more than nine tenths",
    explained(prediction) < 0.1 and scores["A"] > 0.9,
    figures={"trapped": explained(prediction), "fixed": scores["A"]},
)

# %% [markdown]
# The curve stops at the variance of the targets. Remember that number: **a regression loss that settles at the
# variance of the targets has learned the mean**, whatever the reason.
#
# ### Caught, or not
#
# PyTorch knows this trap. It warns, in some of its losses.

# %%
guess_p, guess_t = torch.rand(8, 1) * 0.8 + 0.1, torch.rand(8) * 0.8 + 0.1
candidates = {
    "F.mse_loss": F.mse_loss,
    "F.l1_loss": F.l1_loss,
    "F.huber_loss": F.huber_loss,
    "F.binary_cross_entropy": F.binary_cross_entropy,
    "F.binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
    "F.poisson_nll_loss": F.poisson_nll_loss,
    "F.hinge_embedding_loss": F.hinge_embedding_loss,
    "((p - t) ** 2).mean()": loss_as_written,
}


def reaction(loss_function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loss_function(guess_p, guess_t)
        except (RuntimeError, ValueError) as error:
            return f"refuses: {type(error).__name__}"
    return "warns" if any("different to the input size" in str(w.message) for w in caught) else "silent"


reactions = {name: reaction(function) for name, function in candidates.items()}
Drawing(Table(("loss, given (8, 1) and (8,)", "PyTorch"), list(reactions.items())))

# %%
claim("`F.mse_loss` warns of sizes that differ", reactions["F.mse_loss"] == "warns")
claim("`F.binary_cross_entropy` refuses them", reactions["F.binary_cross_entropy"].startswith("refuses"))
claim(
    "`F.poisson_nll_loss` and any loss you write yourself say nothing",
    reactions["F.poisson_nll_loss"] == reactions["((p - t) ** 2).mean()"] == "silent",
)

# %% [markdown]
# The warning is Python code in front of the operator (`mse_loss` in `torch/nn/functional.py`); a loss of your own
# never passes there. And Python shows a warning from one line once:

# %%
with warnings.catch_warnings(record=True) as shown:
    warnings.simplefilter("default")
    train(F.mse_loss, steps=50)
claim("in 50 steps the warning appears once, above everything your logger prints", len(shown) == 1)

# %% [markdown]
# So put the guard where no filter hides it: `assert prediction.shape == target.shape` in every loss you write. When
# it fires, `explain_broadcast` names the way out, and a kata below builds the loss that needs no assert.

# %%
report = explain_broadcast(prediction=prediction, target=y)
repaired = loss_as_written(prediction.squeeze(1), y)
claim(
    "`explain_broadcast` warns; its first fix, `prediction.squeeze(1)`, gives the mean squared error that was meant",
    report.warning is not None
    and report.fixes[0].code == "prediction.squeeze(1)"
    and torch.allclose(repaired, F.mse_loss(prediction.squeeze(1), y)),
    figures={"as written": loss_as_written(prediction, y).item(), "repaired": repaired.item()},
)

# %% [markdown]
# ### Its little sister
#
# Center each row of a matrix: `m - m.mean(1)`. The means are (N,), they meet the columns. For any (N, C) with N ≠ C
# this raises. For a square matrix, such as a similarity or an attention map, it subtracts from column j the mean of
# *row* j.

# %%
square = torch.randn(5, 5, generator=torch.Generator().manual_seed(2))
wrong, right = square - square.mean(1), square - square.mean(1, keepdim=True)
claim(
    "on a square matrix `m - m.mean(1)` runs and leaves rows that are not centered; with `keepdim=True` they are",
    wrong.mean(1).abs().max() > 0.01 and right.mean(1).abs().max() < 1e-6,
)
error_of(lambda: torch.randn(5, 4) - torch.randn(5, 4).mean(1))

# %% [markdown]
# `keepdim=True` keeps the 1 that makes the alignment explicit. Use it whenever you reduce in order to combine again.
#
# ## Katas

# %% kata="broadcast_shape"

# %% kata="unbroadcast"

# %% kata="pairwise_iou"

# %% kata="squared_distances"

# %% kata="normalize_channels"

# %% kata="masked_softmax"

# %% kata="squared_error"

# %% [markdown]
# ## In the wild
#
# The trap, again and again:
# - **pytorch/pytorch#16045** (2019): the regression of this lesson, silent in version 1.0; pytorch/pytorch#18349
#   added the warning.
# - **deepset-ai/FARM#229** (2020): a DistilBERT regression head. The user asked what the warning means.
# - **IntelLabs/matsciml#347** (2025): labels (N, 1) against graph readouts (N,).
# - **jsboige/CoursIA#926** (2026): a study of forecasting models found none that beat its baseline. For one-step
#   forecasts every run had trained on all pairs.
# - **sktime/sktime#10931** (2026): four deep regressors ended in `Linear(…, 1)`, the targets were flat.
# - **HIPS/Kayak#14** (2014): the same in another library, before there was PyTorch. JAX can switch the rule off
#   (`jax_numpy_rank_promotion="raise"`, see jax-ml/jax#2697); PyTorch cannot.
#
# Distances: **pytorch/pytorch#42479** (`cdist` says 0 where 109 is right), **cornellius-gp/gpytorch#2336**
# (covariances that stop being positive definite). Empty lists of dimensions, which a kata above meets:
# **pytorch/pytorch#60845**.
#
# Read next: *Broadcasting semantics* in PyTorch's notes, `ExpandUtils.h` beside your own installation (`sum_to` is
# the kata `unbroadcast`), then lesson 1.2, where the stride you set to 0 here takes every other value.

# %%
summary()
