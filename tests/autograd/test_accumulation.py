"""accumulate gives the large batch's gradient for every partition; explain_accumulation tells when it cannot.

The oracle is one backward of the large batch, in float64, written with PyTorch's own mean. The numeric law: an error at
most twice that of the large batch in the same precision, plus one rounding.
"""

from __future__ import annotations

import copy
import gc
import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from blackbelt.autograd import accumulation
from blackbelt.autograd.accumulation import accumulate, explain_accumulation
from tests.autograd.accumulation_losses import (
    Language,
    assert_law,
    error,
    gradients,
    large_batch,
    split,
    square_loss,
    token_loss,
    tokens_and_labels,
    weighted_loss,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small gain nothing from threads, and lose much to them on a busy machine."""
    num = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num)


@st.composite
def partitions(draw, most=10):
    """Sizes of micro-batches, empty ones among them, of a batch with at least one sample."""
    sizes = draw(st.lists(st.integers(0, 4), min_size=1, max_size=most).filter(sum))
    return draw(st.permutations(sizes))


@settings(max_examples=60)
@given(partitions(), st.integers(0, 2**16), st.sampled_from([torch.float32, torch.bfloat16]))
def test_equals_the_large_batch_for_every_partition_by_tokens(sizes, seed, dtype):
    batch = tokens_and_labels(sum(sizes), seed)
    if bool((batch[1] == -100).all()):
        batch[1][0, 0] = 1
    model = Language(seed=seed).to(dtype)
    report = accumulate(model, split(batch, sizes), token_loss)
    assert_law(model, gradients(model), batch, token_loss)
    assert report.total_count == int((batch[1] != -100).sum()) == sum(report.counts)
    assert report.num_micro_batches == len(sizes)
    loss, count = token_loss(copy.deepcopy(model).double(), batch)
    assert float(report.mean_loss) == pytest.approx(
        float(loss.detach() / count), rel=0.02 if dtype.itemsize == 2 else 1e-5
    )


@settings(max_examples=60)
@given(partitions(), st.integers(0, 2**16), st.booleans())
def test_equals_the_large_batch_for_every_partition_by_samples_and_by_weights(sizes, seed, is_generator):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(sum(sizes), 3, generator=generator), torch.randn(sum(sizes), 2, generator=generator)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    batches = split((x, y), sizes)
    accumulate(model, iter(batches) if is_generator else batches, square_loss)
    assert_law(model, gradients(model), (x, y), square_loss)

    tokens, _ = tokens_and_labels(sum(sizes), seed)
    weights = torch.rand(tokens.shape, generator=generator) * 1e-3
    batch = (tokens, tokens.flip(1), weights)
    model = Language(seed=seed)
    accumulate(model, split(batch, sizes), weighted_loss)
    assert_law(model, gradients(model), batch, weighted_loss)


def test_one_micro_batch_is_the_large_batch_to_the_bit():
    batch = tokens_and_labels(6)
    model = Language()
    accumulate(model, [batch], token_loss)
    assert all(torch.equal(one, other) for one, other in zip(gradients(model), large_batch(model, batch, token_loss)))


@pytest.mark.parametrize("num", [16, 64, 256])
def test_many_additions_in_half_precision_lose_no_more_than_the_large_batch(num):
    batch = tokens_and_labels(num)
    model = Language().bfloat16()
    accumulate(model, split(batch, [1] * num), token_loss)
    assert_law(model, gradients(model), batch, token_loss)
    by_hand = copy.deepcopy(model)  # the same sums, added up in bfloat16
    by_hand.zero_grad()
    total = (batch[1] != -100).sum()
    for micro_batch in split(batch, [1] * num):
        (token_loss(by_hand, micro_batch)[0] / total).backward()
    exact = large_batch(model, batch, token_loss, torch.float64)
    assert error(gradients(model), exact) < error(gradients(by_hand), exact)


def test_the_defect_of_october_2024():
    """The mean of micro-batch means (huggingface/transformers#34191) is another gradient, and another loss."""
    tokens, labels = tokens_and_labels(8, ignored=0)
    labels[:4, 1:] = -100  # four answers of one token, four of five
    batches = split((tokens, labels), [4, 4])
    model = Language()
    naive = copy.deepcopy(model)
    losses = []
    for micro_batch in batches:
        loss, count = token_loss(naive, micro_batch)
        (loss / count / len(batches)).backward()
        losses.append(loss.item() / count.item())
    report = accumulate(model, batches, token_loss)
    exact = large_batch(model, (tokens, labels), token_loss, torch.float64)
    wrong = error(gradients(naive), exact)
    assert error(gradients(model), exact) < 1e-6
    assert wrong > 0.2
    assert report.naive_weights == (24 / (2 * 4), 24 / (2 * 20)) == (3.0, 0.6)

    explained = explain_accumulation(model, batches, token_loss)
    assert explained.holds
    assert explained.overall.naive == pytest.approx(wrong, rel=1e-3)
    assert explained.weights == (3.0, 0.6)
    assert explained.naive_mean_loss == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert explained.mean_loss == pytest.approx(float(report.mean_loss), rel=1e-6)


# What was there before, and what an exception leaves


def test_gradients_that_were_there_are_added_to_and_not_divided():
    batch = tokens_and_labels(6)
    model = Language()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    before = [parameter.grad for parameter in model.parameters()]
    accumulate(model, split(batch, [1, 2, 3]), token_loss)
    exact = [3 + gradient for gradient in large_batch(model, batch, token_loss)]
    assert error(gradients(model), exact) < 1e-6
    assert all(parameter.grad is tensor for parameter, tensor in zip(model.parameters(), before)), "the same memory"


def test_calls_add_up_as_backward_does():
    batch = tokens_and_labels(6)
    model = Language()
    for _ in range(3):
        accumulate(model, split(batch, [1, 2, 3]), token_loss)
    assert error(gradients(model), [3 * g for g in large_batch(model, batch, token_loss)]) < 1e-6


@pytest.mark.parametrize("fails_at", [0, 1, 2, "iterator", "count", "interrupt"])
def test_an_exception_leaves_gradients_as_they_were(fails_at):
    batch = tokens_and_labels(6)
    model = Language()
    model.head.weight.grad = torch.full_like(model.head.weight, 3.0)
    kept = model.head.weight.grad
    calls = []

    def loss(model, micro_batch):
        calls.append(None)
        if len(calls) - 1 == fails_at or (fails_at == "interrupt" and len(calls) == 2):
            raise KeyboardInterrupt if fails_at == "interrupt" else ZeroDivisionError
        total, count = token_loss(model, micro_batch)
        return total, -1 if fails_at == "count" and len(calls) == 3 else count

    def batches():
        *first, last = split(batch, [1, 2, 3])
        yield from first
        if fails_at == "iterator":
            raise ZeroDivisionError
        yield last

    with pytest.raises((ZeroDivisionError, KeyboardInterrupt, ValueError)):
        accumulate(model, batches(), loss)
    assert model.head.weight.grad is kept
    assert bool((kept == 3).all())
    assert all(p.grad is None for p in model.parameters() if p is not model.head.weight)


# Scaler, clipping, optimizer steps


@pytest.mark.parametrize("scale", [None, 2.0**12])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_clipping_after_unscaling_and_the_step_equal_those_of_the_large_batch(scale, kind):
    batch = tokens_and_labels(9)
    models = [Language(), Language(), Language().double()]
    norms = []
    for model, sizes in zip(models, ([2, 3, 1, 3], [9], [9])):
        make = torch.optim.SGD if kind == "sgd" else torch.optim.AdamW
        optimizer = make(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for _ in range(3):
            optimizer.zero_grad()
            if len(sizes) > 1:
                report = accumulate(model, split(batch, sizes), token_loss, scaler=scaler if scale else None)
                assert report.is_scaled == (scale is not None)
            else:
                loss, count = token_loss(model, batch)
                scaler.scale(loss / count).backward()
            scaler.unscale_(optimizer)
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.05))
            scaler.step(optimizer)
            scaler.update()
    assert all(float(norm) > 0.05 for norm in norms), "clipping acts"
    got, same, exact = ([p.detach() for p in model.parameters()] for model in models)
    allowed = 2 * error(same, exact) + torch.finfo(torch.float32).eps
    # Adam divides by the root of squares of gradients: where these are rounding noise, so is its step.
    assert error(got, exact) <= (allowed if kind == "sgd" else 10 * allowed)


def test_gradients_stay_scaled_until_unscale():
    batch = tokens_and_labels(6)
    model = Language()
    accumulate(model, split(batch, [1, 2, 3]), token_loss, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert error([g / 1024 for g in gradients(model)], large_batch(model, batch, token_loss)) < 1e-6


def test_sums_do_not_overflow_float16_where_the_mean_would_not():
    """A sum over 4,096 samples times a scale of 2**10 is beyond float16; a mean is not."""
    torch.manual_seed(0)
    x, y = torch.randn(4096, 4), torch.randn(4096, 1)
    seen = []

    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, x):
            out = self.linear(x).to(torch.float16)
            out.register_hook(lambda gradient: seen.append(float(gradient.abs().max())))
            return out

    def loss(model, micro_batch):
        x, y = micro_batch
        return (model(x).float() - y).square().sum(), len(x)

    model = Watch()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    accumulate(model, split((x, y), [1024] * 4), loss, scaler=scaler)
    assert max(seen) < torch.finfo(torch.float16).max / 64
    assert all(bool(g.isfinite().all()) for g in gradients(model))
    scaler.unscale_(optimizer)
    assert error(gradients(model), large_batch(model, (x, y), loss, torch.float64)) < 1e-2
    plain = copy.deepcopy(model)  # the sum, scaled, divided afterwards
    scaler.scale(loss(plain, (x, y))[0]).backward()
    assert not all(bool(g.isfinite().all()) for g in gradients(plain))


def test_an_overflow_reaches_the_scaler():
    batch = tokens_and_labels(6)
    model = Language()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = copy.deepcopy(model.state_dict())

    def loss(model, micro_batch):
        total, count = token_loss(model, micro_batch)
        return total * (math.inf if len(micro_batch[0]) == 1 else 1), count

    accumulate(model, split(batch, [1, 2, 3]), loss, scaler=scaler)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Memory, graphs, kinds of parameters


def test_holds_two_micro_batches_and_no_graph():
    alive, most = [], []

    def batches():
        for index in range(6):
            gc.collect()
            most.append(sum(reference() is not None for reference in alive))
            x = torch.full((2, 3), float(index))
            alive.append(weakref.ref(x))
            yield x
            del x

    graphs = []

    class Mark:
        pass

    def loss(model, x):
        out = model(x)
        assert not any(reference() is not None for reference in graphs), "an earlier graph is alive"
        mark = Mark()
        graphs.append(weakref.ref(mark))
        out.grad_fn.metadata["mark"] = mark  # lives as long as the node
        assert graphs[-1]() is not None
        return out.sum(), len(x)

    report = accumulate(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), batches(), loss)
    assert max(most) <= 1  # of those before: the one whose forward is next, when the one after it is made
    assert len(report.sums) == 6
    assert not any(reference() is not None for reference in graphs)
    assert not report.mean_loss.requires_grad
    assert not any(loss.requires_grad for loss in report.sums)


