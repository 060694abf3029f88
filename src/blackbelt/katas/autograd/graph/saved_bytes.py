"""Weigh what is kept for backward."""

from __future__ import annotations

import torch

from blackbelt.dojo.kata import kata
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.graph._shared import Exactly, graphs, leaf, recorded

SQUARE = """\
class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x
    @staticmethod
    def backward(ctx, grad):
        return 2 * grad * ctx.saved_tensors[0]
out = Square.apply(x * 2)"""


@kata(
    minutes=25,
    belt="blue",
    hints=(
        "Try `dir(output.grad_fn)`. What do the names that begin with `_saved_` hold? Always one tensor?",
        (
            "Two tensors may share a storage: count storages, by `tensor.untyped_storage().data_ptr()`, and their "
            "`.nbytes()`. The leaves are at the nodes that have a `variable`."
        ),
        (
            "For every node look at `_saved_…` (a tensor, or a tuple that may hold some and None) and, for a Function "
            "written in Python, at `saved_tensors`. A freed node raises RuntimeError: it keeps nothing. Take the "
            "storages of the leaves out at the end."
        ),
    ),
    cases=graphs(),
    edge_cases=lambda: {
        "an exponential": (recorded("out = x.exp()"),),
        "saves a leaf": (recorded("out = x.sin() + (x * 2).sin()"),),
        "saved by two": (recorded("a = x.exp(); out = a * y.tanh() + a"),),
        "two views of one storage": (recorded("a = x * 2; out = a[:, :1].sin() * a[:, 1:2].sin()"),),
        "a small view": (recorded("out = (x * 2)[:1, :1].sin()", x=leaf(20, 20)),),
        "an index tensor": (recorded("out = (x * 2)[i]", x=leaf(4, 3), i=torch.tensor([0, 2])),),
        "a Python function": (recorded(SQUARE),),
        "after backward": (recorded("out = x.exp().sin().sum(); out.backward()"),),
        "an input that is data": (recorded("out = (x * d).sum()", x=leaf(2, 3), d=numbers((2, 3))),),
        "no history": (recorded("out = x"),),
    },
    laws=[Exactly()],
    changes=(0,),
)
def saved_bytes(output: torch.Tensor) -> int:
    """Weigh what is kept for backward.

    Return how many bytes the nodes of the graph of `output` keep for backward. Memory counts once, however many nodes
    keep it, and it counts in full: a saved view keeps the whole storage alive. The memory of leaves that require grad
    (parameters) does not count; it would be there anyway. After `backward()` nothing is kept.

    ```python
    x = torch.ones(100, requires_grad=True)
    saved_bytes(x.exp())         # 400: the output
    saved_bytes(x.exp().exp())   # 800: both outputs
    saved_bytes(x.sin())         # 0: the input, a leaf
    saved_bytes(x * 2)           # 8: the number, which PyTorch keeps as a tensor
    ```

    Only look: a second backward, or a second forward pass, is not needed.
    """
    kept: dict[int, int] = {}
    leaves = set()
    found, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        waiting += [following for following, _ in node.next_functions]
        if hasattr(node, "variable"):
            leaves.add(node.variable.untyped_storage().data_ptr())
        for name in dir(node):
            if name.startswith("_saved_") or name == "saved_tensors":
                try:
                    value = getattr(node, name)
                except RuntimeError:  # freed by backward
                    continue
                for tensor in value if isinstance(value, (tuple, list)) else [value]:
                    if isinstance(tensor, torch.Tensor):
                        storage = tensor.untyped_storage()
                        kept[storage.data_ptr()] = storage.nbytes()
    return sum(nbytes for key, nbytes in kept.items() if key not in leaves)


def _saved(output, lists=True, functions=True, first_only=False, freed=0):
    """Return the tensors that the nodes keep, and the leaves; the options leave out what a learner may overlook."""
    tensors, leaves, found, waiting = [], [], set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        waiting += [] if first_only else [following for following, _ in node.next_functions]
        leaves += [node.variable] if hasattr(node, "variable") else []
        for name in dir(node):
            if name.startswith("_saved_") or (functions and name == "saved_tensors"):
                try:
                    value = getattr(node, name)
                except RuntimeError:
                    if freed:
                        raise
                    continue
                tensors += value if lists and isinstance(value, (tuple, list)) else [value]
    return [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)], leaves


def _weigh(tensors, leaves=()):
    there = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(size for key, size in sizes.items() if key not in there)


@saved_bytes.wrong("It adds up tensors. Two nodes may keep the same memory; count storages, each of them once.")
def every_tensor(output):
    tensors, leaves = _saved(output)
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors if _weigh([tensor], leaves))


@saved_bytes.wrong(
    "It counts the elements of the tensor. A saved view keeps its whole storage alive, also what it does not show."
)
def elements_only(output):
    tensors, leaves = _saved(output)
    seen = {t.untyped_storage().data_ptr(): t.nbytes for t in tensors if _weigh([t], leaves)}
    return sum(seen.values())


@saved_bytes.wrong("It counts leaves as well. A parameter is in memory with or without the graph.")
def with_leaves(output):
    return _weigh(_saved(output)[0])


@saved_bytes.wrong("It looks at the last node only. Every node keeps what its own formula needs.")
def last_node(output):
    tensors, leaves = _saved(output, first_only=True)
    return _weigh(tensors, [*leaves, *_saved(output)[1]])


@saved_bytes.wrong(
    "It looks for tensors only. Some nodes keep a tuple of them: indexing keeps `_saved_indices`, None among them."
)
def no_tuples(output):
    tensors, leaves = _saved(output, lists=False)
    return _weigh(tensors + _python_only(output), leaves)


def _python_only(output):
    node = output.grad_fn
    return list(node.saved_tensors) if hasattr(node, "saved_tensors") and hasattr(node, "save_for_backward") else []


@saved_bytes.wrong(
    "It knows only the nodes that PyTorch generates. A `torch.autograd.Function` keeps its tensors in `saved_tensors`."
)
def generated_only(output):
    return _weigh(*_saved(output, functions=False))


@saved_bytes.wrong(
    "It reads a node that backward has freed. That raises RuntimeError, and tells you what you want to know: nothing "
    "is kept there any more."
)
def freed_nodes(output):
    return _weigh(*_saved(output, freed=1))


@saved_bytes.wrong(
    "It leaves out every tensor that needs no gradient. Data that is kept for the gradient of a weight is kept all the "
    "same."
)
def without_data(output):
    tensors, leaves = _saved(output)
    return _weigh([t for t in tensors if t.requires_grad or t.dtype is torch.int64], leaves)


@saved_bytes.also_right
def in_two_walks(output):
    return _weigh(*_saved(output))
