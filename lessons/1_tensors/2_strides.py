# %% [markdown]
# # 1.2 Strides and memory
#
# Memory is one long row of cells. A tensor is that row and a rule for reading it: where to start, and how far to step
# for each index. Transposing, slicing, expanding and viewing change the rule and leave the cells alone. That is why
# they are free, and why a slice of a few numbers can hold 64 MiB.
#
# You will learn the exact rule by which `.view()` says yes or no (it is not "the tensor must be contiguous"), see what
# a stride costs in time, ruin two small programs with layouts nobody looked at, and take home `explain_view` and
# `memory_map`.

# %%
import io
import itertools

import torch

from blackbelt import begin, check, claim, error_of, explain_view, measure, measure_growth, memory_map, predict, summary
from blackbelt.report import Cell, Curves, Drawing, Grid

begin("tensors/strides")

# %% [markdown]
# ## Predict
#
# Two slices of one matrix. Each takes half of its columns; they have the same shape, and neither is contiguous.

# %%
grid = torch.arange(24).view(4, 6)
every_second = grid[:, ::2]  # columns 0, 2, 4
first_half = grid[:, :3]  # columns 0, 1, 2

for tensor in (every_second, first_half):
    print(tuple(tensor.shape), "contiguous:", tensor.is_contiguous())

# %%
which = predict(
    "Which of the two can be flattened with `.view(12)`?",
    {
        "A": "both: they hold 12 elements, and `view` only changes the shape",
        "B": "neither: `is_contiguous()` is False for both",
        "C": "`first_half` only: its rows are unbroken runs of memory",
        "D": "`every_second` only: it has gaps everywhere",
    },
)

# %%


def can_flatten(tensor):
    try:
        tensor.view(12)
    except RuntimeError:
        return False
    return True


answers = {(True, True): "A", (False, False): "B", (False, True): "C", (True, False): "D"}
which.settle(
    answers[can_flatten(every_second), can_flatten(first_half)],
    because={
        "A": "The count is what `reshape` asks for. `view` promises not to move an element, so the memory has to fit.",
        "B": "Contiguous is a special case. A tensor full of gaps can be viewed, if all of the gaps are equal.",
        "C": "Unbroken rows are not the point. From the end of one row to the next, `first_half` has to jump.",
        "D": "",
    },
)

# %% [markdown]
# The tensor with gaps everywhere can be flattened. The one with unbroken rows cannot. To see why, look at the cells.
#
# ## See: a storage and four facts
#
# A tensor owns no numbers. It points to a **storage**, a flat row of bytes, and keeps four facts: `dtype`,
# `storage_offset`, `size` and `stride`. Element `(i, j)` lies in cell
#
# `storage_offset + i × stride[0] + j × stride[1]`
#
# and so on for more dimensions. There is nothing else.

# %%
memory_map(every_second)

# %%
memory_map(first_half)

# %% [markdown]
# Walk through the first drawing in the order of the indices: `0,0`, `0,1`, `0,2`, `1,0`, … You always go two cells
# further, from row to row as well. In the second you go 1, 1, and then **4** to reach the next row. A flat tensor has
# one stride. "Always 2" is a stride; "1, 1, 4, 1, 1, 4" is not.
#
# Both keep all 24 cells alive, and read 12. Remember that for the trap.


# %%
def cells(tensor):
    """The storage cell of every element, by the formula alone, in reading order."""
    steps = [[i * stride for i in range(size)] for size, stride in zip(tensor.size(), tensor.stride())]
    return [tensor.storage_offset() + sum(index) for index in itertools.product(*steps)]


storage = grid.flatten().tolist()  # cell 0, 1, 2, … of the storage they all share
relatives = {
    "grid.t()": grid.t(),
    "grid[1:, ::2]": grid[1:, ::2],
    "grid[2].expand(3, 6)": grid[2].expand(3, 6),
    "grid.unfold(1, 3, 1)": grid.unfold(1, 3, 1),
    "grid.view(2, 2, 6).permute(2, 0, 1)": grid.view(2, 2, 6).permute(2, 0, 1),
    "grid.diagonal()": grid.diagonal(),
}
for code, tensor in relatives.items():
    print(f"{code:36} size {tuple(tensor.size())!s:10} stride {tensor.stride()!s:11} offset {tensor.storage_offset()}")

