# %% [markdown]
# # 2.2 `retain_graph=True`
#
# "Trying to backward through the graph a second time. … Specify retain_graph=True." You specify it. The error is gone,
# the loss goes down, and nobody looks at that line again. What did it cost, and was it the right fix?
#
# You will see what backward frees and what it leaves, tell `retain_graph` from `create_graph`, take second derivatives
# on two roads (double backward and `torch.func`) with their bill in time and memory, find a training run that gets
# slower with every batch and never raises an error, and take home `trace_retained`, which names the line.

# %%
import gc
import itertools
import statistics
import time
import warnings
import weakref
from collections.abc import Callable, Sequence  # for the katas

import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from blackbelt import begin, check, claim, error_of, measure, measure_growth, predict, summary, trace_retained
from blackbelt.report import Curves, Drawing, Table, format_bytes

begin("autograd/retain")

# %% [markdown]
# ## Predict
#
# A recurrent core, pretrained and frozen, is adapted to a new stream of data: a new input layer, a new output layer.
# The stream has no end, so it comes in batches of 8 time steps, and the state of one batch is the start of the next.

# %%


class Stream:
    """A recurrent core with a layer before it and one after it; learns from batch after batch of one long stream."""

    def __init__(self, train=("adapter", "head"), every=1, **options):
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"adapter": nn.Linear(8, 32), "core": nn.GRUCell(32, 64), "head": nn.Linear(64, 8)})
        for name, part in self.model.items():
            part.requires_grad_(name in train)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.1, **options)
        self.every = every  # the optimizer steps after so many batches
        self.batches = torch.randn(40, 9, 4, 8, generator=torch.Generator().manual_seed(1))
        self.state = torch.zeros(4, 64)

    def loss(self, batch):
        """Run the core over the batch, from the state on; the loss is that of guessing the next input."""
        adapter, core, head = self.model.values()
        state, losses = self.state, []
        for x, following in itertools.pairwise(batch):
            state = core(adapter(x), state)
            losses.append((head(state) - following).square().mean())
        self.state = state  # the next batch goes on from here
        return torch.stack(losses).mean()

    def step(self, number, retain_graph=False):
        loss = self.loss(self.batches[number])
        loss.backward(retain_graph=retain_graph)
        if (number + 1) % self.every == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss


torch.set_num_threads(1)  # the tensors of this lesson are small: one thread is faster, and its times are steadier
stream = Stream()
stream.step(0)
second = error_of(lambda: stream.step(1))
second

# %% [markdown]
# The message ends with an offer, and it is easily taken. So: `loss.backward(retain_graph=True)`.

# %%
silenced = predict(
    "And now, over 40 batches?",
    {
        "A": "it runs, and every batch costs what the first one cost",
        "B": "it runs at the same speed, and memory grows with every batch",
        "C": "it runs, and every batch costs more than the one before it, in time and in memory",
        "D": "another error comes later",
    },
)

# %%


def nodes_of(tensor):
    """Return the nodes that a backward from this tensor walks."""
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return seen


def run(stream, retain_graph=True, detach=False):
    """Return for each batch the nodes its backward walks, and its seconds; and the error that ended the run, if any."""
    nodes, seconds = [], []
    for number in range(len(stream.batches)):
        start = time.perf_counter()
        try:
            loss = stream.step(number, retain_graph)
        except RuntimeError as error:
            return nodes, seconds, error
        seconds.append(time.perf_counter() - start)
        nodes.append(len(nodes_of(loss)))
        if detach:
            stream.state = stream.state.detach()
    return nodes, seconds, None


nodes, seconds, error = run(Stream())
grows = nodes[-1] > 2 * nodes[0]
slower = statistics.median(seconds[-5:]) > 2 * statistics.median(seconds[:5])
print(f"nodes walked by backward: {nodes[0]} in batch 1, {nodes[1]} in batch 2, …, {nodes[-1]} in batch {len(nodes)}")
silenced.settle(
    "D" if error else "C" if grows and slower else "B" if grows else "A",
    because={
        "A": "The state still hangs on the last batch's graph, and that one on the graph before. What is kept is "
        "walked, not once more but each time.",
        "B": "What is kept is also walked. Backward does not know that it has been there before.",
        "C": "",
        "D": "Often it does come, and then you are lucky. In this run nothing is refused; you will see why.",
    },
)
claim(
    "every batch adds the same number of nodes to the walk, from the second to the last",
    error is None and {after - before for before, after in itertools.pairwise(nodes)} == {nodes[1] - nodes[0]},
    figures={"nodes added per batch": nodes[1] - nodes[0]},
)

