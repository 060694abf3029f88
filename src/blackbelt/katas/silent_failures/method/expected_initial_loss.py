"""The loss that a model ought to start with."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value

CLASSES = torch.tensor([0, 2, 2, 4])
ANSWERS = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
NUMBERS = torch.tensor([1.0, 2.0, 6.0])

_classes = st.lists(st.sampled_from([-100, 0, 1, 2]), min_size=1, max_size=6).map(lambda t: torch.tensor([0, *t]))
_numbers = st.lists(st.integers(-4, 4), min_size=1, max_size=6).map(lambda t: torch.tensor(t, dtype=torch.float32))


@kata(
    minutes=10,
    belt="white",
    hints=(
        "All outputs are 0. What probability does a softmax over C equal logits give, and what a sigmoid of 0?",
        "−ln(1/C), −ln(1/2), and (0 − target)²: that is one element's loss. Then: how many elements are there?",
        (
            "Sum: one element's loss times the elements that count. Mean: divided by the same number. Classes have one "
            "element per target, without those that are −100; the other heads have `targets.numel()`."
        ),
    ),
    cases=st.one_of(
        st.tuples(st.just("classes"), _classes, st.integers(3, 9), st.sampled_from(["mean", "sum"])),
        st.tuples(st.just("number"), _numbers, st.just(3), st.sampled_from(["mean", "sum"])),
    ),
    edge_cases=lambda: {
        "five classes": ("classes", CLASSES, 5, "mean"),
        "five classes, summed": ("classes", CLASSES, 5, "sum"),
        "ignored targets": ("classes", torch.tensor([0, -100, -100, 4]), 5, "mean"),
        "ignored targets, summed": ("classes", torch.tensor([0, -100, -100, 4]), 5, "sum"),
        "yes or no": ("yes or no", ANSWERS, 3, "mean"),
        "yes or no, summed": ("yes or no", ANSWERS, 3, "sum"),
        "a number": ("number", NUMBERS, 1, "mean"),
        "a number, summed": ("number", NUMBERS, 1, "sum"),
    },
    laws=[Value(roundings=4)],
)
def expected_initial_loss(head: str, targets: torch.Tensor, num_classes: int, reduction: str) -> float:
    """The loss that a model ought to start with.

    A new model's outputs are all 0. Return the loss that it then has, for three heads:

    - `"classes"`: `cross_entropy` over `num_classes`; `targets` are class indices, and −100 is ignored;
    - `"yes or no"`: `binary_cross_entropy_with_logits`; `targets` are 0.0 or 1.0, of shape `(N, num_classes)`;
    - `"number"`: `mse_loss`; `targets` are floats.

    `reduction` is `"mean"` or `"sum"`, as in PyTorch. A real run that starts elsewhere has something to explain.

    ```python
    expected_initial_loss("classes", torch.tensor([3, 7]), 10, "mean")  # 2.302...
    ```
    """
    if head == "classes":
        count = int((targets != -100).sum())
        total = count * math.log(num_classes)
    elif head == "yes or no":
        count = targets.numel()
        total = count * math.log(2)
    else:
        count = targets.numel()
        total = float(targets.square().sum())
    return total / count if reduction == "mean" else total


def _loss(head, targets, num_classes, reduction, **parts):
    """The answer, with the parts that the wrong ones below get wrong."""
    log, sides, size = parts.get("log", math.log), parts.get("sides", 2), parts.get("size", torch.Tensor.numel)
    counted = int((targets != -100).sum()) if parts.get("ignored", True) else len(targets)
    count = counted if head == "classes" else size(targets)
    if head == "number":
        mean = parts.get("square", lambda t: t.square().mean())(targets).item()
    else:
        mean = log(num_classes if head == "classes" else sides)
    return mean if reduction == "mean" else mean * count


@expected_initial_loss.wrong(
    "It takes the logarithm to base 2. PyTorch's losses are in nats, not in bits: ten classes start at 2.30, not at "
    "3.32."
)
def in_bits(head, targets, num_classes, reduction):
    return _loss(head, targets, num_classes, reduction, log=math.log2)


@expected_initial_loss.wrong(
    "It takes ln C for yes-or-no outputs as well. Each of them is a choice between two, whatever their number: the "
    "sigmoid of 0 is 1/2, and the loss ln 2."
)
def ln_c_for_sigmoids(head, targets, num_classes, reduction):
    return _loss(head, targets, num_classes, reduction, sides=num_classes)


@expected_initial_loss.wrong(
    "It takes the variance of the targets. That is what a model reaches that has learned their mean; one that answers "
    "0 has the mean of their squares. The difference is why you standardize targets."
)
def variance_of_the_targets(head, targets, num_classes, reduction):
    return _loss(head, targets, num_classes, reduction, square=lambda t: t.var(unbiased=False))


@expected_initial_loss.wrong(
    "It counts targets that are ignored. What is −100 adds nothing to the sum: padding has no loss."
)
def counts_the_ignored(head, targets, num_classes, reduction):
    return _loss(head, targets, num_classes, reduction, ignored=False)


@expected_initial_loss.wrong(
    "It multiplies by the number of rows. A sum runs over all elements: N × C of them, where a row has C yes-or-no "
    "answers."
)
def sums_over_rows(head, targets, num_classes, reduction):
    return _loss(head, targets, num_classes, reduction, size=len)


@expected_initial_loss.wrong(
    "It takes the mean always. With `reduction='sum'` the start is as many times higher as there are elements, and so "
    "is every gradient."
)
def mean_always(head, targets, num_classes, reduction):
    return _loss(head, targets, num_classes, "mean")


@expected_initial_loss.wrong(
    "It takes the entropy of the class frequencies. That is where a model gets that has learned to ignore its input; "
    "a new one does not know the frequencies yet, and starts at ln C."
)
def entropy_of_the_targets(head, targets, num_classes, reduction):
    if head != "classes":
        return _loss(head, targets, num_classes, reduction)
    counted = targets[targets != -100]
    share = torch.bincount(counted).double() / len(counted)
    entropy = -torch.special.xlogy(share, share).sum().item()
    return entropy if reduction == "mean" else entropy * len(counted)


@expected_initial_loss.also_right
def asks_pytorch(head, targets, num_classes, reduction):
    if head == "classes":
        return cross_entropy(torch.zeros(len(targets), num_classes), targets, reduction=reduction).item()
    loss = binary_cross_entropy_with_logits if head == "yes or no" else mse_loss
    return loss(torch.zeros_like(targets), targets, reduction=reduction).item()
