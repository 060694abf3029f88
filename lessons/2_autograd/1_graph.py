# %% [markdown]
# # 2.1 The computational graph
#
# A loop over validation batches adds up a loss. It appends nothing to any list, and every step leaves 3 MB behind.
# `gc.collect()` does not help. What holds them?
#
# You will take a graph apart by hand and run backward through it node by node, weigh what each node of a transformer
# block keeps, see in which order and in which thread PyTorch runs it, and read five error messages word by word. You
# take home `draw_graph` and `graph_report`, which show the graph behind any tensor of yours.

# %%
import gc
import threading
import weakref
from collections.abc import Callable, Sequence  # for katas, as the next two
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import Node, get_gradient_edge, save_on_cpu, saved_tensors_hooks

from blackbelt import (
    begin,
    check,
    claim,
    draw_graph,
    error_of,
    graph_report,
    measure,
    measure_dropped,
    predict,
    summary,
)
from blackbelt.report import Curves, Drawing, Table

begin("autograd/graph")

# %% [markdown]
# ## Predict
#
# Here is the loop. Each batch is 512 rows of 256 numbers; the model has one hidden layer of 1024.

# %%
torch.manual_seed(0)


def autoencoder():
    return nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256))


def batches(num_steps):
    for _ in range(num_steps):
        yield torch.randn(512, 256)


def validate(model, data):
    total = 0
    for x in data:
        loss = (model(x) - x).square().mean()
        total += loss
    return total


leak = predict(
    "What holds the memory of all the steps?",
    {
        "A": "nothing: it is garbage, and `gc.collect()` gives it back",
        "B": "the gradients in the parameters: `model.zero_grad()` gives it back",
        "C": "the modules, which keep their last activations: `del model` gives it back",
        "D": "`total`, a single number: `del total` gives it back",
    },
)

# %%
watched = []


def watched_batches(num_steps):
    for x in batches(num_steps):
        watched.append(weakref.ref(x))  # does not keep it alive
        yield x


model = autoencoder()
total = validate(model, watched_batches(8))
alive = {"after the loop": sum(x() is not None for x in watched)}
gc.collect()
alive["A"] = sum(x() is not None for x in watched)
model.zero_grad()
alive["B"] = sum(x() is not None for x in watched)
del model
alive["C"] = sum(x() is not None for x in watched)
del total
alive["D"] = sum(x() is not None for x in watched)
print("batches alive:", alive)
leak.settle(
    next(letter for letter in "ABCD" if alive[letter] == 0),
    because={
        "A": "The collector frees what nobody can reach. All of this can be reached, from a variable of yours.",
        "B": "No backward has run here: there are no gradients.",
        "C": "A module keeps parameters and buffers. It forgets its activations as it returns.",
        "D": "",
    },
)

# %% [markdown]
# One number keeps eight batches alive, and more than those. What it holds is not a list, it is a **graph**: how it was
# computed. Dropping the number drops the graph, so the allocator can tell us what it weighed:

# %%
model = autoencoder()
dropped = {n: measure_dropped(lambda n=n: validate(model, batches(n)), params=model) for n in (1, 2, 4, 8)}
MiB = 2**20
claim(
    "`total` keeps 3 MiB more with every step, exactly",
    all(report.freed_bytes - report.unsaved_bytes == 3 * MiB * n for n, report in dropped.items()),
    figures={f"MiB after {n}": report.freed_bytes / MiB for n, report in dropped.items()},
)
dropped[8]

# %% [markdown]
# ## See: nodes and edges
#
# A smaller graph, to take apart. `w` and `b` require grad, `x` is data.

# %%
w = torch.randn(3, 2, requires_grad=True)
b = torch.zeros(2, requires_grad=True)
x = torch.randn(4, 3)
loss = (x @ w + b).relu().sum()
draw_graph(loss, params={"w": w, "b": b}, inputs={"x": x})

# %% [markdown]
# Every operation on a tensor that requires grad leaves a **node** behind, named after the operation whose gradient it
# computes. `loss.grad_fn` is the last node. Its **edges** are `next_functions`: to whom it sends a gradient.

# %%
node = loss.grad_fn
while node is not None:
    print(f"{node.name():35} → {[following and following.name() for following, _ in node.next_functions]}")
    node = next((following for following, _ in node.next_functions if following is not None), None)