# %% [markdown]
# Forty batches, and the last backward walks the whole history of the run. Nothing is wrong in the sense of an error.
# The right fix was another one, and to see which, you have to know what the first message was about.
#
# ## The error, word by word
#
# - *backward through the graph a second time*: not the whole graph. The walk met *one node* that had been walked before
#   and whose saved tensors were gone. Here, the last node of the batch before.
# - *or directly access saved tensors after they have already been freed*: the same check, met by another road.
# - *Saved intermediate values of the graph are freed*: values. Not nodes.
# - *Specify retain_graph=True if you need to*: **if**. Ask first: did you *want* to go through that part again?
#
# ## See: what backward frees
#
# The last point can be looked at. Wrap every tensor that is saved, and count the wrappers that are still there.

# %%


class Saved:
    """A saved tensor; it is alive as long as a node keeps it."""

    def __init__(self, tensor):
        self.tensor = tensor


def alive_after(backward):
    """Return the nodes and the number of saved tensors, before the backward and after it."""
    alive = weakref.WeakSet()

    def pack(tensor):
        saved = Saved(tensor)
        alive.add(saved)
        return saved

    layers = nn.Sequential(*[nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(4)])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        loss = layers(torch.randn(8, 32)).square().mean()
        before = nodes_of(loss), len(alive)
        backward(loss, list(layers.parameters()))
    return *before, nodes_of(loss), len(alive)


backwards = {
    "backward()": lambda loss, _: loss.backward(),
    "autograd.grad(…)": torch.autograd.grad,
    "… retain_graph=True": lambda loss, _: loss.backward(retain_graph=True),
}
freed = {name: alive_after(backward) for name, backward in backwards.items()}
rows = [(name, len(nodes), saved, len(left), kept) for name, (nodes, saved, left, kept) in freed.items()]
Drawing(Table(("", "nodes before", "saved before", "nodes after", "saved after"), rows, title="What a backward leaves"))

# %%
claim(
    "backward frees every saved tensor and not one node",
    all(
        kept == 0 < saved and left == nodes
        for nodes, saved, left, kept in (freed["backward()"], freed["autograd.grad(…)"])
    ),
)
claim(
    "with `retain_graph=True` everything stays, for as long as somebody holds the loss",
    freed["… retain_graph=True"][3] == freed["… retain_graph=True"][1],
)

# %% [markdown]
# The nodes themselves die with the last tensor that leads to them: a `loss`, or a hidden state that you carry along.
# The saved tensors go one by one *while* backward walks (`release_variables` in `torch/csrc/autograd/engine.cpp`). That
# has a consequence for the peak, and another one that surprises people.

# %%
twice = predict(
    "`y.sum().backward()` twice, without `retain_graph`. After which `y` does the second one fail?",
    {
        "A": "`y = x + 1`, `y = x.cumsum(0)` and `y = x.sin()`: after all of them",
        "B": "`y = x.sin()` only",
        "C": "`y = x.cumsum(0)` and `y = x.sin()`",
        "D": "after none of them: such a small graph is not freed",
    },
)

# %%
operations = {
    "x + 1": lambda x: x + 1,
    "x.cumsum(0)": lambda x: x.cumsum(0),
    "x.sin()": torch.sin,
    "-x": torch.neg,
    "x[:2]": lambda x: x[:2],
    "x * 2": lambda x: x * 2,
    "x * x": lambda x: x * x,
    "x.relu()": torch.relu,
    "x.sigmoid()": torch.sigmoid,
}


def second_backward(operation):
    """Return whether the node saved a tensor, whether a second backward runs, and how often the gradient is there."""
    x = torch.ones(3, requires_grad=True)
    y = operation(x)
    saved = [getattr(y.grad_fn, name) for name in dir(y.grad_fn) if name.startswith("_saved_")]
    total = y.sum()
    total.backward()
    once = x.grad.clone()
    try:
        total.backward()
    except RuntimeError:
        return any(isinstance(value, torch.Tensor) for value in saved), False, 1
    return any(isinstance(value, torch.Tensor) for value in saved), True, float(x.grad.sum() / once.sum())


outcome = {code: second_backward(operation) for code, operation in operations.items()}
Drawing(
    Table(
        ("y", "saved a tensor", "second backward"),
        [(code, "yes" if saved else "no", "runs" if runs else "fails") for code, (saved, runs, _) in outcome.items()],
        marked=frozenset(i for i, (_, runs, _) in enumerate(outcome.values()) if not runs),
    )
)

# %%
fails = tuple(not outcome[code][1] for code in ("x + 1", "x.cumsum(0)", "x.sin()"))
letters = {(True, True, True): "A", (False, False, True): "B", (False, True, True): "C", (False, False, False): "D"}
twice.settle(
    letters[fails],
    because={
        "A": "The graph as such is not marked as used. Only a node that needs a tensor it no longer has can complain.",
        "B": "",
        "C": "The gradient of a cumulative sum is one of the gradient, from the end: no tensor is needed or saved.",
        "D": "Size plays no part. What has saved a tensor loses it.",
    },
)
claim(
    "for nine operations: the second backward fails exactly where the node had saved a tensor",
    all(saved is not runs for saved, runs, _ in outcome.values()),
    figures={"operations": len(operations)},
)
claim("and where it runs, the gradient is there twice", all(times == 2 for _, runs, times in outcome.values() if runs))