def test_sparse_gradients():
    batch = tokens_and_labels(8)
    model, dense = Language(sparse=True), Language()
    for _ in range(2):
        accumulate(model, split(batch, [1, 3, 4]), token_loss)
        accumulate(dense, split(batch, [1, 3, 4]), token_loss)
    assert model.embedding.weight.grad.is_sparse
    assert error(gradients(model), gradients(dense)) < 1e-7
    model.embedding.weight.grad = torch.ones_like(model.embedding.weight)
    accumulate(model, split(batch, [8]), token_loss)
    assert not model.embedding.weight.grad.is_sparse
    single = large_batch(dense, batch, token_loss)[0]
    assert error([model.embedding.weight.grad], [single + 1]) < 1e-6


def test_parameters_of_all_kinds():
    """Frozen, unused, used in one micro-batch only, tied, integer buffers."""
    model = Language()
    model.unused = nn.Parameter(torch.ones(3))
    model.sometimes = nn.Parameter(torch.ones(()))
    model.numbers = nn.Parameter(torch.arange(3), requires_grad=False)
    model.hidden.requires_grad_(False)
    model.tied = model.head
    batch = tokens_and_labels(6)

    def loss(model, micro_batch):
        total, count = token_loss(model, micro_batch)
        return total * model.sometimes if len(micro_batch[0]) == 1 else total, count

    accumulate(model, split(batch, [1, 2, 3]), loss)
    assert model.unused.grad is None
    assert model.hidden.weight.grad is None
    first = token_loss(model, split(batch, [1, 5])[0])[0]
    assert float(model.sometimes.grad) == pytest.approx(float(first.detach() / (batch[1] != -100).sum()), rel=1e-5)
    for name in ("head.weight", "head.bias", "norm.weight", "embedding.weight"):
        assert bool(model.get_parameter(name).grad.ne(0).any())