# %% [markdown]
# Three things to see here:
#
# - a *leaf*, a tensor that no operation made, has a node as well: `AccumulateGrad`, which adds what arrives to `.grad`;
# - `x` requires no gradient: its edge is `None`, and nothing is sent there;
# - the edges point *backward*. Your output holds its node, the node holds the nodes it sends to. Nobody in the graph
#   holds your output, and no operation holds the graph: it lives as long as somebody has its end in hand.

# %%
matmul = loss.grad_fn.next_functions[0][0].next_functions[0][0].next_functions[0][0]
to_x, to_w = (following for following, _ in matmul.next_functions)
claim("the edge to data that requires no gradient leads nowhere", to_x is None)
claim("the node of a leaf knows the leaf itself, not a copy", to_w.variable is w)

# %% [markdown]
# A node is a function. Hand it the gradient of its result and it returns the gradients of its inputs. So you can run
# backward yourself, with nothing but nodes:

# %%
summed = loss.grad_fn
activated = summed.next_functions[0][0]
added = activated.next_functions[0][0]
from_above = activated(summed(torch.ones(())))
for_product, for_b = added(from_above)
_, for_w = matmul(for_product)
loss.backward()
claim(
    "called by hand, one after the other, the nodes give what `backward()` gives",
    torch.equal(for_w, w.grad) and torch.equal(for_b.sum(0), b.grad),
)

# %% [markdown]
# (`b` was broadcast over four rows; summing over them is done on the way, see lesson 1.1.)
#
# Nobody declared this graph. It is a trace of what ran, so an `if` or a loop is in it only as what it did:


# %%
def steps(x):
    while x.norm() < 10:
        x = x * 2
    return x.sum()


small, large = (torch.full((3,), size, requires_grad=True) for size in (0.1, 5.0))
counts = graph_report(steps(small)).num_nodes, graph_report(steps(large)).num_nodes
print("nodes:", counts)
claim("the same function leaves another graph for other numbers", counts[0] == counts[1] + 5)

# %% [markdown]
# ## See: what a node keeps
#
# A node needs some of the tensors of the forward pass for its formula. Lesson 1.4 showed which; here is what they
# weigh. The nodes hold them, the graph holds the nodes, and `total` holds the graph. That is the 3 MiB of a step:

# %%
step = graph_report(validate(model, batches(1)), params=model)
step

# %%
by_name = {}
for node in step.nodes:
    by_name[node.name] = by_name.get(node.name, 0) + node.saved_bytes
shared = [storage for storage in step.storages if len(storage.nodes) > 1 and storage.state == "kept"]
claim(
    "the result of `relu` is kept by two nodes, in one memory that counts once: 2 MiB",
    [storage.num_bytes for storage in shared] == [2 * MiB] and by_name["ReluBackward0"] == 2 * MiB,
)
claim(
    "batch, hidden layer and difference make 0.5 + 2 + 0.5 MiB",
    step.saved_bytes == 3 * MiB and sum(by_name.values()) > step.saved_bytes,
    figures={"MiB": step.saved_bytes / MiB},
)

# %% [markdown]
# ## Measure: a transformer block
#
# Now a graph as you meet it at work. One block, 8 sequences of 128 tokens, width 128.