# %% [markdown]
# So "it runs without `retain_graph`" proves nothing: you may have walked a graph twice, and nobody told you.
#
# ## Measure: the peak of one step
#
# Freed while it walks: the memory of the forward goes down as gradients come in. Retained, both are there together. And
# `create_graph=True` saves what the *backward* would need for its own backward.

# %%


def deep(depth=12, size=128):
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Sequential(nn.Linear(size, size), nn.Tanh()) for _ in range(depth)])


network, inputs = deep(), torch.randn(256, 128)


def gradients(**options):
    return torch.autograd.grad(network(inputs).square().mean(), list(network.parameters()), **options)


step_cost = measure(
    plain=gradients,
    retain_graph=lambda: gradients(retain_graph=True),
    create_graph=lambda: gradients(create_graph=True),
)
step_cost

# %%
peaks = {name: step_cost[name].peak_bytes for name in ("plain", "retain_graph", "create_graph")}
claim(
    "each of the two raises the peak of a step, `create_graph` more than `retain_graph`",
    peaks["plain"] < peaks["retain_graph"] < peaks["create_graph"],
    figures={name: format_bytes(peak) for name, peak in peaks.items()},
)

# %% [markdown]
# ## See: `create_graph` is another thing
#
# | | keeps the forward's graph | records the backward as a graph |
# |---|---|---|
# | default | no | no |
# | `retain_graph=True` | yes | no |
# | `create_graph=True` | yes (`retain_graph` follows it) | yes |
#
# If you want to walk *the same road* once more, retain. If you want to differentiate *the gradient*, create. Retaining
# does not give a gradient a history:

# %%
x = torch.tensor([1.0, 2.0], requires_grad=True)
(kept,) = torch.autograd.grad(x.pow(3).sum(), x, retain_graph=True)
(recorded,) = torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)
print(f"retain_graph: grad_fn is {kept.grad_fn}; create_graph: grad_fn is {recorded.grad_fn.name()}")
no_history = error_of(lambda: kept.sum().backward())
no_history

# %%
(curvature,) = torch.autograd.grad(recorded.sum(), x)
cubes = x.pow(3).sum()
torch.autograd.grad(cubes, x, create_graph=True)
again = torch.autograd.grad(cubes, x)[0]
claim("`create_graph=True` keeps the forward's graph as well: a second walk runs", again.tolist() == [3.0, 12.0])
claim(
    "a gradient has a history only with `create_graph=True`: the second derivative of x³ is 6x",
    kept.grad_fn is None and "does not require grad" in no_history.message and curvature.tolist() == [6.0, 12.0],
)

# %% [markdown]
# With `backward(create_graph=True)` PyTorch warns you. Read it: every word is meant.

# %%
weight = nn.Parameter(torch.ones(1000))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    weight.pow(3).sum().backward(create_graph=True)
print(str(caught[0].message).split(" (Triggered")[0])
leaked = weakref.ref(weight)
del weight
gc.collect()


