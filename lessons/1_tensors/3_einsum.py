# %% [markdown]
# # 1.3 Einsum
#
# Two lines compute the same numbers from the same tensors with the same letters. One of them takes a thousand
# times the operations. Another line has one letter too few: the shapes come out right, the loss falls, and the
# model ignores what it was built to look at. Both are einsums that look fine.
#
# You will learn to read an einsum as the loops it stands for, to see the matrix product it becomes, to choose the
# order in which it runs, and to notice the letter that is missing. The tool you take away is `explain_einsum`.

# %%
import importlib.metadata
from collections import Counter

import einops
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from blackbelt import begin, check, claim, error_of, explain_einsum, measure, measure_growth, predict, summary
from blackbelt.report import Cell, Drawing, Grid

begin("tensors/einsum")

# %% [markdown]
# ## Predict: does the order in which you write the operands matter?
#
# `a` and `b` are 2048 × 2048 matrices, `v` is a vector. Both lines compute the vector `a · b · v`:
#
# ```python
# torch.einsum("ij,jk,k->i", a, b, v)
# torch.einsum("k,jk,ij->i", v, b, a)
# ```
#
# Multiplication commutes. The letters are the same, the sums are the same. Assume PyTorch as `pip install torch`
# leaves it.

# %%
order = predict(
    "How do the numbers of operations compare?",
    {
        "A": "They are equal: the loops are the same, only the operands have changed places",
        "B": "The first takes about twice as many",
        "C": "The first takes about a thousand times as many",
        "D": "The second takes about a thousand times as many",
    },
)

# %% [markdown]
# PyTorch has a counter of its own: `FlopCounterMode` adds up the operations of every matrix product that runs. We
# switch off one thing first, and come back to it.

# %%
n = 2048
a, b, v = torch.randn(n, n), torch.randn(n, n), torch.randn(n)


def operations(equation, *operands):
    with FlopCounterMode(display=False) as counter:
        torch.einsum(equation, *operands)
    return counter.get_total_flops()


with torch.backends.opt_einsum.flags(enabled=False):
    matrix_first = operations("ij,jk,k->i", a, b, v)
    vector_first = operations("k,jk,ij->i", v, b, a)

ratio = matrix_first / vector_first
order.settle(
    "C" if ratio > 500 else "D" if ratio < 1 / 500 else "B" if ratio > 1.5 else "A",
    because={
        "A": "The loops are one way to compute an einsum, and the slowest. PyTorch contracts two operands at a time, "
        "from left to right, and what the first pair leaves behind decides what the rest costs.",
        "B": "The first pair of the first line is a product of two matrices: n³ multiplications. Nothing in the second "
        "line is more than a matrix times a vector: n².",
        "D": "The second line begins with the vector. Each of its steps is a matrix times a vector, and never more.",
    },
)
claim(
    "Without a planner, the order in which the operands are written changes the operations a thousandfold",
    ratio > 1000,
    figures={"matrix first": matrix_first, "vector first": vector_first, "ratio": ratio},
)

# %% [markdown]
# What we switched off is `torch.backends.opt_einsum`. With three operands or more, `torch.einsum` asks the
# package `opt_einsum` for the best order (`einsum` in `torch/functional.py`), **if it is installed**. PyTorch
# does not install it: it is an extra, `pip install torch[opt-einsum]`. On a machine without it you get left to
# right, and no warning.

# %%
requires = importlib.metadata.requires("torch") or []
planner = [requirement for requirement in requires if requirement.lower().replace("_", "-").startswith("opt-einsum")]
claim(
    "opt_einsum is an optional extra of PyTorch, not a dependency",
    bool(planner) and all("extra ==" in requirement for requirement in planner),
    figures={"requirement": planner},
)
claim(
    "With the planner, both spellings take the same operations: those of the cheap one",
    operations("ij,jk,k->i", a, b, v) == operations("k,jk,ij->i", v, b, a) == vector_first,
)

# %% [markdown]
# ## See: an einsum is its loops
#
# The whole notation in one rule. Give every dimension a letter. Loop over all letters. Multiply the entries that
# the letters point at, and add the product to the entry of the result that the letters point at.
#
# - A letter on the right of the arrow is **kept**: it is a dimension of the result.
# - A letter that is missing there is **summed**. That is all that the arrow does.

