"""The bytes of graph_report against saved-tensor hooks and against what the allocator gets back, exactly."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from blackbelt.autograd.graph import draw_graph, graph_report, measure_dropped
from tests.autograd.graph_programs import PROGRAMS, Block, Scale, walked

HAS_RAW_DATA = hasattr(torch._C._autograd.SavedTensor, "data")  # torch 2.9 offers no look at packed data
HOOK_FREE = [name for name in PROGRAMS if not name.startswith("checkpointed") and name != "custom"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", HOOK_FREE)
def test_saved_bytes_are_those_that_saved_tensor_hooks_see(name):
    torch.manual_seed(1)
    packed = []
    with saved_tensors_hooks(lambda tensor: packed.append(tensor) or tensor, lambda tensor: tensor):
        output, params, inputs = PROGRAMS[name]()
    alive = params.state_dict(keep_vars=True) if isinstance(params, nn.Module) else params
    anyway = {tensor.untyped_storage().data_ptr() for tensor in [*alive.values(), *inputs.values()]}
    seen = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in packed}
    kept = sum(size for pointer, size in seen.items() if pointer not in anyway)
    # A product with a Python number saves the number as a tensor, which hooks are not shown.
    saved = [node._saved_other for node in walked(output)[0] if node.name() == "MulBackward0"]
    numbers = sum(8 for other in saved if other is not None and other.dim() == 0 and other.grad_fn is None)
    torch.manual_seed(1)
    output, params, inputs = PROGRAMS[name]()
    report = graph_report(output, params, inputs)
    assert report.saved_bytes == kept + numbers
    assert sum(counted for _, counted in report.rows) == report.saved_bytes


@pytest.mark.parametrize("name", [name for name in PROGRAMS if not name.startswith("checkpointed")])
def test_the_allocator_gets_back_what_the_report_says(name):
    """Parameters and inputs stay alive: they are made beforehand."""
    torch.manual_seed(1)
    _, params, inputs = PROGRAMS[name]()
    alive = dict(params.state_dict(keep_vars=True) if isinstance(params, nn.Module) else params) | inputs
    kept = list(alive.values())

    def build():
        output, made, given = PROGRAMS[name]()
        kept.extend([*(made.parameters() if isinstance(made, nn.Module) else made.values()), *given.values()])
        kept.extend(made.buffers() if isinstance(made, nn.Module) else [])
        named.update({f"t{n}": tensor for n, tensor in enumerate(kept)})
        return output

    named: dict[str, torch.Tensor] = {}
    report = measure_dropped(build, named)
    assert report.freed_bytes == report.saved_bytes + report.unsaved_bytes
    assert report.ratio == 1
    assert "✓" in str(report)


@pytest.mark.parametrize("make", [Block, lambda: nn.TransformerEncoderLayer(8, 2, 32, dropout=0.1, batch_first=True)])
def test_within_two_percent_on_a_transformer_block(make):
    model, x = make(), torch.randn(4, 16, 8)
    report = measure_dropped(lambda: model(x).square().mean(), model, {"x": x})
    assert report.saved_bytes > 30_000
    assert abs(report.ratio - 1) < 0.02


def test_each_storage_counts_once_however_many_views_and_nodes_share_it():
    x = torch.randn(1000, requires_grad=True)
    y = x.exp()  # saves its result
    halves = y.view(2, 500)
    report = graph_report([(y * y).sum(), (halves[0] * halves[1]).sum(), y.sin().sum()], inputs={"x": x})
    assert report.saved_bytes == 4000
    (storage,) = [storage for storage in report.storages if storage.state == "kept"]
    assert len(storage.nodes) == 4
    assert sum(node.saved_bytes for node in report.nodes) == 4 * 4000
    assert [counted for _, counted in report.rows] == [4000, 0, 0, 0]
    assert "as #" in str(report)


def test_a_small_view_keeps_its_whole_storage():
    x = torch.randn(3, requires_grad=True)
    big = torch.randn(1000, 3)
    assert graph_report((x * big[0]).sum(), inputs={"x": x}).saved_bytes == 12_000


def test_inputs_are_alive_anyway_only_where_they_are_named():
    x, w = torch.randn(8, 4), torch.randn(4, 4, requires_grad=True)
    alone, named = graph_report((x @ w).sum()), graph_report((x @ w).sum(), inputs={"x": x})
    assert (alone.saved_bytes, alone.alive_bytes) == (128, 0)
    assert (named.saved_bytes, named.alive_bytes) == (0, 128)
    assert "alive anyway" in str(named)


def test_custom_functions_attributes_count():
    x = torch.randn(64, requires_grad=True)
    report = graph_report(Scale.apply(x.exp(), 2.0)[0].sum(), inputs={"x": x})
    names = {item.name: item for node in report.nodes for item in node.saved}
    assert names["ctx.mask"].num_bytes == 64
    assert names["tensors[0]"].num_bytes == 256
    assert "tensors[1]" not in names  # None was saved
    assert report.saved_bytes == 64 + 256


def test_attributes_outlive_backward():
    x = torch.randn(64, requires_grad=True)
    output = Scale.apply(x.exp(), 2.0)[0].sum()
    output.backward()
    report = graph_report(output, inputs={"x": x})
    assert report.is_freed
    assert report.saved_bytes == 64


def test_hooks_are_never_called_and_what_they_returned_counts():
    unpacked = []

    def unpack(packed):
        unpacked.append(packed)
        return packed.float()

    x = torch.randn(100, requires_grad=True)
    with saved_tensors_hooks(lambda tensor: tensor.half(), unpack):
        output = x.exp().sum()
    report = graph_report(output, inputs={"x": x})
    drawing = draw_graph(output)
    assert not unpacked
    assert drawing.graph.nodes[2].lines[1] == "packed by unpack"
    assert [item.state for node in report.nodes for item in node.saved] == ["packed"]
    assert report.saved_bytes == (200 if HAS_RAW_DATA else 0)
    output.backward()
    assert len(unpacked) == 1


@pytest.mark.parametrize("packed", [lambda t: t.numpy(), lambda t: {"a": [t.clone()]}, lambda t: None])
def test_packed_data_of_any_kind(packed):
    x = torch.randn(100, requires_grad=True)
    with saved_tensors_hooks(lambda tensor: packed(tensor.detach()), lambda data: torch.zeros(100)):
        output = x.exp().sum()
    report = graph_report(output, inputs={"x": x})
    expected = 400 if isinstance(packed(torch.ones(100)), dict) and HAS_RAW_DATA else 0
    assert report.saved_bytes == expected
    assert not report.is_freed


def test_save_on_cpu_is_named():
    x = torch.randn(100, requires_grad=True)
    with save_on_cpu():
        output = x.exp().sum()
    assert "save_on_cpu" in " ".join(graph_report(output).notes)


def test_a_hook_that_is_no_function():
    class Unpack:
        def __call__(self, data):
            raise AssertionError("must not run")

    x = torch.randn(100, requires_grad=True)
    with saved_tensors_hooks(lambda tensor: tensor, Unpack()):
        output = x.exp().sum()
    (item,) = (item for node in graph_report(output, inputs={"x": x}).nodes for item in node.saved)
    assert item.state == "packed"


def test_a_tensor_changed_in_place_is_read_all_the_same():
    x = torch.randn(10, requires_grad=True)
    y = x.exp()
    y.add_(1)
    report = graph_report(y.sum(), inputs={"x": x})
    (item,) = (item for node in report.nodes for item in node.saved)
    assert item.state == ("kept" if HAS_RAW_DATA else "unreadable")
    if not HAS_RAW_DATA:
        assert "could not be read" in " ".join(report.notes)


@pytest.mark.skipif(not HAS_RAW_DATA, reason="torch 2.9 shows no hook, so what a checkpoint keeps cannot be seen")
def test_what_a_checkpoint_keeps_for_recomputation_counts():
    model, x = Block(), torch.randn(4, 16, 8)
    report = measure_dropped(lambda: checkpoint(model, x.exp(), use_reentrant=False).sum(), model, {"x": x})
    assert report.saved_bytes == x.numel() * 4 + torch.get_rng_state().numel()
    assert report.ratio == 1


def test_a_reentrant_checkpoint_keeps_its_inputs():
    model, x = Block(), torch.randn(4, 16, 8, requires_grad=True)
    report = measure_dropped(lambda: checkpoint(model, x.exp(), use_reentrant=True).sum(), model, {"x": x})
    assert report.saved_bytes == x.numel() * 4 + torch.get_rng_state().numel()
    assert report.ratio == 1


def test_sparse_tensors():
    x = torch.randn(5, 3, requires_grad=True)
    indices, values = torch.tensor([[0, 1], [1, 4]]), torch.ones(2)
    for sparse in (
        torch.sparse_coo_tensor(indices, values, (2, 5), check_invariants=False).coalesce(),
        torch.eye(5).to_sparse_coo(),
    ):
        report = graph_report(torch.sparse.mm(sparse, x).sum(), inputs={"x": x})
        saved = sum(part.untyped_storage().nbytes() for part in (sparse.values(), sparse.indices()))
        assert report.saved_bytes == saved


def test_autocast_copies_of_weights_count():
    model, x = nn.Linear(16, 16), torch.randn(4, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x).relu().sum()
    report = graph_report(output, model, {"x": x})
    dtypes = {item.dtype for node in report.nodes for item in node.saved}
    assert "bfloat16" in dtypes
    assert report.saved_bytes == sum(s.num_bytes for s in report.storages if s.state == "kept")


def test_dtensor():
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    from torch import distributed
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        weight = nn.Parameter(distribute_tensor(torch.randn(8, 4), mesh, [Shard(0)]))
        output = (weight.exp() * 2).sum()
        report = graph_report(output, {"weight": weight})
        drawing = draw_graph(output, {"weight": weight})
    finally:
        distributed.destroy_process_group()
    assert [node.label for node in drawing.nodes if node.kind == "leaf"] == ["weight"]
    exp = next(node for node in report.nodes if node.name == "ExpBackward0")
    assert exp.saved_bytes == 8 * 4 * 4


def test_device_and_size_of_several_outputs():
    x = torch.randn(100, requires_grad=True)
    report = graph_report({"loss": x.exp().sum(), "count": (x > 0).sum()}, inputs={"x": x})
    assert report.unsaved_bytes == 4 + 8
    assert [output.shape for output in report.outputs] == [()]


def test_scaled_dot_product_attention_alone():
    q, k, v = (torch.randn(2, 2, 16, 8, requires_grad=True) for _ in range(3))
    report = measure_dropped(
        lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True), inputs={"q": q, "k": k, "v": v}
    )
    assert report.ratio == 1
