"""accumulate under DistributedDataParallel, in two real gloo processes that accumulation_ranks.py starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two gloo processes saw (accumulation_ranks.py)."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.autograd.accumulation_ranks", str(folder)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


EPS = torch.finfo(torch.float32).eps
both = pytest.mark.parametrize("rank", [0, 1])


@both
def test_two_ranks_get_the_gradient_of_one_large_batch(ranks, rank):
    exact = ranks[rank]["exact"]
    for step in exact["seen"]:
        assert step["got"] <= 2 * step["large"] + EPS
        assert (step["count"], step["ranks"]) == (23, 2)
        assert step["loss"] == pytest.approx(exact["large_loss"], rel=1e-6)
    assert [len(step["counts"]) for step in exact["seen"]] == ([3, 1, 2, 6, 3] if rank == 0 else [1] * 5)
    assert "23 losses on 2 ranks" in exact["text"]


@both
def test_each_bucket_is_all_reduced_once_however_many_micro_batches(ranks, rank):
    sent = [step["sent"] for step in ranks[rank]["exact"]["seen"]][1:]  # DDP rebuilds its buckets after the first
    assert all(buckets == sent[0] for buckets in sent)
    assert len(sent[0]) > 1
    by_hand = ranks[rank]["by hand"]
    assert by_hand["sent"] == 3 * sent[0], "without no_sync() every micro-batch communicates"
    assert by_hand["got"] > 0.05, "and the mean of means of means is another gradient"
    assert ranks[rank]["small"]["calls"][0] == 2
    assert len(ranks[rank]["small"]["calls"]) == 2, "the counts and the loss, then the first bucket"


@both
@pytest.mark.parametrize("name", ["there", "there, views", "failure", "empty"])
def test_gradients_that_were_there_failures_and_empty_micro_batches_on_two_ranks(ranks, rank, name):
    seen = ranks[rank][name]
    assert seen["got"] <= 2 * seen["large"] + EPS


@both
def test_failures_on_two_ranks_leave_gradients_and_ddp_as_they_were(ranks, rank):
    failure = ranks[rank]["failure"]
    assert failure["same"]
    assert ["add up to 0" in failure["words"][0], *("is empty" in words for words in failure["words"][1:])] == [
        True
    ] * 3
    assert ranks[rank]["empty"]["counts"] == ([23.0] if rank == 0 else [0.0])
    assert ranks[rank]["static"]["none"]
    assert "static_graph=True" in ranks[rank]["static"]["words"]


@both
@pytest.mark.parametrize("name", ["static graph", "bucket views", "bfloat16", "sparse", "frozen"])
def test_kinds_of_models_on_two_ranks(ranks, rank, name):
    seen = ranks[rank]["models"][name]
    assert seen["got"] <= 2 * seen["large"] + (torch.finfo(torch.bfloat16).eps if name == "bfloat16" else EPS)


@both
def test_scaler_buffers_and_unused_parameters_on_two_ranks(ranks, rank):
    for seen in ranks[rank]["scaler"].values():
        assert seen["got"] <= 2 * seen["large"] + EPS
    assert ranks[rank]["unused"]["got"] < 1e-6
    assert ranks[rank]["buffers"]["finite"]


@both
def test_ddp_inside_of_another_module_is_refused_and_explaining_communicates_nothing(ranks, rank):
    explained = ranks[rank]["explained"]
    assert "has DistributedDataParallel inside, at '0'" in explained["words"][0]
    assert "is sharded by FSDP; accumulate knows DistributedDataParallel" in explained["words"][1]
    assert explained["holds"]
    assert explained["sent"] == []