claim(
    "offset + Σ index × stride finds every element of six different views",
    all([storage[cell] for cell in cells(tensor)] == tensor.flatten().tolist() for tensor in relatives.values()),
)
claim(
    "all of them live in the storage of `grid`: not one byte was copied",
    all(tensor.untyped_storage().data_ptr() == grid.untyped_storage().data_ptr() for tensor in relatives.values()),
)

# %% [markdown]
# A transpose exchanges two strides. A slice moves the offset and multiplies a stride. `expand` writes a stride of 0,
# `unfold` lets two dimensions step over the same cells, and `diagonal` takes one step in both directions at once: 6 + 1
# = 7.
#
# ## See: the rule of `view`
#
# Read the dimensions from the right and ask at each border: *is one step of the left dimension exactly the whole length
# of what is on its right?*
#
# `stride[i] == size[i + 1] × stride[i + 1]`
#
# If so, the two are one even **run** of memory. If not, the memory jumps there, and a border remains. What you get is
# the tensor cut into runs. Now the rule:
#
# **A view is possible exactly if the new sizes can be cut out of these runs. You may split and merge inside a run. No
# new dimension may cross a border.**

# %%
explain_view(every_second, 12)

# %%
explain_view(first_half, 12)

# %% [markdown]
# `every_second`: 6 = 3 × 2, so it is one run, and `.view(12)` gives stride 2. `first_half`: 6 ≠ 3 × 1, so there are two
# runs, and 12 would cross the border between them.
#
# In PyTorch this is `computeStride_impl` in `aten/src/ATen/TensorUtils.cpp`, some forty lines that you can read now.
# The comment above them calls the runs *chunks*. Two details are easy to miss. A dimension of size 1 joins any run,
# since nobody ever steps along it. And a tensor without elements can be viewed in any shape without elements.
#
# Two things follow that sound too good. Splitting is always possible, whatever the strides. And the rule is complete:
# where it says no, no strides would do, so `as_strided` cannot save you either. Try both on layouts made at random.


# %%
def random_layout(generator):
    """A tensor of 2 to 4 dimensions in any order, with gaps or stretched, and a shape made by merging two neighbors."""

    def pick(*choices):
        return choices[torch.randint(len(choices), (), generator=generator).item()]

    dims = pick(2, 3, 4)
    size = [pick(1, 2, 3, 4) for _ in range(dims)]
    stride, step = [0] * dims, 1
    for dim in torch.randperm(dims, generator=generator).tolist():
        step *= pick(1, 1, 1, 2)
        stride[dim] = pick(0, step, step, step)
        step *= size[dim]
    dim = pick(*range(dims - 1))
    shape = [*size[:dim], size[dim] * size[dim + 1], *size[dim + 2 :]]
    return torch.arange(2048).as_strided(size, stride), shape  # the value of a cell is its position


def any_strides_would_do(tensor, shape):
    """Whether the cells, in the new shape, are linear in the index: then and only then strides exist."""
    positions = tensor.reshape(shape)
    linear = positions.flatten()[0]
    for dim, n in enumerate(shape):
        step = positions.select(dim, min(1, n - 1)).flatten()[0] - positions.flatten()[0]
        linear = linear + step * torch.arange(n).view([n if d == dim else 1 for d in range(len(shape))])
    return torch.equal(linear, positions)


def accepts(tensor, shape):
    try:
        tensor.view(shape)
    except RuntimeError:
        return False
    return True


