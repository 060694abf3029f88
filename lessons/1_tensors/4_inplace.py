# %% [markdown]
# # 1.4 In-place operations
#
# `x += 1` and `x = x + 1` give the same numbers. One of them saves 400 MB on a tensor of 100 million floats. One of
# them can break backward. Sometimes one of them does both, and there is a third way to write it that breaks backward
# *without saying so*.
#
# You will learn what autograd saves and for whom, read the two best-known error messages of PyTorch word by word, see
# where in-place pays (and that `nn.ReLU(inplace=True)` hardly does), find a write that PyTorch's own optimizers hide
# from autograd, and take home `trace_inplace`, which names both lines.

# %%
import warnings
from collections.abc import Callable  # for a kata

import torch
from torch import nn
from torch.func import functionalize
from torch.utils._python_dispatch import TorchDispatchMode

from blackbelt import begin, check, claim, error_of, measure, measure_growth, predict, summary, trace_inplace
from blackbelt.report import Cell, Curves, Drawing, Grid

begin("tensors/inplace")

# %% [markdown]
# ## Predict
#
# Three ways to make a `y`. After each of them comes the same line, `y += 1`, and then `y.sum().backward()`.

# %%
ways = {
    "y = x * 2": lambda x: x * 2,
    "y = x.sin()": lambda x: x.sin(),
    "y = x.sigmoid()": lambda x: x.sigmoid(),
}

breaks = predict(
    "After which of the three does `y += 1` break backward?",
    {
        "A": "after all three: in-place operations and autograd do not go together",
        "B": "after none: adding 1 does not change the gradient",
        "C": "after `sin` and `sigmoid`: they are not linear",
        "D": "after `sigmoid` only",
    },
)

# %%


def survives(way):
    x = torch.linspace(-1, 1, 3, requires_grad=True)
    y = way(x)
    y += 1
    try:
        y.sum().backward()
    except RuntimeError:
        return False
    return True


outcome = {code: survives(way) for code, way in ways.items()}
print(outcome)
letters = {(False, False, False): "A", (True, True, True): "B", (True, False, False): "C", (True, True, False): "D"}
breaks.settle(
    letters[tuple(outcome.values())],
    because={
        "A": "Two of the three run. Autograd records in-place operations like any other; it does not mind the write.",
        "B": "The derivative of `+ 1` is 1, and not what is lost: that is something the operation before still needs.",
        "C": "`sin` is not linear and survives. What counts is what an operation has saved: its input or its output.",
        "D": "",
    },
)

# %% [markdown]
# Not linearity, not "in-place" as such. The question is always the same: **who saved this memory, and will they need
# it?** Everything in this lesson follows from the answer and from one small counter.
#
# ## See: the counter
#
# Every tensor has a version. Each in-place operation adds 1. Aliases may share the *memory*, and they may share the
# *counter*. These are two different things.

# %%
a = torch.zeros(4)
a.add_(1)
aliases = {
    "a.view(2, 2)": a.view(2, 2),
    "a[:2]": a[:2],
    "a.detach()": a.detach(),
    "a.data": a.data,
    "a.clone()": a.clone(),
}
rows = []
for code, alias in aliases.items():
    before = a._version
    same_memory = alias.untyped_storage().data_ptr() == a.untyped_storage().data_ptr()
    alias.add_(1)
    rows.append((code, same_memory, a._version > before, alias._version))
for code, same_memory, counted, version in rows:
    print(
        f"{code:13} shares memory: {same_memory!s:6} its write moves a._version: {counted!s:6} own version: {version}"
    )

seen = {code: (same_memory, counted) for code, same_memory, counted, _ in rows}
claim(
    "views and `detach()` share memory and counter; `clone()` shares neither",
    all(seen[code] == (True, True) for code in ("a.view(2, 2)", "a[:2]", "a.detach()"))
    and seen["a.clone()"] == (False, False),
)
claim("`.data` shares the memory and not the counter", seen["a.data"] == (True, False))

