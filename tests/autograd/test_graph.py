"""draw_graph and graph_report: the same nodes and edges as an independent walk and as the engine, and clear answers.

Oracles: a walk over PyTorch's own objects, and the names of the nodes that backward executed.
"""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from blackbelt.autograd._graph_walk import DEEPEST
from blackbelt.autograd.graph import draw_graph, graph_report, measure_dropped
from tests.autograd.graph_programs import PROGRAMS, Block, blocks, executed, mlp, reported, walked

HAS_RAW_DATA = hasattr(torch._C._autograd.SavedTensor, "data")  # torch 2.9 offers no look at packed data


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PROGRAMS)
def test_nodes_and_edges_are_those_of_an_independent_walk(name):
    output, params, inputs = PROGRAMS[name]()
    nodes, edges = walked(output)
    for report in (draw_graph(output, params, inputs), graph_report(output, params, inputs)):
        found, found_edges = reported(report)
        assert [node.name for node in found] == [node.name().removeprefix("torch::autograd::") for node in nodes]
        assert found_edges == edges
        assert report.num_nodes == len(report.nodes) == len(nodes)
        assert len(report.edges) == len(edges)
        assert [node.id for node in report.nodes] == list(range(len(nodes)))
        assert all(edge.source < edge.target for edge in report.edges)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "checkpointed_reentrant"])
def test_the_engine_executes_the_nodes_reported(name):
    """What is recomputed inside of a checkpoint is executed as well, in a graph of its own."""
    output, params, inputs = PROGRAMS[name]()
    named = Counter(node.name for node in draw_graph(output, params, inputs).nodes)
    assert executed(output) == named


@pytest.mark.parametrize("name", PROGRAMS)
def test_shapes_dtypes_and_labels(name):
    output, params, inputs = PROGRAMS[name]()
    report = draw_graph(output, params, inputs)
    nodes, _ = walked(output)
    found, _ = reported(report)
    names = {}
    pairs = list(params.named_parameters(remove_duplicate=False)) if isinstance(params, nn.Module) else params.items()
    for label, tensor in [*pairs, *inputs.items()]:
        names.setdefault(id(tensor), []).append(label)
    for node, theirs in zip(found, nodes):
        variable = getattr(theirs, "variable", None)
        assert (node.kind == "leaf") == (variable is not None)
        if variable is not None:
            assert node.label == " = ".join(names[id(variable)])
            assert (node.shape, node.dtype) == (tuple(variable.shape), "float32")
        else:
            assert (node.kind == "custom function") == isinstance(theirs, torch.autograd.function.BackwardCFunction)
            assert node.shape == tuple(theirs._input_metadata[0].shape)


def test_nothing_is_changed(monkeypatch):
    model, x = Block(), torch.randn(2, 6, 8)
    before = copy.deepcopy(model.state_dict())
    output = model(x)
    versions = [tensor._version for tensor in (output, x, *model.parameters())]
    state, profiler = torch.get_rng_state(), sys.getprofile()
    with torch.enable_grad():
        draw_graph(output, model, {"x": x})
        graph_report(output, model, {"x": x})
        assert torch.is_grad_enabled()
    with torch.no_grad():
        draw_graph(output, model)
        assert not torch.is_grad_enabled()
    assert sys.getprofile() is profiler
    assert torch.equal(torch.get_rng_state(), state)
    assert [tensor._version for tensor in (output, x, *model.parameters())] == versions
    assert all(p.grad is None for p in model.parameters())
    output.sum().backward()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_reports_hold_no_tensor_and_no_graph():
    import gc
    import weakref

    x = torch.randn(3, requires_grad=True)
    y = x.exp()
    drawing, report = draw_graph(y), graph_report(y)
    gone = weakref.ref(y)
    del y
    gc.collect()
    assert gone() is None
    assert drawing.num_nodes == report.num_nodes == 2


def test_every_look_of_a_report():
    output, params, inputs = mlp()
    for report in (draw_graph(output, params, inputs), graph_report(output, params, inputs)):
        text = str(report)
        assert max(map(len, text.splitlines())) <= 80
        assert "AddmmBackward0" in text and "2.weight" in text
        assert "<table" in report._repr_html_() or "<img" in report._repr_html_()
        again = json.loads(json.dumps(report.to_dict()))
        assert len(again["nodes"]) == report.num_nodes
        assert again["saved_bytes"] == report.saved_bytes
    assert str(draw_graph(output, params, inputs)) == str(draw_graph(output, params, inputs))