def test_a_model_that_is_one_scalar_and_a_loss_that_is_a_leaf():
    model = nn.Module()
    model.scale = nn.Parameter(torch.tensor(2.0))
    accumulate(model, [1, 2, 3], lambda model, count: (model.scale, count))
    assert float(model.scale.grad) == pytest.approx(3 / 6)


def test_complex_parameters_and_lazy_ones():
    x = torch.randn(6, 3)
    model = nn.Linear(3, 2, dtype=torch.complex64)

    def loss(model, x):
        return model(x.to(model.weight.dtype)).abs().sum(), len(x)

    accumulate(model, x.split([1, 5]), loss)
    assert error(
        [torch.view_as_real(model.weight.grad)], [torch.view_as_real(large_batch(model, x, loss)[0])]
    ) < 1e-6  # fmt: skip
    report = explain_accumulation(model, x.split([1, 5]), loss)
    assert report.holds
    assert report.overall.naive > 0.01
    lazy = nn.LazyLinear(2)
    accumulate(lazy, x.split([1, 5]), lambda model, x: (model(x).sum(), len(x)))
    assert error([lazy.weight.grad], [x.mean(0).expand(2, 3)]) < 1e-6


def test_a_data_loader_without_a_length():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(torch.ones(6, 3))

    loader = torch.utils.data.DataLoader(Stream(), batch_size=4)
    report = accumulate(nn.Linear(3, 1), loader, lambda model, x: (model(x).sum(), len(x)))
    assert report.counts == (4.0, 2.0)