def cleaned_up():
    weight = nn.Parameter(torch.ones(1000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight.pow(3).sum().backward(create_graph=True)
    weight.grad = None
    return weakref.ref(weight)


def by_autograd_grad():
    weight = nn.Parameter(torch.ones(1000))
    torch.autograd.grad(weight.pow(3).sum(), weight, create_graph=True)
    return weakref.ref(weight)


# %%
claim(
    "after `backward(create_graph=True)` the parameter outlives its last name and `gc.collect()`; with `.grad = None` "
    "it does not",
    leaked() is not None and cleaned_up()() is None,
)
claim("`torch.autograd.grad(…, create_graph=True)` makes no such cycle", by_autograd_grad()() is None)

# %% [markdown]
# The circle: the parameter holds `.grad`, `.grad` holds its graph, the graph ends in the node that accumulates into the
# parameter. Part of it runs through C++, where Python's garbage collector does not look.
#
# ## Several losses
#
# Two losses on one trunk are the textbook case for `retain_graph=True`. Mostly it is not needed there either. Count the
# nodes that the engine runs.

# %%
torch.manual_seed(0)
trunk, left, right = deep(depth=6, size=64), nn.Linear(64, 1), nn.Linear(64, 1)
samples = torch.randn(32, 64)
both = nn.ModuleList([trunk, left, right])


def two_losses():
    shared = trunk(samples)
    return left(shared).square().mean(), right(shared).exp().mean()


def separately(one, other):
    one.backward(retain_graph=True)
    other.backward()


def summed(one, other):
    (one + other).backward()


def together(one, other):
    torch.autograd.backward([one, other])


def engine_runs(backward):
    """Return how many nodes the engine runs, and the gradients it leaves."""
    both.zero_grad()
    losses = two_losses()
    ran = []
    for node in nodes_of(losses[0]) | nodes_of(losses[1]):
        node.register_prehook(lambda *_: ran.append(1))
    backward(*losses)
    return len(ran), [parameter.grad.clone() for parameter in both.parameters()]


ways = {way.__name__: engine_runs(way) for way in (separately, summed, together)}
print({name: count for name, (count, _) in ways.items()})
claim(
    "two backwards run the trunk twice; the sum of the losses, or both in one call, run every node once",
    ways["separately"][0] > 1.5 * ways["together"][0] and ways["summed"][0] <= ways["together"][0] + 1,
    figures={name: count for name, (count, _) in ways.items()},
)
claim(
    "and the gradients are the same",
    all(
        torch.allclose(one, other, rtol=1e-5, atol=1e-7)
        for name in ("summed", "together")
        for one, other in zip(ways["separately"][1], ways[name][1])
    ),
)

# %% [markdown]
# `.grad` adds up anyway, so one walk gives the same sum. You need `retain_graph=True` when you want the gradients
# *apart*: a norm for each loss, as in the first kata. Then the walks are the point, and you pay for what you use.
#
# Whoever takes them apart soon meets the third message of this lesson:

# %%
unused = error_of(lambda: torch.autograd.grad(two_losses()[0], list(both.parameters())))
unused

# %%
some = torch.autograd.grad(two_losses()[0], list(both.parameters()), allow_unused=True)
claim(
    "the first loss does not reach the other head; with `allow_unused=True` its two gradients are None",
    "appears to not have been used in the graph" in unused.message and [g is None for g in some[-2:]] == [True, True],
)

# %% [markdown]
# It means what it says: no road leads from this loss to that tensor. Before you pass `allow_unused=True`, ask whether
# you had expected one. A `.detach()` or a rebuilt tensor on one of the ways can be behind it.
#
# ## Second derivatives, two roads
#
# From here on you *need* a graph of the backward. There are two roads:
#
# - **double backward**: `torch.autograd.grad(…, create_graph=True)`, then differentiate the result;
# - **`torch.func`**: functions that return functions. `grad(f)` is the gradient, `jvp` a derivative in one direction,
#   going forward, `vjp` one going backward, `vmap` runs a function over a batch. They nest, and there is no flag to
#   forget.
#
# ### Hessian times vector

# %%


def valley(x):
    """Rosenbrock's function: the test of every optimizer."""
    return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


def double_backward(x, v):
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(valley(x), x, create_graph=True)
    return torch.autograd.grad(gradient, x, v)[0]


def forward_over_reverse(x, v):
    return jvp(grad(valley), (x,), (v,))[1]


def whole_hessian(x, v):
    return hessian(valley)(x) @ v


with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # torch 2.15: at its first use, jvp still scripts some formulas
    x, v = torch.randn(64) / 4, torch.randn(64)
    products = [product(x, v) for product in (double_backward, forward_over_reverse, whole_hessian)]
claim(
    "three ways, one product",
    all(torch.allclose(product, products[-1], rtol=1e-4, atol=1e-3) for product in products),
)
growth = measure_growth(
    [64, 128, 256, 512, 1024],
    inputs=lambda n: (torch.randn(n) / 4, torch.randn(n)),
    rounds=3,
    double_backward=double_backward,
    forward_over_reverse=forward_over_reverse,
    whole_hessian=whole_hessian,
)
growth

# %%
slopes = {name: growth.exponent(name, "peak_bytes") for name in (t.name for t in growth.points[0].timings)}
claim(
    "both products take memory in proportion to n, the whole Hessian in proportion to n²",
    slopes["double_backward"] < 1.1 and slopes["forward_over_reverse"] < 1.1 and slopes["whole_hessian"] > 1.8,
    figures=slopes,
)
last = growth.points[-1]
claim(
    "forward over reverse, often recommended, takes more memory here than double backward",
    last["forward_over_reverse"].peak_bytes > last["double_backward"].peak_bytes,
    figures={
        name: f"{last[name].peak_bytes / (1024 * 4):.1f} vectors"
        for name in ("double_backward", "forward_over_reverse")
    },
)

# %% [markdown]
# The recommendation comes from systems that compile both passes into one. In eager PyTorch a forward derivative
# carries a second tensor along with each first one, and the reverse pass keeps both. Look at the times above, too,
# before you believe either. What `jvp` gives you is something else: it nests in `vmap`, and it needs no
# `create_graph`.
#
# ### The gradient penalty
#
# A Wasserstein critic should have slope 1 between real and fake samples, so (slope − 1)² goes into its loss. The loss
# contains a gradient. Train a small critic twice; the second time somebody "only" wrote `retain_graph=True`.

# %%


def penalty(critic, mixed, **options):
    mixed = mixed.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, **options)
    return (slope.norm(dim=1) - 1).square().mean()


def penalty_by_functions(critic, mixed):
    slope = vmap(grad(lambda x: critic(x).squeeze()))(mixed)
    return (slope.norm(dim=1) - 1).square().mean()


def make_critic(size=64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU(), nn.Linear(size, 1))


def train_critic(penalize, steps=150):
    """Return the mean slope of the critic between real and fake samples, after each step."""
    critic = make_critic()
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    slopes = []
    for _ in range(steps):
        real, fake = torch.randn(2, 64, 2, generator=generator) + torch.tensor([[[2.0, 0.0]], [[-2.0, 0.0]]])
        share = torch.rand(64, 1, generator=generator)
        mixed = share * real + (1 - share) * fake
        loss = critic(fake).mean() - critic(real).mean() + 10 * penalize(critic, mixed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slopes.append(vmap(grad(lambda x: critic(x).squeeze()))(mixed.detach()).norm(dim=1).mean().item())
    return slopes


trained = {
    "create_graph=True": train_critic(lambda critic, mixed: penalty(critic, mixed, create_graph=True)),
    "retain_graph=True": train_critic(lambda critic, mixed: penalty(critic, mixed, retain_graph=True)),
    "torch.func": train_critic(penalty_by_functions),
}
steps = (1, 2, 4, 8, 16, 32, 64, 128)
Drawing(
    Curves(
        {name: (steps, [slopes[step - 1] for step in steps]) for name, slopes in trained.items()},
        "step",
        "mean slope",
        "A penalty that should hold the critic's slope near 1",
        limit=("1", 1.0),
    )
)

# %%
claim(
    "with `retain_graph=True` nothing is raised, and the penalty does not act: the slope runs away",
    abs(trained["create_graph=True"][-1] - 1) < 0.3 and trained["retain_graph=True"][-1] > 3,
    figures={name: slopes[-1] for name, slopes in trained.items()},
)

# %% [markdown]
# No error, because the loss has other terms: they have a graph, and the penalty goes along as a number. A term that
# does not act looks like a term with too small a weight. Print `penalty.requires_grad` once.
#
# The price of the two right roads:

# %%
critic, mixed = make_critic(256), torch.randn(256, 2)
weights = list(critic.parameters())
penalty_cost = measure(
    first_order=lambda: torch.autograd.grad(critic(mixed).mean(), weights, allow_unused=True),
    double_backward=lambda: torch.autograd.grad(penalty(critic, mixed, create_graph=True), weights, allow_unused=True),
    torch_func=lambda: torch.autograd.grad(penalty_by_functions(critic, mixed), weights, allow_unused=True),
    rounds=5,
)
one, other = (
    torch.autograd.grad(value, weights, allow_unused=True)
    for value in (penalty(critic, mixed, create_graph=True), penalty_by_functions(critic, mixed))
)
penalty_cost

# %%
claim(
    "both roads give the critic the same gradient, and None for the last bias, which no slope depends on",
    all((a is None) is (b is None) for a, b in zip(one, other))
    and all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(one, other) if a is not None and b is not None)
    and one[-1] is None,
)
claim(
    "a penalized step needs at least twice the memory of a plain one",
    min(penalty_cost[name].peak_bytes for name in ("double_backward", "torch_func"))
    >= 2 * penalty_cost["first_order"].peak_bytes,
    figures={timing.name: format_bytes(timing.peak_bytes) for timing in penalty_cost.timings},
)

# %% [markdown]
# ### One inner step of MAML
#
# Meta-learning differentiates *through an optimizer step*: p′ = p − rate · g(p). The gradient of a loss at p′ with
# respect to p contains g's own derivative, a Hessian times a vector once more. First-order MAML leaves that out.

# %%
learner = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 1))
start = dict(learner.named_parameters())
support, query = ((torch.randn(64, 16), torch.randn(64, 1)) for _ in range(2))