# %%
class Block(nn.Module):
    def __init__(self, width=128, heads=4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):  # (B, T, D)
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D / H)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)  # (B, H, T, T)
        x = x + self.proj((weights @ v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


block = Block()
tokens = torch.randn(8, 128, 128)
report = graph_report(block(tokens).sum(), params=block, inputs={"tokens": tokens})
report

# %%
weighed = measure_dropped(lambda: block(tokens).sum(), params=block, inputs={"tokens": tokens})
claim(
    "what the report says and what the allocator gets back when the graph is dropped differ by less than 2 %",
    abs(weighed.ratio - 1) < 0.02,
    figures={"allocator / report": weighed.ratio},
)
saved = [node.saved_bytes for node in report.nodes]
claim(
    "most nodes keep nothing, and the block keeps more for backward than its parameters weigh",
    sum(size > 0 for size in saved) < len(saved) / 3
    and report.saved_bytes > sum(parameter.nbytes for parameter in block.parameters()),
    figures={
        "nodes": report.num_nodes,
        "of them keep something": sum(size > 0 for size in saved),
        "kept, MiB": report.saved_bytes / MiB,
        "parameters, MiB": sum(parameter.nbytes for parameter in block.parameters()) / MiB,
    },
)
weighed

# %% [markdown]
# Two nodes keep the attention weights, of shape (8, 4, 128, 128): the only tensor here that grows with the *square* of
# the number of tokens. How soon does that matter? And what does `scaled_dot_product_attention` keep instead?


# %%
def by_hand(q, k, v):
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v


lengths = (128, 256, 512, 1024)
kept = {"softmax(q @ k.T) @ v": [], "scaled_dot_product_attention": []}
for length in lengths:
    q, k, v = (torch.randn(1, 4, length, 32, requires_grad=True) for _ in range(3))
    for name, attend in zip(kept, (by_hand, F.scaled_dot_product_attention)):
        kept[name].append(graph_report(attend(q, k, v)).saved_bytes)
Drawing(Curves({name: (lengths, sizes) for name, sizes in kept.items()}, "tokens", "bytes kept", "One attention layer"))

# %%
written_out, fused = kept.values()
claim(
    "written out, attention keeps four times as much for twice the tokens; fused, about twice as much",
    all(3.9 < late / early < 4.1 for early, late in pairwise(written_out))
    and all(1.9 < late / early < 2.1 for early, late in pairwise(fused)),
    figures={"at 1024 tokens, MiB": written_out[-1] / MiB, "fused, MiB": fused[-1] / MiB},
)

# %% [markdown]
# The fused kernel keeps its result and one number per row, and computes the weights again in backward. Why that is
# faster as well is the subject of the attention implementations later in the course.
#
# ## See: backward frees
#
# What the nodes keep is freed as backward passes through, node by node. The nodes themselves stay.

# %%
y = torch.randn(1000, requires_grad=True)
loss = y.exp().sin().sum()
before = graph_report(loss)
loss.backward()
after = graph_report(loss)
claim(
    "backward frees all that was kept, and not one node",
    before.saved_bytes > 0 and after.saved_bytes == 0 and after.num_nodes == before.num_nodes,
    figures={"bytes before": before.saved_bytes, "bytes after": after.saved_bytes, "nodes": after.num_nodes},
)
second = error_of(loss.backward)
second

# %% [markdown]
# Word by word:
#
# - *Trying to backward through the graph a second time*: some node was called again.
# - *(or directly access saved tensors after they have already been freed)*: or you read a `_saved_…` attribute.
# - *Saved intermediate values of the graph are freed when you call .backward() or autograd.grad()*: this is the real
#   reason. Not "twice" is forbidden; what the formula needs is gone.
# - *Specify retain_graph=True if …*: keeps them. Lesson 2.2 shows what that costs, and that it is seldom the cure.
#
# If that is the reason, then a graph that keeps nothing can be run as often as you like:

# %%
y = torch.ones(3, requires_grad=True)
loss = (y + y.flip(0)).sum()
loss.backward()
loss.backward()
claim("a graph that keeps no tensor runs backward twice without complaint", y.grad.tolist() == [4.0, 4.0, 4.0])

# %% [markdown]
# ## Predict: who runs backward?
#
# A worker thread of your program calls `loss.backward()` on a CPU graph.

# %%
runner = predict(
    "In which thread do the nodes run?",
    {
        "A": "in the main thread of the program",
        "B": "in the thread that called `backward()`",
        "C": "in a thread of autograd's own",
        "D": "in several threads of autograd's own, independent nodes at the same time",
    },
)

# %%
ran_in = []


class Spy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ran_in.append(threading.get_ident())
        return grad


def backward_in_a_worker(device="cpu"):
    """Return the worker's thread, and the threads in which two independent nodes ran."""
    ran_in.clear()
    y = torch.ones(3, device=device, requires_grad=True)
    loss = (Spy.apply(y) * Spy.apply(y)).sum()
    worker = threading.Thread(target=loss.backward)
    worker.start()
    ident = worker.ident
    worker.join()
    return ident, set(ran_in)


worker, threads = backward_in_a_worker()
letters = {threading.get_ident(): "A", worker: "B"}
letter = "D" if len(threads) > 1 else letters.get(threads.pop(), "C")
runner.settle(
    letter,
    because={
        "A": "Autograd knows no main thread: whoever calls `backward()` on the CPU does the work.",
        "B": "",
        "C": "That is how it is for a GPU: one thread for each device. CPU nodes run in the caller's.",
        "D": "Independent nodes wait for each other in one queue. Kernels use many threads, the engine does not.",
    },
)


def other_thread_on_gpu():
    worker, threads = backward_in_a_worker("cuda")
    return len(threads) == 1 and worker not in threads


claim("on a GPU, a thread of autograd's own runs the nodes", other_thread_on_gpu, needs="cuda")

# %% [markdown]
# That is in `torch/csrc/autograd/engine.cpp`: `Engine::execute` runs CPU nodes in the calling thread, and
# `start_device_threads` starts one thread for each device. So a breakpoint or a profiler in your own thread sees CPU
# nodes, and does not see GPU nodes.
#
# ## See: in which order?
#
# A node may run when every node that sends to it has run. The engine counts first, edge by edge
# (`compute_dependencies`), then runs what is ready. Often several nodes are. Here, after the addition, both are:

# %%
y = torch.randn(3, requires_grad=True)
loss = (y.exp() + y.sin()).sum()
order = []
waiting, found = [loss.grad_fn], set()
while waiting:
    node = waiting.pop()
    if node is not None and node not in found:
        found.add(node)
        node.register_prehook(lambda grads, node=node: order.append(node))
        waiting += [following for following, _ in node.next_functions]
loss.backward()
Drawing(
    Table(
        ("", "node", "sequence number"),
        [(place, node.name(), node._sequence_nr()) for place, node in enumerate(order, 1)],
        title="As the engine ran them",
    )
)

# %%
numbers = [node._sequence_nr() for node in order]
claim(
    "of two ready nodes the one recorded later runs first",
    numbers[:-1] == sorted(numbers[:-1], reverse=True) and order[2].name() == "SinBackward0",
)
claim("`AccumulateGrad` has the highest number there is", numbers[-1] == 2**64 - 1)

# %% [markdown]
# The number is a priority (`CompareNodeTaskTime` in `engine.h`): later recorded, sooner run, so that memory is freed
# in the reverse of the order in which it was taken; and a gradient that is complete goes into `.grad` at once.
# Data-parallel training lives on that: the last layer's gradients travel while the first layers still compute.
#
# It is *not* what makes the order right. Every thread counts for itself:

# %%
y = torch.randn(3, requires_grad=True)
recorded = []
first = y.exp()
thread = threading.Thread(target=lambda: recorded.append(first.sin()))
thread.start()
thread.join()
sender, receiver = recorded[0].grad_fn, first.grad_fn
claim(
    "a node recorded in a new thread may have a lower number than the node it sends to",
    sender.next_functions[0][0] is receiver and sender._sequence_nr() < receiver._sequence_nr(),
    figures={"sender": sender._sequence_nr(), "receiver": receiver._sequence_nr()},
)

# %% [markdown]
# ## See: `torch.autograd.graph`
#
# The graph has a public door. An edge can stand for a tensor that you no longer hold, so `autograd.grad` can give you
# the gradient of an intermediate result, without `retain_grad()` and without keeping its memory:

# %%
y = torch.randn(1000, requires_grad=True)
hidden = y.exp()
edge = get_gradient_edge(hidden)
loss = (hidden * 2).sum()
del hidden
(at_edge,) = torch.autograd.grad(loss, edge)
claim(
    "the gradient of a tensor that is gone, through its edge",
    isinstance(edge.node, Node) and torch.equal(at_edge, torch.full((1000,), 2.0)),
)

# %% [markdown]
# And `saved_tensors_hooks` lets you decide how things are kept. `pack` gets each tensor as it is saved, and what it
# returns is kept instead; `unpack` must give the tensor back. Half the memory, by keeping activations in bfloat16:


# %%
def pack(tensor):
    small = tensor.is_floating_point() and not tensor.is_leaf
    return (tensor.detach().to(torch.bfloat16), tensor.dtype) if small else (tensor.detach(), tensor.dtype)


def unpack(packed):
    tensor, dtype = packed
    return tensor.to(dtype)


def forward_packed(data):
    with saved_tensors_hooks(pack, unpack):
        return block(data).sum()


plain = measure_dropped(lambda: block(tokens).sum(), params=block, inputs={"tokens": tokens})
packed = measure_dropped(lambda: forward_packed(tokens), params=block, inputs={"tokens": tokens})
exact = torch.autograd.grad(block(tokens).sum(), list(block.parameters()))
rounded = torch.autograd.grad(forward_packed(tokens), list(block.parameters()))
error = max(float((r - e).norm() / e.norm()) for r, e in zip(rounded, exact) if e.norm() > 1e-3)
claim(
    "kept in bfloat16, the graph weighs less than 70 %, and no gradient is off by more than 5 %",
    packed.freed_bytes < 0.7 * plain.freed_bytes and error < 0.05,
    figures={"bytes": packed.freed_bytes / plain.freed_bytes, "largest relative error": error},
)


# %% [markdown]
# `save_on_cpu` is the same two hooks with `.cpu()` and `.to(device)`; a kata takes it to the disk. One thing can go
# wrong, and it is this lesson's question once more. `pack` gets a tensor that knows its `grad_fn`. Return that very
# tensor, and where it is the node's own *result*, the node holds the tensor that holds the node:


# %%
def survives(pack):
    """Whether a tensor is still alive after its last reference and a garbage collection."""
    with saved_tensors_hooks(pack, lambda packed: packed):
        result = torch.randn(3, requires_grad=True).exp()  # `exp` saves its result
    watch = weakref.ref(result)
    del result
    gc.collect()
    return watch() is not None


claim(
    "a `pack` that returns its tensor makes a cycle that not even the collector frees; `detach()` prevents it",
    survives(lambda tensor: tensor) and not survives(lambda tensor: tensor.detach()),
)


def gpu_bytes_held(context):
    model, data = Block().cuda(), torch.randn(8, 128, 128, device="cuda")
    model(data)  # cuBLAS takes its workspace now, and not while we count
    before = torch.cuda.memory_allocated()
    with context:
        loss = model(data).sum()
    return torch.cuda.memory_allocated() - before - loss.nbytes


claim(
    "under `save_on_cpu` the graph of the block keeps less than a tenth on the GPU",
    lambda: gpu_bytes_held(save_on_cpu()) < 0.1 * gpu_bytes_held(torch.enable_grad()),
    needs="cuda",
)

# %% [markdown]
# ## See: not recording
#
# Four ways to compute `h = model(x)` and be left with less. They are not the same.

# %%
data = torch.randn(512, 256)


def describe(h):
    graph = graph_report(h, params=model) if h.requires_grad else None
    try:
        version = str(h._version)
    except RuntimeError:
        version = "none"
    return (graph.num_nodes if graph else 0, (graph.saved_bytes if graph else 0) / MiB, h.is_inference(), version)


kinds = {"recorded": describe(model(data)), "detach()": describe(model(data).detach())}
with torch.no_grad():
    kinds["no_grad"] = describe(model(data))
with torch.inference_mode():
    kinds["inference_mode"] = describe(model(data))
Drawing(
    Table(
        ("", "nodes", "MiB kept", "inference tensor", "version"),
        [(name, *facts) for name, facts in kinds.items()],
        title="What is left with h",
    )
)

# %%
claim(
    "`detach`, `no_grad` and `inference_mode` leave no node; `inference_mode` alone leaves no version counter either",
    all(kinds[name][0] == 0 for name in ("detach()", "no_grad", "inference_mode"))
    and [name for name, facts in kinds.items() if facts[3] == "none"] == ["inference_mode"],
)
deep = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(256, 256), nn.ReLU())])
peaks = measure(
    detach=lambda x: deep(x).detach(),
    no_grad=torch.no_grad()(deep),
    inputs=lambda: (data,),
    rounds=1,
    warmup=0,
)
claim(
    "with `detach()` the graph is made first and thrown away: at its peak, eight layers take over four times as much",
    peaks["detach"].peak_bytes > 4 * peaks["no_grad"].peak_bytes,
    figures={timing.name + ", MiB": timing.peak_bytes / MiB for timing in peaks.timings},
)