# %% [markdown]
# `.data` is a leftover of the time before PyTorch 0.4, when tensors and `Variable`s were two things. It hands you the
# memory and a fresh counter at 0. Keep that line of the table in mind.
#
# One more thing hides in it: a write to `a[:2]` moves the counter of *all* of `a`. The counter belongs to the storage
# and its views, not to elements. We will meet that again in an RNN.
#
# ## See: who saves what
#
# An operation that autograd records becomes a node, and the node keeps what its gradient formula needs. The formulas
# stand in one file of PyTorch's source, `tools/autograd/derivatives.yaml`: where a formula says `result`, the output is
# saved; where it says `self`, the input. You need not look there. The node itself shows it, as `grad_fn._saved_…`.

# %%
operations = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "relu": torch.relu,
    "softmax": lambda x: x.softmax(0),
    "sin": torch.sin,
    "x ** 2": lambda x: x**2,
    "gelu": nn.functional.gelu,
    "leaky_relu": nn.functional.leaky_relu,
    "x + 1": lambda x: x + 1,
    "x * 2": lambda x: x * 2,
}


def saved_memory(operation):
    """Return whether the node of the operation saved its input's memory, and its output's."""
    x = torch.linspace(0.1, 1, 4, requires_grad=True)
    y = operation(x)
    attributes = [getattr(y.grad_fn, name) for name in dir(y.grad_fn) if name.startswith("_saved_")]
    kept = {t.untyped_storage().data_ptr() for t in attributes if isinstance(t, torch.Tensor)}
    return x.untyped_storage().data_ptr() in kept, y.untyped_storage().data_ptr() in kept


saves = {name: saved_memory(operation) for name, operation in operations.items()}
Drawing(
    Grid(
        [
            [Cell("kept", 0) if given else Cell("free"), Cell("kept", 1, strong=True) if output else Cell("free")]
            for given, output in saves.values()
        ],
        row_labels=list(saves),
        column_labels=["input", "output"],
        title="What each operation keeps for backward",
        legend={0: "input kept: do not write to the input", 1: "output kept: do not write to the output"},
    )
)

# %%
survived = {name: survives(operation) for name, operation in operations.items()}
claim(
    "for eleven operations: `y += 1` breaks backward exactly where the output was saved",
    all(survived[name] is not saves[name][1] for name in operations),
    figures={"operations": len(operations)},
)
claim(
    "`relu` keeps its output and `leaky_relu` its input",
    saves["relu"] == (False, True) and saves["leaky_relu"] == (True, False),
)

# %% [markdown]
# Read off the rule for `relu_`. It overwrites its input, which is the *output* of whoever came before:
#
# - behind a linear layer it is safe: a linear layer keeps its input and its weight, nobody keeps its output;
# - behind `sigmoid` it is not: the output was kept.
#
# Now look closely at that second case. The output of a sigmoid is positive. `relu_` does not change a single number.

# %%
x = torch.linspace(-2, 2, 5, requires_grad=True)
y = x.sigmoid()
before = y.detach().clone()
y.relu_()
refusal = error_of(lambda: y.sum().backward())
claim(
    "autograd compares counters, not values: a write of the same values is refused too",
    torch.equal(y.detach(), before) and "modified by an inplace operation" in refusal.message,
)

# %% [markdown]
# ## The first error, word by word
#
# Here is the message in full, for the case of the puzzle.

# %%
x = torch.linspace(-1, 1, 3, requires_grad=True)
y = x.sigmoid()
y += 1
y *= 2
stopped = error_of(lambda: y.sum().backward())
stopped

# %% [markdown]
# - *one of the variables needed for gradient computation*: a tensor that some node has saved. It does not say which
#   node.
# - *[torch.FloatTensor [3]]*: its type and its size. Often the only clue to which tensor is meant.
# - *which is output 0 of …*: who **made** it (`Sigmoid` is `SigmoidBackward0`). Not always who saved it.
# - *is at version 2; expected version 0*: two writes came after the save. Which two lines, it does not say.
# - *Hint: enable anomaly detection*: let us take the hint and see what we get.

# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with torch.autograd.set_detect_anomaly(True):
        y = x.sigmoid()
        y += 1  # the culprit
        error_of(lambda: y.sum().backward())
hint = "\n".join(str(warning.message) for warning in caught)
claim(
    "anomaly detection shows the line that saved the tensor, and not the line that changed it",
    "y = x.sigmoid()" in hint and "y += 1" not in hint,
)

# %% [markdown]
# You get the innocent line. In a model of fifty layers the guilty one is anywhere behind it. PyTorch's own text for
# this case ends with "Good luck!". It is in the function `SavedVariable::unpack` of
# `torch/csrc/autograd/saved_variable.cpp`, right where `saved_version_ != current_version` is tested.
#
# To name the guilty line somebody has to watch. That is what `trace_inplace` does:

# %%
try:
    with trace_inplace() as trace:
        y = x.sigmoid()
        y += 1
        y *= 2
        y.sum().backward()
except RuntimeError as error:
    explained = error
trace.report()

# %%
found = trace.findings[0]
claim(
    "`trace_inplace` raises where PyTorch does, and names the save, the write and both versions",
    isinstance(explained, RuntimeError)
    and (found.saved_at.code, found.changed_at.code) == ("y = x.sigmoid()", "y += 1")
    and (found.saved_version, found.current_version, found.num_writes) == (0, 2, 2),
)

# %% [markdown]
# It puts two hooks of PyTorch to work: `torch.autograd.graph.saved_tensors_hooks` sees every save, and a
# `TorchFunctionMode` compares versions before and after every call. Gradients stay the same to the bit.
#
# ## The second error, word by word

# %%
w = torch.ones(3, requires_grad=True)
error_of(lambda: w.sub_(0.1))

# %% [markdown]
# - *a leaf*: a tensor that no operation made. Gradients arrive at leaves, in `.grad`.
# - *Variable*: the name of a tensor with autograd, before PyTorch 0.4 made the two one. Read "tensor".
# - *that requires grad … is being used in an in-place operation*: recorded, the write would make `w` the output of a
#   `SubBackward0`. It would no longer be a leaf, and the tensor whose gradient you asked for would be gone.
#
# You do not want the update recorded at all. Say so:

# %%
version = w._version
with torch.no_grad():
    w -= 0.1
claim(
    "under `no_grad` a leaf may be written: it stays a leaf, and its version moves",
    w.is_leaf and w.requires_grad and w.grad_fn is None and w._version == version + 1,
)

# %% [markdown]
# Every optimizer does this. The counter still moves, so a backward that needs the old weights will refuse. That is a
# safety net. At the end of this lesson you will see it torn.
#
# ## See: a write to a view is a write to its base
#
# Autograd records writes through views too. The base gets a new history, a node named `CopySlices`: "all of the old
# tensor, except this region".

# %%
x = torch.ones(4, requires_grad=True)
y = x * 1
head = y[:2]
history = (y.grad_fn.name(), head.grad_fn.name())
head *= 10
rewritten = (y.grad_fn.name(), head.grad_fn.name())
y.sum().backward()
print(f"before the write: y {history[0]}, head {history[1]}\nafter it:         y {rewritten[0]}, head {rewritten[1]}")
claim(
    "`head *= 10` gave its base a new history, and the gradient is right",
    rewritten[0].endswith("CopySlices") and x.grad.tolist() == [10.0, 10.0, 1.0, 1.0],
)

# %% [markdown]
# The base was rewritten behind your back, correctly. Some views have too many relatives for that:

# %%
x = torch.ones(3, 2, requires_grad=True)
first, second, third = (x * 1).unbind()
siblings = error_of(lambda: first.mul_(2))
siblings

# %%
claim("views that come several from one call may not be written", "returns multiple views" in siblings.message)

# %% [markdown]
# That message is one of the few that contain their own cure: write out of place. And here is where one counter for all
# views bites. The classic: hidden states in one tensor.