def task_loss(parameters, task):
    return nn.functional.mse_loss(functional_call(learner, parameters, (task[0],)), task[1])


def outer_gradient(create_graph):
    inner = torch.autograd.grad(task_loss(start, support), list(start.values()), create_graph=create_graph)
    adapted = {name: p - 0.5 * g for (name, p), g in zip(start.items(), inner)}
    return torch.autograd.grad(task_loss(adapted, query), list(start.values()))


def outer_gradient_by_functions():
    def after_a_step(parameters):
        inner = grad(task_loss)(parameters, support)
        return task_loss({name: p - 0.5 * inner[name] for name, p in parameters.items()}, query)

    return tuple(grad(after_a_step)({name: p.detach() for name, p in start.items()}).values())


maml_cost = measure(
    first_order=lambda: outer_gradient(create_graph=False),
    double_backward=lambda: outer_gradient(create_graph=True),
    torch_func=outer_gradient_by_functions,
    rounds=5,
)
flat = {
    name: torch.cat([g.flatten() for g in gradients])
    for name, gradients in {
        "first order": outer_gradient(create_graph=False),
        "double backward": outer_gradient(create_graph=True),
        "torch.func": outer_gradient_by_functions(),
    }.items()
}
maml_cost

# %%
away = float((flat["first order"] - flat["double backward"]).norm() / flat["double backward"].norm())
claim(
    "both roads give the same outer gradient",
    torch.allclose(flat["double backward"], flat["torch.func"], rtol=1e-4, atol=1e-6),
)
claim(
    "the first-order gradient is another one, at the same loss",
    away > 0.05,
    figures={"relative distance": away},
)

