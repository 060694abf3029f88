"""The Triton kernels on Triton's interpreter, which must be chosen before triton is imported: run as a program.

float32 and float16 only: the interpreter computes bfloat16 wrongly unless it is widened on load.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

from blackbelt.reference.attention import memory_efficient_attention
from tests.reference.attention_cases import assert_accurate, case, root_mean_square

MASK = torch.rand(40, 70, generator=torch.Generator().manual_seed(0)) < 0.6
MASK[3] = False
CASES = {
    "plain": case((1, 2, 40, 13), (1, 2, 70, 13), (1, 2, 70, 5)),
    "causal": case((1, 2, 70, 16), (1, 2, 40, 16), is_causal=True),
    "causal, grouped": case((1, 4, 40, 16), (1, 2, 70, 16), is_causal=True, enable_gqa=True),
    "bool mask": case((2, 2, 40, 16), (2, 2, 70, 16), attn_mask=MASK),
    "float mask": case((2, 2, 40, 16), (2, 2, 70, 16), attn_mask=torch.randn(2, 1, 40, 1).half().double()),
    "no heads": case((1, 8), (3, 8), scale=0.7),
    "no keys": case((1, 2, 3, 8), (1, 2, 0, 8)),
    "no queries": case((1, 2, 0, 8), (1, 2, 3, 8)),
}


def check_dropout() -> None:
    """With value the identity the result is the matrix of probabilities, and its zeros are the noise."""
    torch.manual_seed(0)
    query, value = torch.zeros(1, 2, 70, 4), torch.eye(100).expand(1, 2, -1, -1).clone().requires_grad_()
    out = memory_efficient_attention(query, torch.zeros(1, 2, 100, 4), value, dropout_p=0.3, backend="triton")
    kept = out[out > 0]
    assert abs((out == 0).double().mean() - 0.3) < 0.02
    torch.testing.assert_close(kept, torch.full_like(kept, 0.01 / 0.7))
    assert (out[0, 0] != out[0, 1]).any()
    grad = torch.randn_like(out)
    torch.testing.assert_close(torch.autograd.grad(out, value, grad)[0], out.detach().mT @ grad)


def check_dropout_gradients() -> None:
    """The gradients of query and key are those of the formula with the noise that the forward used."""
    torch.manual_seed(1)
    query, key, value = (torch.randn(1, 2, n, 8).requires_grad_() for n in (40, 70, 70))

    def attend(v: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(2)
        return memory_efficient_attention(query, key, v, dropout_p=0.3, backend="triton")

    noise = (attend(torch.eye(70).expand(1, 2, -1, -1)) > 0).detach() / 0.7
    expected = ((query @ key.mT / 8**0.5).softmax(-1) * noise) @ value
    got, grad = attend(value), torch.randn(1, 2, 40, 8)
    inputs = (query, key, value)
    for a, b in zip(torch.autograd.grad(got, inputs, grad), torch.autograd.grad(expected, inputs, grad)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def main() -> None:
    """Check everything and say how much it was."""
    for dtype in (torch.float32, torch.float16):
        for checked in CASES.values():
            # Not the largest error: of so few numbers that one is a matter of luck.
            assert_accurate(checked, dtype, size=root_mean_square, backend="triton")
    check_dropout()
    check_dropout_gradients()
    print(f"{2 * len(CASES) + 2} checks")  # noqa: T201  (what the test that runs this reads)


if __name__ == "__main__":
    main()
