"""A loss that cannot broadcast."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers, shapes, tensors


@kata(
    minutes=10,
    belt="white",
    hints=(
        "When do two shapes describe the same list of examples? Look at what is left of each without its ones.",
        "If the sizes other than 1 are not the same, in the same order, raise ValueError before you subtract.",
        "After that test, `prediction.reshape(target.shape)` cannot fail and cannot mix examples up.",
    ),
    cases=st.one_of(
        st.tuples(tensors(shapes(0, 3, 1, 3)), tensors(shapes(0, 3, 1, 3))),
        st.integers(1, 4).map(lambda n: (numbers((n, 1)), numbers((n,), seed=1))),
    ),
    edge_cases=lambda: {
        "equal shapes": (numbers((3,)), numbers((3,), seed=1)),
        "a column against a flat target": (numbers((3, 1)), numbers((3,), seed=1)),
        "a flat prediction against a column": (numbers((3,)), numbers((3, 1), seed=1)),
        "one target for all": (numbers((3,)), numbers((1,), seed=1)),
        "same number of elements, other shape": (numbers((2, 3)), numbers((3, 2), seed=1)),
        "different lengths": (numbers((3,)), numbers((4,), seed=1)),
    },
    laws=[Value()],
)
def squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss that cannot broadcast

    Return the mean of the squared differences, as a tensor without dimensions. Shapes that differ only in dimensions of
    size 1, such as (N, 1) and (N,), hold the same N examples: compare example with example. Everything else, also a
    single target for all, is a mistake of the caller: raise `ValueError`.
    """
    if [size for size in prediction.shape if size != 1] != [size for size in target.shape if size != 1]:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} hold different examples"
        )
    return (prediction.reshape(target.shape) - target).square().mean()


@squared_error.wrong("(N, 1) minus (N,) is (N, N): every prediction against every target. This is the trap itself.")
def _trapped(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    try:
        return (prediction - target).square().mean()
    except RuntimeError:
        raise ValueError from None


@squared_error.wrong("You flatten the prediction only: a column of targets against a flat prediction is (N, N) again.")
def _one_sided(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    try:
        return (prediction.flatten() - target).square().mean()
    except RuntimeError:
        raise ValueError from None


@squared_error.wrong(
    "Without their ones the shapes may still broadcast: a single target meets every prediction, unnoticed."
)
def _squeezed_both(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    try:
        return (prediction.squeeze() - target.squeeze()).square().mean()
    except RuntimeError:
        raise ValueError from None


@squared_error.wrong("As many elements is not the same examples: (2, 3) flattened against (3, 2) compares strangers.")
def _counted(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if prediction.numel() != target.numel():
        raise ValueError
    return (prediction.flatten() - target.flatten()).square().mean()


@squared_error.wrong(
    "(N, 1) and (N,) hold the same examples and are to be accepted; only real differences are refused."
)
def _too_strict(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if prediction.shape != target.shape:
        raise ValueError
    return (prediction - target).square().mean()


@squared_error.also_right
def _squeezed_and_compared(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    prediction, target = prediction.squeeze(), target.squeeze()
    if prediction.shape != target.shape:
        raise ValueError
    return torch.nn.functional.mse_loss(prediction, target)