generator = torch.Generator().manual_seed(0)
layouts = [random_layout(generator) for _ in range(1500)]
verdicts = [accepts(tensor, shape) for tensor, shape in layouts]
claim(
    "`explain_view`, which never calls `view`, predicts it on 1,500 random layouts",
    [explain_view(tensor, shape).possible for tensor, shape in layouts] == verdicts,
    figures={"views possible": sum(verdicts), "refused": len(verdicts) - sum(verdicts)},
)
split = [(t, t.dim() - 1 - t.shape[::-1].index(4)) for t, _ in layouts if 4 in t.shape]
claim(
    "splitting a dimension is a view in every one of these layouts that has a size 4 to split",
    all(accepts(t, (*t.shape[:dim], 2, 2, *t.shape[dim + 1 :])) for t, dim in split),
    figures={"layouts": len(split)},
)
claim(
    "a size 1 may have any stride, and what has no elements may have any shape without elements",
    accepts(torch.empty_strided((2, 1, 3), (3, 77, 1)), (6,))
    and accepts(torch.empty_strided((0, 3), (1, 5)), (7, 0, 2)),
)
claim(
    "where `view` refuses, no strides at all would reach the elements in that order",
    [any_strides_would_do(tensor, shape) for tensor, shape in layouts] == verdicts,
)

# %% [markdown]
# ### The error, word by word

# %%
error_of(lambda: first_half.view(12))

# %%
error_of(lambda: first_half.view(13))

# %% [markdown]
# The first:
# - *view size*: the shape you asked for, `(12,)`.
# - *is not compatible with input tensor's size and stride*: it is no question of the count (that is the second error),
#   nor of the values. Only size and stride are looked at.
# - *at least one dimension*: of the **new** shape. Here the only one.
# - *spans across two contiguous subspaces*: a subspace is a run. The new dimension crosses a border.
# - *Use .reshape(...) instead*: true, and it hides the price. `reshape` gives a view where the rule allows one, and
#   otherwise makes a copy **without telling you**. From then on, writing into the result no longer writes into the
#   source.

# %%
copied = first_half.reshape(12)
shared = every_second.reshape(12)
claim(
    "`reshape` gave a view of the one and a copy of the other, without a word",
    shared.data_ptr() == every_second.data_ptr() and copied.data_ptr() != first_half.data_ptr(),
)
claim(
    "the copy weighs what `explain_view` said before it was made",
    copied.untyped_storage().nbytes() == explain_view(first_half, 12).bytes_copied,
    figures={"bytes": copied.untyped_storage().nbytes()},
)

# %% [markdown]
# So choose by what you mean. `view`: "this must not copy; fail if it would". `reshape`: "I want the values, and do not
# care whose memory they are in". In code that later writes into the result, `reshape` is a trap.
#
# Sometimes there is a third way. Here a batch stretches one matrix 64 times, and `reshape` would write all 64 out:

# %%
stretched = torch.randn(6, 4).t().expand(64, 4, 6)
explain_view(stretched, (64, 24))

# %% [markdown]
# ## See: the same shape in two memory formats
#
# Convolutions like to find all channels of a pixel side by side. `channels_last` keeps the shape `(N, C, H, W)` and
# changes the strides alone.

# %%
images = torch.randn(2, 3, 4, 5)
last = images.to(memory_format=torch.channels_last)
print("contiguous    ", tuple(images.shape), images.stride())
print("channels_last ", tuple(last.shape), last.stride())

# %%
explain_view(last, (2, -1))

# %% [markdown]
# This is the classifier's `x.view(x.size(0), -1)`, and why it breaks on the day somebody turns on `channels_last`.
# Height and width are one run, 3 apart. The channel is a run of its own. You may merge pixels, not channels with
# pixels.

# %%
claim(
    "`channels_last` keeps shape and values; `view(N, C, H * W)` works, and `view(N, -1)` does not",
    torch.equal(images, last) and accepts(last, (2, 3, 20)) and not accepts(last, (2, -1)),
)
in_memory_order = last.permute(0, 2, 3, 1).view(2, -1)
claim(
    "in another order the flattening is free: the same numbers per image, nothing copied",
    in_memory_order.data_ptr() == last.data_ptr()
    and torch.equal(in_memory_order.sort(dim=1).values, images.view(2, -1).sort(dim=1).values),
)

