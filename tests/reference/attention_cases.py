"""Shapes and modes of attention, the float64 oracle, and the numeric law: what the tests of attention share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from blackbelt.reference.attention import memory_efficient_attention

NAMES = ("result", "query's gradient", "key's gradient", "value's gradient")


@dataclass(frozen=True)
class Case:
    """One call: leaves in float64, and the keyword arguments both functions take."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    kwargs: dict[str, Any] = field(default_factory=dict)

    def inputs(self, dtype):
        return [t.to(dtype).detach().requires_grad_() for t in (self.query, self.key, self.value)]

    def arguments(self, dtype):
        mask = self.kwargs.get("attn_mask")
        if mask is None or mask.dtype == torch.bool:
            return self.kwargs
        return {**self.kwargs, "attn_mask": mask.to(dtype)}


def case(query, key, value=None, seed=0, **kwargs):
    """Build a case from shapes."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (query, key, key if value is None else value)
    return Case(*(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes), kwargs)


def run(function, case, dtype):
    """Return the result and the three gradients for a fixed gradient of the result."""
    inputs = case.inputs(dtype)
    out = function(*inputs, **case.arguments(dtype))
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(dtype)  # exact in each
    return (out.detach(), *torch.autograd.grad(out, inputs, grad))


def assert_same(case, dtype=torch.float64, **ours):
    """In float64 the two functions agree to a few units in the last place."""
    got = run(lambda *a, **k: memory_efficient_attention(*a, **k, **ours), case, dtype)
    expected = run(scaled_dot_product_attention, case, dtype)
    for name, a, b in zip(NAMES, got, expected):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


def largest(error):
    return error.abs().max()


def root_mean_square(error):
    return error.pow(2).mean().sqrt()


def assert_accurate(case, dtype, size=largest, **ours):
    """The error against float64 is at most twice that of PyTorch's function in the same precision, or one rounding."""
    tensors = (t.to(dtype).double() for t in (case.query, case.key, case.value))
    case = Case(*tensors, case.kwargs)  # what the precision holds is the input, not what it loses
    exact = run(scaled_dot_product_attention, case, torch.float64)
    got = run(lambda *a, **k: memory_efficient_attention(*a, **k, **ours), case, dtype)
    theirs = run(scaled_dot_product_attention, case, dtype)
    for name, right, a, b in zip(NAMES, exact, got, theirs):
        assert a.dtype == dtype
        if not right.numel():
            continue
        error, baseline = size(a.double() - right), size(b.double() - right)
        rounding = torch.finfo(dtype).eps * size(right)
        assert error <= torch.maximum(2 * baseline, rounding), f"{name}: {error:.2e}, PyTorch's {baseline:.2e}"


@st.composite
def cases(draw):
    """Draw shapes, layouts and modes."""
    batch = draw(st.lists(st.integers(0, 3), max_size=2))
    heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    length, keys = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    head_size, value_size = draw(st.integers(0, 20)), draw(st.integers(0, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    has_heads = draw(st.booleans()) or bool(batch) or group > 1
    lead = (*batch, heads) if has_heads else ()

    def tensor(heads_dim, size, last):
        shape = (*lead[:-1], heads_dim, size, last) if lead else (size, last)
        t = torch.randn(shape, generator=generator, dtype=torch.float64) * draw(st.sampled_from([0.5, 1.0, 5.0]))
        layout = draw(st.sampled_from(["contiguous", "heads inside", "columns", "sliced"]))
        if layout == "heads inside" and t.dim() > 2:
            return t.transpose(-3, -2).contiguous().transpose(-3, -2)
        if layout == "columns":
            return t.mT.contiguous().mT
        if layout == "sliced":
            return torch.cat([t, t], -1)[..., : t.size(-1)]
        return t

    query = tensor(heads * group, length, head_size)
    key, value = tensor(heads, keys, head_size), tensor(heads, keys, value_size)
    kwargs: dict[str, Any] = {"enable_gqa": True} if group > 1 else {}
    mode = draw(st.sampled_from(["plain", "causal", "bool", "float", "scale"]))
    if mode == "causal":
        kwargs["is_causal"] = True
    elif mode == "scale":
        kwargs["scale"] = draw(st.sampled_from([0.0, 0.3, 2.0]))
    elif mode in ("bool", "float"):
        full = (*lead[:-1], heads * group, length, keys) if lead else (length, keys)
        shape = tuple(1 if draw(st.booleans()) else n for n in full)
        shape = shape[draw(st.integers(0, len(shape) - 2)) :]
        hidden = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.2, 0.9]))
        mask = torch.randn(shape, generator=generator, dtype=torch.float64).masked_fill(hidden, -torch.inf)
        kwargs["attn_mask"] = hidden.logical_not() if mode == "bool" else mask
    return Case(query, key, value, kwargs)
