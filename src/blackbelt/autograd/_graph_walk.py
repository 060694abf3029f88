"""The autograd graph behind tensors, walked from the outputs to the leaves, without recursion."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from blackbelt.autograd._graph_names import HOW

# A node that Python has seen keeps its Python object, since PyTorch's pull request 181390 (torch 2.15 has it), and then
# a chain of such nodes is freed recursively: at 45,000 in a row, freeing them overflows a stack of 8 MiB, whoever
# looked. The nodes beyond are left unseen.
DEEPEST = 20_000
LEAF_SEQUENCE = 2**63  # AccumulateGrad nodes carry the largest number there is: the engine runs them at once


@dataclass(frozen=True)
class Walk:
    """The nodes in the order in which backward could run them; edges as (source, slot, target, input_nr), by position.

    ``nodes`` are PyTorch's own node objects. As long as they are kept, so is the graph: drop a walk when done.
    ``num_open`` nodes at the end of paths of the greatest length have inputs that were not looked at.
    """

    nodes: list[Any]
    edges: list[tuple[int, int, int, int]]
    roots: list[tuple[int, int]]
    num_open: int


def root_of(name: str, tensor: torch.Tensor) -> tuple[Any, int] | None:
    """Return the node that made ``tensor`` and as which output, the AccumulateGrad of a leaf, None without a graph."""
    try:
        node = tensor.grad_fn
    except RuntimeError as error:  # a view whose history PyTorch refuses to rebuild
        raise ValueError(f"{name} has no graph that PyTorch will show: {error}") from error
    if node is not None:
        return node, tensor.output_nr
    if tensor.requires_grad:
        return torch.autograd.graph.get_gradient_edge(tensor).node, 0
    return None


def why_no_graph(name: str, tensor: torch.Tensor) -> str:
    """Return the sentence that says why there is no graph behind ``tensor``, and what to do."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.requires_grad:
        return (
            f"{name} is a leaf: you made it, no operation did, so there is no graph behind it. Its gradient arrives in "
            f"`.grad`. {HOW}"
        )
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return (
            f"{name} has dtype {dtype}, and only floating-point and complex tensors have gradients: operations with "
            f"such a result, like `argmax` or a comparison, record no graph. {HOW}"
        )
    if tensor.is_inference():
        return f"{name} was made under `torch.inference_mode()`, which records no graph. Run the forward pass outside."
    return (
        f"{name} has no graph: it does not require gradients. It was made under `torch.no_grad()`, detached, or "
        "computed from tensors of which none requires gradients. Set `requires_grad=True` on an input or a parameter "
        "before the forward pass, or pass the tensor from before `detach()`."
    )


def walk(roots: Sequence[tuple[Any, int]]) -> Walk:
    """Return every node reachable from ``roots``, each once, and every edge; no path longer than ``DEEPEST``.

    The order is topological: a node comes after all that send it a gradient; of several, the one made last in forward
    comes first, as in the engine's own queue (``ReadyQueue`` in ``torch/csrc/autograd/engine.cpp``), and a leaf comes
    at once. Linear in nodes and edges but for the queue's logarithm.
    """
    number: dict[Any, int] = {}
    found: list[Any] = []
    level: list[int] = []
    edges: list[tuple[int, int, int, int]] = []
    ready: list[tuple[int, int]] = []

    def meet(node: Any, depth: int) -> int:
        index = number.get(node)
        if index is None:
            index = number[node] = len(found)
            found.append(node)
            level.append(depth)
            if node.next_functions:
                heapq.heappush(ready, (-sequence_number(node), index))
        level[index] = max(level[index], depth)
        return index

    starts = [meet(node, 0) for node, _ in roots]
    num_open = 0
    while ready:  # the node made last first: all that lead to it have been here, so its level is final
        _, source = heapq.heappop(ready)
        if level[source] >= DEEPEST:
            num_open += 1
            continue
        for slot, (target, input_nr) in enumerate(found[source].next_functions):
            if target is not None:
                edges.append((source, slot, meet(target, level[source] + 1), input_nr))
    rank = _topological(found, edges)
    order = sorted(range(len(found)), key=rank.__getitem__)
    return Walk(
        [found[index] for index in order],
        sorted((rank[source], slot, rank[target], input_nr) for source, slot, target, input_nr in edges),
        [(rank[index], output_nr) for index, (_, output_nr) in zip(starts, roots)],
        num_open,
    )


def is_leaf(node: Any) -> bool:
    """Whether ``node`` adds to the gradient of a leaf."""
    return bool(node.name().endswith("AccumulateGrad"))


def _topological(nodes: list[Any], edges: list[tuple[int, int, int, int]]) -> list[int]:
    waits = [0] * len(nodes)
    targets: list[list[int]] = [[] for _ in nodes]
    for source, _, target, _ in edges:
        waits[target] += 1
        targets[source].append(target)
    ready = [(-sequence_number(node), index) for index, node in enumerate(nodes) if not waits[index]]
    heapq.heapify(ready)
    rank = [0] * len(nodes)
    next_rank = 0
    while ready:
        _, index = heapq.heappop(ready)
        rank[index] = next_rank
        next_rank += 1
        for target in targets[index]:
            waits[target] -= 1
            if not waits[target]:
                heapq.heappush(ready, (-sequence_number(nodes[target]), target))
    assert next_rank == len(nodes), "the graph has a cycle"
    return rank


def sequence_number(node: Any) -> int:
    """Return the number that autograd counts nodes with as forward makes them; leaves come last of all."""
    number: int = node._sequence_nr()  # noqa: SLF001 - has no public name
    return min(number, LEAF_SEQUENCE)