@pytest.mark.parametrize("count", [3, 3.0, np.int64(3), np.float32(3), torch.tensor(3), torch.tensor(3.0)])
def test_counts_may_be_any_real_number(count):
    model = nn.Linear(2, 1)
    x = torch.randn(3, 2)
    report = accumulate(model, [x, x], lambda model, x: (model(x).sum(), count))
    assert report.counts == (3.0, 3.0)
    assert error([model.weight.grad], [x.mean(0, keepdim=True)]) < 1e-6


def test_counts_on_an_accelerator_are_read_once_at_the_end(monkeypatch):
    """Stands in for a GPU: counts are kept as tensors, as they are where they live on one."""
    monkeypatch.setattr(accumulation.checks, "check_count", lambda count, number: torch.as_tensor(count))
    read = []
    original = accumulation._read
    monkeypatch.setattr(accumulation, "_read", lambda *a: read.append(len(a[0])) or original(*a))
    batch = tokens_and_labels(6)
    for sizes in ([1, 2, 3], [0, 6], [6]):
        model = Language()
        report = accumulate(model, split(batch, sizes), token_loss)
        assert_law(model, gradients(model), batch, token_loss)
        assert all(isinstance(count, float) for count in report.counts)
    assert read == [3, 2, 1]
    with pytest.raises(ValueError, match="the count of micro-batch 2 is nan"):
        accumulate(model, [1, 2], lambda m, i: (m.head.bias.sum(), torch.tensor(math.nan if i == 2 else 1.0)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_without_a_synchronization():
    batch = tuple(tensor.cuda() for tensor in tokens_and_labels(6))
    model = Language().cuda()
    batches = [((tokens, labels), int((labels != -100).sum())) for tokens, labels in split(batch, [1, 2, 3])]
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        accumulate(model, batches, lambda model, pair: (token_loss(model, pair[0])[0], pair[1]))
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert_law(model, gradients(model), batch, token_loss)
    model.zero_grad()
    accumulate(model, split(batch, [1, 2, 3]), token_loss)
    assert_law(model, gradients(model), batch, token_loss)