# %% [markdown]
# No counter and no views to track: `inference_mode` does the least. It also makes its tensors useless for one purpose.

# %%
features = predict(
    "`f` is computed in `inference_mode`. Outside, you train a head on it: `loss = (f * w).sum(); loss.backward()`.",
    {
        "A": "It works: `f` is data, and data needs no gradient.",
        "B": "It fails where `f * w` is computed.",
        "C": "It fails in `backward()`.",
        "D": "It runs, and `w.grad` stays None.",
    },
)

# %%
with torch.inference_mode():
    f = torch.ones(3) * 2
w = torch.ones(3, requires_grad=True)
letter = "A"
try:
    loss = (f * w).sum()
except RuntimeError:
    letter = "B"
if letter == "A":
    try:
        loss.backward()
        letter = "A" if w.grad is not None else "D"
    except RuntimeError:
        letter = "C"
features.settle(
    letter,
    because={
        "A": "`f` needs no gradient, and the gradient of `w` needs `f`: it must be kept, and it cannot be watched.",
        "B": "",
        "C": "By then `f` would have to be kept already. The node refuses to keep it in the first place.",
        "D": "That would be silent. Autograd sees at the multiplication that it would have to keep `f`.",
    },
)
inference = error_of(lambda: f * w)
inference

# %% [markdown]
# - *Inference tensors*: made in `inference_mode`. *cannot be saved for backward*: they have no version counter, so
#   nobody could tell whether they were changed before backward (lesson 1.4).
# - *Please do not use Tensors created in inference mode in computation tracked by autograd.*
# - *To work around this, you can make a clone to get a normal tensor*: outside the mode. `f.clone() * w` works, and
#   features for training are better computed under `no_grad` at once.
#
# ## Three errors about the ends of a graph
#
# The first one: there is no graph.

