"""How hard does each loss pull?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import nn

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.operators import Calls
from blackbelt.dojo.laws.requires_grad import RequiresGrad
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.retain._shared import Formula, HalfwayThroughAStep, network

SQUARE, SPREAD, FIRST = Formula("x.square().mean()"), Formula("x.std(0).sum()"), Formula("x[:, 0].exp().mean()")


class _TwoHeads(nn.Module):
    """Two heads on one trunk; the result stacks them, so that a loss can read one head and leave the other out."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.left, self.right = network(3, 4), network(4, 2, seed=8), network(4, 2, seed=9)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        shared = self.trunk(x).tanh()
        return {"left": self.left(shared), "right": self.right(shared)}


LEFT, RIGHT = Formula("x['left'].square().mean()"), Formula("x['right'].exp().mean()")


@kata(
    minutes=15,
    belt="orange",
    hints=(
        "All losses stand on one forward pass. What has the first backward taken away that the second one needs?",
        "`torch.autograd.grad(loss, parameters, retain_graph=True)` returns gradients and leaves every `.grad` alone.",
        (
            "For each loss: `torch.autograd.grad(loss(output), trained, retain_graph=True, allow_unused=True)`, "
            "over the parameters that require grad; then the root of the sum of squares over all of them. `None` "
            "counts as zero."
        ),
    ),
    cases=st.integers(1, 5).map(lambda batch: (network(3, 4, 2), numbers((batch + 1, 3)), (SQUARE, SPREAD))),
    edge_cases=lambda: {
        "one loss": (network(3, 4, 2), numbers((5, 3)), (SQUARE,)),
        "a loss for each head": (_TwoHeads(), numbers((5, 3)), (LEFT,)),
        "a frozen layer": (network(3, 4, 2, frozen=1), numbers((5, 3)), (SQUARE,)),
        "two losses": (network(3, 4, 2), numbers((5, 3)), (SQUARE, SPREAD)),
        "the same loss twice": (network(3, 4, 2), numbers((5, 3)), (FIRST, FIRST)),
        "both heads": (_TwoHeads(), numbers((5, 3)), (LEFT, RIGHT)),
        "gradients are there already": (HalfwayThroughAStep(network(3, 4, 2)), numbers((5, 3)), (SQUARE, SPREAD)),
    },
    laws=[
        Value(),
        # not with two heads: in torch 2.9 the zeros that materialize_grads=True fills in require grad
        RequiresGrad(on=("one loss", "two losses", "the same loss twice")),
        Calls(each={"aten::addmm": 2}, on=("two losses", "the same loss twice")),
    ],
)
def loss_gradient_norms(
    model: nn.Module, inputs: torch.Tensor, losses: Sequence[Callable[..., torch.Tensor]]
) -> torch.Tensor:
    """How hard does each loss pull?

    A model is trained on the sum of several losses, each a function of the model's output. To balance them you want to
    know how long each loss's gradient is. Return a tensor of shape `(len(losses),)`: for each loss the norm of its
    gradient over **all** parameters that require grad, taken together as one long vector.

    Run the model once. Leave every `.grad` alone: the training step that follows is none of your business. A parameter
    that a loss does not reach counts as zero. The result carries no graph.

    ```python
    loss_gradient_norms(model, x, [lambda y: y.square().mean(), lambda y: y.abs().mean()])  # tensor([0.82, 0.31])
    ```
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    output = model(inputs)
    norms = []
    for loss in losses:
        gradients = torch.autograd.grad(loss(output), trained, retain_graph=True, allow_unused=True)
        norms.append(torch.stack([g.norm() for g in gradients if g is not None]).norm())
    return torch.stack(norms)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _norm(gradients: Sequence[torch.Tensor | None]) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm()  # type: ignore[no-any-return]


@loss_gradient_norms.wrong(
    "The first loss's backward frees the tensors that the shared part has saved, and the second loss needs them. Here "
    "`retain_graph=True` is the right answer: one graph, several backwards."
)
def graph_freed_by_the_first(model, inputs, losses):
    output = model(inputs)
    norms = [_norm(torch.autograd.grad(loss(output), _trained(model), allow_unused=True)) for loss in losses]
    return torch.stack(norms)


@loss_gradient_norms.wrong(
    "It runs the model once per loss. Nothing needs to be retained that way, and every loss pays for a forward pass of "
    "its own."
)
def forward_per_loss(model, inputs, losses):
    norms = [_norm(torch.autograd.grad(loss(model(inputs)), _trained(model), allow_unused=True)) for loss in losses]
    return torch.stack(norms)


@loss_gradient_norms.wrong(
    "It calls `backward()`, which adds to the parameters' `.grad`. The caller's next `optimizer.step()` would apply "
    "it. `torch.autograd.grad` returns gradients and writes nothing."
)
def writes_the_grads(model, inputs, losses):
    output = model(inputs)
    norms = []
    for loss in losses:
        model.zero_grad()
        loss(output).backward(retain_graph=True)
        norms.append(_norm([parameter.grad for parameter in model.parameters()]))
    return torch.stack(norms)


@loss_gradient_norms.wrong(
    "It cleans up with `zero_grad()`. If the caller had gradients there, half a step's accumulation, they are gone: "
    "use `torch.autograd.grad`, which writes nothing."
)
def erases_the_grads(model, inputs, losses):
    norms = writes_the_grads(model, inputs, losses)
    model.zero_grad()
    return norms


@loss_gradient_norms.wrong(
    "It does not reckon with parameters that a loss does not reach. PyTorch says of them that they *appear to not have "
    "been used in the graph*; with `allow_unused=True` it returns None for them instead."
)
def every_parameter_is_used(model, inputs, losses):
    output = model(inputs)
    return torch.stack(
        [_norm(torch.autograd.grad(loss(output), _trained(model), retain_graph=True)) for loss in losses]
    )


@loss_gradient_norms.wrong(
    "It asks for the gradients of frozen parameters too. They are in no graph, and PyTorch refuses: leave out those "
    "that do not require grad."
)
def frozen_parameters_too(model, inputs, losses):
    output, parameters = model(inputs), list(model.parameters())
    return torch.stack(
        [_norm(torch.autograd.grad(loss(output), parameters, retain_graph=True, allow_unused=True)) for loss in losses]
    )


@loss_gradient_norms.wrong(
    "It passes `create_graph=True`, which records the backward pass as well. Nobody differentiates these norms again; "
    "they only hold a second graph in memory. `retain_graph=True` is enough."
)
def records_the_backward(model, inputs, losses):
    output = model(inputs)
    return torch.stack(
        [
            _norm(torch.autograd.grad(loss(output), _trained(model), create_graph=True, allow_unused=True))
            for loss in losses
        ]
    )


@loss_gradient_norms.wrong(
    "It adds up the norms of the parameters. The norm of the whole gradient is the root of the sum of their squares."
)
def sum_of_norms(model, inputs, losses):
    output = model(inputs)
    norms = []
    for loss in losses:
        gradients = torch.autograd.grad(loss(output), _trained(model), retain_graph=True, allow_unused=True)
        norms.append(sum(gradient.norm() for gradient in gradients if gradient is not None))
    return torch.stack(norms)


@loss_gradient_norms.also_right
def batched_backward(model, inputs, losses):
    output = model(inputs)
    values = torch.stack([loss(output) for loss in losses])
    gradients = torch.autograd.grad(
        values, _trained(model), torch.eye(len(losses)), is_grads_batched=True, allow_unused=True
    )
    return torch.cat([g.flatten(1) for g in gradients if g is not None], 1).norm(dim=1)


@loss_gradient_norms.also_right
def frees_with_the_last(model, inputs, losses):
    values = [loss(model_output) for model_output in [model(inputs)] for loss in losses]
    norms = []
    while values:
        value = values.pop()
        kept = torch.autograd.grad(value, _trained(model), retain_graph=bool(values), materialize_grads=True)
        norms.append(_norm(kept))
    return torch.stack(norms[::-1])
