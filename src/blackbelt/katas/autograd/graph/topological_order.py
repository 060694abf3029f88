"""The order of a backward pass."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.autograd.graph import Node

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial
from blackbelt.katas.autograd.graph._shared import graphs, recorded


def _nodes(output: torch.Tensor) -> set[Node]:
    found: set[Node] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [following for following, _ in node.next_functions]
    return found


@dataclass(frozen=True)
class EveryNodeOnce(Law):
    """The result lists every node of the graph of the first argument, and each of them once."""

    why: ClassVar[str] = "A node that is left out sends no gradient on; one that runs twice sends it twice."

    def check(self, trial: Trial) -> None:
        nodes = _nodes(trial.arguments[0])
        if not isinstance(trial.result, (list, tuple)):
            raise LawBroken("It should return a list", f"{len(nodes)} nodes", type(trial.result).__name__)
        counts = Counter(trial.result)
        if set(counts) - nodes:
            raise LawBroken("It lists what is no node of this graph", "nodes only", str(set(counts) - nodes)[:80])
        if len(counts) < len(nodes):
            missing = ", ".join(sorted({node.name() for node in nodes - set(counts)}))
            raise LawBroken(f"It leaves nodes out: {missing}", f"{len(nodes)} nodes", f"{len(counts)} nodes")
        if len(trial.result) > len(nodes):
            raise LawBroken("It lists a node more than once", f"{len(nodes)} nodes", f"{len(trial.result)} entries")


@dataclass(frozen=True)
class OutputNotLast(Law):
    """The node of the output itself does not come last."""

    why: ClassVar[str] = "Backward starts at the output: every gradient comes from there."

    def check(self, trial: Trial) -> None:
        if len(trial.result) > 1 and trial.result[-1] is trial.arguments[0].grad_fn:
            raise LawBroken("The node of the output stands last", "first", "last")


@dataclass(frozen=True)
class SendersFirst(Law):
    """In the result, every node stands before the nodes to which it sends a gradient."""

    why: ClassVar[str] = "A node that runs before all gradients have reached it passes on a part of its gradient."

    def check(self, trial: Trial) -> None:
        places = {node: place for place, node in enumerate(trial.result)}
        for node, place in places.items():
            for following, _ in node.next_functions:
                if following is not None and places[following] < place:
                    one, other = node.name(), following.name().rpartition(":")[2]
                    raise LawBroken(
                        f"`{other}` stands before `{one}`, which sends it a gradient",
                        f"{one}, …, {other}",
                        ", ".join(each.name().rpartition(":")[2] for each in trial.result[:8]),
                    )


@kata(
    minutes=25,
    belt="green",
    hints=(
        "When may a node run? When every node that sends it a gradient has run. How many are those?",
        (
            "First walk the graph and count, for every node, the arrows that lead to it. Then run: a node is ready "
            "when its count has fallen to 0."
        ),
        (
            "Keep a list of ready nodes, at first `output.grad_fn` alone. Take one out, append it to the order, lower "
            "the count of every node in its `next_functions`, and let those that reach 0 become ready."
        ),
    ),
    cases=graphs(),
    edge_cases=lambda: {
        "a chain": (recorded("out = (x * 2).exp().sum()"),),
        "a shortcut": (recorded("a = x.exp(); out = a + a.sin().tanh()"),),
        "a shortcut, the long way first": (recorded("a = x.exp(); out = a.sin().tanh() + a"),),
        "a leaf used early and late": (recorded("out = x * (x.exp() * y).sin()"),),
        "a branch from another thread": (recorded("a = x.exp(); b = in_another_thread(a.sin); out = b.tanh()"),),
        "no history": (recorded("out = x"),),
        "5,000 deep": (recorded("out = x * 1\nfor _ in range(5000): out = out * 1"),),
    },
    laws=[EveryNodeOnce(), OutputNotLast(), SendersFirst()],
    changes=(0,),
)
def topological_order(output: torch.Tensor) -> list[Node]:
    """The order of a backward pass.

    Return the nodes of the graph of `output` in an order in which backward could run them: every node once, and
    before every node to which it sends a gradient. There may be many such orders; any will do. Without a `grad_fn`
    there is nothing to order: return `[]`.

    ```python
    a = x.exp()
    topological_order(a + a.sin())  # AddBackward0, SinBackward0, ExpBackward0, AccumulateGrad
    ```

    Graphs can be thousands of nodes deep.
    """
    if output.grad_fn is None:
        return []
    arrows: Counter[Node] = Counter()
    waiting, found = [output.grad_fn], {output.grad_fn}
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None:
                arrows[node] += 1
                if node not in found:
                    found.add(node)
                    waiting.append(node)
    order, ready = [], [output.grad_fn]
    while ready:
        order.append(ready.pop())
        for node, _ in order[-1].next_functions:
            if node is not None:
                arrows[node] -= 1
                if arrows[node] == 0:
                    ready.append(node)
    return order


@topological_order.wrong(
    "It lists nodes as it meets them, going deep first. By the first way it meets a node, others that send to it may "
    "not have run yet."
)
def depth_first(output):
    order, waiting = {}, [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in order:
            order[node] = True
            waiting += [following for following, _ in reversed(node.next_functions)]
    return list(order)


@topological_order.wrong(
    "It goes level by level. A shortcut puts a node on an early level although a longer way leads to it as well: the "
    "longest way counts, not the shortest."
)
def level_by_level(output):
    order, waiting = {}, deque([output.grad_fn])
    while waiting:
        node = waiting.popleft()
        if node is not None and node not in order:
            order[node] = True
            waiting.extend(following for following, _ in node.next_functions)
    return list(order)


@topological_order.wrong(
    "It lists leaves first. That is the order of the forward pass; turn it round and you have an order for backward."
)
def forward_order(output):
    return topological_order.reference(output)[::-1]


@topological_order.wrong(
    "It recurses, once per level. Python stops that after a thousand levels, and this graph is deeper: keep a list "
    "of nodes to visit."
)
def recursive(output):
    order, seen = [], set()

    def visit(node):
        if node is not None and node not in seen:
            seen.add(node)
            for following, _ in node.next_functions:
                visit(following)
            order.append(node)

    visit(output.grad_fn)
    return order[::-1]


def _number(node: Node) -> int:
    return int(node._sequence_nr())  # noqa: SLF001 - the only way to it


@topological_order.wrong(
    "It sorts by sequence number. `AccumulateGrad` has the highest number there is, so that the engine runs it as soon "
    "as it is ready; sorted, it comes before everyone who sends to it."
)
def by_sequence_number(output):
    return sorted(_nodes(output), key=_number, reverse=True)


@topological_order.wrong(
    "It sorts by sequence number, leaves last. Every thread counts its nodes from 0: where two threads record one "
    "graph, the numbers say nothing about the order. The engine counts arrows; the number only chooses among ready "
    "nodes."
)
def by_sequence_number_leaves_last(output):
    nodes = _nodes(output)
    leaves = [node for node in nodes if hasattr(node, "variable")]
    return sorted(nodes - set(leaves), key=_number, reverse=True) + leaves


@topological_order.wrong(
    "It lists a node again for every arrow that leads to it. In a backward pass each node runs once."
)
def every_arrow(output):
    order = topological_order.reference(output)
    again = [following for node in order for following, _ in node.next_functions if following is not None]
    return order[:1] + again


@topological_order.wrong("It leaves out the nodes of the leaves. They run too: they add what arrives into `.grad`.")
def without_leaves(output):
    return [node for node in topological_order.reference(output) if not hasattr(node, "variable")]


@topological_order.also_right
def postorder_reversed(output):
    order, seen, waiting = [], set(), [(output.grad_fn, False)]
    while waiting:
        node, done = waiting.pop()
        if done:
            order.append(node)
        elif node is not None and node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(following, False) for following, _ in node.next_functions]
    return order[::-1]