# %%
product = explain_einsum("ij,jk->ik", (2, 3), (3, 4))
product

# %% [markdown]
# The loops in the report are Python. Let us run them.

# %%
x0, x1 = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(3, 4)
scope = {"torch": torch, "x0": x0, "x1": x1}
exec(product.loop_form, scope)  # noqa: S102  the text printed above, nothing else
claim("The loops give what einsum gives, bit by bit", torch.equal(scope["out"], torch.einsum("ij,jk->ik", x0, x1)))

# %% [markdown]
# A letter's part is decided by where it stands, and you can see it in a table of letters against tensors. Here
# are the scores of attention, `bqhd,bkhd->bhqk`. Read the rows: a letter in both operands and in the result is a
# **batch** letter, in one operand and the result it is **free**, in the operands and not in the result it is
# **summed**.


# %%
terms = {"query": "bqhd", "key": "bkhd", "scores": "bhqk"}


def part_of(letter):
    """Return 0 for a batch letter, 1 for a free one, 2 for a summed one."""
    if letter not in terms["scores"]:
        return 2
    return 0 if letter in terms["query"] and letter in terms["key"] else 1


Drawing(
    Grid(
        [[Cell(str(t.index(x)), part_of(x)) if x in t else Cell() for t in terms.values()] for x in "bhqkd"],
        row_labels="bhqkd",
        column_labels=list(terms),
        title="Dimension of each letter in `bqhd,bkhd->bhqk`",
        legend={0: "batch: shared and kept", 1: "free: one operand's own", 2: "summed: not in the result"},
    )
)

# %% [markdown]
# ## See: four groups, one `bmm`
#
# PyTorch runs no loops. For two operands it sorts the letters into those groups and turns the einsum into one
# batched matrix product. Look at what is dispatched.


