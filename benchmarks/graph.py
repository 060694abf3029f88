"""What `draw_graph` costs: time and size of the drawing at 200, 2,000 and 50,000 nodes, next to a plain walk.

Run ``python benchmarks/graph.py``. The limit is the walk itself: a loop over ``next_functions`` that visits every node
once and reads nothing. Contestants take turns in one process.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import nn

from blackbelt.autograd.graph import draw_graph, graph_report, measure_dropped
from blackbelt.measurement import measure
from blackbelt.report import format_bytes

BLOCK_NODES = 76  # of one encoder layer, its parameters included


def stacked(num_nodes: int) -> tuple[torch.Tensor, nn.Module]:
    """Return the output of a transformer encoder whose graph has about ``num_nodes`` nodes."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, max(round(num_nodes / BLOCK_NODES), 1), enable_nested_tensor=False)
    return model(torch.randn(2, 5, 16)).sum(), model


def wide(num_nodes: int) -> tuple[torch.Tensor, nn.Module]:
    """Return a sum over many independent branches."""
    layer = nn.Linear(8, 8)
    return torch.stack([layer(torch.ones(8)).relu() for _ in range(num_nodes // 4)]).sum(), layer


def plain_walk(output: torch.Tensor, _: nn.Module) -> int:
    """Visit every node once."""
    seen: set[Any] = {output.grad_fn}
    stack: list[Any] = [output.grad_fn]
    while stack:
        for target, _number in stack.pop().next_functions:
            if target is not None and target not in seen:
                seen.add(target)
                stack.append(target)
    return len(seen)


def main() -> None:
    """Print times, ratios and sizes, and how close the reported bytes are to the allocator's."""
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, CPU\n")
    for build, num_nodes in ((stacked, 200), (stacked, 2_000), (wide, 50_000)):
        output, model = build(num_nodes)
        report = measure(
            inputs=lambda output=output, model=model: (output, model),
            rounds=3,
            warmup=1,
            walk=plain_walk,
            graph_report=graph_report,
            draw_graph=draw_graph,
            draw_as_html=lambda output, model: draw_graph(output, model)._repr_html_(),
        )
        drawing = draw_graph(output, model)
        size = len(drawing._repr_html_())
        print(report)
        print(
            f"{drawing.num_nodes:,} nodes ({build.__name__}): {len(drawing.graph.nodes)} boxes, "
            f"{format_bytes(size)} of HTML; {report.ratio('draw_graph', 'walk'):.1f}× the walk, "
            f"{report['draw_graph'].median_seconds / drawing.num_nodes * 1e6:.0f} µs a node\n"
        )
    block, x = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True), torch.randn(8, 64, 256)
    print(measure_dropped(lambda: block(x).sum(), block, {"x": x}))


if __name__ == "__main__":
    main()