# %% [markdown]
# Here `p` must not be changed in place: the inner step makes *new* tensors, and `functional_call` runs the model with
# them. An `optimizer.step()` would overwrite the very tensors whose gradient you are after.
#
# ### Jacobians
#
# m outputs, n inputs. Reverse mode gives one row for each walk, forward mode one column. The classic loop walks m times
# and retains the graph m times.

# %%


def layered(n, m):
    """Return a function from n to m numbers."""
    generator = torch.Generator().manual_seed(0)
    first, last = torch.randn(96, n, generator=generator) / n**0.5, torch.randn(m, 96, generator=generator) / 10
    return lambda x: last @ (first @ x).tanh()


def loop(function, x):
    x = x.detach().requires_grad_()
    return torch.stack([torch.autograd.grad(y, x, retain_graph=True)[0] for y in function(x)])


def grads_batched(function, x):
    x = x.detach().requires_grad_()
    y = function(x)
    return torch.autograd.grad(y, x, torch.eye(len(y)), is_grads_batched=True)[0]


def vmap_of_vjp(function, x):
    y, pull_back = vjp(function, x)
    return vmap(pull_back)(torch.eye(len(y)))[0]


jacobians = {
    "loop": loop,
    "grads_batched": grads_batched,
    "vmap_of_vjp": vmap_of_vjp,
    "jacrev": lambda function, x: jacrev(function)(x),
    "jacfwd": lambda function, x: jacfwd(function)(x),
}
shapes = {"tall (4 → 256)": (4, 256), "wide (256 → 4)": (256, 4)}
costs = {
    name: measure(inputs=lambda n=n, m=m: (layered(n, m), torch.ones(n)), rounds=3, **jacobians)
    for name, (n, m) in shapes.items()
}
costs["tall (4 → 256)"]

# %%
costs["wide (256 → 4)"]

# %%
function, x = layered(4, 256), torch.ones(4)
claim(
    "all five are the same matrix",
    all(torch.allclose(way(function, x), loop(function, x), atol=1e-6) for way in jacobians.values()),
)
tall, wide = costs.values()
claim(
    "for the tall one forward mode needs less memory than reverse mode, for the wide one more",
    tall["jacfwd"].peak_bytes < tall["jacrev"].peak_bytes and wide["jacfwd"].peak_bytes > wide["jacrev"].peak_bytes,
    figures={
        f"{name} {shape}": format_bytes(cost[name].peak_bytes)
        for shape, cost in (("tall", tall), ("wide", wide))
        for name in ("jacfwd", "jacrev")
    },
)
claim(
    "for 256 outputs the loop takes at least three times as long as `jacrev`",
    tall.ratio("loop", "jacrev") > 3,
    figures={"times": tall.ratio("loop", "jacrev")},
)

# %% [markdown]
# One of the five is not what it seems. `is_grads_batched=True`, and
# `torch.autograd.functional.jacobian(vectorize=True)` with it, promise a batched walk. Count one operator.

# %%