# %%
no_graph = error_of(lambda: torch.ones(3).sum().backward())
no_graph

# %% [markdown]
# - *element 0 of tensors*: the first of the tensors that you asked backward from. Here the only one.
# - *does not require grad and does not have a grad_fn*: nothing was recorded. Look for `no_grad`, `detach()`,
#   `.item()`, `argmax`, a freeze of every parameter, or a new `torch.tensor(…)` built from numbers.

# %%
not_scalar = error_of(lambda: w.exp().backward())
not_scalar

# %% [markdown]
# - *grad can be implicitly created only for scalar outputs*: backward starts with "the gradient of the output with
#   respect to itself". For one number that is 1, and PyTorch fills it in. For three numbers there is no such choice:
#   say `sum()` or `mean()`, or pass `gradient=`.

# %%
other = torch.ones(3, requires_grad=True)
unused = error_of(lambda: torch.autograd.grad(w.exp().sum(), [w, other]))
unused

# %% [markdown]
# - *appears to not have been used in the graph*: no path leads from the output to that leaf's node. Older versions
#   say "one of the differentiated Tensors" and leave you to find out which.
# - *Set allow_unused=True if this is the desired behavior*: then you get None for it. `backward()` does not complain at
#   all, it leaves `.grad` alone. A kata lists such parameters by name.

