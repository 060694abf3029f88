"""One inner step of MAML."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from blackbelt.dojo.kata import Arguments, kata
from blackbelt.dojo.laws.requires_grad import RequiresGrad
from blackbelt.dojo.laws.same_gradients import SameGradients
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.retain._shared import network

Task = tuple[torch.Tensor, torch.Tensor]


def _task(model: nn.Module, rate: float, seed: int = 0, batch: int = 4) -> Arguments:
    support = numbers((batch, 2), seed=seed), numbers((batch, 1), seed=seed + 1)
    query = numbers((batch + 1, 2), seed=seed + 2), numbers((batch + 1, 1), seed=seed + 3)
    return model, nn.functional.mse_loss, support, query, rate


@kata(
    minutes=25,
    belt="blue",
    hints=(
        "The gradient must flow through the update into the start. Which tensors may therefore not be overwritten?",
        (
            "Take the support gradient with `create_graph=True`, make *new* tensors p − rate · g, and run the model "
            "with them: `torch.func.functional_call(model, adapted, (inputs,))`."
        ),
        (
            "`adapted = {name: p - rate * g …}` over the named parameters that require grad; frozen ones may be "
            "left out of `adapted`: `functional_call` takes the model's own for them."
        ),
    ),
    cases=st.tuples(st.sampled_from((0.1, 0.5)), st.integers(0, 99)).map(
        lambda drawn: _task(network(2, 3, 1), drawn[0], seed=drawn[1])
    ),
    edge_cases=lambda: {
        "a step": _task(network(2, 3, 1), 0.5),
        "rate 0": _task(network(2, 3, 1), 0.0),
        "a frozen layer": _task(network(2, 3, 3, 1, frozen=1), 0.5),
        "a linear model": _task(network(2, 1), 0.5),
    },
    laws=[Value(), RequiresGrad(), SameGradients()],
)
def maml_loss(
    model: nn.Module,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    support: tuple[torch.Tensor, torch.Tensor],
    query: tuple[torch.Tensor, torch.Tensor],
    rate: float,
) -> torch.Tensor:
    """One inner step of MAML.

    MAML looks for parameters from which *one step of gradient descent* on a new task leads far. Take that step on
    `support` (a pair of inputs and targets): p′ = p − rate · ∂ loss / ∂p, for every parameter that requires grad.
    Return the loss of the model with the parameters p′ on `query`.

    The result is what the outer loop differentiates, with respect to p, the parameters *before* the step. So the
    gradient must flow through the step, second derivatives included. The model stays as it was, `.grad` included.

    ```python
    maml_loss(model, nn.functional.mse_loss, (x, y), (x_query, y_query), rate=0.1).backward()
    ```
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    inputs, targets = support
    gradients = torch.autograd.grad(loss(model(inputs), targets), list(trained.values()), create_graph=True)
    adapted = {name: p - rate * g for (name, p), g in zip(trained.items(), gradients)}
    inputs, targets = query
    return loss(functional_call(model, adapted, (inputs,)), targets)


def _adapt(
    model: nn.Module, loss: Callable[..., torch.Tensor], support: Task, rate: float, *, create_graph: bool = True
) -> dict[str, torch.Tensor]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    value = loss(model(support[0]), support[1])
    gradients = torch.autograd.grad(value, list(trained.values()), create_graph=create_graph)
    return {name: p - rate * g for (name, p), g in zip(trained.items(), gradients)}


@maml_loss.wrong(
    "This is first-order MAML. The value is right and the gradient is not: g was detached, or taken without "
    "`create_graph=True` (`retain_graph=True` is not enough), so the outer loop believes that g does not depend on p."
)
def first_order(model, loss, support, query, rate):
    adapted = _adapt(model, loss, support, rate, create_graph=False)
    return loss(functional_call(model, adapted, (query[0],)), query[1])


