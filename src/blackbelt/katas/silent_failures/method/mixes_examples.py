"""Does one example of a batch change another's output?"""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.silent_failures.method._shared import LooksBack, inputs, net


@kata(
    minutes=20,
    belt="green",
    hints=(
        "Row i of the output may depend on row i of the input. On which rows does it depend? Autograd knows.",
        (
            "One gradient per row of the output, with respect to the whole input: its other rows must be exactly 0. "
            "Take a random combination of the row, not its sum: a softmax always sums to 1."
        ),
        (
            "Even a forward pass leaves traces: BatchNorm moves its statistics. "
            "`torch.func.functional_call(model, copies_of_its_state, (x,))` runs the model on copies, and "
            "`torch.autograd.grad` fills no `.grad`."
        ),
    ),
    cases=st.tuples(
        st.sampled_from(["rows", "batch norm", "looks back"]).map(
            lambda name: {"rows": net, "batch norm": lambda: net(nn.BatchNorm1d(3)), "looks back": LooksBack}[name]()
        ),
        st.integers(2, 4).map(inputs),
    ),
    edge_cases=lambda: {
        "rows by themselves": (net(), inputs()),
        "softmax over the batch": (net(nn.Softmax(dim=0)), inputs()),
        "softmax over the classes": (net(nn.Softmax(dim=1)), inputs()),
        "each row sees those before it": (LooksBack(), inputs()),
        "batch norm in evaluation": (net(nn.BatchNorm1d(3)).eval(), inputs()),
        "batch norm in training": (net(nn.BatchNorm1d(3)), inputs()),
        "a mixture, then a softmax": (nn.Sequential(LooksBack(), nn.Softmax(dim=1)), inputs()),
        "one example": (net(), inputs(1)),
    },
    laws=[Value()],
)
def mixes_examples(model: torch.nn.Module, inputs: torch.Tensor) -> bool:
    """Does one example of a batch change another's output?

    `model` maps inputs `(N, …)` to outputs `(N, …)`, row for row. Return whether some row of the output depends on
    another row of the input: by a `view` that mixes, a softmax over the wrong dimension, `batch_first`, or BatchNorm in
    training. Look at the model **in the mode it is in**, and leave no trace: parameters, `.grad`, buffers and random
    numbers stay as they are.

    ```python
    mixes_examples(nn.Linear(4, 2), torch.randn(3, 4))  # False
    mixes_examples(nn.Softmax(dim=0), torch.randn(3, 4))  # True
    ```
    """
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    x = inputs.detach().clone().requires_grad_()
    outputs = torch.func.functional_call(model, state, (x,))
    weights = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(0))
    for row, output in enumerate(outputs):
        (gradient,) = torch.autograd.grad((output * weights).sum(), x, retain_graph=True)
        gradient[row] = 0
        if gradient.any():
            return True
    return False


def _on_copies(model, inputs):
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    x = inputs.detach().clone().requires_grad_()
    return x, torch.func.functional_call(model, state, (x,))


def _any_elsewhere(x, outputs, rows, reduce):
    for row in rows:
        (gradient,) = torch.autograd.grad(reduce(outputs[row]), x, retain_graph=True)
        gradient[row] = 0
        if gradient.any():
            return True
    return False


def _squares(row):
    return (row.square() * torch.arange(1.0, row.numel() + 1)).sum()


@mixes_examples.wrong(
    "It looks at the first row of the output only. Row 0 may be clean while later rows see those before them, as with "
    "a cumulative sum, or an RNN that takes the batch for time. Ask every row."
)
def first_row_only(model, inputs):
    x, outputs = _on_copies(model, inputs)
    return _any_elsewhere(x, outputs, [0], _squares)


@mixes_examples.wrong(
    "It takes the gradient of a row's sum. A row that went through a softmax always sums to 1: that gradient is 0, up "
    "to rounding, whatever the row depends on. Combine the elements with different weights."
)
def sum_of_a_row(model, inputs):
    x, outputs = _on_copies(model, inputs)
    for row, output in enumerate(outputs):
        (gradient,) = torch.autograd.grad(output.sum(), x, retain_graph=True)
        gradient[row] = 0
        if (gradient.abs() > 1e-6).any():
            return True
    return False


@mixes_examples.wrong(
    "It compares with the outputs of single rows. BatchNorm in training refuses a batch of one, and elsewhere a matrix "
    "product of one row may be rounded otherwise. A gradient is exactly 0 or it is not."
)
def compares_with_single_rows(model, inputs):
    _, outputs = _on_copies(model, inputs)
    singles = [_on_copies(model, row.unsqueeze(0))[1][0] for row in inputs]
    return not torch.allclose(outputs, torch.stack(singles), atol=1e-6)


@mixes_examples.wrong(
    "It switches the model to evaluation mode first. There BatchNorm mixes nothing; the question was about the mode "
    "the model is in."
)
def in_evaluation_mode(model, inputs):
    model.eval()
    x, outputs = _on_copies(model, inputs)
    return _any_elsewhere(x, outputs, range(len(x)), _squares)


@mixes_examples.wrong(
    "It runs the model itself. In training mode every forward pass moves BatchNorm's running statistics, and a check "
    "that does so changes the training it checks. Run it on copies of its state."
)
def runs_the_model_itself(model, inputs):
    x = inputs.detach().clone().requires_grad_()
    return _any_elsewhere(x, model(x), range(len(x)), _squares)


@mixes_examples.wrong(
    "It calls `backward`, which leaves gradients in the model's parameters: the next step of the training adds its own "
    "to them. `torch.autograd.grad` returns gradients and leaves none."
)
def calls_backward(model, inputs):
    mixed = False
    for row in range(len(inputs)):
        x = inputs.detach().clone().requires_grad_()
        _squares(model(x)[row]).backward()
        mixed = mixed or bool(x.grad[torch.arange(len(x)) != row].any())
    return mixed


@mixes_examples.wrong(
    "It counts a row's own gradient. Every output depends on its own input; what matters are the *other* rows."
)
def counts_the_own_row(model, inputs):
    x, outputs = _on_copies(model, inputs)
    (gradient,) = torch.autograd.grad(_squares(outputs[0]), x)
    return bool(gradient.any())


@mixes_examples.also_right
def by_the_jacobian(model, inputs):
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    jacobian = torch.autograd.functional.jacobian(lambda x: torch.func.functional_call(model, state, (x,)), inputs)
    number = len(inputs)
    blocks = jacobian.reshape(number, -1, number, inputs[0].numel()).abs().amax((1, 3))
    return bool((blocks * (1 - torch.eye(number))).any())