def test_params_in_every_form_name_the_same():
    output, model, _ = mlp()
    forms = [model, model.named_parameters(), dict(model.named_parameters()), list(model.named_parameters())]
    labels = [[node.label for node in draw_graph(output, params).nodes if node.kind == "leaf"] for params in forms]
    assert labels == [["2.bias", "2.weight", "0.bias", "0.weight"]] * 4
    assert [n.label for n in draw_graph(output).nodes if n.kind == "leaf"] == [""] * 4


def test_a_tensor_in_the_middle_can_have_a_name():
    x = torch.randn(3, requires_grad=True)
    hidden = x.exp()
    drawing = draw_graph((hidden * 2).sum(), inputs={"x": x, "hidden": hidden})
    assert [node.label for node in drawing.nodes] == ["", "", "hidden", "x"]
    assert "hidden = ExpBackward0" in str(drawing)


def test_what_no_gradient_reaches_is_said():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    x, z = torch.randn(1, 2), torch.randn(1, 2, requires_grad=True)
    drawing = draw_graph(model["used"](model["frozen"](x)), model, {"x": x, "z": z})
    notes = " ".join(drawing.notes)
    assert "No gradient reaches parameters `unused.weight`, `unused.bias` from here." in notes
    assert "No gradient reaches input `z` from here." in notes
    assert "`frozen.weight`, `frozen.bias` do not require gradients" in notes
    assert "`x` does not require gradients" in notes


def no_graph_cases():
    x = torch.randn(3, requires_grad=True)
    with torch.no_grad():
        under_no_grad = x * 2
    with torch.inference_mode():
        inference = torch.ones(2) * 2
    return {
        "no grad": (under_no_grad, "it does not require gradients"),
        "detached": ((x * 2).detach(), "detached"),
        "leaf": (x, "output is a leaf"),
        "integers": ((x * 2).argmax(), "output has dtype int64"),
        "booleans": (x > 0, "output has dtype bool"),
        "inference": (inference, "inference_mode"),
        "several": ([under_no_grad, (x > 0)], r"output\[0\] has no graph"),
        "meta": (torch.ones(2, device="meta"), "has no graph"),
    }


@pytest.mark.parametrize("case", no_graph_cases())
@pytest.mark.parametrize("tool", [draw_graph, graph_report])
def test_without_a_graph_the_answer_says_why(case, tool):
    output, why = no_graph_cases()[case]
    with pytest.raises(ValueError, match=why):
        tool(output)


def test_an_output_without_a_graph_among_others_is_left_out():
    x = torch.randn(3, requires_grad=True)
    drawing = draw_graph({"loss": x.sum(), "best": x.argmax(), "name": "run", "none": None, "leaf": x})
    assert [output.name for output in drawing.outputs] == ["output['loss']", "output['leaf']"]
    assert any("output['best']" in note for note in drawing.notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "output is of type int and holds no tensor"),
        (("loss",), "output is of type str"),
        (([],), "output is of type list and holds no tensor"),
        (({"a": None},), "output is of type dict and holds no tensor"),
        ((torch.nn.Linear(1, 1),), "output is of type Linear"),
        ((torch.ones(1, requires_grad=True).exp(), 3), "params is of type int; expected a module"),
        ((torch.ones(1, requires_grad=True).exp(), torch.ones(1)), "params is of type Tensor"),
        (
            (torch.ones(1, requires_grad=True).exp(), [torch.ones(1)]),
            "params holds an item of type Tensor without a name",
        ),
        ((torch.ones(1, requires_grad=True).exp(), {"w": 3}), r"params\['w'\] is of type int"),
        ((torch.ones(1, requires_grad=True).exp(), None, torch.ones(1)), "inputs is of type Tensor"),
        ((torch.ones(1, requires_grad=True).exp(), None, torch.nn.Linear(1, 1)), "inputs is of type Linear"),
        ((torch.ones(1, requires_grad=True).exp(), None, {1: torch.ones(1)}), "without a name"),
    ],
)
@pytest.mark.parametrize("tool", [draw_graph, graph_report])
def test_wrong_types_are_type_errors(tool, arguments, message):
    with pytest.raises(TypeError, match=message):
        tool(*arguments)


def test_a_freed_graph_says_so_and_does_not_crash():
    for name, program in PROGRAMS.items():
        output, params, inputs = program()
        before = graph_report(output, params, inputs)
        roots = output if isinstance(output, torch.Tensor) else None
        if roots is None or name.startswith("checkpointed"):
            continue
        roots.backward()
        report = graph_report(output, params, inputs)
        assert report.is_freed and not before.is_freed
        assert report.num_nodes == before.num_nodes
        assert "has freed" in str(report)
        assert any("saved tensors freed" in node.lines for node in draw_graph(output, params, inputs).graph.nodes)
        if name != "custom":  # an attribute of ctx is not freed
            assert report.saved_bytes == 0


