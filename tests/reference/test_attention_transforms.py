"""`memory_efficient_attention` inside what PyTorch wraps a function in: compiler, vmap, autocast, checkpoint, DDP."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from blackbelt.dojo.ranks import run_ranks
from blackbelt.reference.attention import memory_efficient_attention, naive_attention
from blackbelt.reference.attention._compiled import compiled_step
from blackbelt.reference.attention._eager import softmax_step
from blackbelt.reference.attention._operator import attention, attention_backward

close = torch.testing.assert_close


def leaves(*shape, count=3, **options):
    return [torch.randn(*shape, **options).requires_grad_() for _ in range(count)]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch 2.15 warns of its own use of torch.jit
def test_compiles_without_a_graph_break():
    def attend(function):
        return lambda q, k, v: function(2 * q, k, v, is_causal=True).sin()

    inputs = leaves(2, 3, 40, 8)
    ours = torch.compile(attend(memory_efficient_attention), fullgraph=True)(*inputs)
    theirs = attend(scaled_dot_product_attention)(*inputs)
    close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours.sum(), inputs), torch.autograd.grad(theirs.sum(), inputs)):
        close(a, b)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.slow
@pytest.mark.parametrize("seen", [-math.inf, 5.0])
def test_compiled_step_equals_eager(seen):
    scores = 30 * torch.randn(2, 128, 300, generator=torch.Generator().manual_seed(0))
    maximum, total = torch.full((2, 128, 1), seen), torch.full((2, 128, 1), 0.0 if seen < 0 else 1.5)
    given = scores.clone()
    compiled = compiled_step()(given, maximum, total)
    assert torch.equal(given, scores)
    for a, b in zip(compiled, softmax_step(given, maximum, total), strict=True):
        close(a, b)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.slow
def test_compiled_backend_equals_eager():
    inputs = [10 * t.detach() for t in leaves(2, 2, 600, 16)]  # scores that need a maximum: the step that is compiled
    for kwargs in ({}, {"is_causal": True}):
        close(
            memory_efficient_attention(*inputs, backend="compiled", **kwargs),
            memory_efficient_attention(*inputs, backend="eager", **kwargs),
        )


def test_operators_pass_pytorchs_own_check():
    query, key, value = (t.detach() for t in leaves(2, 3, 20, 8))
    rest = (0.0, True, 0.3, "eager")
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(attention, (query, key, value, None, None, *rest), test_utils=tests)
    out, lse = attention(query, key, value, None, None, *rest)
    torch.library.opcheck(
        attention_backward, (out, query, key, value, None, None, out, lse, *rest, False), test_utils=tests
    )


def loop(function, size, *mapped):
    return torch.stack([function(*(t[i] for t in mapped)) for i in range(size)])


def test_vmap_over_the_batch():
    query, key, value = (t.detach() for t in leaves(3, 2, 4, 5, 8))

    def attend(*inputs):
        return memory_efficient_attention(*inputs, is_causal=True)

    close(torch.vmap(attend)(query, key, value), loop(attend, 3, query, key, value))
    one_key = torch.vmap(attend, in_dims=(1, None, None))(query, key[:, 0], value[:, 0])
    close(one_key, torch.stack([attend(query[:, i], key[:, 0], value[:, 0]) for i in range(2)]))


@pytest.mark.parametrize("mask", [torch.rand(3, 5, 5) < 0.6, torch.randn(3, 2, 1, 5, 5), torch.randn(3, 1, 4, 5, 5)])
def test_vmap_over_the_mask(mask):
    query, key, value = (t.detach() for t in leaves(3, 2, 4, 5, 8))

    def attend(q, k, v, m):
        return memory_efficient_attention(q, k, v, attn_mask=m)

    close(torch.vmap(attend)(query, key, value, mask), loop(attend, 3, query, key, value, mask))
    only = torch.vmap(attend, in_dims=(None, None, None, 0))(query[0], key[0], value[0], mask)
    close(only, torch.stack([attend(query[0], key[0], value[0], m) for m in mask]))


def test_gradient_per_sample():
    query, key, value = (t.detach() for t in leaves(3, 2, 4, 5, 8))
    mask = torch.randn(3, 5, 5)

    def loss(function):
        return lambda *inputs: function(*inputs[:3], attn_mask=inputs[3]).pow(2).sum()

    ours = torch.vmap(torch.func.grad(loss(memory_efficient_attention), argnums=(0, 1, 2, 3)))(query, key, value, mask)
    theirs = torch.vmap(torch.func.grad(loss(naive_attention), argnums=(0, 1, 2, 3)))(query, key, value, mask)
    for a, b in zip(ours, theirs):
        close(a, b)


def test_randomness_under_vmap_is_what_was_asked_for():
    ones = torch.ones(3, 2, 20, 8)

    def attend(x):
        return memory_efficient_attention(x, x, x, dropout_p=0.5)

    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(attend)(ones)
    same = torch.vmap(attend, randomness="same")(ones)
    different = torch.vmap(attend, randomness="different")(ones)
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])
    assert not torch.equal(different[0], different[1])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_forward_mode_is_refused_rather_than_wrong():
    x = torch.randn(1, 2, 5, 8)
    with pytest.raises(RuntimeError, match="forward mode AD"):
        torch.func.jvp(lambda t: memory_efficient_attention(t, t, t), (x,), (x,))


def test_autocast_computes_in_its_dtype_and_gives_gradients_in_yours():
    query, key, value = leaves(2, 3, 40, 8)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (f(query, key, value) for f in (memory_efficient_attention, scaled_dot_product_attention))
    assert ours.dtype == theirs.dtype == torch.bfloat16
    close(ours, theirs, rtol=0.016, atol=0.01)
    (grad,) = torch.autograd.grad(ours.sum(), query)
    assert grad.dtype == torch.float32


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_checkpoint_makes_the_same_noise_again(dropout_p):
    inputs = leaves(2, 3, 40, 8)

    def attend(*tensors):
        return memory_efficient_attention(*tensors, dropout_p=dropout_p, is_causal=True)

    gradients = []
    for call in (attend, lambda *tensors: checkpoint(attend, *tensors, use_reentrant=False)):
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(call(*inputs).pow(2).sum(), inputs))
    for a, b in zip(*gradients):
        assert torch.equal(a, b)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_number_of_threads_changes_nothing(num_threads, dropout_p):
    inputs, before = leaves(1, 3, 600, 8), torch.get_num_threads()

    def compute():
        torch.manual_seed(0)
        out = memory_efficient_attention(*inputs, dropout_p=dropout_p, is_causal=True)
        return (out.detach(), *torch.autograd.grad(out.sum(), inputs))

    try:
        torch.set_num_threads(1)
        alone = compute()
        torch.set_num_threads(num_threads)
        together = compute()
        assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    for a, b in zip(alone, together):
        close(a, b)


def test_several_threads_may_call_at_once():
    inputs = [t.detach() for t in leaves(1, 2, 600, 8)]
    expected, results = memory_efficient_attention(*inputs), {}

    def call(i):
        results[i] = memory_efficient_attention(*inputs)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results.values():
        close(result, expected)
    assert len(results) == 4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(16, 48)

    def forward(self, x):
        query, key, value = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.project(x).chunk(3, -1))
        return memory_efficient_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)


def train_on_rank(rank: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(Block())
    batch = torch.randn(4, 30, 16)
    model(batch[2 * rank : 2 * rank + 2]).pow(2).mean().backward()
    return [parameter.grad for parameter in model.parameters()]


def test_data_parallel_gradients_are_those_of_the_whole_batch():
    torch.manual_seed(0)
    model = Block()
    model(torch.randn(4, 30, 16)).pow(2).mean().backward()
    for outcome in run_ranks(train_on_rank, [(0,), (1,)]):
        assert outcome.error is None, outcome
        for got, parameter in zip(outcome.value, model.parameters()):
            close(got, parameter.grad)
