"""What draw_graph draws: everything up to 250 nodes, blocks beyond, memory that nodes share, and its sentences."""

from __future__ import annotations

import base64
import re
from xml.etree import ElementTree

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from blackbelt.autograd.graph import draw_graph
from tests.autograd.graph_programs import PROGRAMS, Block, blocks


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def drawn(drawing):
    data = re.search(r"base64,([^\"]+)", drawing._repr_html_()).group(1)
    return base64.b64decode(data).decode()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_small_graph_is_drawn_one_to_one(name):
    output, params, inputs = PROGRAMS[name]()
    drawing = draw_graph(output, params, inputs)
    shift = len(drawing.outputs)
    nodes, edges = drawing.graph.nodes, drawing.graph.edges
    assert len(nodes) == shift + drawing.num_nodes
    for box, node in zip(nodes[shift:], drawing.nodes):
        assert (node.label or node.name) in box.title
        assert (box.form == "pill") == (node.kind == "leaf")
        if node.shape:
            assert str(node.shape) in box.lines[0]
        if node.saved_bytes:
            assert "saves" in box.lines[0]
    assert [box.form for box in nodes[:shift]] == ["source"] * shift
    pairs = {(edge.source + shift, edge.target + shift) for edge in drawing.edges}
    assert {(edge.source, edge.target) for edge in edges if edge.source >= shift} == pairs
    assert {(e.source, e.target) for e in edges if e.source < shift} == {
        (number, output.node + shift) for number, output in enumerate(drawing.outputs)
    }
    ElementTree.fromstring(drawn(drawing))


def test_parallel_edges_are_counted():
    x = torch.randn(3, requires_grad=True)
    drawing = draw_graph((x * x).sum(), {"x": x})
    assert [edge.label for edge in drawing.graph.edges] == ["", "", "2×"]
    assert len(drawing.edges) == 3


def test_shared_memory_has_one_letter_on_every_node_that_holds_it():
    x = torch.randn(8, requires_grad=True)
    y = x.exp()
    drawing = draw_graph((y.sin() * y).sum(), {"x": x})
    marked = {node.title: node.marks for node in drawing.graph.nodes if node.marks}
    assert marked["ExpBackward0"] == ("A",)
    assert marked["SinBackward0"] == ("A",)
    assert marked["MulBackward0"] == ("A",)
    assert ("(8,), 32 B: saved once, held by 3 nodes") in [said for _, said in drawing.graph.legend]


def test_parameters_and_inputs_have_their_own_tones_and_legend():
    output, model, inputs = PROGRAMS["cnn"]()
    drawing = draw_graph(output, model, inputs)
    tones = {node.title: node.tone for node in drawing.graph.nodes if node.form == "pill"}
    assert tones["x"] != tones["0.weight"] == tones["1.bias"]
    said = [text for _, text in drawing.graph.legend]
    assert any("input" in text for text in said) and any("parameter" in text for text in said)


def test_a_dtype_is_said_where_it_is_not_the_usual_one():
    x = torch.randn(4, requires_grad=True)
    drawing = draw_graph((x.exp().double() * 2).sum().float(), {"x": x})
    lines = {node.title: node.lines for node in drawing.graph.nodes}
    assert "(4,) float64" in lines["MulBackward0"][0]
    assert lines["x"] == ["(4,)"]


def test_a_deep_model_is_collapsed_by_module_and_one_block_is_drawn_in_full():
    output, model, inputs = blocks(20)
    drawing = draw_graph(output, model, inputs)
    stacks = [node for node in drawing.graph.nodes if node.form == "stack"]
    assert [node.title for node in stacks] == [str(number) for number in range(18, -1, -1)]
    assert all("like 19" in node.lines[0] for node in stacks)
    framed = [node for node in drawing.graph.nodes if node.group]
    assert {node.group for node in framed} == {"19"}
    one, *_ = (stack for stack in stacks if stack.title == "7")
    inside = [node for node in drawing.nodes if node.module.split(".")[0] == "7" and node.kind == "leaf"]
    assert one.lines[1].startswith(f"{len(inside)} parameters")
    assert f"{sum(p.numel() for p in model[7].parameters()) * 4 / 1024:.4g} KiB" in one.lines[1]
    (note,) = (note for note in drawing.notes if "collapsed" in note)
    assert "19 collapsed blocks" in note
    collapsed = int(re.match(r"([\d,]+) of", note).group(1).replace(",", ""))
    boxes = len(drawing.graph.nodes) - len(stacks) - 1
    assert collapsed + boxes == drawing.num_nodes