def test_absent_tensors_are_not_freed_tensors():
    x = torch.randn(2, 3, requires_grad=True)
    report = graph_report(nn.functional.layer_norm(x, (3,)), inputs={"x": x})  # no weight, no bias
    assert not report.is_freed
    assert {item.name for node in report.nodes for item in node.saved} == {"input", "result1", "result2"}


def test_half_a_graph_freed():
    x = torch.randn(3, requires_grad=True)
    y = x.exp()
    y.sum().backward()
    report = graph_report((y * y).sum(), inputs={"x": x})
    assert report.is_freed
    assert report.saved_bytes == 12


@pytest.mark.parametrize("kind", ["deep and wide", "wide", "wide with leaves"])
def test_tens_of_thousands_of_nodes(kind):
    x = torch.randn(2, requires_grad=True)
    if kind == "deep and wide":
        y = x
        for _ in range(4_000):
            y = y.sin() + y.cos() * y.exp() + y.tanh() * y.sigmoid() - y
    elif kind == "wide":
        y = torch.stack([x * 2 for _ in range(50_000)])
    else:
        y = torch.stack([torch.ones(2, requires_grad=True) * 2 for _ in range(25_000)])
    drawing = draw_graph(y, {"x": x})
    assert 40_000 <= drawing.num_nodes < 51_000
    assert drawing.is_complete
    assert len(drawing.graph.nodes) < 20
    assert len(drawing._repr_html_()) < 20_000
    assert "collapsed block" in str(drawing)


def test_a_longer_chain_is_cut_so_that_it_can_be_freed():
    """Freeing 50,000 nodes in a row that Python has seen overflows the stack of PyTorch 2.15: see `_graph_walk`."""
    total = torch.zeros((), requires_grad=True)
    for _ in range(100_000):
        total = total + 1
    report = graph_report(total)
    assert not report.is_complete
    assert report.num_nodes == DEEPEST + 1
    assert "The graph goes on" in str(report) and "The graph goes on" in str(draw_graph(total))
    del total


def test_no_recursion_limit_is_met():
    y = torch.randn(2, requires_grad=True)
    nested = y.exp()
    for _ in range(5000):
        y, nested = y.exp(), [nested]
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(300)
        assert draw_graph(y, {}).num_nodes == 5001
        assert draw_graph(nested).num_nodes == 2
    finally:
        sys.setrecursionlimit(limit)


def test_tensors_on_meta_have_no_memory():
    model = nn.Linear(4, 4, device="meta")
    report = graph_report(model(torch.ones(2, 4, device="meta")).relu().sum(), model)
    assert any("`meta`" in note for note in report.notes)
    assert report.num_nodes == 6


def test_fake_tensors():
    with FakeTensorMode():
        model = nn.Linear(4, 4)
        report = graph_report(model(torch.ones(2, 4)).relu().sum(), model)
        drawing = draw_graph(model(torch.ones(2, 4)).relu().sum(), model)
    assert report.saved_bytes == 2 * 4 * 4 * 2
    assert any("have no memory" in note for note in report.notes)
    assert drawing.num_nodes == 6


def test_a_checkpoint_is_not_recomputed():
    calls = []

    def segment(x):
        calls.append(1)
        return x.sin().exp()

    x = torch.randn(3, requires_grad=True)
    for use_reentrant in (False, True):
        output = checkpoint(segment, x, use_reentrant=use_reentrant).sum()
        calls.clear()
        draw_graph(output, {"x": x})
        report = graph_report(output, {"x": x})
        assert not calls
        if not use_reentrant:
            assert report.saved_bytes == torch.get_rng_state().numel() * HAS_RAW_DATA
            assert "checkpoint" in " ".join(report.notes)
            assert any("packed by checkpoint" in node.lines for node in draw_graph(output).graph.nodes)
        output.backward()
        assert calls == [1]


def test_measure_dropped_refuses_what_graph_report_refuses():
    with pytest.raises(ValueError, match="does not require gradients"):
        measure_dropped(lambda: torch.ones(2))
    held = []

    def held_elsewhere():
        held.append(torch.ones(100, requires_grad=True).exp())
        return held[-1]

    report = measure_dropped(held_elsewhere)
    assert report.freed_bytes == 0
    assert "something else holds the graph" in str(report)


def test_two_hundred_nodes_are_all_drawn():
    output, model, inputs = blocks(5)
    drawing = draw_graph(output, model, inputs)
    assert 200 < drawing.num_nodes <= 250
    assert len(drawing.graph.nodes) == drawing.num_nodes + 1