# %% [markdown]
# If a mean, a norm or a freshly initialized linear layer comes next, the order may not matter to you, and the second
# way of the table costs nothing. If trained weights come next, it does matter: pay for the copy.
#
# ## Measure: what a stride costs
#
# A view is free to *make*. Reading through it is another matter. Memory arrives in **cache lines**, mostly of 64 bytes:
# 16 floats. Ask for one float, and its 15 neighbors come along. So add up a million floats that lie 1, 2, 4, … 64 cells
# apart. One thread, so that nothing hides the waiting.

# %%
COUNT = 1 << 20
base = torch.ones(64 * COUNT)  # 256 MiB: no cache holds all of it at every stride
threads = torch.get_num_threads()
torch.set_num_threads(1)
walk = measure_growth(
    [1, 2, 4, 8, 16, 32, 64],
    inputs=lambda stride: (base[::stride][:COUNT],),
    rounds=7,
    add_up=lambda view: view.sum(),
)


nanoseconds = [seconds / COUNT * 1e9 for seconds in walk.curve("add_up")]
Drawing(
    Curves(
        {"one number out of so many": (walk.sizes, nanoseconds)},
        "stride (floats; 16 are one cache line)",
        "ns per number",
        "A million floats added up",
        limit=(f"side by side: {nanoseconds[0]:.2g} ns", nanoseconds[0]),
    )
)

# %%
seconds = dict(zip(walk.sizes, walk.curve("add_up")))
claim(
    "numbers one cache line apart take at least three times as long to add up as numbers side by side",
    seconds[16] > 3 * seconds[1],
    figures={"ratio at stride 16": seconds[16] / seconds[1], "ratio at stride 2": seconds[2] / seconds[1]},
)

# %% [markdown]
# Every sum adds the same million numbers. Up to 16, each doubling of the stride makes half of each line useless.
# Beyond, every number costs a line of its own, and what still rises is the price of fetching from further away. (The
# first step, from 1 to 2, is special: side by side, one instruction adds 8 or 16 numbers at once.)
#
# Then a transposed matrix must be slow. Must it?

# %%
matrix = torch.randn(2048, 2048)
turned = predict(
    "How long does `matrix.t().exp()` take, compared with `matrix.exp()`?",
    {
        "A": "several times as long: it walks across the rows, a cache line per number",
        "B": "about as long: it may walk in any order",
        "C": "about twice as long: PyTorch makes it contiguous first",
    },
)

# %%
agree = measure(
    inputs=lambda: (matrix,),
    exp=lambda m: m.exp(),
    exp_of_transposed=lambda m: m.t().exp(),
    two_transposed=lambda m: m.t() + m.t(),
    one_transposed=lambda m: m + m.t(),
)
agree

# %%
slower = agree.ratio("exp_of_transposed", "exp")
turned.settle(
    "B" if slower < 1.6 else "C" if slower < 2.6 else "A",
    because={
        "A": "It would, if elementwise operators walked in the order of the indices. They sort the dimensions by "
        "stride first, and then walk along memory.",
        "B": "On this run the machine was busy: the two usually take the same time.",
        "C": "Nothing is made contiguous. Look at the peak bytes: one result, no second copy.",
    },
)
claim(
    "the result of an elementwise operator inherits the layout: its stride is that of the transposed matrix",
    matrix.t().exp().stride() == matrix.t().stride(),
    figures={"stride": matrix.t().exp().stride()},
)
claim(
    "layouts that disagree are what costs: `m + m.t()` takes at least 1.5 times as long as `m.t() + m.t()`",
    agree.ratio("one_transposed", "two_transposed") > 1.5,
    figures={"ratio": agree.ratio("one_transposed", "two_transposed")},
)

# %% [markdown]
# The sorting happens in `TensorIteratorBase::reorder_dimensions` (`aten/src/ATen/TensorIterator.cpp`). Two operands
# with one layout get a walk that suits both. For `m + m.t()` there is none: one of them is walked across, a line per
# number.
#
# So `.contiguous()` is no good habit. It is a purchase: a full copy, at the price of the slow walk. It pays if you read
# the result several times in an order that the original does not like.