class Count(TorchDispatchMode):
    """Counts the calls of each ATen operator."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.name()] = self.calls.get(func.name(), 0) + 1
        return func(*args, **(kwargs or {}))


def calls_of(operator, way):
    with Count() as count:
        way(function, x)
    return count.calls.get(operator, 0)


walked = {name: calls_of("aten::tanh_backward", way) for name, way in jacobians.items()}
print("calls of tanh_backward for 256 outputs:", walked)
claim(
    "`jacrev` and `vmap` over `vjp` run `tanh_backward` once, the loop 256 times, and so does `is_grads_batched`",
    (walked["jacrev"], walked["vmap_of_vjp"], walked["loop"], walked["grads_batched"]) == (1, 1, 256, 256),
)

# %% [markdown]
# `is_grads_batched` still runs on the first prototype of vmap (`torch/_vmap_internals.py`, called by
# `torch.autograd.grad`). Where that has no batching rule for an operator, it loops in C++. It can say so, if you ask:

# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch._C._debug_only_display_vmap_fallback_warnings(True)
    grads_batched(function, x)
    torch._C._debug_only_display_vmap_fallback_warnings(False)
print(str(caught[0].message).split(" (Triggered")[0])
claim("PyTorch itself sends you to `torch.func`", "please switch to using torch.func" in str(caught[0].message))

# %% [markdown]
# pytorch/pytorch#68538 is such a model, on `torch.autograd.functional.jacobian(…, vectorize=True)`, and got that
# answer.
#
# ## Trap: the run that only gets slower
#
# Back to the stream. With `detach` the state goes on as numbers, and the graph ends at the batch:

# %%
runs = {
    "retain_graph=True": run(Stream()),
    "state.detach()": run(Stream(), retain_graph=False, detach=True),
}
shown = range(0, 40, 3)
numbers = [number + 1 for number in shown]
Drawing(
    Curves(
        {name: (numbers, [nodes[i] for i in shown]) for name, (nodes, _, _) in runs.items()},
        "batch",
        "nodes",
        "What each backward walks",
        log=False,
    ),
    Curves(
        {name: (numbers, [1e3 * seconds[i] for i in shown]) for name, (_, seconds, _) in runs.items()},
        "batch",
        "milliseconds",
        "What each step takes",
        log=False,
    ),
)

# %%
late = {
    name: statistics.median(seconds[-5:]) / statistics.median(seconds[1:6]) for name, (_, seconds, _) in runs.items()
}
claim(
    "with `detach` every batch walks the same number of nodes; retained, the last one walks over 20 times as many",
    len(set(runs["state.detach()"][0])) == 1 and runs["retain_graph=True"][0][-1] > 20 * runs["state.detach()"][0][-1],
)
claim(
    "and the retained run is at least twice as slow at its end as at its start",
    late["retain_graph=True"] > 2,
    figures=late,
)

# %% [markdown]
# Why does PyTorch refuse nothing? Lesson 1.4 had the check: a saved tensor must not change before its backward. An
# `optimizer.step()` changes weights. So it depends on whether the *old* graph has saved a weight that the optimizer
# writes, and does so in a way that counts.

# %%
everything = ("adapter", "core", "head")
situations = {
    "everything trained, SGD": Stream(everything),
    "everything trained, SGD(fused=True)": Stream(everything, fused=True),
    "everything trained, one step after 40 batches": Stream(everything, every=40),
    "adapter and head trained, SGD": Stream(),
    "head trained, SGD": Stream(("head",)),
}
walks = {name: run(situation) for name, situation in situations.items()}
Drawing(
    Table(
        ("what is trained", "with retain_graph=True"),
        [
            (name, f"refused in batch {len(nodes) + 1}" if error else f"{nodes[0]} nodes in batch 1, {nodes[-1]} in 40")
            for name, (nodes, _, error) in walks.items()
        ],
    )
)

# %%
refused = walks["everything trained, SGD"]
claim(
    "train the core itself with a plain SGD, and PyTorch refuses in the second batch",
    len(refused[0]) == 1 and "modified by an inplace operation" in str(refused[2]),
)
claim(
    "nobody refuses while gradients are summed up, or while only the layers around the core are trained",
    all(
        walks[name][2] is None and walks[name][0][-1] > 20 * walks[name][0][0]
        for name in ("everything trained, one step after 40 batches", "adapter and head trained, SGD")
    ),
)
claim(
    "with the head alone the state needs no gradient, carries no graph, and nothing grows",
    len(set(walks["head trained, SGD"][0])) == 1,
)

# %% [markdown]
# Row by row:
#
# - *everything, SGD*: the old graph has saved the core's weights, and the step wrote to them. You are stopped. People
#   then add `.clone()`s until it runs.
# - *fused*: in torch 2.9 to 2.15 the fused step does not move the version counter (lesson 1.4). No error, and gradients
#   from activations that belong to other weights.
# - *one step after many batches*, or *no step at all* (gradients for an analysis): nothing is written, nothing refused.
# - *adapter and head*: the core is frozen, nobody writes to it. The adapter is trained and its weight not saved, since
#   its input needs no gradient. The head's weight was saved, by losses that nobody walks again.
#
# So "it would have raised an error" is no safety. Look for what grows:

# %%
stream = Stream()
trace = trace_retained(lambda number: stream.step(number, retain_graph=True))
trace

# %%
claim(
    "`trace_retained` names the state as the holder of every batch's graph",
    not trace.ok and "state" in trace.findings[0].held_by,
    figures={"held by": trace.findings[0].held_by},
)
stream = Stream()


def detached_step(number):
    stream.state = stream.state.detach()
    stream.step(number)


clean = trace_retained(detached_step)
claim("with the state detached once per batch it has nothing to say", clean.ok)
after = range(1, len(trace.bytes_per_step) + 1)
Drawing(
    Curves(
        {"retain_graph=True": (after, trace.bytes_per_step), "state.detach()": (after, clean.bytes_per_step)},
        "batch",
        "bytes",
        "Memory alive after each batch",
        log=False,
    )
)

# %%
added = [after - before for before, after in itertools.pairwise(trace.bytes_per_step)]
claim(
    "retained, each batch leaves as many bytes as the one before; detached, nothing is added after the first",
    min(added) > 0 and max(added) < 1.1 * min(added) and len(set(clean.bytes_per_step[1:])) == 1,
    figures={"bytes added per batch": added[-1]},
)

# %% [markdown]
# Once per *batch*, mind: the step at the end of which you call `backward`. Detach at every time step, and no step
# learns what it did to the next.
#
# ## Measure: what `detach` costs
#
# It is not free of charge either. Cutting the graph cuts the gradient: backpropagation through time, truncated to a
# window. How much is lost, and what does each window need?

# %%
torch.manual_seed(0)
cell, sequence = nn.RNNCell(4, 32), torch.randn(64, 64, 4)
with torch.no_grad():
    cell.weight_hh.copy_(0.95 * torch.linalg.qr(torch.randn(32, 32)).Q)  # a cell that remembers


def truncated(window):
    """Return the gradient of a loss summed over 64 steps, cut every `window` steps."""
    state, total = torch.zeros(64, 32), [torch.zeros_like(parameter) for parameter in cell.parameters()]
    for inputs in sequence.split(window):
        state, losses = state.detach(), []
        for x in inputs:
            state = cell(x, state)
            losses.append(state.square().mean())
        gradients = torch.autograd.grad(torch.stack(losses).sum(), list(cell.parameters()))
        total = [old + new for old, new in zip(total, gradients)]
    return torch.cat([gradient.flatten() for gradient in total])


windows = (1, 2, 4, 8, 16, 32, 64)
whole = truncated(64)
lost = [float((truncated(window) - whole).norm() / whole.norm()) for window in windows[:-1]]
memory = measure_growth(windows, inputs=lambda window: (window,), rounds=3, truncated=truncated)
Drawing(
    Curves({"truncated": (windows[:-1], lost)}, "window", "relative error", "The gradient that is lost", log=False),
    Curves(
        {"truncated": (windows, memory.curve("truncated", "peak_bytes"))},
        "window",
        "bytes",
        "The memory it takes",
        log=False,
    ),
)

# %%
peak = dict(zip(windows, memory.curve("truncated", "peak_bytes")))
claim(
    "a window of 64 steps takes more than 4 times the memory of one of 4",
    peak[64] > 4 * peak[4],
    figures={f"window {window}": format_bytes(peak[window]) for window in (4, 64)},
)
claim(
    "cut at every step the gradient is off by more than 10 %; a window of 32 comes closer",
    lost[0] > 0.1 > lost[-1],
    figures={f"error, window {window}": error for window, error in zip(windows, lost) if window in (1, 8, 32)},
)

# %% [markdown]
# That is the honest choice: a window, with a known price. `retain_graph=True` on a carried state is the longest window
# there is, at a price that nobody has set.
#
# ## In short
#
# | You want | Write |
# |---|---|
# | one gradient of several losses | the sum of the losses, or `torch.autograd.backward([a, b])` |
# | the gradients of several losses apart | `torch.autograd.grad(loss, params, retain_graph=True)`, the last without |
# | to go on from a state | `state.detach()`, where the window ends |
# | to differentiate a gradient | `torch.autograd.grad(…, create_graph=True)`, or `torch.func` |
# | a Jacobian, a Hessian, gradients per sample | `torch.func`: `jacrev`, `jacfwd`, `hessian`, `vmap(grad(f))` |
#
# ## Katas

# %% kata="loss_gradient_norms"

# %% kata="gradient_penalty"

# %% kata="hvp_reverse"

# %% kata="hvp_forward"

# %% kata="maml_loss"

# %% kata="truncated_bptt"

# %% kata="sample_jacobians"

# %% [markdown]
# ## In the wild
#
# - The advice travels: Eurus-Holmes/MNMT#7 in one line, "Just replace `loss.backward()` with
#   `loss.backward(retain_graph=True)`". OpenNMT/OpenNMT-py#403 says of it: "tempting (since it's suggested)".
# - In jlamprou/Infini-Attention#3 somebody doubts it, since the memory it takes contradicts the point of the model. The
#   answer was to detach the carried memory.
# - The run that slows down: TorchSim/torch-sim#564 (May 2026) proposes to detach the state after every step of a
#   molecular dynamics run. pytorch/pytorch#2198 is the same with an LSTM, in 2017. The language model in
#   pytorch/examples has had a function for it all along, `repackage_hidden`.
# - The gradient penalty: the norm over dimension 1 only, on images, stood in two widely copied PyTorch versions
#   (caogang/wgan-gp#25, eriklindernoren/PyTorch-GAN#20). In tamarott/SinGAN#59 it is meant: one slope per patch. Your
#   kata asks for one per sample.
# - The cycle: pytorch/pytorch#4661 asked for the warning that you have read, pytorch/pytorch#7343 explains the circle.
#   amirgholami/PyHessian#25 is a user who meets it in a library.
#
# ## What to read next
#
# - *Autograd mechanics* in PyTorch's documentation, the part on saved tensors, now that you have watched them go.
# - *torch.func: Jacobians, Hessians, hvp, vhp, and more* in PyTorch's tutorials, for the whole family of transforms.
# - Lesson 2.1 draws the graph that you have only counted here; lesson 2.3 writes a `backward` that survives being
#   differentiated.

# %%
summary()
