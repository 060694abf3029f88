# %% [markdown]
# # 7.1 The method
#
# The training runs. Nothing is thrown, the loss is a number, and it even falls. The model learns nothing, or half of
# what it could. Where do you look first?
#
# Experienced people look in an order: the cheap checks that exclude most come first. You will take eight steps in that
# order, each on a real training that is broken at exactly that step, and know for each what a healthy run shows, and
# why. Then every check meets every broken training: that is the only way to learn what a check *cannot* see. At the
# end the doctor examines the same eight trainings.

# %%
import io  # for a kata
import math
import tempfile
from collections.abc import Callable  # for a kata
from pathlib import Path
from typing import Any  # for a kata

import torch
import torch.nn.functional as F
from torch import nn

from blackbelt import begin, check, claim, doctor, error_of, predict, summary
from blackbelt.report import Cell, Curves, Drawing, Grid, Table

begin("silent_failures/method")
torch.set_num_threads(1)  # the tensors here are small: several threads would mostly wait for each other

# %% [markdown]
# ## The data, and a healthy training
#
# Color images of 12 × 12 pixels, as a camera delivers them: bytes, height × width × channels. Each shows a bar, and
# the class is its angle: ten classes, 18° apart. Color, position and noise differ from image to image.

# %%
SIZE, NUM_CLASSES, BATCH = 12, 10, 64