# %%
price = measure(
    inputs=lambda: (matrix,),
    clone=lambda m: m.clone(),
    transpose=lambda m: m.t(),
    contiguous=lambda m: m.t().contiguous(),
    contiguous_already=lambda m: m.contiguous(),
)
torch.set_num_threads(threads)
price

# %%
claim(
    "a transpose allocates nothing; making it contiguous allocates the whole matrix",
    price["transpose"].peak_bytes == 0 and matrix.nbytes <= price["contiguous"].peak_bytes < 1.05 * matrix.nbytes,
    figures={"matrix": matrix.nbytes, "allocated": price["contiguous"].peak_bytes},
)
claim(
    "`contiguous()` of a tensor that is contiguous returns that tensor, and allocates nothing",
    matrix.contiguous().data_ptr() == matrix.data_ptr() and price["contiguous_already"].peak_bytes == 0,
)
claim(
    "making a transpose contiguous takes longer than `clone()`, which reads and writes as many bytes",
    price.ratio("contiguous", "clone") > 1.15,
    figures={"ratio": price.ratio("contiguous", "clone")},
)

# %% [markdown]
# ## Trap: 256 KiB of numbers, 64 MiB of memory
#
# You extract features with a frozen encoder. From each output you keep the first token and let the rest go.


# %%
def extract(encoder, batches, keep):
    features = []
    with torch.no_grad():
        for batch in batches:
            tokens = encoder(batch)  # (16, 256, 64): 1 MiB
            features.append(keep(tokens))
    return features