@maml_loss.wrong(
    "It takes the step in the model's own parameters (an optimizer does the same). The start is overwritten: nothing "
    "flows back to it, and the next task begins where this one ended."
)
def step_in_place(model, loss, support, query, rate):
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss(model(support[0]), support[1]), trained)
    with torch.no_grad():
        for p, g in zip(trained, gradients):
            p.sub_(rate * g)
    return loss(model(query[0]), query[1])


@maml_loss.wrong(
    "The adapted parameters are new leaves: those of a deep copy, or of `detach()` or `nn.Parameter(…)`. The outer "
    "gradient ends there and never reaches the model."
)
def adapts_a_copy(model, loss, support, query, rate):
    learner = copy.deepcopy(model)
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=rate)
    loss(learner(support[0]), support[1]).backward()
    optimizer.step()
    return loss(learner(query[0]), query[1])


@maml_loss.wrong(
    "It evaluates the adapted parameters on the support set. The step was made there; whether it *leads* anywhere "
    "shows on the query set."
)
def evaluates_on_support(model, loss, support, query, rate):
    adapted = _adapt(model, loss, support, rate)
    return loss(functional_call(model, adapted, (support[0],)), support[1])


@maml_loss.wrong("It evaluates the model as it was: the adapted parameters are computed and not used.")
def without_the_step(model, loss, support, query, rate):
    _adapt(model, loss, support, rate)
    return loss(model(query[0]), query[1])


@maml_loss.wrong(
    "It asks for the gradients of frozen parameters. They are in no graph, and `torch.autograd.grad` refuses: adapt "
    "those that require grad."
)
def frozen_parameters_too(model, loss, support, query, rate):
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss(model(support[0]), support[1]), list(named.values()), create_graph=True)
    adapted = {name: p - rate * g for (name, p), g in zip(named.items(), gradients)}
    return loss(functional_call(model, adapted, (query[0],)), query[1])


@maml_loss.wrong(
    "It calls `backward(create_graph=True)`: the inner gradient lands in the model's `.grad`, and the outer "
    "`backward()` adds to it. `torch.autograd.grad` returns it and writes nothing."
)
def through_backward(model, loss, support, query, rate):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss(model(support[0]), support[1]).backward(create_graph=True)
    adapted = {name: p - rate * p.grad for name, p in model.named_parameters() if p.requires_grad}
    return loss(functional_call(model, adapted, (query[0],)), query[1])


@maml_loss.wrong(
    "It steps in place and puts the old values back. Backward then needs weights that are not there any more, and "
    "refuses; where it runs, it knows nothing of the step."
)
def steps_and_restores(model, loss, support, query, rate):
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    gradients = torch.autograd.grad(loss(model(support[0]), support[1]), trained)
    with torch.no_grad():
        for p, g in zip(trained, gradients):
            p.sub_(rate * g)
    value = loss(model(query[0]), query[1])
    with torch.no_grad():
        for p, old in zip(trained, before):
            p.copy_(old)
    return value


@maml_loss.wrong("It climbs: p + rate · g goes uphill. Descent subtracts.")
def climbs(model, loss, support, query, rate):
    adapted = _adapt(model, loss, support, -rate)
    return loss(functional_call(model, adapted, (query[0],)), query[1])


@maml_loss.also_right
def by_functions(model, loss, support, query, rate):
    fixed = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    start = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def value(parameters, task):
        return loss(functional_call(model, {**fixed, **parameters}, (task[0],)), task[1])

    gradients = torch.func.grad(value)(start, support)
    return value({name: p - rate * gradients[name] for name, p in start.items()}, query)


@maml_loss.also_right
def with_retain_graph_as_well(model, loss, support, query, rate):
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    value = loss(model(support[0]), support[1])
    gradients = torch.autograd.grad(value, tuple(trained.values()), retain_graph=True, create_graph=True)
    adapted = {name: torch.add(p, g, alpha=-rate) for (name, p), g in zip(trained.items(), gradients)}
    return loss(torch.func.functional_call(model, adapted, query[0]), query[1])
