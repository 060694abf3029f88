"""What the rules on losses share: they look where a loss is computed, and speak where ``backward`` shows it is used."""

from __future__ import annotations

import linecache
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from blackbelt.doctor.events import Backward, FunctionCall
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

MAX_WAITING = 256  # suspicions whose backward has not come; the oldest are dropped
SHAPE_ONLY = {  # nodes that hand values on as they are
    "ViewBackward0",
    "UnsafeViewBackward0",
    "ReshapeAliasBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "SqueezeBackward2",
    "UnsqueezeBackward0",
    "TransposeBackward0",
    "PermuteBackward0",
    "TBackward0",
    "SelectBackward0",
    "SliceBackward0",
    "IndexBackward0",
    "CloneBackward0",
    "AliasBackward0",
    "ExpandBackward0",
    "ToCopyBackward0",
    "NestedTensorFromMaskBackward0",
}


def number(tensor: Tensor) -> int | None:
    """Return the sequence number of the node that made a tensor; None for one without history."""
    try:
        return None if tensor.grad_fn is None else tensor.grad_fn._sequence_nr()  # noqa: SLF001 - has no public name
    except RuntimeError:  # a view made without gradients of what was written to since, as in Embedding(padding_idx=0)
        return None


def node_name(node: Any) -> str:
    """Return the name of a node without its namespace."""
    return "" if node is None else str(node.name()).rpartition(":")[2]


def through_views(node: Any) -> Any:
    """Return the first node, from this one to the leaves, that does more than hand values on."""
    while node is not None and node_name(node) in SHAPE_ONLY:
        node = node.next_functions[0][0]
    return node


def num_users(call: Backward, wanted: int) -> int:
    """Return how many inputs of nodes of a graph come from the node of this sequence number."""
    edges = (following for node in call.graph.nodes for following, _ in node.next_functions)
    return sum(node is not None and node._sequence_nr() == wanted for node in edges)  # noqa: SLF001 - no public name


class LossRule(Rule):
    """A rule whose suspicion becomes a finding when the loss that it is about is used: reached by a ``backward``."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._waiting: dict[int, tuple[int | None, dict[str, Any]]] = {}  # sequence number of the loss: the finding

    def wait(
        self,
        result: Any,
        message: str,
        place: Place | None,
        *,
        fix: str = "",
        evidence: Mapping[str, object] | None = None,
        only_user_of: Tensor | None = None,
    ) -> None:
        """Report when ``result`` is reached; with ``only_user_of``, only if nothing else in the graph uses that."""
        key = number(result) if isinstance(result, Tensor) else None
        if key is None:
            return
        sole = None if only_user_of is None else number(only_user_of)
        self._waiting[key] = (sole, {"message": message, "place": place, "fix": fix, "evidence": evidence})
        if len(self._waiting) > MAX_WAITING:
            self._waiting.pop(next(iter(self._waiting)))

    def backward_begins(self, call: Backward) -> Findings:
        """Report what waited for a loss that is used now."""
        return self.reached(call) if self._waiting else ()

    def reached(self, call: Backward) -> Iterator[Finding]:
        """Yield the findings whose loss is in the graph."""
        for key in call.graph.numbers & self._waiting.keys():
            sole, words = self._waiting.pop(key)
            if sole is None or num_users(call, sole) == 1:
                yield self.finding(**words)


class Activations:
    """The lines that applied a softmax or the like, by the sequence number of the node."""

    NAMES = frozenset({"softmax", "special_softmax", "sigmoid", "special_expit", "log_softmax", "exp", "softmin"})

    def __init__(self, run: Run) -> None:
        self._run = run
        self._places: dict[int, Place | None] = {}

    def note(self, call: FunctionCall) -> None:
        """Remember the line, if the call is one: of a module such as ``nn.Softmax``, the line of its construction."""
        if call.name not in self.NAMES or not isinstance(call.result, Tensor):
            return
        key = number(call.result)
        if key is None or key in self._places:  # noted for another rule
            return
        owner: nn.Module | None = call.modules[-1] if call.modules else None
        made = self._run.made_at(owner) if type(owner).__module__.startswith("torch.nn.modules.activation") else None
        self._places[key] = made or call.place
        if len(self._places) > MAX_WAITING:
            self._places.pop(next(iter(self._places)))

    def line_of(self, node: Any) -> Place | None:
        """Return the line that made the node, None where it was not seen."""
        return None if node is None else self._places.get(node._sequence_nr())  # noqa: SLF001 - has no public name


class ActivationRule(LossRule):
    """A loss rule that may ask which line applied the activation before the loss."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._activations = run.shared(Activations)

    def function_called(self, call: FunctionCall) -> Findings:
        self._activations.note(call)
        self.look(call)
        return ()

    def look(self, call: FunctionCall) -> None:
        """Look at a call that may be a loss, and ``wait`` where something is wrong with it."""


def is_simplex(values: Tensor, dim: int, tolerance: float = 1e-3) -> bool:
    """Return whether every row along ``dim`` is non-negative and adds up to 1."""
    if not values.is_floating_point() or values.numel() == 0 or values.size(dim) < 2:
        return False
    wide = values.detach().float()
    return bool((wide >= 0).all()) and bool((wide.sum(dim) - 1).abs().max() < tolerance)


def is_log_simplex(values: Tensor, dim: int, tolerance: float = 1e-2) -> bool:
    """Return whether every row along ``dim`` holds logarithms of numbers that add up to 1."""
    wide = values.detach().float()
    return bool(wide.logsumexp(dim).abs().max() < tolerance)


def class_dim(values: Tensor) -> int:
    """Return the dim of the classes, as ``cross_entropy`` and ``nll_loss`` see it."""
    return 0 if values.dim() == 1 else 1


def source_mentions(place: Place, words: tuple[str, ...], around: int = 25) -> bool:
    """Return whether the lines around a place have one of these words, in any case."""
    lines = range(max(1, place.line - around), place.line + around)
    return any(word in linecache.getline(place.file, n).lower() for n in lines for word in words)
