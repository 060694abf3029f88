"""Programs whose graphs the tests know another way: each returns (output, module or names, inputs)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import profile
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Program = Callable[[], tuple[Any, Any, dict[str, torch.Tensor]]]


def mlp():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(5, 4)
    return model(x).square().mean(), model, {"x": x}


def cnn():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    )
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    return model(x).logsumexp(1).sum(), model, {"x": x}


def rnn():
    model = nn.RNN(3, 4, num_layers=2)
    x = torch.randn(6, 2, 3)
    return model(x)[0].sum(), model, {"x": x}


def lstm():
    model = nn.LSTM(3, 4)
    x = torch.randn(5, 2, 3, requires_grad=True)
    output, (hidden, cell) = model(x)
    return {"output": output, "state": (hidden, cell)}, model, {"x": x}


def encoder_layer():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = torch.randn(2, 5, 8)
    return model(x).sum(), model, {"x": x}


class Block(nn.Module):
    """A pre-norm transformer block, written by hand."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, time, width)
        batch, time, width = x.shape
        q, k, v = (
            part.view(batch, time, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


def block():
    model = Block()
    x = torch.randn(2, 6, 8, requires_grad=True)
    return model(x).square().sum(), model, {"x": x}


def blocks(depth: int):
    model = nn.Sequential(*(Block() for _ in range(depth)))
    x = torch.randn(2, 6, 8)
    return model(x).square().sum(), model, {"x": x}


def tied():
    embedding, head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleDict({"embedding": embedding, "head": head})
    return head(embedding(torch.tensor([1, 2, 3]))).logsumexp(-1).sum(), model, {}


class Scale(torch.autograd.Function):
    """Saves a tensor twice over: with `save_for_backward`, and as an attribute."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.factor = factor
        ctx.mask = x > 0
        ctx.save_for_backward(x, None)
        return x * factor, x.sum()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, grad_sum: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * ctx.factor * ctx.mask + grad_sum, None


def custom():
    weight = torch.randn(6, requires_grad=True)
    scaled, total = Scale.apply(weight.exp(), 3.0)
    return scaled.sum() + total, {"weight": weight}, {}


def outputs():
    a, b = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    hidden = a.sin()
    return [hidden, {"sum": (hidden * b).sum(), "parts": (hidden * hidden).unbind()}], {"a": a, "b": b}, {}


def checkpointed():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    x = torch.randn(3, 4, requires_grad=True)
    return checkpoint(model, x.exp(), use_reentrant=False).sum(), model, {"x": x}


def checkpointed_reentrant():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    x = torch.randn(3, 4, requires_grad=True)
    return checkpoint(model, x.exp(), use_reentrant=True).sum(), model, {"x": x}


def in_place():
    x = torch.randn(4, 3, requires_grad=True)
    y = x * 2
    y[0] = y[1].exp()
    y.mul_(3)
    return y.sum(), {"x": x}, {}


PROGRAMS: dict[str, Program] = {
    program.__name__: program
    for program in (
        mlp,
        cnn,
        rnn,
        lstm,
        encoder_layer,
        block,
        tied,
        custom,
        outputs,
        checkpointed,
        checkpointed_reentrant,
        in_place,
    )
}


def tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    return [item for part in (output.values() if isinstance(output, dict) else output) for item in tensors(part)]


def canonical(
    roots: list[Any], next_of: Callable[[Any], list[tuple[Any, int, int]]]
) -> tuple[list[Any], set[tuple[int, ...]]]:
    """Number a graph depth first, in the order of its edges: equal graphs get equal numbers, whoever walks them.

    ``next_of(node)`` gives (target, slot, input_nr). Returns the nodes in that order, and (source, target, slot,
    input_nr).
    """
    number: dict[Any, int] = {}
    order: list[Any] = []
    edges = set()

    def visit(node: Any) -> int:
        if node not in number:
            number[node] = len(order)
            order.append(node)
            source = number[node]
            for target, slot, input_nr in next_of(node):
                edges.add((source, visit(target), slot, input_nr))
        return number[node]

    for root in roots:
        visit(root)
    return order, edges


def walked(output: Any) -> tuple[list[Any], set[tuple[int, ...]]]:
    """Walk PyTorch's own objects."""
    return canonical(
        [tensor.grad_fn for tensor in tensors(output)],
        lambda node: [
            (target, slot, nr) for slot, (target, nr) in enumerate(node.next_functions) if target is not None
        ],
    )


def reported(report: Any) -> tuple[list[Any], set[tuple[int, ...]]]:
    """Walk the nodes and edges of a report in the same way."""
    leaving: dict[int, list[tuple[int, int, int]]] = {}
    for edge in sorted(report.edges, key=lambda edge: edge.slot):
        leaving.setdefault(edge.source, []).append((edge.target, edge.slot, edge.input_nr))
    order, edges = canonical([output.node for output in report.outputs], lambda node: leaving.get(node, []))
    return [report.nodes[index] for index in order], edges


def executed(output: Any) -> Counter[str]:
    """Run backward and return the names of the nodes that the engine executed, as the profiler saw it."""
    roots = tensors(output)
    with profile(use_cpu=True) as profiler:
        torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])
    prefix = "autograd::engine::evaluate_function: "
    return Counter(
        event.name().removeprefix(prefix).removeprefix("torch::autograd::")
        for event in profiler.kineto_results.events()
        if event.name().startswith(prefix) and not event.name().endswith("GraphRoot")  # the engine's own
    )