# %%
allowed = torch.autograd.grad(w.exp().sum(), [w, other], allow_unused=True)
claim(
    "in the PyTorch that runs here, the five messages still say what is explained here",
    "a second time" in second.message
    and "cannot be saved for backward" in inference.message
    and "does not require grad and does not have a grad_fn" in no_graph.message
    and "only for scalar outputs" in not_scalar.message
    and "appears to not have been used in the graph" in unused.message,
)
claim("with `allow_unused=True` the unused one gets None", allowed[0] is not None and allowed[1] is None)

# %% [markdown]
# ## Trap: `total += loss`
#
# "Never add up losses without `.item()`", the rule goes. You can now say what it really costs, and it depends. Five
# loops, eight steps each:


# %%
def run(num_steps, train, log):
    """Run steps and return what the running total keeps after each: MiB, and nodes."""
    torch.manual_seed(0)
    model = autoencoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    total, kept, nodes = 0, [], []
    for x in batches(num_steps):
        outputs = model(x)
        loss = (outputs - x).square().mean()
        if train:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        total = total + log(loss, outputs)
        graph = graph_report(total, params=model) if isinstance(total, torch.Tensor) and total.requires_grad else None
        kept.append(graph.saved_bytes / MiB if graph else 0.0)
        nodes.append(graph.num_nodes if graph else 0)
    return kept, nodes


