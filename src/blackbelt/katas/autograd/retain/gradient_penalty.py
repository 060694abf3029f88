"""The gradient penalty of WGAN-GP."""

from __future__ import annotations

import warnings

import torch
from hypothesis import strategies as st
from torch import nn

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.operators import Calls
from blackbelt.dojo.laws.requires_grad import RequiresGrad
from blackbelt.dojo.laws.same_gradients import SameGradients
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.retain._shared import network


def _batch(batch: int, *shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mixing = torch.rand(batch, generator=torch.Generator().manual_seed(seed))
    return numbers((batch, *shape), seed=seed), numbers((batch, *shape), seed=seed + 1), mixing


def _on_images() -> nn.Module:
    return nn.Sequential(nn.Flatten(), *network(8, 4, 1))


@kata(
    minutes=20,
    belt="green",
    hints=(
        (
            "The penalty is made of a gradient, and the critic's weights must learn from it. Who differentiates that "
            "gradient?"
        ),
        (
            "`torch.autograd.grad(scores.sum(), mixed, create_graph=True)`. Summing is safe: each score depends on "
            "its own sample only, so each row of the result is the gradient of its own score."
        ),
        (
            "Give `mixing` one size-1 dimension for each dimension of a sample, mix, `detach().requires_grad_()`; then "
            "`gradient.flatten(1).norm(dim=1)`, minus 1, squared, and the mean of that over the batch."
        ),
    ),
    cases=st.integers(1, 4).map(lambda batch: (network(3, 4, 1), *_batch(batch, 3, seed=batch))),
    edge_cases=lambda: {
        "a batch": (network(3, 4, 1), *_batch(2, 3)),
        "one sample": (network(3, 4, 1), *_batch(1, 3)),
        "as many samples as features": (network(3, 4, 1), *_batch(3, 3)),
        "images": (_on_images(), *_batch(3, 2, 2, 2)),
        "many samples": (network(3, 4, 1), *_batch(40, 3)),
    },
    laws=[
        Value(),
        RequiresGrad(),
        SameGradients(),
        Calls(at_most=60, on=("many samples",)),
    ],
)
def gradient_penalty(critic: nn.Module, real: torch.Tensor, fake: torch.Tensor, mixing: torch.Tensor) -> torch.Tensor:
    """The gradient penalty of WGAN-GP.

    Between each real sample and its fake one lies a point x = mixing · real + (1 − mixing) · fake. The critic's slope
    there should be 1. Return the scalar penalty, the mean over the batch of (‖∂ critic(x) / ∂x‖ − 1)², with the
    Euclidean norm over all of a sample's numbers.

    `real` and `fake` are of shape `(batch, …)`, `mixing` is `(batch,)`: one number for each sample. The critic returns
    `(batch, 1)`. The penalty is a loss: the critic's parameters must learn from it. Leave every `.grad` alone.

    ```python
    loss = critic(fake).mean() - critic(real).mean() + 10 * gradient_penalty(critic, real, fake, torch.rand(len(real)))
    ```
    """
    mixing = mixing.reshape(-1, *[1] * (real.dim() - 1))
    mixed = (mixing * real + (1 - mixing) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()  # type: ignore[no-any-return]


def _mix(real: torch.Tensor, fake: torch.Tensor, mixing: torch.Tensor) -> torch.Tensor:
    mixing = mixing.reshape(-1, *[1] * (real.dim() - 1))
    return (mixing * real + (1 - mixing) * fake).detach().requires_grad_()


@gradient_penalty.wrong(
    "Its gradient is a plain number to the critic: backward was not recorded. `retain_graph=True` would only keep "
    "the old graph; `create_graph=True` records the backward pass, and the penalty can be differentiated in its "
    "turn."
)
def no_graph_of_the_gradient(critic, real, fake, mixing):
    mixed = _mix(real, fake, mixing)
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, retain_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong(
    "The penalty carries a graph that does not lead to the critic: the gradient was detached and made a leaf. It "
    "silences the error of `backward()`, and the critic learns nothing."
)
def gradient_made_a_leaf(critic, real, fake, mixing):
    mixed = _mix(real, fake, mixing)
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    gradient = gradient.detach().requires_grad_()
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong(
    "It takes one norm over the whole batch. Every sample should have slope 1; a batch of b samples would have norm √b."
)
def norm_over_the_batch(critic, real, fake, mixing):
    mixed = _mix(real, fake, mixing)
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.norm() - 1).square()


@gradient_penalty.wrong(
    "It takes the norm over dimension 1 only. For an image that is one norm per pixel, over its channels: flatten each "
    "sample first."
)
def norm_over_dimension_one(critic, real, fake, mixing):
    mixed = _mix(real, fake, mixing)
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.norm(2, dim=1) - 1).square().mean()


