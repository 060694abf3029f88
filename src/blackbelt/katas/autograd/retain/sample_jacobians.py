"""A Jacobian for every sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from hypothesis import strategies as st
from torch.func import jacrev, vmap

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.operators import Calls
from blackbelt.dojo.laws.requires_grad import RequiresGrad
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.retain._shared import Formula, load_forward_mode

POLAR = Formula("torch.stack([x[0] * x[1].cos(), x[0] * x[1].sin()])")
THREE = Formula("torch.stack([x.square().sum(), x.prod(), x[0]])")
SQUARE = Formula("(x * x.sum()).sin()")


def _edge_cases() -> Mapping[str, tuple[Any, ...]]:
    load_forward_mode()
    return {
        "one sample": (THREE, numbers((1, 2))),
        "two samples": (THREE, numbers((2, 2))),
        "as many outputs as inputs": (SQUARE, numbers((3, 3))),
        "a batch that requires grad": (THREE, numbers((2, 2)).requires_grad_()),
        "forty outputs": (SQUARE, numbers((2, 40))),
        "sixty samples": (THREE, numbers((60, 4))),
    }


@kata(
    minutes=20,
    belt="green",
    hints=(
        "Write it for one sample first. Which transform gives the Jacobian of a function of one sample?",
        "`jacrev(function)` is a function of one sample again. `torch.func.vmap` runs such a function over a batch.",
        "`vmap(jacrev(function))(batch.detach())`",
    ),
    cases=st.tuples(st.sampled_from((POLAR, THREE)), st.integers(1, 4), st.integers(0, 99)).map(
        lambda drawn: (drawn[0], numbers((drawn[1], 2), seed=drawn[2]))
    ),
    edge_cases=_edge_cases,
    laws=[
        Value(),
        RequiresGrad(),
        Calls(at_most=60, on=("forty outputs", "sixty samples")),
        Allocates(at_most=lambda _, batch: 40 * 3 * batch.nbytes, on=("sixty samples",)),
    ],
)
def sample_jacobians(function: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
    """A Jacobian for every sample.

    `function` maps **one** sample, of shape `(n,)`, to `(m,)`. Return its Jacobian at every row of `batch`, in one
    tensor of shape `(batch, m, n)`: entry `[b, i, j]` is ∂ functionᵢ / ∂ xⱼ at `batch[b]`.

    No Python loop over samples or outputs, and nothing of size batch × batch: sample b's output does not depend on
    sample c. The result carries no graph.

    ```python
    sample_jacobians(lambda x: torch.stack([x.sum(), x.prod()]), torch.tensor([[2.0, 3.0]]))  # [[[1., 1.], [3., 2.]]]
    ```
    """
    return vmap(jacrev(function))(batch.detach())  # type: ignore[no-any-return]


@sample_jacobians.wrong(
    "It loops over the samples. `vmap` of the same expression runs all of them with the operators of one."
)
def loop_over_samples(function, batch):
    return torch.stack([jacrev(function)(sample) for sample in batch.detach()])


@sample_jacobians.wrong(
    "It loops over the outputs, one backward each, with `retain_graph=True`. `jacrev` runs these backwards as one, "
    "batched by `vmap`."
)
def loop_over_outputs(function, batch):
    batch = batch.detach().requires_grad_()
    outputs = vmap(function)(batch)
    rows = [torch.autograd.grad(column.sum(), batch, retain_graph=True)[0] for column in outputs.unbind(1)]
    return torch.stack(rows, 1)


@sample_jacobians.wrong(
    "It takes the Jacobian of the whole batch, `(batch, m, batch, n)`, and keeps the diagonal. All the rest is zeros, "
    "and was computed."
)
def diagonal_of_everything(function, batch):
    return jacrev(vmap(function))(batch.detach()).diagonal(dim1=0, dim2=2).movedim(-1, 0)


@sample_jacobians.wrong(
    "It differentiates the sum of the outputs. That adds the rows of each Jacobian together: one backward gives a "
    "vector times the Jacobian, never the Jacobian."
)
def sum_of_the_rows(function, batch):
    batch = batch.detach().requires_grad_()
    return torch.autograd.grad(vmap(function)(batch).sum(), batch)[0]


@sample_jacobians.wrong("It is transposed: row i belongs to output i, column j to input j.")
def transposed(function, batch):
    return vmap(jacrev(function))(batch.detach()).mT


@sample_jacobians.wrong(
    "It sums over the batch, a good idea, since samples do not mix, and leaves the batch in the middle: `(m, batch, "
    "n)`. `movedim(0, 1)` is missing."
)
def batch_in_the_middle(function, batch):
    return jacrev(lambda samples: vmap(function)(samples).sum(0))(batch.detach())


@sample_jacobians.wrong(
    "A batch that requires grad outside gives Jacobians with a graph: `torch.func` does not hide from autograd what it "
    "was given. Pass `batch.detach()`."
)
def graph_of_the_caller(function, batch):
    return vmap(jacrev(function))(batch)


@sample_jacobians.also_right
def forward_mode(function, batch):
    return torch.func.vmap(torch.func.jacfwd(function))(batch.detach())


@sample_jacobians.also_right
def one_batched_backward(function, batch):
    batch = batch.detach().requires_grad_()
    outputs = vmap(function)(batch)
    num_outputs = outputs.shape[1]
    rows = torch.eye(num_outputs).unsqueeze(1).expand(num_outputs, *outputs.shape)
    (jacobians,) = torch.autograd.grad(outputs, batch, rows.to(batch.dtype), is_grads_batched=True)
    return jacobians.movedim(0, 1)


@sample_jacobians.also_right
def sum_over_the_batch(function, batch):
    return jacrev(lambda samples: vmap(function)(samples).sum(0))(batch.detach()).movedim(0, 1)
