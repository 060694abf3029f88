"""What `accumulate` saves and costs, and how far off the mean of token means is: the numbers behind lesson 2.4.

Run ``python benchmarks/accumulation.py``. Contestants take turns in one process. Memory: the limit of saving is the
gradients themselves and one micro-batch's graph. Time: the limit is the large batch, which launches each operator once.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from blackbelt.autograd.accumulation import accumulate, explain_accumulation
from blackbelt.measurement import MeasureReport, allocation, measure
from blackbelt.report import format_bytes

BATCH, LENGTH, WIDTH, VOCABULARY = 64, 32, 64, 256


class Language(nn.Module):
    """Two transformer blocks, without dropout, between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        block = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits (B, T, V) for tokens (B, T)."""
        return self.head(self.blocks(self.embedding(tokens)))  # type: ignore[no-any-return]


def loss_sum_and_count(model: nn.Module, micro_batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of token losses and the number of tokens that count."""
    tokens, labels = micro_batch
    loss = functional.cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), reduction="sum")
    return loss, (labels != -100).sum()


def batch(device: str, shortest: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and labels; ``shortest`` or more tokens of each sequence count, as in instruction tuning."""
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH), device=device)
    labels = torch.randint(VOCABULARY, (BATCH, LENGTH), device=device)
    lengths = torch.randint(shortest, LENGTH + 1, (BATCH, 1), device=device)
    return tokens, labels.masked_fill(torch.arange(LENGTH, device=device) >= lengths, -100)


def micro_batches(pair: tuple[torch.Tensor, torch.Tensor], size: int) -> list[Any]:
    """Split a batch into micro-batches of ``size`` sequences."""
    return list(zip(pair[0].split(size), pair[1].split(size)))


def by_hand(model: nn.Module, parts: list[Any]) -> None:
    """The shortest right loop: all counts first, then each sum divided by the total."""
    total = sum((labels != -100).sum() for _, labels in parts)
    for part in parts:
        (loss_sum_and_count(model, part)[0] / total).backward()


def large_batch(model: nn.Module, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """One backward of the mean."""
    loss, count = loss_sum_and_count(model, pair)
    (loss / count).backward()


def memory(device: str, dtype: torch.dtype) -> None:
    """Print the peak memory of one step for each size of the micro-batch, at a constant batch."""
    model = Language().to(device, dtype)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    print(f"\nPeak memory of a step, {BATCH} sequences of {LENGTH}, {dtype}, gradients {format_bytes(weights)}")
    for size in (64, 32, 16, 8, 4, 2, 1):

        def step(pair: tuple[torch.Tensor, torch.Tensor], size: int = size) -> None:
            model.zero_grad()
            accumulate(model, micro_batches(pair, size), loss_sum_and_count)

        model.zero_grad()
        peak = allocation(step, batch(device)).peak_bytes
        print(f"  {BATCH // size:3d} micro-batches of {size:2d}: {format_bytes(peak)}")


def seconds(device: str, size: int) -> MeasureReport:
    """Time a step: accumulate, the same by hand, the large batch."""
    model = Language().to(device)

    def fresh() -> tuple[Any]:
        model.zero_grad()
        return (batch(device),)

    return measure(
        inputs=fresh,
        rounds=5,
        large=lambda pair: large_batch(model, pair),
        by_hand=lambda pair: by_hand(model, micro_batches(pair, size)),
        accumulate=lambda pair: accumulate(model, micro_batches(pair, size), loss_sum_and_count),
    )


def overhead(device: str) -> MeasureReport:
    """Time a step of almost no work: what accumulate itself costs per micro-batch."""
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(16)]).to(device)

    def loss(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return model(x).sum(), len(x)

    def by_hand(x: torch.Tensor) -> None:
        for part in x.split(1):
            (model(part).sum() / len(x)).backward()

    def fresh() -> tuple[torch.Tensor]:
        model.zero_grad()
        return (torch.randn(16, 8, device=device),)

    return measure(inputs=fresh, by_hand=by_hand, accumulate=lambda x: accumulate(model, x.split(1), loss))


def main() -> None:
    """Print memory, time and error."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, {device}")
    torch.manual_seed(0)
    memory(device, torch.float32)
    memory(device, torch.bfloat16)
    print()
    for size in (16, 4):
        report = seconds(device, size)
        print(report)
        print(
            f"{BATCH // size} micro-batches: accumulate takes {report.ratio('accumulate', 'large'):.2f}× the large "
            f"batch, {report.ratio('accumulate', 'by_hand'):.2f}× the loop by hand\n"
        )
    report = overhead(device)
    extra = (report["accumulate"].median_seconds - report["by_hand"].median_seconds) / 16
    print(f"16 micro-batches of nothing: {report.ratio('accumulate', 'by_hand'):.2f}×, {extra * 1e6:.0f} µs each\n")
    print("Relative error of the gradient, mean of token means against float64 (exact accumulation beside it)")
    for shortest in (LENGTH, LENGTH // 2, 1):
        pair = batch(device, shortest)
        for size in (16, 4, 1):
            found = explain_accumulation(Language().to(device), micro_batches(pair, size), loss_sum_and_count)
            print(
                f"  {shortest}–{LENGTH} tokens, {BATCH // size:2d} micro-batches: {found.overall.naive:.1e} "
                f"({found.overall.exact:.1e}), weights {min(found.weights):.2f}–{max(found.weights):.2f}"
            )


if __name__ == "__main__":
    main()
