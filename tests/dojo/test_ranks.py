"""Katas over several ranks: real processes, real collectives, and an answer for every way in which they can end."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from blackbelt.dojo import ranks as ranks_module
from blackbelt.dojo.grader import grade
from blackbelt.dojo.isolation import Worker
from blackbelt.dojo.kata import Kata
from blackbelt.dojo.laws.collectives import Collectives
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.ranks import Ranks, RanksError, kept_ranks, run_ranks
from blackbelt.dojo.slicing import cut_out


def total(values):
    """Return the mean over all ranks."""
    sums = torch.stack([values.sum(), torch.tensor(float(len(values)), dtype=values.dtype)])
    dist.all_reduce(sums)
    return sums[0] / sums[1]


def uneven():
    return ((torch.tensor([1.0, 2.0, 3.0]),), (torch.tensor([10.0]),))


def kata_over_ranks(laws=None, changes=()):
    def total_of_all(values):
        return total(values)

    cases = st.tuples(
        *[st.lists(st.integers(-5, 5), min_size=1, max_size=4).map(lambda v: (torch.tensor(v, dtype=torch.float32),))]
        * 2
    )
    return Kata(
        total_of_all,
        1,
        "white",
        ("", "", ""),
        cases,
        lambda: {"uneven": uneven()},
        list(laws or [Value()]),
        changes,
        ranks=2,
    )


def test_ranks_are_processes_that_talk_to_each_other():
    def who(value):
        gathered = [torch.zeros(1) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, value)
        return os.getpid(), dist.get_rank(), [each.item() for each in gathered], torch.get_num_threads()

    outcomes = run_ranks(who, ((torch.tensor([3.0]),), (torch.tensor([4.0]),)))
    (one, other) = (outcome.value for outcome in outcomes)
    assert len({one[0], other[0], os.getpid()}) == 3
    assert (one[1:], other[1:]) == ((0, [3.0, 4.0], 1), (1, [3.0, 4.0], 1))


def test_data_parallel_gradients_are_those_of_the_large_batch():
    torch.manual_seed(0)
    model, batch = nn.Linear(3, 2), torch.randn(8, 3)

    def gradient(model, batch):
        wrapped = DistributedDataParallel(model)
        with wrapped.no_sync():
            wrapped(batch[:2]).square().mean().backward()
        model.zero_grad()
        wrapped(batch).square().mean().backward()
        return model.weight.grad

    first, second = run_ranks(gradient, ((model, batch[:4]), (model, batch[4:])), watch=True)
    model(batch).square().mean().backward()
    assert torch.allclose(first.value, model.weight.grad)
    assert torch.equal(first.value, second.value)
    assert first.operators["c10d::allreduce_"] == 1


def test_the_processes_of_a_function_are_kept_within_the_block_and_ended_with_it():
    def own(_):
        return os.getpid()

    with kept_ranks():
        one, other = (run_ranks(own, ((0,), (0,))) for _ in range(2))
    assert [outcome.value for outcome in one] == [outcome.value for outcome in other]
    for outcome in one:
        with pytest.raises(ProcessLookupError):
            os.kill(outcome.value, 0)


def test_an_error_arrives_with_its_own_type_and_line():
    def fails(rank):
        if rank == 1:
            raise KeyError("no such thing")
        return rank

    zero, one = run_ranks(fails, ((0,), (1,)))
    assert zero.value == 0
    assert isinstance(one.error, KeyError)
    assert any("no such thing" in frame.line for frame in one.error.frames)


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (lambda rank: os._exit(3) if rank else rank, "ended its process"),
        (lambda rank: dist.all_reduce(torch.ones(1)) if rank else rank, "still waits"),
        (lambda rank: lambda: rank, "cannot leave its process"),
    ],
)
def test_a_rank_that_gives_no_answer_is_an_outcome_with_words(ending, words, monkeypatch):
    monkeypatch.setattr(ranks_module, "CALL_SECONDS", 2.0)
    start = time.monotonic()
    with Ranks(ending, 2) as ranks:
        outcomes = ranks.call(((0,), (1,)))
        assert isinstance(outcomes[1].error, RanksError)
        assert words in str(outcomes[1].error)
        again = ranks.call(((0,), (0,)))  # started anew
    assert time.monotonic() - start < 20
    if words != "cannot leave its process":
        assert [outcome.value for outcome in again] == [0, 0]


def test_processes_started_anew_get_the_function_by_value(monkeypatch):
    """As on Windows, macOS, and beside a GPU."""
    monkeypatch.setattr(ranks_module, "_can_fork", lambda: False)
    factor = 2

    def scaled(values):
        return factor * total(values)

    first, second = run_ranks(scaled, uneven())
    assert first.error is None, first.error
    assert first.value.item() == second.value.item() == 8.0


def test_arguments_for_another_number_of_ranks_are_refused():
    with Ranks(total, 2) as ranks, pytest.raises(ValueError, match="arguments for 3 ranks were given; there are 2"):
        ranks.call(((1,), (2,), (3,)))


def test_a_right_answer_passes():
    report = grade(kata_over_ranks([Value(), Collectives(lambda _: {"c10d::allreduce_": 1})]), total)
    assert report.passed, str(report)


def test_a_mean_of_means_is_told_with_the_arguments_of_every_rank():
    def mean_of_means(values):
        mean = values.mean()
        dist.all_reduce(mean)
        return mean / dist.get_world_size()

    report = grade(kata_over_ranks(), mean_of_means)
    assert report.status == "failed"
    assert report.law == "Value"
    assert "rank 0: values = " in report.given
    assert "rank 1: values = " in report.given


def test_a_collective_too_many_is_counted():
    def twice(values):
        summed, count = values.sum(), torch.tensor(float(len(values)), dtype=values.dtype)
        dist.all_reduce(summed)
        dist.all_reduce(count)
        return summed / count

    report = grade(kata_over_ranks([Value(), Collectives(lambda _: {"c10d::allreduce_": 1})]), twice)
    assert report.law == "Collectives"
    assert "issues `c10d::allreduce_` 2 times; 1 were asked for" in report.sentence


def test_an_input_changed_on_one_rank_is_noticed():
    def spoils(values):
        result = total(values)
        if dist.get_rank() == 1:
            values += 1
        return result

    report = grade(kata_over_ranks(), spoils)
    assert report.law == "LeavesInputs"
    assert report.sentence == "It changed its argument 0 on rank 1 (values)"


def test_a_function_that_raises_on_a_rank_is_shown_its_line():
    def fails(values):
        if dist.get_rank() == 1:
            raise RuntimeError("not here")
        return total(values)

    report = grade(kata_over_ranks(), fails)
    assert "RuntimeError: not here" in report.sentence
    assert 'raise RuntimeError("not here")' in report.next_step


def test_the_stub_stays_open():
    def stub(values):
        raise NotImplementedError("your turn")

    assert grade(kata_over_ranks(), stub).status == "open"


RANK_KATA = '''
import torch
import torch.distributed as dist
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value


@kata(
    minutes=1,
    belt="white",
    hints=("a", "b", "c"),
    cases=st.tuples(st.just((torch.ones(1),)), st.just((torch.zeros(1),))),
    edge_cases=lambda: {"two": ((torch.ones(1),), (torch.full((1,), 2.0),))},
    laws=[Value()],
    ranks=2,
)
def sum_over_ranks(x):
    """Sum over ranks."""
    total = x.clone()
    dist.all_reduce(total)
    return total


@sum_over_ranks.wrong("It stays at home.")
def at_home(x):
    return x.clone()
'''


@pytest.fixture(scope="module")
def worker():
    with Worker() as started:
        yield started


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ("total = x.clone(); dist.all_reduce(total); return total", "passed", "every law holds"),
        ("return x.clone()", "failed", "It stays at home"),
        ("return 1 / 0", "failed", "It raised ZeroDivisionError: division by zero"),
        (
            "import os\n    while True: os.fork()",
            "failed",
            "It raised PermissionError: your code tried to start more than 16 processes",
        ),
    ],
)
def test_an_isolated_worker_grades_over_ranks(body, status, sentence, worker, tmp_path):
    kata_file, answer = tmp_path / "sum_over_ranks.py", tmp_path / "answer.py"
    kata_file.write_text(RANK_KATA)
    answer.write_text(f"import torch.distributed as dist\n\n\ndef sum_over_ranks(x):\n    {body}\n")
    report = worker.grade(cut_out(answer, "sum_over_ranks"), kata_file=kata_file)
    assert (report.status, report.sentence) == (status, sentence), str(report)


AFTER_COMPILING = """
import torch
import torch.distributed as dist
from blackbelt.dojo.ranks import run_ranks

def slope(x):
    x = x.requires_grad_()
    (x * x).sum().backward()
    dist.all_reduce(x.grad)
    return x.grad

if __name__ == "__main__":
    torch.compile(lambda x: (x * x).sum(), backend="aot_eager")(torch.ones(2, requires_grad=True)).backward()
    for outcome in run_ranks(slope, [(torch.ones(2),), (torch.ones(2),)]):
        assert outcome.error is None, outcome.error
        assert outcome.value.tolist() == [4.0, 4.0]
    print("right")
"""


@pytest.mark.slow
def test_ranks_differentiate_after_this_process_has_compiled(tmp_path):
    """``torch.compile`` leaves threads of autograd, which do not survive a fork: then ranks are started anew."""
    script = tmp_path / "after.py"
    script.write_text(AFTER_COMPILING, encoding="utf-8")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    assert result.stdout == "right\n", result.stderr