def bytes_kept(tensors):
    """Bytes of all storages that these tensors keep alive, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def bytes_saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.tell()


encoder = torch.nn.Linear(8, 64)
batches = [torch.randn(16, 256, 8, generator=generator) for _ in range(64)]
features = extract(encoder, batches, keep=lambda tokens: tokens[:, 0])
num_bytes = sum(f.nbytes for f in features)
print(f"{len(features)} features of shape {tuple(features[0].shape)}: {num_bytes:,} bytes of numbers")

# %%
weight = predict(
    "These features are 262,144 bytes of numbers. What does `torch.save(features, file)` write?",
    {
        "A": "about 262,144 bytes, plus a header",
        "B": "about 64 MiB: everything that the encoder ever returned",
        "C": "nothing: a view cannot be saved, it raises an error",
    },
)

# %%
written = bytes_saved(features)
weight.settle(
    "B" if written > 60 * 2**20 else "A",
    because={
        "A": "`torch.save` writes storages, not tensors: two views that share memory must share it again after "
        "loading. A slice carries its whole storage into the file.",
        "B": "",
        "C": "Views are saved as what they are: a storage and four facts. The storage goes along.",
    },
)
memory_map(features[0])

# %% [markdown]
# Nothing was thrown, every number is right, and after sixteen thousand batches 16 GiB are gone. `nbytes` and `numel`
# report what you *see*; only the storage knows what you *hold*. In `torch/serialization.py`, `_save` walks over the
# storages and writes `storage.nbytes()` bytes of each.

# %%
slim = extract(encoder, batches, keep=lambda tokens: tokens[:, 0].clone())
claim(
    "the slices keep 256 times their own bytes alive, and the file is as large",
    bytes_kept(features) == 256 * sum(f.nbytes for f in features) and written > bytes_kept(features),
    figures={"numbers": sum(f.nbytes for f in features), "alive": bytes_kept(features), "file": written},
)
claim(
    "with `.clone()` at the place where the slice is stored, both shrink to the numbers themselves",
    bytes_kept(slim) == sum(f.nbytes for f in slim) and bytes_saved(slim) < 1.3 * bytes_kept(slim),
    figures={"alive": bytes_kept(slim), "file": bytes_saved(slim)},
)
claim(
    "`.contiguous()` is no cure: a slice of whole rows is contiguous, and comes back as it is",
    bytes_kept([torch.zeros(1000, 16)[:10].contiguous()]) == 64_000,
)
del features

# %% [markdown]
# `clone` has a price of its own: it cuts ties. Two names of one weight become two weights. The last kata below asks for
# both: a small file, and ties that hold.
#
# ## Trap: writing where two indices meet
#
# `expand`, `unfold` and `as_strided` make tensors in which several indices share a cell. Reading them is safe. What if
# you write?

# %%
error_of(lambda: torch.zeros(3).expand(4, 3).add_(1))

# %% [markdown]
# *More than one element of the written-to tensor refers to a single memory location.* Four rows share three cells, so
# "add 1 to each element" has no clear meaning, and PyTorch refuses. Well done. Now the same with overlapping windows:

# %%
six = torch.arange(6.0)
windows = six.unfold(0, 3, 1)  # [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]], stride (1, 1)

# %%
overlap = predict(
    "`windows.add_(1)`: what happens?",
    {
        "A": "the same error: cells 1 to 4 are shared",
        "B": "each cell grows by 1",
        "C": "it runs; shared cells grow by more than 1",
    },
)

# %%
try:
    windows.add_(1)
    grown = six - torch.arange(6.0)
    print("each cell grew by", grown.tolist())
except RuntimeError as error:
    grown = None
    print(error)
overlap.settle(
    "A" if grown is None else "B" if bool((grown == 1).all()) else "C",
    because={
        "A": "The check is cheap on purpose: it looks for a stride of 0 and no further. To find every overlap is a "
        "hard problem, so what is not obvious is let through.",
        "B": "An in-place operator reads a cell, computes, and writes it back, once per index. A cell with three "
        "indices is visited three times.",
        "C": "",
    },
)
claim(
    "an in-place operator on overlapping windows ran without an error and did not add 1",
    grown is not None and bool((grown > 1).any()),
)
claim(
    "`fill_` is let through even on a stride of 0, where `add_` is refused",
    torch.equal(torch.zeros(3).expand(4, 3).fill_(7), torch.full((4, 3), 7.0)),
)

# %%
memory_map(windows)

# %% [markdown]
# The check is `has_internal_overlap` in `aten/src/ATen/MemoryOverlap.cpp`. It has three answers: *no* (the tensor is
# dense), *yes* (some stride is 0), and *too hard*, which is treated like *no*. `memory_map` counts properly and says
# which of the three you will get.
#
# Now a small real run. A linear model predicts the next value of a series from the 16 before it. Each window is
# standardized first: minus its mean, divided by its deviation. Somebody saves an allocation and writes `-=` and `/=`.

# %%
time = torch.arange(2000.0)
recorded = torch.sin(time / 20) + 0.002 * time + 0.01 * torch.randn(2000, generator=generator)


def standardized(series, *, in_place):
    """Windows of 16 values and the value after each, both in units of the window's own mean and deviation."""
    inputs = series[:-1].unfold(0, 16, 1)  # (N - 16, 16), stride (1, 1)
    mean, deviation = inputs.mean(dim=1, keepdim=True), inputs.std(dim=1, keepdim=True)
    if in_place:
        inputs -= mean
        inputs /= deviation
    else:
        inputs = (inputs - mean) / deviation
    return inputs, (series[16:, None] - mean) / deviation


def error_on_test_part(series, *, in_place):
    """Fit on the first 1,200 values; root mean square error on the rest, which is always prepared correctly."""
    weights = torch.linalg.lstsq(*standardized(series[:1200], in_place=in_place)).solution
    inputs, targets = standardized(recorded[1200:], in_place=False)
    return (inputs @ weights - targets).square().mean().sqrt().item()


kept, spoiled = recorded.clone(), recorded.clone()
right, wrong = error_on_test_part(kept, in_place=False), error_on_test_part(spoiled, in_place=True)
print(f"error on the test part: {right:.2f} deviations out of place, {wrong:.2f} in place")