def bars(number, seed):
    """Return images (number, 12, 12, 3) in bytes, and classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % NUM_CLASSES
    labels = labels[torch.randperm(number, generator=generator)]
    angles = (labels * math.pi / NUM_CLASSES).view(-1, 1, 1)
    offsets = 4 * torch.rand(number, 1, 1, generator=generator) - 2
    y, x = torch.meshgrid(torch.arange(SIZE) - 5.5, torch.arange(SIZE) - 5.5, indexing="ij")
    distance = (x * angles.sin() - y * angles.cos() + offsets).abs()
    color = 0.3 + 0.7 * torch.rand(number, 1, 1, 3, generator=generator)
    light = (1.8 - distance).clamp(0, 1).unsqueeze(-1) * color
    noise = 0.2 * torch.rand(number, SIZE, SIZE, 3, generator=generator)
    return ((light + noise).clamp(0, 1) * 255).byte(), labels


train_images, train_labels = bars(640, seed=0)
test_images, test_labels = bars(640, seed=1)


def batch(number):
    start = number * BATCH % len(train_images)
    return train_images[start : start + BATCH], train_labels[start : start + BATCH]


# %% [markdown]
# A training is a class with five small methods, so that a broken one differs in one of them.


# %%
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * 3 * 3, 64)
        self.head = nn.Linear(64, NUM_CLASSES)

    def features(self, x):
        x = F.max_pool2d(self.first(x).relu(), 2)
        return F.max_pool2d(self.second(x).relu(), 2).flatten(1)

    def forward(self, x):
        return self.head(self.hidden(self.features(x)).relu())


class Training:
    """Healthy. The broken ones below derive from it."""

    num_forwards = 0  # of all trainings: what a check costs
    restores = ("model", "optimizer")

    def __init__(self):
        torch.manual_seed(0)
        self.model = self.make_model()
        self.optimizer = self.make_optimizer()

    def make_model(self):
        return Net()

    def make_optimizer(self):
        return torch.optim.Adam(self.model.parameters(), lr=2e-3)

    def inputs(self, images):
        return (images.permute(0, 3, 1, 2).float() - 60) / 70

    def loss(self, outputs, labels):
        return F.cross_entropy(outputs, labels)

    def outputs(self, images):
        Training.num_forwards += 1
        return self.model(self.inputs(images))

    def step(self, images, labels):
        loss = self.loss(self.outputs(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def fit(self, first, last):
        return [self.step(*batch(number)) for number in range(first, last)]

    def accuracy(self):
        self.model.eval()
        with torch.no_grad():
            right = (self.outputs(test_images).argmax(1) == test_labels).float().mean().item()
        self.model.train()
        return right

    def save(self, path, step):
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "step": step, "random": torch.get_rng_state()}, path)

    def resume(self, path, last):
        checkpoint = torch.load(path)
        for name in self.restores:
            getattr(self, name).load_state_dict(checkpoint[name])
        torch.set_rng_state(checkpoint["random"])
        return self.fit(checkpoint["step"], last)


# %% [markdown]
# Eight broken ones. You see each line here; on your own code you will not, so read them and forget them.


# %%
class Scrambled(Training):
    def inputs(self, images):
        return (images.view(len(images), 3, SIZE, SIZE).float() - 60) / 70


class Summed(Training):
    def make_optimizer(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.5)

    def loss(self, outputs, labels):
        return F.cross_entropy(outputs, labels, reduction="sum")


class SoftmaxTwice(Training):
    def make_model(self):
        return nn.Sequential(Net(), nn.Softmax(dim=1))


class Blind(Training):
    def make_model(self):
        model = Net()
        nn.init.constant_(model.hidden.bias, -20.0)
        return model


class CutNet(Net):
    def features(self, x):
        return super().features(x).detach()


class Cut(Training):
    def make_model(self):
        return CutNet()


class Rounded(Training):
    def make_model(self):
        return Net().bfloat16()

    def make_optimizer(self):
        return torch.optim.Adam(self.model.parameters(), lr=1e-5)

    def inputs(self, images):
        return super().inputs(images).bfloat16()


class NoisyNet(Net):
    def forward(self, x):
        return self.head(F.dropout(self.hidden(self.features(x)).relu(), 0.5))


class Noisy(Training):
    def make_model(self):
        return NoisyNet()


class Forgetful(Training):
    restores = ("model",)


BROKEN = (Scrambled, Summed, SoftmaxTwice, Blind, Cut, Rounded, Noisy, Forgetful)


# %% [markdown]
# ## Predict

# %%
falling = predict(
    "Eight broken trainings, 80 steps each. In how many does the loss fall by more than a fifth?",
    {
        "A": "in none: they are broken",
        "B": "in one to three",
        "C": "in four to seven",
        "D": "in all: whatever has parameters can lower its loss",
    },
)

# %%
losses = {kind.__name__: kind().fit(0, 80) for kind in (Training, *BROKEN)}
falls = {name: sum(values[-5:]) / 5 < 0.8 * values[0] for name, values in losses.items() if name != "Training"}
number = sum(falls.values())
falling.settle(
    "A" if number == 0 else "B" if number <= 3 else "C" if number <= 7 else "D",
    because={
        "A": "A falling loss shows that *something* learns: a head on frozen features does, and so does noise.",
        "B": "More than you think. What is left intact makes do with what is broken.",
        "C": "",
        "D": "Three stay where they are, or blow up: the easy ones. Their curve tells you to look.",
    },
)
Drawing(
    Curves(
        {
            name: (range(1, 81), values)
            for name, values in losses.items()
            if name in ("Training", "Cut", "SoftmaxTwice", "Noisy")
        },
        "step",
        "loss",
        "One of these is healthy. Would you have stopped the others?",
        log=False,
    )
)

# %% [markdown]
# The curve is no check. It has no number that it *ought* to show. Each of the following has one.
#
# ## Step 0: look at what the model gets
#
# Not at the files and not at the data set: at the tensor that enters the model, after everything you do to it. First
# the shape.

# %%
images, labels = batch(0)
shapes = {kind.__name__: tuple(kind().inputs(images).shape) for kind in (Training, Scrambled)}
claim(
    "the shapes are equal, and right: a shape says nothing about where the values are",
    shapes["Training"] == shapes["Scrambled"] == (BATCH, 3, SIZE, SIZE),
    figures=shapes,
)


# %%
def picture(kind, title):
    """Draw the red channel of the first image: what is brighter than half."""
    red = kind().inputs(images)[0, 0]
    bright = red > (red.min() + red.max()) / 2
    return Grid([[Cell("", 1 if pixel else None) for pixel in row] for row in bright], title=title)


Drawing(picture(Training, "permute(0, 3, 1, 2): a bar"), picture(Scrambled, "view(N, 3, 12, 12): the same sizes"))

# %% [markdown]
# You see it in a second. In a number: the three color channels of a picture show the same bar, so that they correlate.
# After `view`, "red" holds all colors of the upper third, "green" those of the middle.


# %%
def agreement(kind):
    """Return the correlation of the first two channels over the pixels of a batch; 1 is the same picture."""
    red, green, _ = kind().inputs(images).float().transpose(0, 1).flatten(1)
    return float(torch.corrcoef(torch.stack([red, green]))[0, 1])


claim(
    "channels of the healthy input agree, those of the scrambled one hardly do",
    agreement(Training) > 0.5 and agreement(Scrambled) < 0.3,
    figures={"healthy": agreement(Training), "scrambled": agreement(Scrambled)},
)
early = {name: sum(losses[name][20:40]) / 20 for name in ("Training", "Scrambled")}
claim(
    "the network learns from scrambled pictures too, only more slowly: no later step will tell you",
    losses["Scrambled"][-1] < 0.3 and early["Scrambled"] > 1.2 * early["Training"],
    figures={f"mean loss of steps 20-40, {name}": value for name, value in early.items()},
)

# %% [markdown]
# Sees: anything about the data, whatever it is. Cannot see: anything behind the first layer. Costs: your eyes, no pass.
#
# ## Step 1: the loss at the start
#
# A new classifier knows nothing. Its logits are near 0, every class gets 1/C, and the loss is −ln(1/C) = ln C. If the
# logits have a standard deviation σ, the start is higher: the mean of e to a Gaussian is e to σ²/2, so about
# ln C + σ²/2.


# %%
def initial_loss(kind):
    training = kind()
    with torch.no_grad():
        return training.loss(training.outputs(images), labels).item()


starts = {kind.__name__: initial_loss(kind) for kind in (Training, *BROKEN)}
claim(
    "a healthy start is ln 10, to 5 %",
    abs(starts["Training"] / math.log(10) - 1) < 0.05,
    figures={"ln 10": math.log(10), "loss": starts["Training"]},
)
generator = torch.Generator().manual_seed(0)
random_logits = torch.randn(20_000, 100, generator=generator)
random_targets = torch.randint(100, (20_000,), generator=generator)
by_spread = {sigma: F.cross_entropy(sigma * random_logits, random_targets).item() for sigma in (0.1, 0.5, 1.0)}
claim(
    "logits of spread σ start at ln C + σ²/2, to 2 %",
    all(abs(loss / (math.log(100) + sigma**2 / 2) - 1) < 0.02 for sigma, loss in by_spread.items()),
    figures={f"σ = {sigma}": loss for sigma, loss in by_spread.items()},
)
claim(
    "`Summed` starts at 64 times ln 10, which is the batch size: a sum where a mean was meant",
    abs(starts["Summed"] / math.log(10) / BATCH - 1) < 0.05,
    figures={"loss / ln 10": starts["Summed"] / math.log(10)},
)
claim(
    "the softmax that is one too many does not show here: equal probabilities twice are equal probabilities",
    abs(starts["SoftmaxTwice"] / math.log(10) - 1) < 0.02,
    figures={"loss": starts["SoftmaxTwice"]},
)

# %% [markdown]
# Sees: wrong reductions, a wrong number of classes, a head that is initialized too large. Cannot see: whatever is wrong
# with learning. Costs: one forward.
#
# ## Step 2: overfit one batch
#
# The same 64 samples, again and again. A model with hundreds of parameters per sample must learn them by heart: the
# loss goes to 0. Not "falls". To 0.

# %%
floor = predict(
    "`SoftmaxTwice` hands probabilities to `cross_entropy`. What is the smallest loss it can reach?",
    {
        "A": "0, as any: a probability of 1 for the right class is all it takes",
        "B": "about 1.46",
        "C": "ln 10, where it started: it cannot learn at all",
    },
)


# %%
def one_batch(kind, steps=120):
    training = kind()
    return [training.step(images, labels) for _ in range(steps)]


parameters = sum(p.numel() for p in Net().parameters())
best = F.cross_entropy(torch.eye(NUM_CLASSES), torch.arange(NUM_CLASSES)).item()  # certain, and right
floor.settle(
    "A" if best < 0.01 else "B" if abs(best - 1.46) < 0.01 else "C",
    because={
        "A": "The loss takes the softmax again. Logits of 1 and nine times 0 give e / (e + 9) = 0.23, no more.",
        "B": "",
        "C": "It learns, and the accuracy rises. It is the distance to certainty that it cannot close.",
    },
)
memorized = {kind.__name__: one_batch(kind) for kind in (Training, SoftmaxTwice, Blind)}
Drawing(
    Curves(
        {name: (range(1, 121), values) for name, values in memorized.items()},
        "step on one batch",
        "loss",
        "Learned by heart, and not",
        log=False,
        limit=("ln(1 + 9/e)", best),
    )
)

# %%
claim(
    "the healthy model, with over 300 parameters per sample, learns 64 samples by heart",
    memorized["Training"][-1] < 0.01 and parameters / BATCH > 300,
    figures={"parameters": parameters, "loss": memorized["Training"][-1]},
)
claim(
    "the floor of two softmaxes is ln(1 + 9/e), and no step of `SoftmaxTwice` went below",
    abs(best - math.log(1 + 9 / math.e)) < 1e-6 and min(memorized["SoftmaxTwice"]) > best,
    figures={"floor": best, "reached": min(memorized["SoftmaxTwice"])},
)

# %% [markdown]
# Sees: whatever bounds the loss from below, or stops learning. Cannot see: *what* it is. And it needs a learning rate
# that is worth the name. Costs: a hundred steps of one batch: the dearest check, and the one to run if only one.
#
# ## Step 3: zero the input
#
# Does the model use what it is given? Give it zeros. If nothing changes, it does not.


# %%
def use_of_input(kind):
    """Return how far the outputs move when the input is zeroed, relative to the outputs."""
    training = kind()
    with torch.no_grad():
        outputs = training.outputs(images).float()
        Training.num_forwards += 1
        zeroed = training.model(torch.zeros_like(training.inputs(images))).float()
    return ((outputs - zeroed).norm() / outputs.norm()).item()


class Zeroed(Training):
    def inputs(self, images):
        return torch.zeros_like(super().inputs(images))


uses = {kind.__name__: use_of_input(kind) for kind in (Training, Blind)}
claim(
    "the outputs of the healthy model depend on the input; those of `Blind` not in a single bit",
    uses["Training"] > 0.1 and uses["Blind"] == 0.0,
    figures=uses,
)
zeroed_losses = Zeroed().fit(0, 80)
Drawing(
    Curves(
        {
            "healthy": (range(1, 81), losses["Training"]),
            "healthy, on zeros": (range(1, 81), zeroed_losses),
            "Blind": (range(1, 81), losses["Blind"]),
        },
        "step",
        "loss",
        "What can be learned without looking",
        log=False,
    )
)

# %%
counts = torch.bincount(train_labels).float() / len(train_labels)
entropy = -(counts * counts.log()).sum().item()
claim(
    "on zeros a model learns the frequencies of the classes and no more: its loss is their entropy. `Blind` is there",
    abs(sum(zeroed_losses[-10:]) / 10 - entropy) < 0.1 and abs(sum(losses["Blind"][-10:]) / 10 - entropy) < 0.1,
    figures={"entropy": entropy, "on zeros": zeroed_losses[-1], "Blind": losses["Blind"][-1]},
)

# %% [markdown]
# A bias of −20 before ReLU: no unit is ever positive, what follows sees a constant. A step that was too large leaves a
# model in the same place. Sees: dead layers, an overwritten input. Cannot see: whether the input is used *well*. Costs:
# two forwards.
#
# ## Step 4: the gradient, layer by layer
#
# One backward, one number per parameter. `None`: not connected. Exactly 0: connected to something dead. A healthy run
# has neither; with the default initialization the norms of layers lie within two orders of magnitude.


# %%
def gradient_norms(kind):
    training = kind()
    training.loss(training.outputs(images), labels).backward()
    return {
        name: 0.0 if p.grad is None else p.grad.float().norm().item() for name, p in training.model.named_parameters()
    }


flows = {kind.__name__: gradient_norms(kind) for kind in (Training, Cut, Rounded)}
Drawing(
    Table(
        ("parameter", "healthy", "Cut", "Rounded"),
        [(name, *(f"{flow[name]:.1e}" for flow in flows.values())) for name in flows["Training"]],
        title="Norm of the gradient (0 is None as well)",
        marked=frozenset(index for index, norm in enumerate(flows["Cut"].values()) if norm == 0),
    )
)

# %%
healthy_flow = list(flows["Training"].values())
claim(
    "every parameter of the healthy model has a gradient, and the largest is less than 100 times the smallest",
    0 < max(healthy_flow) < 100 * min(healthy_flow),
    figures={"largest / smallest": max(healthy_flow) / min(healthy_flow)},
)
claim(
    "in `Cut` nothing before `.detach()` has one, and everything behind has the healthy model's, to the bit",
    all((norm == 0) == name.startswith(("first", "second")) for name, norm in flows["Cut"].items())
    and all(norm in (0, flows["Training"][name]) for name, norm in flows["Cut"].items()),
)

# %% [markdown]
# Sees: cut graphs, frozen and dead layers, vanishing. Cannot see: what becomes of a gradient afterwards. Costs: one
# forward and backward.
#
# ## Step 5: the update, relative to the weight
#
# A gradient is a wish. What arrives? Adam's first step moves every element by the learning rate, whatever its gradient.
# Default weights are uniform within ±1/√fan_in, so of size 1/√(3·fan_in): the first update is lr·√(3·fan_in) of the
# weight. Later it falls; around 1e-3 is what people like to see.

# %%
moving = predict(
    "`Rounded` has bfloat16 weights, lr = 1e-5, and gradients as they should be. What share of them moves in a step?",
    {
        "A": "all: Adam moves everything that has a gradient",
        "B": "about half: rounding goes up as often as down",
        "C": "fewer than one in five",
    },
)


# %%
def updates(kind):
    """Take one step; return for each weight matrix the update's size over the weight's, and the share that moved."""
    training = kind()
    weights = {name: p for name, p in training.model.named_parameters() if p.dim() > 1}
    before = {name: p.detach().clone() for name, p in weights.items()}
    training.fit(0, 1)
    return {
        name: (
            ((weights[name] - old).float().norm() / old.float().norm()).item(),
            (weights[name] != old).float().mean().item(),
        )
        for name, old in before.items()
    }


class Slow(Training):
    """`Rounded` in float32: the same learning rate."""

    def make_optimizer(self):
        return torch.optim.Adam(self.model.parameters(), lr=1e-5)


arrived = {kind.__name__: updates(kind) for kind in (Training, Slow, Rounded)}
Drawing(
    Table(
        ("weight", *(f"{name}: update / weight, moved" for name in arrived)),
        [(name, *(f"{u[name][0]:.1e}, {u[name][1]:.0%}" for u in arrived.values())) for name in arrived["Training"]],
        title="One step",
    )
)

# %%
moved = max(share for _, share in arrived["Rounded"].values())
moving.settle(
    "A" if moved > 0.99 else "C" if moved < 0.2 else "B",
    because={
        "A": "Adam computes an update for everything. Adding it to a number with 8 significant bits gives that number.",
        "B": "It rounds to the *nearest*, and the nearest is where it was. Every step anew: nothing accumulates.",
        "C": "",
    },
)
expected = 2e-3 * math.sqrt(3 * 3 * 9)  # fan_in of the first convolution: 3 channels of 3 x 3
claim(
    "the first convolution's update is lr·√(3·27) of its weight, to 10 %",
    abs(arrived["Training"]["first.weight"][0] / expected - 1) < 0.1,
    figures={"computed": expected, "measured": arrived["Training"]["first.weight"][0]},
)
claim(
    "with the same learning rate in float32 at least four of five weights move; in bfloat16 fewer than one in five",
    min(share for _, share in arrived["Slow"].values()) > 0.8 and moved < 0.2,
    figures={"bfloat16, most": moved},
)
claim(
    "step 2 could not have told these two apart: neither learns a batch by heart",
    min(one_batch(Slow)[-1], one_batch(Rounded)[-1]) > 1,
)

# %% [markdown]
# Some of the healthy weights do not move either. Adam moves what has a gradient, and theirs is exactly 0: they belong
# to ReLU units that no sample of this batch has reached.

# %%
stepped = Training()
old_weight = stepped.model.hidden.weight.detach().clone()
stepped.fit(0, 1)
still = stepped.model.hidden.weight == old_weight
claim(
    "the weights of the hidden layer that did not move are those whose gradient is 0, and no others",
    torch.equal(still, stepped.model.hidden.weight.grad == 0) and bool(still.any()),
    figures={"did not move": f"{still.float().mean().item():.0%}"},
)

# %% [markdown]
# Sees: rounding, lr = 0, parameters that no optimizer holds, steps that are too large. Cannot see: whether the
# direction is right. Costs: a copy of the weights and one step. (A kata does it without the copy.)
#
# ## Step 6: the same batch twice, in evaluation mode
#
# `eval()` promises a function: same input, same output, to the bit.


# %%
def two_passes(kind):
    training = kind()
    training.fit(0, 10)
    training.model.eval()
    with torch.no_grad():
        return [training.outputs(images).float() for _ in range(2)]


def disagreement(kind):
    first, second = two_passes(kind)
    return 0.0 if torch.equal(first.nan_to_num(), second.nan_to_num()) else float((first - second).abs().max())


claim(
    "the healthy model agrees with itself bitwise; `Noisy` is off by more than 0.1",
    disagreement(Training) == 0.0 and disagreement(Noisy) > 0.1,
    figures={"Noisy": disagreement(Noisy)},
)
noisy = Noisy().model.eval()
claim(
    "and `eval()` did all it can: every module of `Noisy` is in evaluation mode. `F.dropout` never asked",
    not any(module.training for module in noisy.modules()),
)

# %% [markdown]
# If both passes agree, compare with one in training mode: dropout and BatchNorm may differ there, nothing else may.
# The other half of that mistake, an evaluation in training mode, PyTorch reports in one case only:

# %%
single = error_of(nn.BatchNorm1d(4), torch.zeros(1, 4))
single

# %% [markdown]
# *Expected more than 1 value per channel when training*: a mean over one value is that value, and the variance 0. The
# word to read is *training*: with 2 samples there is no error, and the statistics of 2.

# %%
norm = nn.BatchNorm1d(4)
pair = norm(torch.tensor([[1.0] * 4, [3.0] * 4]))
claim(
    "with two samples nothing is raised, and each output says only which of the two was larger",
    "Expected more than 1 value per channel when training" in single.message
    and bool(torch.allclose(pair.abs(), torch.ones(2, 4), atol=1e-3)),
)

# %% [markdown]
# Sees: randomness that stays, statistics that drift. Cannot see: dropout that is off in training. Costs: two forwards.
#
# ## Step 7: once more, and interrupted
#
# First: the same seed gives the same weights, bitwise. If not, no comparison between two runs means anything. Then:
# twelve steps, against six, a checkpoint, a new process, and six more. Equal, again bitwise.


# %%
def weights_of(training):
    return torch.cat([p.detach().flatten().float() for p in training.model.parameters()])


def straight_through(kind, last=12):
    training = kind()
    training.fit(0, last)
    return weights_of(training)


def interrupted(kind, stop=6, last=12):
    first = kind()
    first.fit(0, stop)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        first.save(path, stop)
        second = kind()
        second.resume(path, last)
    return weights_of(second)


def resume_error(kind):
    one, other = straight_through(kind).nan_to_num(), interrupted(kind).nan_to_num()
    return float((one - other).abs().max())


claim("two runs of one seed are equal, bitwise", torch.equal(straight_through(Training), straight_through(Training)))
claim(
    "the healthy run is the same with and without an interruption; `Forgetful` is not",
    resume_error(Training) == 0.0 and resume_error(Forgetful) > 1e-3,
    figures={"Forgetful": resume_error(Forgetful)},
)

# %% [markdown]
# `Forgetful` restores the weights and begins with an empty Adam: the first step moves every weight by the full learning
# rate. Nothing is raised, for what you do not load cannot complain. What you do load can:

# %%
other_head = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
refused = error_of(
    torch.optim.Adam(nn.Linear(2, 2).parameters()).load_state_dict,
    torch.optim.Adam(other_head.parameters()).state_dict(),
)
refused

# %% [markdown]
# *a parameter group that doesn't match the size of optimizer's group*: an optimizer knows its parameters by number, not
# by name. It can count them, and that is all it checks. Another order of equal count goes through:

# %%
one, other = nn.Linear(2, 2, bias=False), nn.Linear(3, 3, bias=False)
forward_order = torch.optim.Adam([one.weight, other.weight])
(one.weight.sum() + other.weight.sum()).backward()
forward_order.step()
swapped = torch.optim.Adam([other.weight, one.weight])
swapped.load_state_dict(forward_order.state_dict())
claim(
    "the state of a 2 × 2 weight now belongs to one of 3 × 3, and `load_state_dict` has said nothing",
    "doesn't match the size of optimizer's group" in refused.message
    and swapped.state[other.weight]["exp_avg"].shape == (2, 2),
)

# %% [markdown]
# Sees: forgotten state, hidden randomness. Cannot see: anything that is wrong both times. Costs: two short runs.
#
# ## Measure: every check meets every training
#
# Each check has a number and a limit, so it can run alone. The limits follow from the derivations above, with room.

# %%
CHECKS = {
    "0 look": lambda kind: agreement(kind) < 0.3,
    "1 start": lambda kind: abs(initial_loss(kind) / math.log(NUM_CLASSES) - 1) > 0.1,
    "2 one batch": lambda kind: not one_batch(kind)[-1] < 0.2,
    "3 zero input": lambda kind: use_of_input(kind) < 0.01,
    "4 gradients": lambda kind: min(gradient_norms(kind).values()) == 0,
    "5 updates": lambda kind: any(ratio > 0.5 or moved < 0.5 for ratio, moved in updates(kind).values()),
    "6 twice": lambda kind: disagreement(kind) != 0,
    "7 resume": lambda kind: resume_error(kind) != 0,
}
alarms, passes = {}, {}
for name, alarm in CHECKS.items():
    Training.num_forwards = 0
    alarms[name] = {kind.__name__: bool(alarm(kind)) for kind in (Training, *BROKEN)}
    passes[name] = Training.num_forwards / (1 + len(BROKEN))
Drawing(
    Grid(
        [
            [Cell("!", 1, strong=True) if row[kind.__name__] else Cell() for row in alarms.values()]
            for kind in (Training, *BROKEN)
        ],
        row_labels=["healthy", *(kind.__name__ for kind in BROKEN)],
        column_labels=[check.partition(" ")[2] for check in CHECKS],
        title="Which check sees which failure",
        legend={1: "alarm"},
    ),
    Table(("check", "forward passes"), [(check, f"{number:g}") for check, number in passes.items()]),
)

# %%
names = [kind.__name__ for kind in BROKEN]
seen_by = {name: [check for check, row in alarms.items() if row[name]] for name in names}
claim("no check is alarmed by the healthy training", not any(row["Training"] for row in alarms.values()))
claim(
    "every failure is seen by the check of its own number",
    all(row[name] for row, name in zip(alarms.values(), names)),
)
alone = [name for name in names if len(seen_by[name]) == 1]
claim(
    "at least three are seen by one check alone: leave that out, and they go to production",
    len(alone) >= 3,
    figures={name: ", ".join(seen_by[name]) for name in alone},
)
claim(
    "one batch by heart, the most famous check, misses four of the eight",
    sum(not alarms["2 one batch"][name] for name in names) == 4,
    figures={"missed": ", ".join(name for name in names if not alarms["2 one batch"][name])},
)
cheap = [check for check in CHECKS if passes[check] <= 2]
claim(
    "the five cheapest checks take at most two forward passes each, and see five of the eight",
    len(cheap) == 5 and sum(any(alarms[check][name] for check in cheap) for name in names) == 5,
    figures=passes,
)

# %% [markdown]
# Read a row, from the left: that is what a failure looks like, and the *first* alarm is where to dig. `Blind` alarms
# four checks. The zero input says why: what gradients and updates show follows from it.
#
# ## Trap: it overfits one batch, so the model is fine
#
# `Cut` passes step 2. Its loss falls in training, too. Its two convolutions are as random as on the first day.

# %%
healthy, cut = Training(), Cut()
start = weights_of(cut)
healthy.fit(0, 40)
cut.fit(0, 40)
num_features = sum(p.numel() for layer in (cut.model.first, cut.model.second) for p in layer.parameters())
scores = {"healthy": healthy.accuracy(), "Cut": cut.accuracy()}
claim(
    "after 40 steps of falling loss no weight of the convolutions has changed by a bit, and the accuracy is lower",
    torch.equal(weights_of(cut)[:num_features], start[:num_features]) and scores["healthy"] > scores["Cut"] + 0.02,
    figures=scores,
)

# %% [markdown]
# A head is enough to learn 64 samples by heart. That check proves that the *loss* can be reached, not that everything
# takes part. Steps 4 and 5 ask every parameter by name.
#
# ## The doctor
#
# `blackbelt doctor train.py` watches a script, `doctor.watch()` a block of code, and does these checks while the
# training runs, without changing it. The same eight trainings: twelve steps, an evaluation, a checkpoint, resumed.


# %%
def examined(kind, last=30):
    with doctor.watch() as observation, tempfile.TemporaryDirectory() as folder:
        training = kind()
        training.fit(0, 12)
        training.accuracy()
        path = Path(folder) / "checkpoint.pt"
        training.save(path, 12)
        training = kind()
        training.resume(path, last)
    return observation.report


reports = {kind.__name__: examined(kind) for kind in (Training, *BROKEN)}
reports["Cut"]

# %%
Drawing(
    Table(
        ("training", "code", "the line it names"),
        [
            (name, finding.code, finding.place.code.strip())
            for name, report in reports.items()
            for finding in report.findings
        ],
        title="What the doctor says",
    )
)

# %%
CAUSES = {
    "Scrambled": ".view(len(images), 3",
    "Summed": 'reduction="sum"',
    "SoftmaxTwice": "nn.Softmax(",
    "Blind": "constant_(model.hidden.bias",
    "Cut": ".detach()",
    "Rounded": ".bfloat16()",
    "Noisy": "F.dropout(",
    "Forgetful": "torch.load(",
}
claim("the doctor says nothing about the healthy training", not reports["Training"].findings)
claim(
    "it has one finding for each of the eight, and names the line of the cause",
    all(
        len(reports[name].findings) == 1 and cause in reports[name].findings[0].place.code
        for name, cause in CAUSES.items()
    ),
    figures={name: ", ".join(finding.code for finding in reports[name].findings) for name in CAUSES},
)
with doctor.watch():
    observed = straight_through(Training)
claim("and watching changes no weight by a bit", torch.equal(observed, straight_through(Training)))

# %% [markdown]
# One of the eight is a warning and no error: a sum may be meant, and the learning rate chosen for it. A loss at the
# start, too, is a matter of degree. What is a matter of degree stays your part; so does every failure for which there
# is no rule yet. The next lesson shows how the doctor sees, and you write a rule.
#
# ## Katas

# %% kata="expected_initial_loss"

# %% kata="mixes_examples"

# %% kata="update_ratios"

# %% kata="resume_exactly"

# %% [markdown]
# ## In the wild
#
# - Much of the order is Andrej Karpathy's, in *A Recipe for Training Neural Networks* (2019); the numbers and limits
#   are this lesson's.
# - Make steps 1, 2, 4 and 7 tests of your project: on a small model they take seconds. `doctor.assert_healthy(report)`
#   is one more.
# - Change one thing at a time, and keep the healthy run: a check without a healthy number to compare with is a feeling.

# %%
summary()