# %%
class Watch(TorchDispatchMode):
    """Keeps the name and the result's shape of every operator that runs."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls.append((func.overloadpacket.__name__, tuple(out.shape)))
        return out


def dispatched(equation, *operands):
    with Watch() as watch:
        torch.einsum(equation, *operands)
    return watch.calls


for name, shape in dispatched("ij,jk->ik", torch.randn(2, 3), torch.randn(3, 4)):
    print(f"{name:<12}{shape}")

# %% [markdown]
# `unsqueeze` and `permute` line the letters up, `view` melts each group into one dimension, `bmm` does all the
# arithmetic, and `view` and `permute` bring the letters back. This is `sumproduct_pair` in
# `aten/src/ATen/native/Linear.cpp`: it calls the groups `lro` (in left, right and output: the batch), `lo`,
# `sum_dims` and `ro`.
#
# | group | letters | in `bmm(left, right)` |
# |---|---|---|
# | batch | in both, kept | dimension 0 of both |
# | rows | only left, kept | dimension 1 of left |
# | summed | in both, not kept | dimension 2 of left, 1 of right |
# | columns | only right, kept | dimension 2 of right |

# %%
counts = Counter(name for name, _ in dispatched("bqhd,bkhd->bhqk", torch.randn(2, 5, 3, 4), torch.randn(2, 6, 3, 4)))
claim(
    "Two operands become one bmm; nothing else in it multiplies or adds",
    counts["bmm"] == 1 and not {"mul", "sum", "add"} & set(counts),
    figures=dict(counts),
)
outer = Counter(name for name, _ in dispatched("i,j->ij", torch.randn(3), torch.randn(4)))
claim("Where nothing is summed there is no bmm: one `mul` that broadcasts", outer["mul"] == 1 and outer["bmm"] == 0)
alone = [name for name, _ in dispatched("bi,ij->j", torch.randn(2, 3), torch.randn(3, 4))]
claim("A letter that one operand has alone is summed before the product", alone.index("sum") < alone.index("bmm"))

# %% [markdown]
# ## Predict: what does `permute` cost here?
#
# Projections leave queries and keys as (batch, time, head, channel). So people write the scores as
# `bqhd,bkhd->bhqk` and let einsum do the permuting. Lesson 1.2 says that `permute` is a view.

# %%
query, key = torch.randn(4, 256, 8, 64), torch.randn(4, 256, 8, 64)
copies = predict(
    'What does `torch.einsum("bqhd,bkhd->bhqk", query, key)` allocate, besides the scores?',
    {
        "A": "Nothing: permuted tensors are views, and bmm takes any strides",
        "B": "A copy of the key, which has to be transposed",
        "C": "A copy of the query and a copy of the key",
    },
)

# %%
inside = measure(
    heads_inside=lambda q, k: torch.einsum("bqhd,bkhd->bhqk", q, k), inputs=lambda: (query, key), rounds=3, warmup=1
)
scores_bytes = 4 * 4 * 8 * 256 * 256
extra = inside["heads_inside"].peak_bytes - scores_bytes
copies.settle(
    {0: "A", key.nbytes: "B", query.nbytes + key.nbytes: "C"}[extra],
    because={
        "A": "`bmm` takes one batch dimension, and the batch here is two letters, b and h. In memory h lies inside q, "
        "so b and h cannot become one dimension by a view: `reshape` copies (lesson 1.2).",
        "B": "Transposing is free: bmm takes the last two dimensions in either order. What costs is melting b and h "
        "into one dimension, and that is needed on both sides.",
    },
)
claim(
    "With (batch, time, head, channel) einsum copies both operands before it multiplies",
    extra == query.nbytes + key.nbytes,
    figures={"extra bytes": extra},
)

# %% [markdown]
# Move the head out once, where it costs one copy or none, and the same einsum copies nothing. `explain_einsum`
# reads the strides of your tensors and tells you which case you have: the last column of its table.

# %%
outside = measure(
    heads_outside=lambda q, k: torch.einsum("bhqd,bhkd->bhqk", q, k),
    inputs=lambda: (torch.randn(4, 8, 256, 64), torch.randn(4, 8, 256, 64)),
    rounds=3,
    warmup=1,
)
claim(
    "With (batch, head, time, channel) it allocates the scores and no byte more",
    outside["heads_outside"].peak_bytes == scores_bytes,
)
explain_einsum("bqhd,bkhd->bhqk", query, key)

# %% [markdown]
# ## Measure: the order
#
# Back to `a · b · v`. The count of operations is exact; what does the clock say? And memory: left to right leaves
# an n × n matrix behind, the good order a vector.


# %%
def left_to_right(a, b, v):
    with torch.backends.opt_einsum.flags(enabled=False):
        return torch.einsum("ij,jk,k->i", a, b, v)


def planned(a, b, v):
    return torch.einsum("ij,jk,k->i", a, b, v)


growth = measure_growth(
    [256, 512, 1024, 2048],
    inputs=lambda n: (torch.randn(n, n), torch.randn(n, n), torch.randn(n)),
    rounds=3,
    left_to_right=left_to_right,
    planned=planned,
)
growth

# %%
at_2048 = growth.points[-1]
claim(
    "At n = 2048 the good order is more than three times as fast here",
    at_2048.ratio("left_to_right", "planned") > 3,
    figures={"ratio": at_2048.ratio("left_to_right", "planned")},
)
claim(
    "Left to right, peak memory grows with n²; in the good order with n",
    abs(growth.exponent("left_to_right", "peak_bytes") - 2) < 0.1
    and abs(growth.exponent("planned", "peak_bytes") - 1) < 0.1,
    figures={name: growth.exponent(name, "peak_bytes") for name in ("left_to_right", "planned")},
)

# %% [markdown]
# The clock does not show the factor of a thousand: a matrix times a vector waits for memory, a product of
# matrices does not. Operations are what you save; how much time that is depends on what you were waiting for.
#
# ### The planner counts operations, not bytes
#
# `opt_einsum` looks for the fewest operations. Here is a bilinear form, `bi,oij,bj->bo`. Look at the column
# "largest result".

# %%
bilinear = explain_einsum("bi,oij,bj->bo", (64, 32), (24, 32, 32), (64, 32))
bilinear

# %%
first_two = explain_einsum("oij,bj->boi", (24, 32, 32), (64, 32))
smaller = 64 * 24 * 32
claim(
    "The order with the fewest operations is not the one with the smallest intermediate",
    bilinear.chosen.largest_intermediate > smaller == first_two.chosen.largest_intermediate,
    figures={"planner's": bilinear.chosen.largest_intermediate, "weight with y first": smaller},
)

# %% [markdown]
# When memory is what you lack, write two einsums and choose the order yourself. One of the katas asks for exactly this.
#
# ## Measure: einsum, `bmm`, broadcast-and-sum

# %%
three_ways = measure(
    einsum=lambda a, b: torch.einsum("bij,bjk->bik", a, b),
    bmm=torch.bmm,
    broadcast_and_sum=lambda a, b: (a.unsqueeze(-1) * b.unsqueeze(1)).sum(2),
    inputs=lambda: (torch.randn(16, 64, 64), torch.randn(16, 64, 64)),
)
three_ways

# %%
result_bytes = 4 * 16 * 64 * 64
claim(
    "Einsum allocates what bmm allocates: the result",
    three_ways["einsum"].peak_bytes == three_ways["bmm"].peak_bytes == result_bytes,
)
claim(
    "Broadcast-and-sum holds every product at once: 64 times the result, and the result",
    three_ways["broadcast_and_sum"].peak_bytes == 65 * result_bytes,
)
claim(
    "Broadcast-and-sum takes more than one and a half times as long, and usually far more",
    three_ways.ratio("broadcast_and_sum", "einsum") > 1.5,
    figures={"ratio": three_ways.ratio("broadcast_and_sum", "einsum")},
)
claim(
    "Einsum's own price is a handful of views around the bmm: at least five operators more",
    len(dispatched("bij,bjk->bik", torch.randn(1, 2, 2), torch.randn(1, 2, 2))) >= 6,
)

# %% [markdown]
# The views cost microseconds: nothing for large tensors, several times the product for tiny ones. And there is
# one shape that `bmm` was not made for: many short dot products, `bi,bi->b`. It becomes `b` products of 1 × n
# with n × 1. On some devices `(x * y).sum(-1)` wins there (pytorch/pytorch#32591), on others einsum. Measure
# yours; we claim nothing.

# %%
measure(
    einsum=lambda x, y: torch.einsum("bi,bi->b", x, y),
    multiply_and_sum=lambda x, y: (x * y).sum(-1),
    inputs=lambda: (torch.randn(20_000, 16), torch.randn(20_000, 16)),
)

# %% [markdown]
# ## Read the errors
#
# ### The number of subscripts

# %%
images = torch.randn(8, 2, 3)
error_of(torch.einsum, "ij,jk->ik", images, torch.randn(3, 4))

# %% [markdown]
# "The number of subscripts in the equation (2) does not match the number of dimensions (3) for operand 0": you
# wrote two letters, operand 0 has three dimensions. "And no ellipsis was given" is the way out: `...` stands for
# the dimensions that you do not name, as many as there are, aligned from the right like broadcasting.

# %%
claim(
    "The ellipsis takes the batch along",
    torch.einsum("...ij,jk->...ik", images, torch.randn(3, 4)).shape == (8, 2, 4),
)

# %% [markdown]
# Forget it on the right, and PyTorch sums over the batch. NumPy, from which the notation comes, refuses.

# %%
weights = torch.randn(3, 4)
torch_sums = torch.einsum("...ij,jk->ik", images, weights)
claim(
    "An ellipsis missing from the result is summed over",
    torch.allclose(torch_sums, torch.einsum("bij,jk->bik", images, weights).sum(0), atol=1e-4),
)
error_of(np.einsum, "...ij,jk->ik", images.numpy(), weights.numpy())

# %% [markdown]
# ### The size that does not broadcast

# %%
error_of(torch.einsum, "ij,jk->ik", torch.randn(2, 3), torch.randn(4, 5))

# %% [markdown]
# `j` is 3 in one operand and 4 in the other. Note the word **broadcast**. A size of 1 would have passed: einsum takes a
# dimension of size 1 for an absent one. `@` refuses the same shapes.

# %%
claim(
    "Einsum stretches a contracted dimension of size 1",
    torch.einsum("ij,jk->ik", torch.ones(2, 1), torch.ones(3, 4)).eq(3).all(),
)
error_of(torch.matmul, torch.ones(2, 1), torch.ones(3, 4))

# %% [markdown]
# ### The output that cannot be
#
# A letter of the result must come from an operand, once. Einsum reads a diagonal and cannot write one: for that
# there is `torch.diag_embed`.

# %%
error_of(torch.einsum, "ij->ijk", torch.randn(2, 3))

# %%
error_of(torch.einsum, "i->ii", torch.randn(3))

# %% [markdown]
# ### The same mistake with three operands
#
# Another speaker. With three operands or more the planner reads the shapes first, so the exception is
# `opt_einsum`'s: a `ValueError`, not a `RuntimeError`. An `except RuntimeError` does not catch it. Read the
# numbers, too: operand 2 is 5 × 5 and the term before it ends in 4. In opt_einsum 3.4 the two have changed places
# in the message.

# %%
shapes = (2, 3), (3, 4), (5, 5)
by_planner = error_of(torch.einsum, "ij,jk,kl->il", *(torch.randn(shape) for shape in shapes))
with torch.backends.opt_einsum.flags(enabled=False):
    by_torch = error_of(torch.einsum, "ij,jk,kl->il", *(torch.randn(shape) for shape in shapes))
claim(
    "The type of the exception depends on whether opt_einsum is installed",
    (by_planner.type_name, by_torch.type_name) == ("ValueError", "RuntimeError"),
)
by_planner

# %%
error_of(explain_einsum, "ij,jk,kl->il", *shapes)

# %% [markdown]
# ### No arrow
#
# Without an arrow the result has the letters seen once, **in alphabetical order**, capitals first. So `ba` is a
# transpose.

# %%
claim(
    '`einsum("ba", x)` transposes',
    torch.equal(torch.einsum("ba", images[0]), images[0].t()) and images[0].shape == (2, 3),
)

# %% [markdown]
# ## Trap one: the network that passes no messages
#
# A graph layer: every node adds up the features of its neighbors. `adjacency` is (node, node), `features` is
# (node, channel). Someone writes:
#
# ```python
# torch.einsum("ii,id->id", adjacency, features)
# ```

# %%
letters = predict(
    "A letter stands twice in one operand. What does PyTorch do?",
    {
        "A": "It raises: `i` cannot stand for two dimensions",
        "B": "It sums over the second `i`, like `ij,jd->id`",
        "C": "It reads the diagonal of the adjacency matrix and nothing else",
    },
)

# %%
torch.manual_seed(0)
nodes = 200
adjacency = (torch.rand(nodes, nodes) < 0.1).float()
adjacency = ((adjacency + adjacency.t()) > 0).float().fill_diagonal_(1)
features = torch.randn(nodes, 4)

written = torch.einsum("ii,id->id", adjacency, features)
meant = torch.einsum("ij,jd->id", adjacency, features)
letters.settle(
    "C"
    if torch.equal(written, adjacency.diagonal()[:, None] * features)
    else "B"
    if torch.allclose(written, meant)
    else "A",
    because={
        "A": "One letter is one loop, wherever it stands. A letter that stands twice in one operand walks down its "
        "diagonal. That is how a trace is written, so it cannot be an error.",
        "B": "Two dimensions with one letter move together: there is no second loop to sum over. Summing over "
        "neighbors takes a letter of its own: `ij,jd->id`.",
    },
)
claim("Both spellings have the same shape, so nothing later can tell", written.shape == meant.shape)

# %% [markdown]
# Now let it ruin a run. The label of a node says whether its neighbors sum up to more than usual, so a layer that
# hears the neighbors solves the task at once.

# %%
labels = (meant[:, 0] > meant[:, 0].median()).float()


def train_graph(equation):
    torch.manual_seed(1)
    layer = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(150):
        messages = torch.einsum(equation, adjacency, features)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(layer(messages).squeeze(-1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    accuracy = ((layer(messages).squeeze(-1) > 0).float() == labels).float().mean().item()
    return losses[0], losses[-1], accuracy


right, wrong = train_graph("ij,jd->id"), train_graph("ii,id->id")
print("            loss before   after   accuracy")
for name, run in (("ij,jd->id", right), ("ii,id->id", wrong)):
    print(f"{name:<12}{run[0]:>11.3f}{run[1]:>8.3f}{run[2]:>11.2f}")
claim(
    "The loss of the broken network falls as well; its accuracy stays low",
    wrong[1] < wrong[0] and wrong[2] < 0.75 and right[2] > 0.9,
    figures={"right": right[2], "wrong": wrong[2]},
)

# %%
explain_einsum("ii,id->id", adjacency, features)

# %% [markdown]
# ## Trap two: the letter that was forgotten
#
# Attention over a memory: every example has four keys and four values, and its query repeats one of the keys. The
# model has to find it. One letter is missing from the scores.
#
# ```python
# scores = torch.einsum("bqd,bkd->qk", query, key)      # bqk was meant
# out = torch.einsum("qk,bkc->bqc", scores.softmax(-1), value)
# ```
#
# The result is (b, q, c), as it should be.


# %%
def lookup_batch(size, generator):
    keys = torch.randn(size, 4, 8, generator=generator)
    answer = torch.randint(0, 4, (size,), generator=generator)
    classes = torch.randint(0, 6, (size, 4), generator=generator)
    values = torch.nn.functional.one_hot(classes, 6).float()
    rows = torch.arange(size)
    return keys[rows, answer].unsqueeze(1), keys, values, classes[rows, answer]


def attend_to(projection, equations, query, key, value):
    scores = torch.einsum(equations[0], projection(query), key) / key.shape[-1] ** 0.5
    return torch.einsum(equations[1], scores.softmax(-1), value)


def train_lookup(equations):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    projection = torch.nn.Linear(8, 8, bias=False)
    optimizer = torch.optim.Adam(projection.parameters(), lr=0.02)
    losses = []
    for _ in range(200):
        query, key, value, target = lookup_batch(16, generator)
        out = attend_to(projection, equations, query, key, value).squeeze(1)
        loss = torch.nn.functional.nll_loss((out + 1e-3).log(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    query, key, value, target = lookup_batch(1000, generator)
    out = attend_to(projection, equations, query, key, value).squeeze(1)
    return projection, sum(losses[:10]) / 10, sum(losses[-10:]) / 10, (out.argmax(-1) == target).float().mean().item()


with_b, without_b = ("bqd,bkd->bqk", "bqk,bkc->bqc"), ("bqd,bkd->qk", "qk,bkc->bqc")
found, lost = train_lookup(with_b), train_lookup(without_b)
print("              first losses   last   accuracy")
for name, run in (("bqk", found), ("qk", lost)):
    print(f"{name:<14}{run[1]:>12.3f}{run[2]:>7.3f}{run[3]:>11.2f}")
claim(
    "With the batch letter the model finds the key; without it, it guesses",
    found[3] > 0.9 and lost[3] < 0.6,
    figures={"with b": found[3], "without b": lost[3]},
)
claim(
    "The loss of the broken model fell by a third or more, as if it were learning",
    lost[2] < lost[1] * 2 / 3,
    figures={"first": lost[1], "last": lost[2]},
)

# %% [markdown]
# What it learned is to turn its scores off: weights near zero hurt least. The scores of all examples are added,
# so every example attends with the same weights, and what one example gets depends on its neighbors in the batch.
# That gives a test for any model, whatever is inside: **run one example alone**.

# %%
query, key, value, target = lookup_batch(64, torch.Generator().manual_seed(9))


def depends_on_the_batch(projection, equations):
    together = attend_to(projection, equations, query, key, value)[:1]
    by_itself = attend_to(projection, equations, query[:1], key[:1], value[:1])
    return (together - by_itself).abs().max().item()


difference = {"bqk": depends_on_the_batch(found[0], with_b), "qk": depends_on_the_batch(lost[0], without_b)}
claim(
    "An example alone gives what it gives in the batch, unless a batch letter is lost",
    difference["bqk"] < 1e-5 and difference["qk"] > 1e-2,
    figures=difference,
)

# %% [markdown]
# And `explain_einsum` says it before anything runs. A line in a unit test is enough: no warnings.

# %%
claim(
    "explain_einsum warns of both traps and is silent on both right spellings",
    all(explain_einsum(*call).warnings for call in (("ii,id->id", adjacency, features), (without_b[0], query, key)))
    and not any(
        explain_einsum(*call).warnings for call in (("ij,jd->id", adjacency, features), (with_b[0], query, key))
    ),
)
explain_einsum(without_b[0], query, key)

# %% [markdown]
# ## The readable twin
#
# `einops` says the same with words. Its `einsum` hands the equation to `torch.einsum`: the result has the same
# bits. What you gain is for the reader: "batch" on the left and no "batch" on the right is easier to see than a
# missing `b`. And there is no implicit result: the arrow is required.

# %%
claim(
    "einops.einsum gives the bits of torch.einsum",
    torch.equal(
        einops.einsum(query, key, "batch query channel, batch key channel -> batch query key"),
        torch.einsum("bqd,bkd->bqk", query, key),
    ),
)
error_of(einops.einsum, query, key, "batch query channel, batch key channel")

# %% [markdown]
# Around it, four verbs for everything that moves dimensions:
#
# - `rearrange` splits, permutes and merges: `"b c (h p) (w q) -> b (h w) (p q c)"` cuts an image into patches;
# - `reduce` does that and takes a mean, a sum or a maximum of what is left out;
# - `repeat` adds dimensions;
# - `pack` and `unpack` concatenate tensors of different rank along one dimension, and give them back.

# %%
picture = torch.randn(2, 3, 8, 8)
patches = einops.rearrange(picture, "b c (h p) (w q) -> b (h w) (p q c)", p=4, q=4)
pooled = einops.reduce(picture, "b c (h 2) (w 2) -> b c h w", "mean")
tokens, packed_shapes = einops.pack([torch.zeros(2, 48), patches], "b * d")
unpacked = einops.unpack(tokens, packed_shapes, "b * d")
claim(
    "pack puts one class token before the patches, and unpack gives both back",
    tokens.shape == (2, 5, 48) and torch.equal(unpacked[1], patches),
)
claim("reduce is average pooling", torch.allclose(pooled, torch.nn.functional.avg_pool2d(picture, 2), atol=1e-6))
claim(
    "rearrange and repeat copy only where no view exists",
    einops.rearrange(picture, "b c h w -> b h w c").data_ptr() == picture.data_ptr()
    and einops.repeat(picture, "b c h w -> n b c h w", n=100).untyped_storage().nbytes() == picture.nbytes
    and patches.data_ptr() != picture.data_ptr(),
)
error_of(einops.rearrange, picture, "b c (h p) (w q) -> b (h w) (p q c)", p=3, q=3)

# %% [markdown]
# Read that error once. It names the pattern, the shape, the axes and the reason. That is the standard for yours.
#
# ## Katas
#
# Each is judged by its values and by how it got them: bytes, operations, views, operators.

# %% kata="batched_diagonal"

# %% kata="trace_of_product"

# %% kata="attend"

# %% kata="patchify"

# %% kata="unpatchify"

# %% kata="bilinear_form"

# %% kata="ring_trace"

# %% kata="contract_pair"

# %% [markdown]
# ## In the wild
#
# - qianyingcao/Laplace-Neural-Operator#4: `bix,ioxz->boz` where `box,ioxz->boz` is meant, as a reader reports. The two
#   dimensions have equal sizes, so it runs, with the wrong sum.
# - wl-zhao/DIML#6: the same loss written in two files with the letters in different orders, `cm,ncs->nsm` and
#   `bcs,bcm->bsm`. A reader found it, not a test.
# - pytorch/pytorch#35299: an einsum of 17 operands whose memory depends on which operand is written first.
#   Today's planner is the answer, where it is installed.
# - pytorch/pytorch#110858: `A @ B` with a broadcast batch, 75 times slower than the einsum of the same product:
#   `matmul` expands the batch, einsum melts it into the columns.
# - pytorch/pytorch#32591: many short dot products on a GPU, 20 times slower than multiplying and summing.
# - pytorch/pytorch#58380: the error message for sizes that disagree, as it was, and what a better one must say.
# - tinygrad/tinygrad#18229: `iij->ij` came out transposed. Whoever writes an einsum meets the diagonal last.
#
# **Read next.** `einsum` and `sumproduct_pair` in `aten/src/ATen/native/Linear.cpp`: you know every line now.
# "Path finding" in the documentation of opt_einsum. The einops paper, "Clear and reliable tensor manipulations
# with Einstein-like notation". Then lesson 1.4: what happens when two names share the memory and one of them
# writes.

# %%
summary()