# %%
claim(
    "standardizing windows in place makes the test error at least five times as large, without a warning",
    wrong > 5 * right,
    figures={"out of place": right, "in place": wrong},
)
claim(
    "and the recorded data are gone: the series itself was written to",
    torch.equal(kept, recorded) and not torch.allclose(spoiled, recorded),
    figures={"cells changed": int((spoiled != recorded).sum()), "of": 2000},
)
caught = memory_map(recorded[:-1].unfold(0, 16, 1))
claim(
    "`memory_map` catches it before the write: cells are shared, and PyTorch will not look",
    caught.num_shared > 0 and caught.in_place == "unchecked",
    figures={"shared cells": caught.num_shared, "in-place check": caught.in_place},
)

# %% [markdown]
# Read through overlapping views as much as you like. Write to a tensor of its own: leave out the `_`, or `clone()`
# first.
#
# ## One more picture
#
# What `im2col` of a 4 × 4 image looks like to memory: 3 × 3 patches, 36 indices, 16 cells. This is the view you will
# build in a kata; a copy would hold 36 numbers.

# %%
image = torch.arange(16.0).view(4, 4)
patches = image.as_strided((2, 2, 3, 3), (4, 1, 4, 1))
visits = torch.bincount(patches.flatten().long(), minlength=16).view(4, 4).tolist()
Drawing(
    Grid(
        [[Cell(str(n), tone={1: 0, 2: 1, 4: 2}[n]) for n in row] for row in visits],
        title="How many of the four 3 × 3 patches read each pixel",
    )
)

# %%
claim(
    "36 indices read 16 cells, and agree with `torch.nn.functional.unfold`, which copies",
    memory_map(patches).num_read == 16
    and torch.equal(
        patches.permute(2, 3, 0, 1).reshape(9, 4), torch.nn.functional.unfold(image[None, None], kernel_size=3)[0]
    ),
)

# %% [markdown]
# ## Katas
#
# Each is judged by *how*: whose memory the answer uses, how much it keeps alive, which operators ran.

# %% kata="can_view"

# %% kata="transposed"

# %% kata="sliding_windows"

# %% kata="im2col"

# %% kata="as_blocks"

# %% kata="overlaps"

# %% kata="shrink_before_saving"

# %% [markdown]
# ## In the wild
#
# The rule of `view`, met by surprise:
# - **pytorch/examples#836** (2020): `correct[:k].view(-1)` in the ImageNet example worked with 1.6 and raised with 1.7.
#   open-mmlab/mmpretrain#104 is the same fix elsewhere.
# - **huggingface/pytorch-image-models#1171** (2022): a model that stops working when `channels_last` is turned on.
# - **pytorch/pytorch#124154** (2024): inside PyTorch. The backward of `affine_grid` met a gradient in
#   `channels_last_3d`.
# - **bitsandbytes-foundation/bitsandbytes#550** (2023): `A.view(-1, A.shape[-1]).contiguous()`, the right words in the
#   wrong order.
#
# Slices that hold their storage:
# - **pytorch/pytorch#1995** (2017), answered "this is expected behavior", and asked again in #8109, #33101, #40157,
#   in #44872, #53419, #95278 and #104523. The notes on serialization explain it since #40412.
# - **ViCCo-Group/thingsvision#150** (2023): the trap above, to the letter: only the class token was kept.
# - **safetensors/safetensors#98** (2022): that format stores tensors, not storages, so it must refuse tied ones.
#   huggingface/peft#1101 clones them before saving.
#
# Overlapping writes:
# - **pytorch/pytorch#17935** (2019) is the plan for the check, with "too hard" in it; #17926 implements it.
# - **pytorch/pytorch#98143** (2023) and **#165409** (2025): `unfold` and `abs_`. Eager runs it; `torch.compile` first
#   computed something else, and now refuses.
# - **numpy/numpy#8043** took the other way for operands that overlap each other: NumPy finds it and works on a copy.
#
# Read next: Edward Yang's *PyTorch internals* for the pictures, `computeStride_impl` for the rule, *Tensor views* in
# PyTorch's documentation for the list of operators that share memory. Then lesson 1.3, where a whole contraction is
# laid out by choosing strides, and 1.4, where two tensors that share a storage also share a version.

# %%
summary()