def test_what_collapsed_blocks_save_adds_up():
    output, model, inputs = blocks(12)
    drawing = draw_graph(output, model, inputs)
    units = {"B": 1, "KiB": 1024, "MiB": 2**20}
    total = 0.0
    for node in drawing.graph.nodes:
        for number, unit in re.findall(r"saves ([\d.]+) (\w+)", " ".join(node.lines)):
            total += float(number) * units[unit]
    assert total >= drawing.saved_bytes * 0.99  # memory held on both sides of a border counts on both


def test_more_layers_than_can_be_drawn_are_put_together():
    layers = [layer for _ in range(120) for layer in (nn.Linear(4, 4), nn.ReLU())]
    model = nn.Sequential(*layers)
    drawing = draw_graph(model(torch.randn(2, 4)).sum(), model)
    assert len(drawing.graph.nodes) <= 130
    assert any("alike" in line or "times the same" in line for node in drawing.graph.nodes for line in node.lines)


def test_an_unrolled_recurrence_is_collapsed_by_repetition():
    cell, state = nn.RNNCell(4, 4), torch.zeros(1, 4)
    for step in torch.randn(200, 1, 4):
        state = cell(step, state)
    drawing = draw_graph(state.sum(), cell)
    assert drawing.num_nodes > 1000
    assert len(drawing.graph.nodes) < 40
    (stack,) = (node for node in drawing.graph.nodes if node.form == "stack")
    assert re.search(r"nodes: \d+ times the same \d+ operations", stack.lines[0])
    assert "199 times" in stack.lines[0]  # and the last step is drawn in full, above it
    pills = {node.title for node in drawing.graph.nodes if node.form == "pill"}
    assert pills == {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}


def test_irregular_graphs_are_cut_down_too():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, requires_grad=True)
    y = x
    for number in torch.randint(0, 4, (3000,), generator=generator).tolist():
        y = (y.sin, y.cos, y.tanh, y.neg)[number]()
    drawing = draw_graph(y, {"x": x})
    assert len(drawing.graph.nodes) <= 130
    assert any(node.form == "stack" for node in drawing.graph.nodes)
    assert any("collapsed" in note for note in drawing.notes)


def test_tied_weights_stay_outside_of_collapsed_blocks():
    shared = nn.Parameter(torch.randn(8, 8))
    model = nn.Sequential(*(Block() for _ in range(12)))
    x = torch.randn(2, 6, 8)
    for block in model:
        x = block(x @ shared)
    drawing = draw_graph(x.sum(), [("shared", shared), *model.named_parameters()])
    assert "shared" in [node.title for node in drawing.graph.nodes if node.form == "pill"]


def test_checkpointed_blocks_say_so_when_collapsed():
    model, x = nn.Sequential(*(Block() for _ in range(12))), torch.randn(2, 6, 8)
    for block in model:
        x = checkpoint(block, x, use_reentrant=False)
    drawing = draw_graph(x.sum(), model)
    assert any("packed by checkpoint" in line for node in drawing.graph.nodes for line in node.lines)
    assert "checkpoint" in " ".join(drawing.notes)


def test_drawings_are_deterministic():
    first, second = (drawn(draw_graph(*blocks(5))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("depth", [1, 5, 20])
def test_the_svg_stays_small(depth):
    drawing = draw_graph(*blocks(depth))
    assert len(drawn(drawing)) < 700 * len(drawing.graph.nodes) + 4000