# %%
weight = torch.eye(3, requires_grad=True)
states = torch.zeros(4, 3)
trace = trace_inplace()
try:
    with trace:
        for t in range(3):
            states[t + 1] = torch.tanh(states[t] @ weight)
        states.sum().backward()
except RuntimeError:
    pass
trace.report()

# %%
claim(
    "the saved row was intact, only the counter that all rows share had moved",
    trace.findings[0].values_changed is False and trace.findings[0].saved_by == "matmul",
)

# %% [markdown]
# `states[t + 1] = …` never touches the row that `matmul` saved. Autograd cannot know: all rows share a counter. The
# last kata lets you repair it without paying for the copies.
#
# ## Predict: the silent one
#
# Four ways to scale `y` after `y = x.exp()`, so that the saved output is overwritten.

# %%
writes = {
    "A": ("y.mul_(2)", lambda y: y.mul_(2)),
    "B": ("with torch.no_grad(): y.mul_(2)", lambda y: torch.no_grad()(y.mul_)(2)),
    "C": ("y.detach().mul_(2)", lambda y: y.detach().mul_(2)),
    "D": ("y.data.mul_(2)", lambda y: y.data.mul_(2)),
}
silent = predict("Which one gives you a gradient and no error?", {letter: code for letter, (code, _) in writes.items()})

# %%


def gradient_after(write):
    x = torch.zeros(3, requires_grad=True)
    y = x.exp()
    write(y)
    try:
        y.sum().backward()
    except RuntimeError:
        return None
    return x.grad


gradients = {letter: gradient_after(write) for letter, (_, write) in writes.items()}
(unseen,) = [letter for letter, gradient in gradients.items() if gradient is not None]
silent.settle(
    unseen,
    because={
        "A": "Recorded, but `exp` saved its output: the counter has moved, and backward refuses.",
        "B": "`no_grad` keeps the write out of the graph. It does not keep it from the counter.",
        "C": "`detach()` cuts the graph and shares the counter. That is why it is the safe way to get at the values.",
        "D": "",
    },
)
print("gradient of sum(exp(x)) at 0 is 1; after", writes[unseen][0], "it came out as", gradients[unseen].tolist())

# %% [markdown]
# ## Measure: what a wrong `.data` write costs
#
# People reach for `.data` to "just clamp a little", as numbers only. Here a sigmoid's output is clamped to
# `[low, 1 - low]`, so that a logarithm behind it stays finite. The right gradient comes from `torch.clamp`.

# %%
bounds = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2)
scores = 4 * torch.randn(4000, generator=torch.Generator().manual_seed(0))


def clamped_gradient(low, through_data):
    z = scores.clone().requires_grad_()
    p = z.sigmoid()
    if through_data:
        p.data.clamp_(low, 1 - low)
    else:
        p = p.clamp(low, 1 - low)
    loss = (-p.log()).mean()
    loss.backward()
    return z.grad, loss.item()


errors, same_loss = [], []
for low in bounds:
    (right, right_loss), (wrong, wrong_loss) = (clamped_gradient(low, through_data) for through_data in (False, True))
    errors.append(float((wrong - right).norm() / right.norm()))
    same_loss.append(right_loss == wrong_loss)
Drawing(
    Curves(
        {"clamp through .data": (bounds, errors)},
        "clamped to [low, 1 − low], low",
        "relative error of the gradient",
        "A wrong .data write",
        log=False,
    )
)

# %%
claim(
    "the loss is the same to the bit at every bound; the gradient is off by more than half at low = 0.1",
    all(same_loss) and errors[bounds.index(0.1)] > 0.5,
    figures={f"low = {low}": error for low, error in zip(bounds, errors)},
)

# %% [markdown]
# Nothing tells you. The loss is the same number, the shapes fit, the optimizer steps. `torch.clamp` would have sent no
# gradient to the clamped elements; through `.data` they get the one that belongs to a value they never had.
#
# ## Measure: what in-place saves
#
# The honest case first: a tensor nobody needs for backward.