@gradient_penalty.wrong(
    "It averages the norms and squares afterwards. Slopes of 0 and 2 then count as perfect: square first, average last."
)
def mean_before_the_square(critic, real, fake, mixing):
    mixed = _mix(real, fake, mixing)
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=1).mean() - 1).square()


@gradient_penalty.wrong(
    "It differentiates the *mean* of the scores, so every slope comes out divided by the batch size. Differentiate "
    "the sum."
)
def gradient_of_the_mean(critic, real, fake, mixing):
    mixed = _mix(real, fake, mixing)
    (gradient,) = torch.autograd.grad(critic(mixed).mean(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong(
    "It asks for the gradient of a whole batch of scores: *grad can be implicitly created only for scalar outputs*. "
    "Sum them, or pass `torch.ones_like(scores)` as `grad_outputs`, which is the same."
)
def gradient_of_many_scores(critic, real, fake, mixing):
    mixed = _mix(real, fake, mixing)
    (gradient,) = torch.autograd.grad(critic(mixed), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong(
    "`mixing` of shape `(batch,)` lines up with the *last* dimension, and each feature gets a number of its own. Where "
    "the sizes agree that runs silently: reshape it to `(batch, 1, …)`."
)
def mixing_along_the_features(critic, real, fake, mixing):
    mixed = (mixing * real + (1 - mixing) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong(
    "It calls `backward(create_graph=True)`. That writes to the `.grad` of every parameter of the critic, ties each to "
    "its graph, and warns of the reference cycle. `torch.autograd.grad` asks for one gradient and writes nothing."
)
def through_backward(critic, real, fake, mixing):
    mixed = _mix(real, fake, mixing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        critic(mixed).sum().backward(create_graph=True)
    return (mixed.grad.flatten(1).norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong(
    "`torch.autograd.grad` does not find the mixed points in the graph: they must require grad *before* the critic "
    "sees them, and the critic must not run under `no_grad`."
)
def mixed_does_not_require_grad(critic, real, fake, mixing):
    mixed = _mix(real, fake, mixing).detach()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong(
    "`mixing.view(-1, 1)` fits flat samples only. A sample with three dimensions needs `(batch, 1, 1, 1)`: as many "
    "size-1 dimensions as a sample has."
)
def mixing_for_flat_samples(critic, real, fake, mixing):
    mixed = (mixing.view(-1, 1) * real + (1 - mixing.view(-1, 1)) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong("It mixes the other way round: `mixing` is the share of `real`.")
def shares_swapped(critic, real, fake, mixing):
    mixed = _mix(fake, real, mixing)
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@gradient_penalty.wrong(
    "It runs the critic and a backward for each sample. Samples do not mix: the gradient of the summed scores has each "
    "sample's gradient in its row, in one pass."
)
def sample_by_sample(critic, real, fake, mixing):
    penalties = []
    for mixed in _mix(real, fake, mixing).detach().unsqueeze(1):
        mixed.requires_grad_()
        (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        penalties.append((gradient.norm() - 1).square())
    return torch.stack(penalties).mean()


@gradient_penalty.also_right
def by_functions(critic, real, fake, mixing):
    slope = torch.func.vmap(torch.func.grad(lambda x: critic(x.unsqueeze(0)).squeeze()))
    return (slope(_mix(real, fake, mixing).detach()).flatten(1).norm(dim=1) - 1).square().mean()


@gradient_penalty.also_right
def with_ones_for_the_scores(critic, real, fake, mixing):
    mixed = _mix(real, fake, mixing)
    scores = critic(mixed)
    (gradient,) = torch.autograd.grad(scores, mixed, torch.ones_like(scores), create_graph=True, retain_graph=True)
    return ((gradient.flatten(1).norm(2, 1) - 1) ** 2).mean()
