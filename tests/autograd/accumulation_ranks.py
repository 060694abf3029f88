"""Two of these processes share a model over gloo. Each writes what it saw as JSON: `RANK=0 python -m ... FOLDER`.

Every rank knows the whole data, so each computes for itself what one process with the large batch gets in float64.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from blackbelt.autograd.accumulation import accumulate, explain_accumulation

VOCABULARY = 11
RANK = int(os.environ.get("RANK", "0"))
# Rank 0 has three micro-batches, rank 1 one; sample by sample the number of tokens that count.
TOKENS = {0: (5, 1, 2, 1, 1, 3), 1: (4, 6)}
SPLITS = {0: (1, 2, 3), 1: (2,)}


class Language(nn.Module):
    """Embedding, a hidden layer, logits, in several buckets."""

    def __init__(self, *, sparse: bool = False, normalized: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 8, sparse=sparse)
        self.hidden = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16) if normalized else nn.LayerNorm(16)
        self.head = nn.Linear(16, VOCABULARY)
        self.extra = nn.Parameter(torch.ones(()))

    def forward(self, tokens: torch.Tensor, with_extra: bool = True) -> torch.Tensor:
        hidden = self.hidden(self.embedding(tokens)).relu().flatten(0, 1)
        logits = self.head(self.norm(hidden))
        return logits * self.extra if with_extra else logits


def loss_sum_and_count(model: nn.Module, micro_batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, labels, *rest = micro_batch
    logits = model(tokens, *rest)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    loss = functional.cross_entropy(logits, labels.flatten(), reduction="sum", ignore_index=-100)
    return loss, (labels != -100).sum()


def data(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    size = (len(TOKENS[rank]), 6)
    tokens, labels = (torch.randint(VOCABULARY, size, generator=generator) for _ in range(2))
    for row, count in zip(labels, TOKENS[rank]):
        row[count:] = -100
    return tokens, labels


def micro_batches(rank: int = RANK, splits: Any = None) -> list[Any]:
    tokens, labels = data(rank)
    sizes = list(splits or SPLITS[rank])
    return list(zip(tokens.split(sizes), labels.split(sizes)))


def everything() -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.cat(pair) for pair in zip(data(0), data(1)))


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.to_dense().clone() if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]


def large_batch(model: nn.Module, dtype: torch.dtype, rest: tuple[Any, ...] = ()) -> list[torch.Tensor]:
    model = copy.deepcopy(model).to(dtype)
    loss, count = loss_sum_and_count(model, (*everything(), *rest))
    (loss / count).backward()
    return gradients(model)


def error(got: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    one, other = (torch.cat([tensor.double().flatten() for tensor in tensors]) for tensors in (got, reference))
    return float((one - other).norm() / other.norm())


def errors(model: nn.Module, ddp: nn.Module, *, factor: float = 1, rest: tuple[Any, ...] = ()) -> dict[str, float]:
    """Return the errors of DDP's gradients / factor and of the large batch in the model's precision."""
    got = [gradient / factor for gradient in gradients(ddp)]
    exact, same = (large_batch(model, dtype, rest) for dtype in (torch.float64, next(model.parameters()).dtype))
    return {"got": error(got, exact), "large": error(same, exact)}


def wrap(model: nn.Module, **options: Any) -> tuple[DistributedDataParallel, list[int]]:
    """Return the model in DDP with small buckets, and a list that gets the bytes of each bucket all-reduced."""
    ddp = DistributedDataParallel(copy.deepcopy(model), bucket_cap_mb=0.0005, **options)
    sent: list[int] = []

    def hook(state, bucket):  # DDP refuses annotations that are strings
        sent.append(bucket.buffer().nbytes)
        return allreduce_hook(state, bucket)

    ddp.register_comm_hook(None, hook)
    return ddp, sent


def exact_for_any_partition() -> dict[str, Any]:
    model = Language()
    ddp, sent = wrap(model)
    seen = []
    for sizes in ((1, 2, 3), (6,), (3, 3), (1, 1, 1, 1, 1, 1), (1, 2, 3)):
        sent.clear()
        ddp.zero_grad()
        report = accumulate(ddp, micro_batches(splits=sizes if RANK == 0 else (2,)), loss_sum_and_count)
        seen.append({
            **errors(model, ddp), "sent": list(sent), "count": report.total_count, "counts": list(report.counts),
            "loss": float(report.mean_loss), "ranks": report.num_ranks,
        })  # fmt: skip
    loss, count = loss_sum_and_count(model.double(), everything())
    return {"seen": seen, "large_loss": float(loss.detach() / count), "text": str(report)}


def by_hand_without_no_sync() -> dict[str, Any]:
    """The usual loop: mean of means of means. Shows that the counter sees k all-reduces, and the error."""
    model = Language()
    ddp, sent = wrap(model)
    for _ in range(2):  # DDP rebuilds its buckets after the first backward
        sent.clear()
        ddp.zero_grad()
        batches = micro_batches() if RANK == 0 else micro_batches() * 3
        for batch in batches:
            loss, count = loss_sum_and_count(ddp, batch)
            (loss / count / 3).backward()
    return {**errors(model, ddp), "sent": list(sent)}


def small_all_reduces() -> dict[str, Any]:
    ddp, _ = wrap(Language())
    original, calls = dist.all_reduce, []

    def counting(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(tensor.numel())
        return original(tensor, *args, **kwargs)

    dist.all_reduce = counting
    try:
        accumulate(ddp, micro_batches(), loss_sum_and_count)
    finally:
        dist.all_reduce = original
    return {"calls": calls}


def gradients_that_were_there(**options: Any) -> dict[str, Any]:
    model = Language()
    ddp, _ = wrap(model, **options)
    for _ in range(2):  # DDP rebuilds its buckets after the first backward: from the second on .grad lies in them
        ddp.zero_grad()
        accumulate(ddp, micro_batches(), loss_sum_and_count)
    for _ in range(2):
        accumulate(ddp, micro_batches(), loss_sum_and_count)
    return errors(model, ddp, factor=3)


def failure_leaves_gradients() -> dict[str, Any]:
    model = Language()
    ddp, _ = wrap(model, gradient_as_bucket_view=True)
    accumulate(ddp, micro_batches(), loss_sum_and_count)
    before = gradients(ddp)
    empty = [(tokens, torch.full_like(labels, -100)) for tokens, labels in micro_batches()]
    words = []
    for batches in (empty, [], iter(())):
        try:
            accumulate(ddp, batches, loss_sum_and_count)
        except ValueError as problem:
            words.append(str(problem))
    same = all(torch.equal(one, other) for one, other in zip(before, gradients(ddp)))
    accumulate(ddp, micro_batches(), loss_sum_and_count)
    return {"words": words, "same": same, **errors(model, ddp, factor=2)}


def an_empty_micro_batch_on_one_rank() -> dict[str, Any]:
    model = Language()
    ddp, _ = wrap(model)
    tokens, labels = everything()
    mine = (tokens, labels) if RANK == 0 else (tokens[:0], labels[:0])
    report = accumulate(ddp, [mine], loss_sum_and_count)
    return {**errors(model, ddp), "counts": list(report.counts), "count": report.total_count}


def unused_in_the_last_micro_batch() -> dict[str, Any]:
    """`extra` takes part in all micro-batches but the last of each rank."""
    model = Language()
    ddp, _ = wrap(model, find_unused_parameters=True)
    for _ in range(2):
        ddp.zero_grad()
        batches = [(*batch, True) for batch in micro_batches()]
        batches.append((*batches[0][:2], False))
        accumulate(ddp, batches, loss_sum_and_count)
    exact = copy.deepcopy(model).double()
    pairs = [loss_sum_and_count(exact, (*batch, True)) for rank in (0, 1) for batch in micro_batches(rank)]
    pairs += [loss_sum_and_count(exact, (*micro_batches(rank)[0], False)) for rank in (0, 1)]
    (sum(loss for loss, _ in pairs) / sum(count for _, count in pairs)).backward()
    return {"got": error(gradients(ddp), gradients(exact))}


def other_models() -> dict[str, Any]:
    seen = {}
    for name, model, options in (
        ("static graph", Language(), {"static_graph": True}),
        ("bucket views", Language(), {"gradient_as_bucket_view": True}),
        ("bfloat16", Language().bfloat16(), {}),
        ("sparse", Language(sparse=True), {}),
        ("frozen", Language(), {}),
    ):
        if name == "frozen":
            model.hidden.requires_grad_(False)
        ddp = DistributedDataParallel(copy.deepcopy(model), **options)
        if name == "static graph":
            accumulate(ddp, micro_batches(splits=(len(TOKENS[RANK]),)), loss_sum_and_count)
        for _ in range(3):
            ddp.zero_grad()
            accumulate(ddp, micro_batches(), loss_sum_and_count)
        seen[name] = errors(model, ddp)
    return seen


def with_a_scaler() -> dict[str, Any]:
    model = Language()
    ddp, _ = wrap(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    accumulate(ddp, micro_batches(), loss_sum_and_count, scaler=scaler)
    scaled = errors(model, ddp, factor=2.0**10)
    scaler.unscale_(optimizer)
    return {"scaled": scaled, "unscaled": errors(model, ddp)}


def batch_norm_has_buffers_to_broadcast() -> dict[str, Any]:
    ddp, _ = wrap(Language(normalized=True))
    for _ in range(3):
        accumulate(ddp, micro_batches(), loss_sum_and_count)
    return {"finite": all(bool(gradient.isfinite().all()) for gradient in gradients(ddp))}


def what_is_refused_and_explained() -> dict[str, Any]:
    from torch.distributed.fsdp import fully_shard  # a second of import, and pytest looks for doctests in this file

    ddp, sent = wrap(Language())
    words = []
    for model in (nn.Sequential(ddp), fully_shard(nn.Linear(2, 1), mesh=init_device_mesh("cpu", (2,)))):
        try:
            accumulate(model, micro_batches(), loss_sum_and_count)
        except ValueError as problem:
            words.append(str(problem))
    batches = micro_batches(0)
    report = explain_accumulation(ddp, batches, loss_sum_and_count)
    return {"words": words, "holds": report.holds, "sent": sent, "weights": list(report.weights)}


def static_graph_at_first() -> dict[str, Any]:
    ddp = DistributedDataParallel(Language(), static_graph=True)
    words = ""
    try:
        accumulate(ddp, micro_batches(splits=(3, 3) if RANK == 0 else (1, 1)), loss_sum_and_count)
    except RuntimeError as problem:
        words = str(problem)
    return {"words": words, "none": all(parameter.grad is None for parameter in ddp.parameters())}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=RANK, world_size=2)
    found = {
        "exact": exact_for_any_partition(),
        "by hand": by_hand_without_no_sync(),
        "small": small_all_reduces(),
        "there": gradients_that_were_there(),
        "there, views": gradients_that_were_there(gradient_as_bucket_view=True),
        "failure": failure_leaves_gradients(),
        "empty": an_empty_micro_batch_on_one_rank(),
        "unused": unused_in_the_last_micro_batch(),
        "models": other_models(),
        "scaler": with_a_scaler(),
        "buffers": batch_norm_has_buffers_to_broadcast(),
        "static": static_graph_at_first(),
        "explained": what_is_refused_and_explained(),
    }
    (folder / f"{RANK}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