# %%
kept = measure(
    out_of_place=lambda x: x + 1, in_place=lambda x: x.add_(1), inputs=lambda: (torch.zeros(1_000_000),), rounds=3
)
nbytes = 4 * 1_000_000
claim(
    "`x + 1` allocates a second tensor, `x += 1` nothing: 4 MB here, 400 MB at 100 million floats",
    kept["out_of_place"].peak_bytes >= nbytes and kept["in_place"].peak_bytes < nbytes / 1000,
    figures={"out of place": kept["out_of_place"].peak_bytes, "in place": kept["in_place"].peak_bytes},
)
kept

# %%
relu_saves = predict(
    "16 × (Linear, ReLU), forward pass in training. What does `inplace=True` in every ReLU save at the peak?",
    {
        "A": "half of the activations: one of two per layer is gone",
        "B": "one activation in all, however deep the network",
        "C": "nothing at all",
    },
)

# %%
WIDTH, BATCH = 64, 1024


def stack(depth, activation):
    return nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(WIDTH, WIDTH), activation())])


growth = measure_growth(
    [2, 4, 8, 16],
    inputs=lambda n: (n, torch.randn(BATCH, WIDTH)),
    rounds=1,
    warmup=0,
    relu=lambda n, x: stack(n, nn.ReLU)(x),
    relu_in_place=lambda n, x: stack(n, lambda: nn.ReLU(inplace=True))(x),
    leaky_relu=lambda n, x: stack(n, nn.LeakyReLU)(x),
    leaky_relu_in_place=lambda n, x: stack(n, lambda: nn.LeakyReLU(inplace=True))(x),
)
peaks = {timing.name: growth.curve(timing.name, "peak_bytes") for timing in growth.points[0].timings}
one = BATCH * WIDTH * 4  # bytes of one activation
Drawing(
    Curves(
        {name: (growth.sizes, [value / one for value in values]) for name, values in peaks.items()},
        "layers",
        "activations held at the peak",
        "In-place activations in training",
        log=False,
    )
)

# %%
activation = BATCH * WIDTH * 4
saved = [(out - inside) / activation for out, inside in zip(peaks["relu"], peaks["relu_in_place"])]
letter = "B" if max(saved) < 1.5 and min(saved) > 0.5 else "A" if saved[-1] > 4 else "C"
relu_saves.settle(
    letter,
    because={
        "A": "Nobody keeps the linear layer's output: `relu` saves its own. Out of place, too, it is freed at once.",
        "B": "",
        "C": "For a moment, input and output of one ReLU exist side by side. That moment is the peak.",
    },
)
claim(
    "`nn.ReLU(inplace=True)` saves one activation in all, at every depth",
    all(abs(number - 1) < 0.1 for number in saved),
    figures={f"depth {n}": number for n, number in zip(growth.sizes, saved)},
)
ratio = peaks["leaky_relu"][-1] / peaks["leaky_relu_in_place"][-1]
claim("`nn.LeakyReLU(inplace=True)` halves the memory of the same stack", 1.8 < ratio < 2.1, figures={"ratio": ratio})

# %% [markdown]
# You could have read that off the drawing above. `relu` keeps its *output*, which the next linear layer keeps anyway:
# one tensor per layer, in place or not. `leaky_relu` keeps its *input*, so out of place two tensors per layer stay
# alive. In place it cannot keep the input (it has just overwritten it), so PyTorch switches to a formula that uses the
# output. This is also why it refuses a negative slope in place. You will build it as a kata.
#
# **In-place saves memory where the overwritten tensor would otherwise have been kept.** Nowhere else.
#
# ## See: the compiler has no in-place
#
# `torch.compile` first rewrites your program without writes: **functionalization**. Each write becomes a new tensor, a
# write to a view becomes `…_scatter` into its base, and memory is reused at the end, where it is known to be safe. You
# can run that rewriting alone:


# %%
class Operators(TorchDispatchMode):
    """Writes down the operators that reach the kernels."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def program(x):
    y = x + 1
    y.mul_(2)
    y[0].sub_(5)
    return y


x = torch.ones(3)
with Operators() as eager:
    expected = program(x)
with Operators() as functional:
    result = functionalize(program, remove="mutations_and_views")(x)
print("eager:         ", " ".join(eager.names))
print("functionalized:", " ".join(functional.names))
claim(
    "functionalized, the same program runs without one in-place operator and gives the same result",
    torch.equal(result, expected)
    and any(name.endswith("_") for name in eager.names)
    and not any(name.endswith("_") for name in functional.names)
    and "select_scatter" in functional.names,
)

# %% [markdown]
# So under `torch.compile`, writing in place for the sake of memory buys you nothing. The code is in
# `torch/_functorch/aot_autograd.py` and `aten/src/ATen/FunctionalTensorWrapper.cpp`.
#
# ## Trap: the run that learns something else
#
# A small network fits a sine. Only the 16 most active of its 64 units may answer for each input ("k winners"); the
# others are set to zero. One line does that. Two people write it in two ways.

# %%
inputs = torch.linspace(-3, 3, 128)[:, None]
targets = torch.sin(3 * inputs)


def keep_winners(hidden):
    losers = hidden < hidden.topk(16, dim=1).values[:, -1:]
    return hidden.masked_fill(losers, 0)


def keep_winners_through_data(hidden):
    losers = hidden < hidden.topk(16, dim=1).values[:, -1:]
    hidden.data[losers] = 0
    return hidden


def fit(winners, steps=300):
    torch.manual_seed(0)
    first, second = nn.Linear(1, 64), nn.Linear(64, 1)
    with torch.no_grad():
        first.weight *= 2
    optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = (second(winners(torch.tanh(first(inputs)))) - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


good, bad = fit(keep_winners), fit(keep_winners_through_data)
steps = range(1, len(good) + 1, 10)
Drawing(
    Curves(
        {"masked_fill": (steps, good[::10]), ".data": (steps, bad[::10])},
        "step",
        "mean squared error",
        "The same forward pass, two backward passes",
        log=False,
    )
)

# %%
tail_good, tail_bad = (sum(losses[-30:]) / 30 for losses in (good, bad))
claim("the first loss of both runs is the same to the bit", good[0] == bad[0], figures={"loss": good[0]})
claim(
    "after 300 steps the run with `.data` has more than twice the error",
    tail_bad > 2 * tail_good,
    figures={"masked_fill": tail_good, ".data": tail_bad},
)

# %% [markdown]
# `tanh` saved its output. The gradient is `1 - result²`, and where the result was overwritten with 0 that is 1: the
# units that were switched off get the *largest* gradient of all. It trains, the loss goes up and down, and
# nothing says why. Now with the trace:

# %%
with trace_inplace() as trace:
    fit(keep_winners_through_data, steps=1)
trace.report()

# %%
claim(
    "the trace finds the write in one step: `tanh` saved, `hidden.data[losers] = 0` changed",
    trace.findings[0].kind == "unseen"
    and trace.findings[0].saved_by == "tanh"
    and trace.findings[0].changed_at.code == "hidden.data[losers] = 0",
)
with trace_inplace() as trace:
    fit(keep_winners, steps=1)
claim("and it is silent on the right way", trace.report().ok)

# %% [markdown]
# ## Trap: `+=` on something the caller still uses
#
# This one needs no autograd at all. `add_noise` is meant to make a noisy copy of a batch.

# %%


def add_noise(batch):
    batch += 0.3 * torch.randn_like(batch)
    return batch


def spread_after(epochs, augment, data):
    torch.manual_seed(0)
    for _ in range(epochs):
        for start in range(0, len(data), 100):
            augment(data[start : start + 100])  # a slice is a view
    return float(data.std())


data = torch.randn(1000, 8, generator=torch.Generator().manual_seed(1))
spreads = [spread_after(epochs, add_noise, data.clone()) for epochs in (0, 10, 50, 100)]
print("standard deviation of the data after 0, 10, 50, 100 epochs:", [round(spread, 2) for spread in spreads])
claim(
    "after 100 epochs of `batch += noise` the data set itself is mostly noise",
    spreads[-1] > 2.5 * spreads[0],
    figures={"before": spreads[0], "after": spreads[-1]},
)

# %% [markdown]
# Each slice is a view of the data set, and `+=` writes through it. `batch = batch + …` would have made a new tensor. No
# gradient is wrong here, so there is nothing for autograd to refuse. Tell the trace what must stay as it is:

# %%
with trace_inplace(unchanged={"data": data}) as trace:
    add_noise(data[:100])
trace.report()

# %%
claim(
    "named in `unchanged`, the data set is guarded, and the line inside the function is found",
    trace.findings[0].kind == "argument" and trace.findings[0].changed_at.function == "add_noise",
)

# %% [markdown]
# ## In the wild: the net that was torn twice
#
# Until PyTorch 1.4 the optimizers updated weights through `.data`. Many GANs of the time stepped one network *between*
# a forward pass and the backward that needed its old weights. It ran, with wrong gradients. PyTorch 1.5 took `.data`
# out of the optimizers (pytorch/pytorch#30987), the counters moved, and those programs stopped: pytorch/pytorch#39141
# is one, and MorvanZhou/PyTorch-Tutorial#89 a tutorial from which people had learned it. The error was new. The mistake
# was not.
#
# Here is that program in a dozen lines. With an ordinary step, PyTorch refuses:


# %%
def two_players(**options):
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.5, **options)
    fake = torch.randn(16, 4, requires_grad=True)
    for_generator, for_critic = critic(fake).mean(), critic(fake.detach()).square().mean()
    for_critic.backward()
    before = critic[0].weight._version
    optimizer.step()
    moved = critic[0].weight._version > before
    optimizer.zero_grad()
    for_generator.backward()
    return fake.grad, moved


error_of(lambda: two_players(foreach=True))

# %% [markdown]
# Now give the optimizer one more option, the one you add for speed: `fused=True`.

# %%
trace = trace_inplace()
try:
    with trace:
        gradient, moved = two_players(fused=True)
    print(f"torch {torch.__version__}: no error; the weights' versions moved: {moved}")
except RuntimeError:
    print(f"torch {torch.__version__} refuses")
trace.report()

# %%
claim(
    "whether PyTorch refuses it or not, the trace names the fused step that came too early",
    bool(trace.findings) and trace.findings[0].changed_by.startswith("_fused_sgd_"),
)

# %% [markdown]
# In torch 2.9 and 2.15, where this lesson was tried, the fused step does not move the version counter, and the net is
# torn again. You can see why in `tools/autograd/gen_inplace_or_view_type.py`: the generated code increments the
# version of every tensor that an in-place operator *returns*, and `_fused_sgd_` returns nothing. The gap was noted in
# the review of that very code ("unsound for functions which mutate input arguments but don't return them",
# pytorch/pytorch#53342). A sibling of it, in-place foreach on DTensor, is being repaired in pytorch/pytorch#197502.
#
# And the other way round: meta-pytorch/torchrec#2836 met the error and proposed `.data` "without invalidating gradient
# computation". The message goes away. Now you know what else does.
#
# ## Katas

# %% kata="version_after"

# %% kata="needs_its_output"

# %% kata="with_row"

# %% kata="leaky_relu_in_place"

# %% kata="momentum_step"

# %% kata="update_average"

# %% kata="run_cell"

# %% [markdown]
# ## What to read next
#
# - "In-place correctness checks" in PyTorch's *Autograd mechanics* note, now that you have seen the check itself.
# - `tools/autograd/derivatives.yaml`: look up three operations you use daily. `self` or `result`?
# - pytorch/pytorch#6990, the shortest explanation of `.data` and `detach()`, with a runnable example.
# - Lesson 2.1 draws the whole graph with what every node saves; in 2.3 you write `backward` yourself.

# %%
summary()
