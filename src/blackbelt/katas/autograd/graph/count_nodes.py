"""Walk the graph and count."""

from __future__ import annotations

from collections import Counter, deque

import torch

from blackbelt.dojo.kata import kata
from blackbelt.katas.autograd.graph._shared import Exactly, graphs, recorded


@kata(
    minutes=15,
    belt="orange",
    hints=(
        "Draw the graph of `a = x.exp(); out = a * a`. How many nodes have you drawn, how many arrows?",
        (
            "Start at `output.grad_fn`, follow `next_functions`, and keep a list of nodes still to visit, so that no "
            "depth is too deep. An arrow may lead to None: that input needs no gradient."
        ),
        (
            "`waiting = [output.grad_fn]` and a set of nodes met. While something waits: take one out; where it is not "
            "None and not in the set, put it there and let the nodes of its `next_functions` wait."
        ),
    ),
    cases=graphs(),
    edge_cases=lambda: {
        "a chain": (recorded("out = (x * 2).exp().sum()"),),
        "two inputs": (recorded("out = x * y.exp()"),),
        "a constant": (recorded("out = torch.ones(3) * x.exp()"),),
        "a diamond": (recorded("a = x.exp(); out = a * a + a"),),
        "an input alone": (recorded("out = x"),),
        "a long chain of two kinds": (recorded("out = x.exp()\nfor _ in range(40): out = out.tanh().neg()"),),
        "5,000 deep": (recorded("out = x * 1\nfor _ in range(5000): out = out * 1"),),
    },
    laws=[Exactly()],
    changes=(0,),
)
def count_nodes(output: torch.Tensor) -> dict[str, int]:
    """Walk the graph and count.

    Return how many nodes of each name are in the graph of `output`, e.g. `{"MulBackward0": 2, …}`. Every node counts
    once, however many arrows lead to it, and the nodes that put gradients into leaves count as well. The name is
    `node.name()`. A tensor without a `grad_fn` has no graph: return `{}`.

    ```python
    x = torch.ones(3, requires_grad=True)
    a = x.exp()
    count_nodes(a * a)  # {"MulBackward0": 1, "ExpBackward0": 1, "torch::autograd::AccumulateGrad": 1}
    ```

    Graphs can be thousands of nodes deep.
    """
    found = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [following for following, _ in node.next_functions]
    return dict(Counter(node.name() for node in found))


@count_nodes.wrong(
    "It calls itself for every node. Python stops that after a thousand levels, and a graph is as deep as the program "
    "was long: keep a list of nodes to visit."
)
def by_recursion(output):
    seen = set()

    def visit(node):
        if node is not None and node not in seen:
            seen.add(node)
            for following, _ in node.next_functions:
                visit(following)

    visit(output.grad_fn)
    return dict(Counter(node.name() for node in seen))


@count_nodes.wrong(
    "It counts arrows, not nodes: a result that was used twice is one node with two arrows to it. Remember where you "
    "have been."
)
def every_path(output):
    counts, waiting = Counter(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None:
            counts[node.name()] += 1
            waiting += [following for following, _ in node.next_functions]
    return dict(counts)


@count_nodes.wrong("It follows the first arrow only. An operation of two inputs has two: `next_functions` is a list.")
def first_arrow(output):
    counts, node = Counter(), output.grad_fn
    while node is not None:
        counts[node.name()] += 1
        node = node.next_functions[0][0] if node.next_functions else None
    return dict(counts)


@count_nodes.wrong(
    "It takes every arrow for a node. Where an input needs no gradient, the arrow is `(None, 0)` and leads nowhere."
)
def follows_none(output):
    if output.grad_fn is None:
        return {}
    seen, waiting = {output.grad_fn}, [output.grad_fn]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return dict(Counter(node.name() for node in seen))


@count_nodes.wrong(
    "It stops before the leaves. They have nodes of their own, `AccumulateGrad`, which add what arrives into `.grad`."
)
def without_leaves(output):
    return {name: count for name, count in count_nodes.reference(output).items() if "AccumulateGrad" not in name}


@count_nodes.wrong("It counts each name once. The question is how many nodes carry that name.")
def names_only(output):
    return dict.fromkeys(count_nodes.reference(output), 1)


@count_nodes.wrong("It takes the name of the Python type. The node has a name of its own: `node.name()`.")
def type_names(output):
    return {name.rpartition(":")[2]: count for name, count in count_nodes.reference(output).items()}


@count_nodes.wrong("It takes for granted that there is a `grad_fn`. A leaf, or a tensor without a history, has None.")
def needs_a_graph(output):
    if output.grad_fn is None:
        raise ValueError("no graph")
    return count_nodes.reference(output)


@count_nodes.also_right
def breadth_first(output):
    seen, waiting = {}, deque([output.grad_fn])
    while waiting:
        node = waiting.popleft()
        if node is not None and node not in seen:
            seen[node] = node.name()
            waiting.extend(following for following, _ in node.next_functions)
    counts = {}
    for name in seen.values():
        counts[name] = counts.get(name, 0) + 1
    return counts