loops = {
    "validation, total += loss": run(8, train=False, log=lambda loss, outputs: loss),
    "training, total += outputs.abs().mean()": run(8, train=True, log=lambda loss, outputs: outputs.abs().mean()),
    "training, total += loss": run(8, train=True, log=lambda loss, outputs: loss),
    "training, total += loss.detach()": run(8, train=True, log=lambda loss, outputs: loss.detach()),
    "training, total += loss.item()": run(8, train=True, log=lambda loss, outputs: loss.item()),
}
Drawing(
    Curves(
        {name: (range(1, 9), kept) for name, (kept, _) in loops.items()},
        "step",
        "MiB kept by total",
        "What one number holds",
        log=False,
    ),
    Table(
        ("", "MiB per step", "nodes per step"),
        [(name, kept[-1] - kept[-2], nodes[-1] - nodes[-2]) for name, (kept, nodes) in loops.items()],
    ),
)

# %%
growth = {name: (kept[-1] - kept[-2], nodes[-1] - nodes[-2]) for name, (kept, nodes) in loops.items()}
claim(
    "without backward, `total += loss` keeps 3 MiB a step",
    growth["validation, total += loss"][0] == 3,
)
claim(
    "after `loss.backward()` the same line keeps no tensor, only the nodes: they still grow with every step",
    growth["training, total += loss"][0] == 0 and growth["training, total += loss"][1] > 0,
    figures={"nodes per step": growth["training, total += loss"][1]},
)
claim(
    "another number of the same outputs, one that nobody runs backward on, keeps tensors in training too",
    growth["training, total += outputs.abs().mean()"][0] == 0.5,
)
claim(
    "`detach()` and `item()` keep nothing",
    all(growth[f"training, total += loss.{cure}"] == (0, 0) for cure in ("detach()", "item()")),
)

# %% [markdown]
# So: the loss of a training step leaks *nodes*; they are small, and a long run notices. A **metric** leaks tensors, and
# validation without `no_grad` leaks whole forward passes. None of the three says a word before the memory is full.
#
# Of the two cures, prefer `detach()`: `item()` makes the CPU wait for the GPU in every step. Take numbers out once, at
# the end. And to find the leak in code of your own, ask what a suspect holds:

# %%
suspect = validate(model, batches(3))
found = graph_report(suspect, params=model)
print(f"requires_grad: {suspect.requires_grad}, {found.num_nodes} nodes, {found.saved_bytes / MiB:g} MiB")
with torch.no_grad():
    cured = validate(model, batches(3))
claim(
    "`requires_grad` gives the leak away; under `no_grad` the loop from the beginning keeps nothing",
    suspect.requires_grad and found.saved_bytes == 9 * MiB and not cured.requires_grad,
)

# %% [markdown]
# ## Katas

# %% kata="count_nodes"

# %% kata="topological_order"

# %% kata="saved_bytes"

# %% kata="unused_parameters"

# %% kata="train_and_log"

# %% kata="saved_on_disk"

# %% kata="differentiate"

# %% [markdown]
# ## In the wild
#
# - The line stands in people's examples: Google's brax had it in its PyTorch training notebook (google/brax#152), Ray
#   in its fine-tuning template (ray-project/ray#40940, `loss_sum += loss`), an implementation of YOLO lost "1–2 MB of
#   CPU memory per batch" (MultimediaTechLab/YOLO#83).
# - Metrics are the worse case. Lightning's metric states once kept the graph (Lightning-AI/pytorch-lightning#4313),
#   and users of torchmetrics still meet it (Lightning-AI/torchmetrics#2597).
# - The cycle of the hooks was found as `lambda x: x` in pytorch/pytorch#115255; pytorch/pytorch#189025 explains why not
#   even the garbage collector sees it.
#
# ## What to read next
#
# - "How autograd encodes the history" and "Multithreaded autograd" in PyTorch's *Autograd mechanics* note.
# - `torch/csrc/autograd/engine.cpp`, `Engine::compute_dependencies` and `Engine::evaluate_function`: you have written
#   the first as a kata.
# - micrograd, the engine of one screen; yours now works on tensors.
# - Lesson 2.2 keeps the graph on purpose and counts what that costs; 2.3 writes nodes of your own.

# %%
summary()
