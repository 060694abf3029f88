# %% [markdown]
# # 7.2 Six trainings, and a rule of your own
#
# Six trainings that run to the end and are ruined, each by one failure of another kind: data, model, loss, optimizer,
# precision, checkpoint. For each, in this order: you read it and say what is wrong. You measure, with a listener of a
# few lines that sees it. You repair it, and measure again. Only then the doctor speaks, and you compare lines.
#
# The six listeners are all that a tool such as the doctor is made of. At the end you write a rule, and it is judged as
# ours are: on trainings that it has not seen, where a false alarm counts as much as a miss.

# %%
import contextlib
import copy
import math
from collections.abc import Callable  # for a kata
from typing import Any  # for a kata

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, WeightedRandomSampler

from blackbelt import begin, check, claim, doctor, error_of, predict, summary
from blackbelt.doctor import Rule, Severity, all_rules
from blackbelt.report import Curves, Drawing, Table

begin("silent_failures/rules")
torch.set_num_threads(1)  # the tensors here are small: several threads would mostly wait for each other


def diagnosis(training, *arguments, rules=None):
    """Run a training while the doctor watches; return what it has to say."""
    with doctor.watch(rules) as observation:
        training(*arguments)
    return observation.report


# %% [markdown]
# Some places PyTorch offers for listening: hooks, modes. For the others you replace a function for a while. That is
# patching, and there is one rule to it: call the original, hand on what it returned, and put it back, come what may.


# %%
@contextlib.contextmanager
def patched(owner, name, make):
    """Replace ``owner.name`` by ``make(original)``."""
    original = getattr(owner, name)
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


# %% [markdown]
# ## 1 Data: one of two machines
#
# Two processes share a data set: `DistributedSampler` shuffles it and gives each its part. This is the process of
# rank 0, over six epochs.

# %%
torch.manual_seed(0)
inputs = torch.randn(96, 6)
points = TensorDataset(inputs, (inputs.sum(1) > 0).long())


def rank_0(prepare=lambda sampler, epoch: None):
    torch.manual_seed(1)
    model = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sampler = DistributedSampler(points, num_replicas=2, rank=0, shuffle=True)
    loader = DataLoader(points, batch_size=8, sampler=sampler)
    losses = []
    for epoch in range(6):
        prepare(sampler, epoch)
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


seen_by_rank_0 = predict(
    "96 samples, two ranks, six epochs with `shuffle=True`. How many different samples does rank 0 see?",
    {
        "A": "96, nearly surely: it is shuffled anew in every epoch, so its half changes",
        "B": "48",
        "C": "96, by design: the sampler makes sure that every rank has seen everything in the end",
    },
)

# %% [markdown]
# *The listener.* Every pass over a loader asks its sampler for an iterator. Replace `__iter__`, keep what it yields.


# %%
def orders_of(training, *arguments):
    """Return the indices that each pass over a `DistributedSampler` yielded."""
    passes = []

    def make(original):
        def listen(sampler):
            passes.append(list(original(sampler)))
            return iter(passes[-1])

        return listen

    with patched(DistributedSampler, "__iter__", make):
        training(*arguments)
    return passes


orders = orders_of(rank_0)
different = len({index for order in orders for index in order})
seen_by_rank_0.settle(
    "B" if different == 48 else "A",
    because={
        "A": "The sampler seeds its generator with `seed + epoch`, and nobody has told it the epoch: it is always 0.",
        "C": "It deals out one permutation, a part to every rank. Another permutation needs another epoch.",
    },
)
claim(
    "six passes, one order: rank 0 has seen the same half of the data six times, the other half never",
    len(orders) == 6 and all(order == orders[0] for order in orders) and different == 48,
    figures={"passes": len(orders), "different orders": len(set(map(tuple, orders))), "different samples": different},
)


# %%
def tell_the_epoch(sampler, epoch):
    sampler.set_epoch(epoch)


repaired = orders_of(rank_0, tell_the_epoch)
claim(
    "with `set_epoch` there are six orders, and nearly all of the 96 have been seen: a share of 1 − (1/2)⁶ is expected",
    len(set(map(tuple, repaired))) == 6 and len({index for order in repaired for index in order}) > 88,
    figures={"different samples": len({index for order in repaired for index in order}), "expected": 96 * (1 - 0.5**6)},
)
first = diagnosis(rank_0)
Drawing(*first.blocks())

