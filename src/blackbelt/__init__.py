"""PyTorch Black Belt: inspection tools for tensors and autograd, and the course that builds them.

Names are imported on first use, so that ``import blackbelt`` costs nothing and does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blackbelt.autograd.accumulation import accumulate, explain_accumulation
    from blackbelt.autograd.functions import check_function
    from blackbelt.autograd.graph import draw_graph, graph_report, measure_dropped
    from blackbelt.autograd.retain import trace_retained
    from blackbelt.dojo.lesson import begin, check, claim, error_of, predict, summary
    from blackbelt.measurement import measure, measure_growth
    from blackbelt.tensors.broadcasting import explain_broadcast
    from blackbelt.tensors.einsum import explain_einsum
    from blackbelt.tensors.inplace import trace_inplace
    from blackbelt.tensors.strides import explain_view, memory_map

__version__ = "0.1.0"

__all__ = [
    "accumulate",
    "begin",
    "check",
    "check_function",
    "claim",
    "draw_graph",
    "error_of",
    "explain_accumulation",
    "explain_broadcast",
    "explain_einsum",
    "explain_view",
    "graph_report",
    "measure",
    "measure_dropped",
    "measure_growth",
    "memory_map",
    "predict",
    "summary",
    "trace_inplace",
    "trace_retained",
]

_HOMES = {
    **dict.fromkeys(("begin", "check", "claim", "error_of", "predict", "summary"), "blackbelt.dojo.lesson"),
    **dict.fromkeys(("measure", "measure_growth"), "blackbelt.measurement"),
    "explain_broadcast": "blackbelt.tensors.broadcasting",
    "explain_einsum": "blackbelt.tensors.einsum",
    "trace_inplace": "blackbelt.tensors.inplace",
    **dict.fromkeys(("accumulate", "explain_accumulation"), "blackbelt.autograd.accumulation"),
    "check_function": "blackbelt.autograd.functions",
    **dict.fromkeys(("draw_graph", "graph_report", "measure_dropped"), "blackbelt.autograd.graph"),
    "trace_retained": "blackbelt.autograd.retain",
    **dict.fromkeys(("explain_view", "memory_map"), "blackbelt.tensors.strides"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'blackbelt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
