"""A loss that never holds its logits."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.backward import GradientOfSum, StepAllocates
from blackbelt.dojo.laws.context import NothingOnContext
from blackbelt.dojo.laws.same_gradients import SameGradients
from blackbelt.dojo.laws.saved import SavesForBackward
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.functions._shared import function_of, once


def _case(rows: int, classes: int = 5, scale: float = 1.0, chunk_size: int = 2, width: int = 3) -> tuple[Any, ...]:
    hidden = (scale * numbers((rows, width), seed=1)).requires_grad_()
    weight = numbers((classes, width), seed=2).requires_grad_()
    target = torch.arange(rows) * 7 % classes
    return hidden, weight, target, chunk_size


def _budget_saved(hidden: torch.Tensor, weight: torch.Tensor, *_: Any) -> int:
    return 4 * (hidden.numel() + weight.numel() + 2 * len(hidden))


def _budget_step(hidden: torch.Tensor, weight: torch.Tensor, _: torch.Tensor, chunk_size: int) -> int:
    gradients = hidden.numel() + 2 * weight.numel()  # one of a chunk, to be added to the sum
    return 4 * (gradients + hidden.numel() + 4 * chunk_size * len(weight))


@kata(
    minutes=35,
    belt="blue",
    hints=(
        (
            "The logits have rows × classes elements. Which of them does the gradient of one chunk of rows need, and "
            "for how long?"
        ),
        (
            "A Function that saves only `hidden`, `weight`, `target`, and computes each chunk's logits a second time "
            "in backward. The gradient of the logits is (softmax − one-hot) · grad_output / rows. Mind the last chunk."
        ),
        (
            "For each chunk: `g = (h @ weight.t()).softmax(1)`, subtract 1 at the target, times `grad_output / rows`; "
            "then `grad_hidden[chunk] = g @ weight` and `grad_weight += g.t() @ h`. Return a None for `target` and for "
            "`chunk_size`."
        ),
    ),
    cases=st.tuples(st.integers(1, 6), st.integers(2, 5), st.sampled_from((1.0, 30.0)), st.integers(1, 4)).map(
        lambda drawn: _case(*drawn)
    ),
    edge_cases=lambda: {
        "even chunks": _case(4),
        "an uneven last chunk": _case(5),
        "one chunk": _case(3, chunk_size=8),
        "large logits": _case(4, scale=100.0),
        "all rows in forward": _case(64, classes=512, chunk_size=8, width=16),
        "what is saved": _case(64, classes=512, chunk_size=8, width=16),
        "what a step allocates": _case(64, classes=512, chunk_size=8, width=16),
    },
    laws=[
        Value(),
        GradientOfSum(),
        SameGradients(),
        Allocates(
            at_most=lambda hidden, weight, *_: 6 * len(hidden) * len(weight),  # one and a half times the logits
            on=("all rows in forward",),
        ),
        SavesForBackward(at_most=_budget_saved, on=("what is saved",)),
        NothingOnContext(on=("what is saved",)),
        StepAllocates(at_most=_budget_step, on=("what a step allocates",)),
    ],
)
def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, chunk_size: int
) -> torch.Tensor:
    """A loss that never holds its logits.

    Return the mean cross-entropy of the logits `hidden @ weight.t()` and `target`, with gradients for `hidden`
    (rows, width) and `weight` (classes, width). With a vocabulary of 100,000 the logits are the largest tensor of a
    language model, so never hold more than the logits of `chunk_size` rows (four times their bytes are granted), not in
    forward and not in backward, and save no more than the inputs and their gradients take.

    ```python
    linear_cross_entropy(hidden, weight, target, chunk_size=256)  # F.cross_entropy(hidden @ weight.t(), target)
    ```
    """

    class LinearCrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, target: Any, chunk_size: int) -> Any:
            ctx.save_for_backward(hidden, weight, target)
            ctx.chunk_size = chunk_size
            total = hidden.new_zeros(())
            for h, t in zip(hidden.split(chunk_size), target.split(chunk_size)):
                total += torch.nn.functional.cross_entropy(h @ weight.t(), t, reduction="sum")
            return total / len(hidden)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            hidden, weight, target = ctx.saved_tensors
            grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
            chunks = (tensor.split(ctx.chunk_size) for tensor in (hidden, target, grad_hidden))
            for h, t, grad_h in zip(*chunks):
                grad = (h @ weight.t()).softmax(1)
                grad[torch.arange(len(h), device=h.device), t] -= 1
                grad *= grad_output / len(hidden)
                torch.mm(grad, weight, out=grad_h)
                grad_weight.addmm_(grad.t(), h)
            return grad_hidden, grad_weight, None, None

    return LinearCrossEntropy.apply(hidden, weight, target, chunk_size)  # type: ignore[no-any-return]


def _chunks(*tensors: torch.Tensor, chunk_size: int) -> Any:
    return zip(*(tensor.split(chunk_size) for tensor in tensors))


def _sum(h: torch.Tensor, weight: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(h @ weight.t(), t, reduction="sum")


def _forward(ctx: Any, hidden: Any, weight: Any, target: Any, chunk_size: int) -> torch.Tensor:
    ctx.save_for_backward(hidden, weight, target)
    ctx.chunk_size = chunk_size
    chunks = _chunks(hidden, target, chunk_size=chunk_size)
    return torch.stack([_sum(h, weight, t) for h, t in chunks]).sum() / len(hidden)


def _gradients(hidden: Any, weight: Any, target: Any, chunk_size: int, scale: Any) -> Any:
    grad_hidden, grad_weight = [], torch.zeros_like(weight)
    for h, t in _chunks(hidden, target, chunk_size=chunk_size):
        grad = (h @ weight.t()).softmax(1)
        grad[torch.arange(len(t)), t] -= 1
        grad *= scale
        grad_hidden.append(grad @ weight)
        grad_weight += grad.t() @ h
    return torch.cat(grad_hidden), grad_weight


@linear_cross_entropy.wrong(
    "It makes all logits at once, and autograd keeps their softmax: rows × classes, the tensor you were to avoid."
)
def all_logits(hidden, weight, target, chunk_size):
    return torch.nn.functional.cross_entropy(hidden @ weight.t(), target)


@linear_cross_entropy.wrong(
    "It goes chunk by chunk and lets autograd record. Each chunk's softmax is kept for backward, and all chunks "
    "together are the whole matrix again."
)
def chunks_recorded(hidden, weight, target, chunk_size):
    total = torch.stack([_sum(h, weight, t) for h, t in _chunks(hidden, target, chunk_size=chunk_size)]).sum()
    return total / len(hidden)


@linear_cross_entropy.wrong(
    "It averages the means of the chunks. The last chunk is smaller, and its rows count for more than the others."
)
def mean_of_means(hidden, weight, target, chunk_size):
    chunks = _chunks(hidden, target, chunk_size=chunk_size)
    return torch.stack([torch.nn.functional.cross_entropy(h @ weight.t(), t) for h, t in chunks]).mean()


@linear_cross_entropy.wrong(
    "Its backward forgets `grad_output`. For `loss.backward()` that is 1; for `0.1 * loss`, a gradient scaler or "
    "accumulation it is not."
)
def ignores_grad_output(hidden, weight, target, chunk_size):
    def backward(ctx, _):
        hidden, weight, target = ctx.saved_tensors
        return *_gradients(hidden, weight, target, ctx.chunk_size, 1 / len(hidden)), None, None

    return function_of(_forward, once(backward)).apply(hidden, weight, target, chunk_size)


@linear_cross_entropy.wrong(
    "Its value is a mean and its gradient that of the sum: divide by the number of rows there too."
)
def gradient_of_the_sum(hidden, weight, target, chunk_size):
    def backward(ctx, grad_output):
        return *_gradients(*ctx.saved_tensors, ctx.chunk_size, grad_output), None, None

    return function_of(_forward, once(backward)).apply(hidden, weight, target, chunk_size)


@linear_cross_entropy.wrong(
    "It takes exp of the logits as they are. Subtract each row's maximum first (`logsumexp` does), or 100 overflows."
)
def without_the_maximum(hidden, weight, target, chunk_size):
    logits = hidden @ weight.t()
    return (logits.exp().sum(1).log() - logits.gather(1, target[:, None])[:, 0]).mean()


@linear_cross_entropy.wrong(
    "It keeps the softmax of all rows as an attribute of `ctx`. No hook sees it there, and it is as large as ever."
)
def softmax_on_the_context(hidden, weight, target, chunk_size):
    def forward(ctx, hidden, weight, target, chunk_size):
        ctx.softmax = (hidden @ weight.t()).softmax(1)
        return _forward(ctx, hidden, weight, target, chunk_size)

    def backward(ctx, grad_output):
        hidden, weight, target = ctx.saved_tensors
        grad = ctx.softmax.clone()
        grad[torch.arange(len(hidden)), target] -= 1
        grad = grad * grad_output / len(hidden)
        return grad @ weight, grad.t() @ hidden, None, None

    return function_of(forward, once(backward)).apply(hidden, weight, target, chunk_size)


@linear_cross_entropy.wrong(
    "It saves little, and its backward computes the logits of all rows at once. The peak of the step is where it was."
)
def all_logits_in_backward(hidden, weight, target, chunk_size):
    def backward(ctx, grad_output):
        hidden, weight, target = ctx.saved_tensors
        return *_gradients(hidden, weight, target, len(hidden), grad_output / len(hidden)), None, None

    return function_of(_forward, once(backward)).apply(hidden, weight, target, chunk_size)


@linear_cross_entropy.also_right
def gradients_in_forward(hidden, weight, target, chunk_size):
    def forward(ctx, hidden, weight, target, chunk_size):
        ctx.save_for_backward(*_gradients(hidden, weight, target, chunk_size, 1 / len(hidden)))
        chunks = _chunks(hidden, target, chunk_size=chunk_size)
        return torch.stack([_sum(h, weight, t) for h, t in chunks]).sum() / len(hidden)

    def backward(ctx, grad_output):
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_output * grad_hidden, grad_output * grad_weight, None, None

    return function_of(forward, once(backward)).apply(hidden, weight, target, chunk_size)


@linear_cross_entropy.also_right
def checkpointed_chunks(hidden, weight, target, chunk_size):
    chunks = _chunks(hidden, target, chunk_size=chunk_size)
    losses = [checkpoint(_sum, h, weight, t, use_reentrant=False) for h, t in chunks]
    return torch.stack(losses).sum() / len(hidden)
