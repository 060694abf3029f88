"""Clip what the large batch would have clipped."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.autograd.accumulation._shared import ROUNDINGS, add_gradients, gradients, linear, regression


@kata(
    minutes=10,
    belt="orange",
    hints=(
        "Clipping is not linear. Which gradient would the large batch have clipped, and when does it exist?",
        "One call to `clip_grad_norm_`, after the last backward, on the exact mean; it changes `.grad` in place.",
        (
            "Sum divided by all rows, `backward()`, for each micro-batch. Then "
            "`norm = clip_grad_norm_(model.parameters(), max_norm)`: it returns the norm from before."
        ),
    ),
    cases=st.tuples(
        st.just(()).map(lambda _: linear()),
        st.lists(st.integers(1, 4), min_size=1, max_size=4).map(regression),
        st.sampled_from((0.1, 1.0, 100.0)),
    ),
    edge_cases=lambda: {
        "one micro-batch, clipped": (linear(), regression([3], seed=3), 0.5),
        "two, clipped": (linear(), regression([1, 3]), 1.0),
        "below the limit": (linear(), regression([1, 3]), 1000.0),
        "three, clipped": (linear(), regression([2, 2, 1], seed=5), 0.1),
    },
    laws=[Value(roundings=ROUNDINGS)],
    changes=(0,),
)
def accumulate_and_clip(
    model: torch.nn.Module, micro_batches: list[tuple[torch.Tensor, torch.Tensor]], max_norm: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Clip what the large batch would have clipped.

    The loss is the mean squared error over all rows of all micro-batches `(inputs, targets)`. Clip its gradient so
    that the norm over all parameters together is at most `max_norm`, as `torch.nn.utils.clip_grad_norm_` does it.
    Return the norm before clipping (a tensor) and the clipped gradients by name.

    ```python
    norm, gradients = accumulate_and_clip(model, micro_batches, max_norm=1.0)
    ```
    """
    rows = sum(len(inputs) for inputs, _ in micro_batches)
    model.zero_grad()
    for inputs, targets in micro_batches:
        ((model(inputs) - targets).square().sum() / rows).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return norm, {name: parameter.grad for name, parameter in model.named_parameters()}  # type: ignore[misc]


def _rows(micro_batches):
    return sum(len(inputs) for inputs, _ in micro_batches)


@accumulate_and_clip.wrong(
    "It clips inside the loop. What was clipped early is then added to at full length: the direction depends on the "
    "order of the micro-batches. Clip once, when all are in."
)
def clips_inside_the_loop(model, micro_batches, max_norm):
    norm = torch.zeros(())
    for micro_batch in micro_batches:
        add_gradients(model, [micro_batch], _rows(micro_batches))
        norm = clip_grad_norm_(model.parameters(), max_norm)
    return norm, gradients(model)


@accumulate_and_clip.wrong(
    "It clips each micro-batch's own gradient and adds them up. The sum can be longer than `max_norm`, and it points "
    "elsewhere. Clip once, when all are in."
)
def clips_each_micro_batch(model, micro_batches, max_norm):
    norm, total = torch.zeros(()), {}
    for micro_batch in micro_batches:
        model.zero_grad()
        add_gradients(model, [micro_batch], _rows(micro_batches))
        norm = clip_grad_norm_(model.parameters(), max_norm)
        total = {name: total.get(name, 0) + gradient for name, gradient in gradients(model).items()}
    return norm, total


@accumulate_and_clip.wrong(
    "It averages the micro-batches' means. Clipping is in its place, the denominator is not: divide by all rows."
)
def mean_of_means(model, micro_batches, max_norm):
    for inputs, targets in micro_batches:
        ((model(inputs) - targets).square().mean() / len(micro_batches)).backward()
    return clip_grad_norm_(model.parameters(), max_norm), gradients(model)


@accumulate_and_clip.wrong(
    "It clips the sum and divides afterwards. The limit is meant for the mean: with more rows this clips harder."
)
def clips_the_sum(model, micro_batches, max_norm):
    add_gradients(model, micro_batches, 1)
    norm = clip_grad_norm_(model.parameters(), max_norm)
    return norm, {name: gradient / _rows(micro_batches) for name, gradient in gradients(model).items()}


@accumulate_and_clip.wrong(
    "It clips each parameter by its own norm. The limit is for all of them together: clipping must not turn the "
    "direction of the step."
)
def clips_each_parameter(model, micro_batches, max_norm):
    add_gradients(model, micro_batches, _rows(micro_batches))
    norms = [clip_grad_norm_([parameter], max_norm) for parameter in model.parameters()]
    return torch.stack(norms).norm(), gradients(model)


@accumulate_and_clip.wrong(
    "It clips the elements with `clip_grad_value_`. That is another rule: it turns the direction and bounds no norm."
)
def clips_values(model, micro_batches, max_norm):
    add_gradients(model, micro_batches, _rows(micro_batches))
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    clip_grad_value_(model.parameters(), max_norm)
    return norm, gradients(model)


@accumulate_and_clip.wrong(
    "It returns the norm after clipping. What you want to log is the norm from before: that `clip_grad_norm_` returns."
)
def returns_the_clipped_norm(model, micro_batches, max_norm):
    add_gradients(model, micro_batches, _rows(micro_batches))
    clip_grad_norm_(model.parameters(), max_norm)
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    return norm, gradients(model)


@accumulate_and_clip.wrong(
    "It scales every gradient to the norm `max_norm`, short ones too. Clipping shortens and never lengthens."
)
def normalizes(model, micro_batches, max_norm):
    add_gradients(model, micro_batches, _rows(micro_batches))
    norm = clip_grad_norm_(model.parameters(), float("inf"))
    return norm, {name: gradient * (max_norm / (norm + 1e-6)) for name, gradient in gradients(model).items()}


@accumulate_and_clip.also_right
def in_two_calls(model, micro_batches, max_norm):
    add_gradients(model, micro_batches, _rows(micro_batches))
    parameters = list(model.parameters())
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm, gradients(model)


@accumulate_and_clip.also_right
def by_hand(model, micro_batches, max_norm):
    add_gradients(model, micro_batches, 1)
    mean = {name: gradient / _rows(micro_batches) for name, gradient in gradients(model).items()}
    norm = torch.stack([gradient.norm() for gradient in mean.values()]).norm()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1)
    return norm, {name: gradient * factor for name, gradient in mean.items()}