# %% [markdown]
# The doctor has heard the indices as you have. It names the `for`, because that is where the second pass begins and
# the epoch would have to be known. (A report by itself, `first`, shows curves of the training as well.)
#
# ## 2 Model: three blocks

# %%
x_flat = torch.randn(64, 8, generator=torch.Generator().manual_seed(2))
y_flat = (x_flat[:, 0] * x_flat[:, 1] > 0).long()


class Residual(nn.Module):
    def __init__(self, keep):
        super().__init__()
        self.blocks = keep([nn.Linear(8, 8) for _ in range(3)])
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x).tanh()
        return self.head(x)


def residual(keep=list):
    torch.manual_seed(3)
    model = Residual(keep)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = F.cross_entropy(model(x_flat), y_flat)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer, loss


who_learns = predict(
    "`loss.backward()` fills the gradients of …",
    {
        "A": "the head alone: the blocks are no parameters of the model, so autograd does not know them",
        "B": "the head and the blocks; the optimizer steps the head alone",
        "C": "the head and the blocks; the optimizer steps both",
    },
)

# %% [markdown]
# *The listener.* Autograd keeps no list of modules. It keeps a graph, and its leaves are what the loss depends on.


# %%
def leaves_of(loss):
    """Return the parameters at the ends of the graph: what `AccumulateGrad` would write to."""
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions if following is not None]
    return [node.variable for node in seen if hasattr(node, "variable")]


def unheld(model, optimizer, loss):
    """Return the leaves that no group of the optimizer holds, and how many there are in all."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    leaves = leaves_of(loss)
    return [leaf for leaf in leaves if id(leaf) not in held], len(leaves)


missing, number_of_leaves = unheld(*residual())
who_learns.settle(
    "B" if missing and all(leaf.grad is not None for leaf in missing) else "A" if missing else "C",
    because={
        "A": "Autograd follows operations, not modules. Whatever was computed with has a gradient.",
        "B": "",
        "C": "`model.parameters()` looks into modules, and a list is none: the optimizer was never given the blocks.",
    },
)
claim(
    "the loss depends on eight tensors; six of them have a gradient, and no optimizer to use it",
    number_of_leaves == 8 and len(missing) == 6 and all(leaf.grad is not None for leaf in missing),
    figures={"leaves": number_of_leaves, "in no optimizer": len(missing)},
)
before, after = residual()[2].item(), residual(nn.ModuleList)[2].item()
claim(
    "in an `nn.ModuleList` all are held, and the loss after the same 60 steps is less than half",
    not unheld(*residual(nn.ModuleList))[0] and after < before / 2,
    figures={"list": before, "nn.ModuleList": after},
)
second = diagnosis(residual)
Drawing(*second.blocks())

# %% [markdown]
# Who tells the doctor of the loss? It replaces `backward`, which everybody calls, and walks the graph as you did, the
# first twenty times.
#
# ## 3 Loss: one number per sample

# %%
x_line = torch.randn(64, 3, generator=torch.Generator().manual_seed(4))
y_line = x_line @ torch.tensor([1.0, -2.0, 0.5])


def squared_error(prediction, target):
    return ((prediction - target) ** 2).mean()


def regression(loss_of=squared_error):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    losses = []
    for _ in range(60):
        loss = loss_of(model(x_line), y_line)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


floor = predict(
    "The targets are a linear function of the inputs. What does the loss end at?",
    {
        "A": "near 0: the network is large enough",
        "B": "near the variance of the targets: it learns their mean, and nothing else",
        "C": "it grows: the gradients are wrong",
    },
)

# %% [markdown]
# *The listener.* A `TorchFunctionMode` is asked about every function of PyTorch, with arguments and result. An
# arithmetic operation whose result is larger than either operand has stretched both.


# %%
class Stretching(TorchFunctionMode):
    """Note the operations whose result has more elements than either of their tensors."""

    def __init__(self):
        super().__init__()
        self.found, self.number_heard = [], 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.number_heard += 1
        if getattr(func, "__name__", "") in ("sub", "rsub", "add", "mul") and isinstance(result, torch.Tensor):
            shapes = [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]
            if len(shapes) == 2 and all(math.prod(shape) < result.numel() for shape in shapes):
                self.found.append((*shapes, tuple(result.shape)))
        return result


with Stretching() as stretching:
    losses_broadcast = regression()
variance = y_line.var(unbiased=False).item()
floor.settle(
    "A" if losses_broadcast[-1] < 0.1 * variance else "B" if losses_broadcast[-1] < 1.1 * variance else "C",
    because={
        "A": "It would be, for 64 differences. Here are 64 × 64: every prediction with every target.",
        "B": "",
        "C": "They are exact: gradients of another loss, the mean over all pairs, which has its minimum at the mean.",
    },
)
claim(
    "(64, 1) − (64,) is (64, 64), in every one of the 60 steps",
    set(stretching.found) == {((64, 1), (64,), (64, 64))} and len(stretching.found) == 60,
)


# %%
def of_each_sample(prediction, target):
    return ((prediction.squeeze(1) - target) ** 2).mean()


with Stretching() as nothing:
    losses_paired = regression(of_each_sample)
claim(
    "pair by pair nothing is stretched, and the loss ends below a tenth of the variance, which the other cannot leave",
    not nothing.found and losses_paired[-1] < 0.1 * variance and losses_broadcast[-1] > 0.9 * variance,
    figures={"variance of the targets": variance, "all pairs": losses_broadcast[-1], "each": losses_paired[-1]},
)
Drawing(
    Curves(
        {
            "(64, 1) with (64,)": (range(1, 61), losses_broadcast),
            "(64,) with (64,)": (range(1, 61), losses_paired),
        },
        "step",
        "loss",
        "The same model and data",
        log=False,
        limit=("variance of the targets", variance),
    )
)

# %%
third = diagnosis(regression)
Drawing(*third.blocks())

# %% [markdown]
# ## 4 Optimizer: a batch in four parts


# %%
def in_parts(model, optimizer, x, y):
    for part, target in zip(x.split(16), y.split(16)):
        optimizer.zero_grad()
        loss = of_each_sample(model(part), target) / 4
        loss.backward()
    optimizer.step()


def accumulation(step=in_parts):
    torch.manual_seed(6)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        step(model, optimizer, x_line, y_line)
    return model.weight.detach().clone()


used = predict(
    "Four calls of `backward` before each step. The gradient that the step uses is that of …",
    {
        "A": "all 64 samples: `backward` adds to what is there",
        "B": "the last 16 samples, at a quarter of the learning rate",
        "C": "the first 16 samples: later ones do not fit in",
    },
)

# %% [markdown]
# *The listener.* A hook on a parameter is called with each gradient that arrives, *before* it is added. Is there
# anything for it to be added to?


# %%
def arrivals_of(training, *arguments):
    """Return, for each gradient that arrives at a weight of an `nn.Linear`, whether it finds another one there."""
    found = []

    def make(original):
        def listen(linear, *args, **kwargs):
            original(linear, *args, **kwargs)
            linear.weight.register_hook(lambda _: found.append(linear.weight.grad is not None))

        return listen

    with patched(nn.Linear, "__init__", make):
        training(*arguments)
    return found


arrivals = arrivals_of(accumulation)
used.settle(
    "B" if not any(arrivals) else "A",
    because={
        "A": "It does. But `zero_grad` stands inside the loop, and clears what the part before has left.",
        "B": "",
        "C": "It is the last that remains; every `zero_grad` throws away what came before.",
    },
)
claim(
    "40 gradients arrive, and not one finds another to be added to: three of four are lost",
    len(arrivals) == 40 and not any(arrivals),
)


# %%
def in_parts_added(model, optimizer, x, y):
    optimizer.zero_grad()
    for part, target in zip(x.split(16), y.split(16)):
        loss = of_each_sample(model(part), target) / 4
        loss.backward()
    optimizer.step()


def at_once(model, optimizer, x, y):
    optimizer.zero_grad()
    of_each_sample(model(x), y).backward()
    optimizer.step()


claim(
    "cleared before the loop, one gradient in four finds nothing, and ten steps end where steps of the whole batch do",
    arrivals_of(accumulation, in_parts_added) == [False, True, True, True] * 10
    and torch.allclose(accumulation(in_parts_added), accumulation(at_once), atol=1e-5)
    and not torch.allclose(accumulation(), accumulation(at_once), atol=1e-2),
    figures={
        "added, off by": float((accumulation(in_parts_added) - accumulation(at_once)).abs().max()),
        "cleared, off by": float((accumulation() - accumulation(at_once)).abs().max()),
    },
)
fourth = diagnosis(accumulation)
Drawing(*fourth.blocks())

# %% [markdown]
# ## 5 Precision: bad batches are skipped
#
# Sound is measured in decibels, the logarithm of energy, after the noise floor is subtracted. Somebody has found that
# a batch gave NaN once, and has learned to live with it.

# %%
generator = torch.Generator().manual_seed(7)
kinds = torch.randint(0, 3, (96,), generator=generator)
energies = torch.rand(96, 10, generator=generator) + kinds[:, None] * torch.linspace(0, 0.5, 10) - 0.02


class Decibels(nn.Module):
    def __init__(self, least):
        super().__init__()
        self.least = least

    def forward(self, energy):
        if self.least is not None:
            energy = energy.clamp(min=self.least)
        return 10 * torch.log10(energy)


def sounds(least=None):
    torch.manual_seed(8)
    model = nn.Sequential(Decibels(least), nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    steps = 0
    for _ in range(4):
        for batch in torch.randperm(96).split(16):
            loss = F.cross_entropy(model(energies[batch]), kinds[batch])
            if not torch.isfinite(loss):
                continue
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    return steps


share = (energies <= 0).any(1).float().mean().item()
skipped = predict(
    f"{share:.0%} of the samples have a band whose energy is not positive. Of 24 batches of 16, how many are skipped?",
    {"A": "a few: about that share", "B": "about half", "C": "most"},
)

# %% [markdown]
# *The listener.* One hook for all modules there are: after every `forward`. The first output that is not finite tells
# where it began; whatever comes later only hands it on.


# %%
def first_not_finite(training, *arguments):
    """Return how often each kind of module was the first of its pass to give something that is not finite."""
    firsts, is_broken = {}, []

    def listen(module, inputs, output):
        if isinstance(module, nn.Sequential):  # the outermost: this pass is over
            is_broken.clear()
        elif not is_broken and not bool(output.isfinite().all()):
            is_broken.append(True)
            firsts[type(module).__name__] = firsts.get(type(module).__name__, 0) + 1

    handle = register_module_forward_hook(listen)
    try:
        training(*arguments)
    finally:
        handle.remove()
    return firsts


taken = sounds()
skipped.settle(
    "A" if taken > 18 else "B" if taken > 8 else "C",
    because={
        "A": "One bad sample spoils its batch: the share of good batches is that of good samples to the 16th power.",
        "B": "The share of good batches is that of good samples to the 16th power; little is left of it.",
        "C": "",
    },
)
firsts = first_not_finite(sounds)
claim(
    "every skipped batch began in the logarithm, and nowhere else",
    firsts == {"Decibels": 24 - taken},
    figures={"batches": 24, "trained on": taken, "first not finite in": str(firsts)},
)
claim(
    "with a least energy no batch is skipped, and nothing is infinite",
    sounds(1e-3) == 24 and first_not_finite(sounds, 1e-3) == {},
)
fifth = diagnosis(sounds)
Drawing(*fifth.blocks())

# %% [markdown]
# Reading a value (`bool(…)`) makes the CPU wait for a GPU. A tool that does so in every module of every step is not
# one that you leave on. The doctor does it for some steps, then only where the loss shows that it is needed.
#
# ## 6 Checkpoint: the best weights

# %%
x_few, y_few = x_flat[:24], y_flat[:24]
x_held, y_held = x_flat[24:], y_flat[24:]


def keep(model):
    return model.state_dict()


def early_stopping(keep=keep):
    torch.manual_seed(9)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    best = math.inf
    for _ in range(40):
        loss = F.cross_entropy(model(x_few), y_few)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            held_out = F.cross_entropy(model(x_held), y_held).item()
        if held_out < best:
            best, best_state = held_out, keep(model)
    model.load_state_dict(best_state)
    with torch.no_grad():
        return best, held_out, F.cross_entropy(model(x_held), y_held).item()


restored = predict(
    "After `load_state_dict` the loss on held-out data is …",
    {
        "A": "the best that was seen: these weights were kept",
        "B": "that of the last step, whatever was kept",
        "C": "an error: the state is too old",
    },
)

# %% [markdown]
# *The listener.* Two tensors are one if they live at one address. Replace `state_dict` and `load_state_dict`: does what
# comes in live where what is there lives?


# %%
def loads_itself(training, *arguments):
    """Return, for each load, how many of its tensors lie in the memory that they are to be copied to."""
    counts = []

    def make(original):
        def listen(module, state, *args, **kwargs):
            own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
            counts.append(sum(t.untyped_storage().data_ptr() in own for t in state.values()))
            return original(module, state, *args, **kwargs)

        return listen

    with patched(nn.Module, "load_state_dict", make):
        training(*arguments)
    return counts


best_seen, last, now = early_stopping()
restored.settle(
    "A" if now == best_seen and now != last else "B" if now == last else "C",
    because={
        "A": "`state_dict` returns the tensors themselves, detached, not copied. They were trained on.",
        "B": "",
        "C": "It has no age: keys and shapes are all that is checked.",
    },
)
claim(
    "all four tensors of the kept state are the model's own: the load copies each to itself",
    loads_itself(early_stopping) == [4] and now == last and best_seen < 0.9 * last,
    figures={"best": best_seen, "last": last, "restored": now},
)
best_kept, _, restored_copy = early_stopping(lambda model: copy.deepcopy(model.state_dict()))
claim(
    "a deep copy is restored to the bit, and shares nothing",
    restored_copy == best_kept and loads_itself(early_stopping, lambda model: copy.deepcopy(model.state_dict())) == [0],
)
sixth = diagnosis(early_stopping)
Drawing(*sixth.blocks())

# %% [markdown]
# ## Measure: what the listeners cost
#
# How often does each of them speak in one step of the regression? What is cheap is heard once a step. The doctor keeps
# such listeners for good, and takes the others out after twenty steps.

# %%
heard = {}
with Stretching() as stretching:
    regression(of_each_sample)
heard["function mode"] = stretching.number_heard / 60
counts = {"module hook": 0, "optimizer hook": 0}


def count_module(*_):
    counts["module hook"] += 1


def count_step(*_):
    counts["optimizer hook"] += 1


handles = [register_module_forward_hook(count_module), register_optimizer_step_post_hook(count_step)]
regression(of_each_sample)
for handle in handles:
    handle.remove()
heard |= {name: number / 60 for name, number in counts.items()}
Drawing(Table(("listener", "calls per step"), [(name, f"{number:.1f}") for name, number in heard.items()]))
claim(
    "the optimizer hook speaks once a step, the module hook once a module, the function mode most often",
    heard["optimizer hook"] == 1 and heard["module hook"] == 4 and heard["function mode"] > 10,
    figures=heard,
)

# %% [markdown]
# ## The doctor's six findings

# %%
findings = {
    name: report.findings
    for name, report in zip(
        ("rank_0", "residual", "regression", "accumulation", "sounds", "early_stopping"),
        (first, second, third, fourth, fifth, sixth),
    )
}
Drawing(
    Table(
        ("training", "code", "the line it names"),
        [(name, finding.code, finding.place.code.strip()) for name, found in findings.items() for finding in found],
        title="What the doctor says",
    )
)

# %%
LINES = {
    "rank_0": "for x, y in loader",
    "residual": "self.blocks = keep(",
    "regression": "(prediction - target) ** 2",
    "accumulation": "optimizer.zero_grad()",
    "sounds": "torch.log10(energy)",
    "early_stopping": "model.state_dict()",
}
claim(
    "one finding for each, of six different sections, on the line that you have repaired or that calls for it",
    all(len(found) == 1 and LINES[name] in found[0].place.code for name, found in findings.items())
    and len({found[0].code[2] for found in findings.values()}) == 6,
)
repairs = [
    diagnosis(rank_0, tell_the_epoch),
    diagnosis(residual, nn.ModuleList),
    diagnosis(regression, of_each_sample),
    diagnosis(accumulation, in_parts_added),
    diagnosis(sounds, 1e-3),
    diagnosis(early_stopping, lambda model: copy.deepcopy(model.state_dict())),
]
claim("and nothing to say about the six repaired ones", not any(report.findings for report in repairs))

# %% [markdown]
# ## A rule, from the inside
#
# A rule is a class with a method for every event that it wants to hear, and a method yields findings. This one is not
# among ours: gradients that are clipped to less than a hundredth, step after step. Somebody has meant 1.0 and written
# 0.001, or clips the norm of a sum over thousands of elements.


# %%
class ClippedAway(Rule):
    """Clipping leaves less than a hundredth of every gradient.

    Observed: the norm before clipping is over a hundred times the limit, in ten calls in a row. Not reported: single
    spikes, which is what clipping is for; `max_norm=inf`, which only measures; optimizers that divide the size of the
    gradient out, as Adam does.
    """

    code = "BB490"
    title = "gradients are clipped away"
    severity = Severity.WARNING
    first_steps_only = True  # reading a norm makes the CPU wait for a GPU

    def __init__(self, run):
        super().__init__(run)
        self.times, self.worst, self.place, self.said = 0, 0.0, None, False

    def clipped(self, call):
        small = call.norm is not None and float(call.norm) > 100 * call.limit
        self.times = self.times + 1 if small else 0
        self.worst = float(call.norm) / call.limit if small else 0.0
        self.place = call.place
        return ()

    def step_ends(self, step):
        if self.times < 10 or self.said or type(step.optimizer) is not torch.optim.SGD:
            return
        self.said = True
        yield self.finding(
            f"clipping divides the gradient by {self.worst:.0f}, and has done so ten times in a row",
            self.place,
            fix="nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)",
            evidence={"norm / limit": f"{self.worst:.3g}"},
        )


def clipped_training(limit=0.001, kind=torch.optim.SGD):
    torch.manual_seed(10)
    model = nn.Linear(3, 1)
    optimizer = kind(model.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        of_each_sample(model(x_line), y_line).backward()
        nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()


with_it = [*all_rules().values(), ClippedAway]
reported = diagnosis(clipped_training, rules=with_it)
Drawing(*reported.blocks())

# %%
claim(
    "it is reported at the line that clips, alone and beside all others, who have nothing to say",
    all(
        [(finding.code, finding.place.code) for finding in report.findings]
        == [("BB490", "nn.utils.clip_grad_norm_(model.parameters(), limit)")]
        for report in (reported, diagnosis(clipped_training, rules=[ClippedAway]))
    ),
)
claim(
    "a limit of 1, a limit of infinity and Adam are left alone",
    not any(
        diagnosis(clipped_training, *arguments, rules=with_it).findings
        for arguments in ((1.0,), (math.inf,), (0.001, torch.optim.Adam))
    ),
)

# %% [markdown]
# What makes a rule good, in this order. It has **no false alarm**: whoever is accused wrongly twice switches it off. So
# it waits (ten times in a row), and it knows the trainings in which the same sight is right. It names **the cause's
# line**, not the one where the harm shows. It **changes nothing**: what it has to try out, it tries inside
# `self.run.probe()`. It **keeps no tensor** longer than an event lasts.
#
# ## Trap: a rule that fails
#
# A rule is code in somebody else's training. What if it throws?


# %%
class Careless(Rule):
    """Asks every model for something that not every model has."""

    code = "BB999"
    title = "careless"

    def module_called(self, call):
        return [call.module.head.weight.norm()]  # a list of what is no finding, if it comes so far


direct = error_of(Careless.module_called, None, None)
direct

# %%
with doctor.watch([Careless]) as careless:
    watched_weight = accumulation()
claim(
    "the training goes on and ends where it ends without; the report says which rule failed, and how",
    torch.equal(watched_weight, accumulation())
    and [code for code, _ in careless.report.failures] == ["BB999"]
    and "has no attribute 'head'" in careless.report.failures[0][1],
)

# %% [markdown]
# *'NoneType' object has no attribute 'module'* is what you get when you call it yourself. Within the doctor nothing is
# thrown: the rule is switched off, and the report ends with its traceback. Look at `failures` when a rule of yours
# finds nothing.
#
# ## Katas

# %% kata="unheld_parameters"

# %% kata="first_nonfinite"

# %% kata="aliased_entries"

# %% kata="rule_for_weights"

# %% [markdown]
# ## In the wild
#
# - `blackbelt doctor --rules` lists ours, `--explain BB403` says how one observes, and when it keeps silent. The
#   source of each is a file of some hundred lines.
# - The six listeners are worth having without a doctor: a graph walk in a unit test finds the forgotten layer of your
#   *next* model.
# - When you meet a failure that nobody reports, write the training that has it, its repaired twin, and the most unusual
#   right training that looks alike. Then write the rule. In that order.

# %%
summary()
