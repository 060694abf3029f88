"""Trainings of several processes: every rank is observed, one report, no hang, no file left."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap

import pytest

from blackbelt.doctor import Finding, Severity
from blackbelt.doctor.launching import is_launcher, observed_arguments
from blackbelt.doctor.ranks import RankReport, Ranks, from_environment, merged, read_reports
from blackbelt.doctor.report import DoctorReport
from blackbelt.places import Place

RANK = """
import os, signal, sys, torch
import torch.distributed as dist
import torch.multiprocessing as mp

def main(rank, world_size):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size, {how})
    torch.manual_seed(rank)
    model = torch.nn.Linear(3, 1)
    [dist.broadcast(p.data, 0) for p in model.parameters()]  # by hand: DistributedDataParallel imports for seconds
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range({steps}):
        x, y = torch.randn(8, 3), torch.randn(8)
        {before}
        loss = ((model(x) {squeeze} - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        [dist.all_reduce(p.grad) for p in model.parameters()]
        optimizer.step()
        {then}
    print("rank " + str(rank) + " has ended\\n", end="", flush=True)
    dist.destroy_process_group()

if __name__ == "__main__":
    {start}
"""
BUG, RIGHT = "", ".squeeze(1)"
ENVIRONMENT = "main(int(os.environ['RANK']), int(os.environ['WORLD_SIZE']))"
TORCHRUN = [
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
]


@pytest.fixture
def run(tmp_path):
    """Run a command on a script, with a folder of its own for everything temporary, which must be empty at the end."""

    def start(command, then="pass", *, squeeze=BUG, steps=4, method=None, before="pass", limit=150):
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        path = tmp_path / "train.py"
        how = f"init_method='file://{tmp_path}/init'" if method else "init_method='env://'"
        started = f"mp.start_processes(main, args=(2,), nprocs=2, start_method='{method}')" if method else ENVIRONMENT
        text = textwrap.dedent(RANK).format(
            how=how, steps=steps, squeeze=squeeze, then=then, start=started, before=before
        )
        path.write_text(text, encoding="utf-8")
        environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-m", *[str(path) if word == "SCRIPT" else word for word in command]]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=limit, env=environment, cwd=tmp_path, check=False
        )
        left = [found.name for found in temporary.iterdir() if found.name.startswith("blackbelt")]
        assert left == [], done.stderr
        return done

    return start


DOCTOR = ["blackbelt", "doctor"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_that_the_script_starts_are_observed_and_told_of_once(run, method):
    done = run([*DOCTOR, "SCRIPT"], method=method)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("BB301 train.py:16") == 1 and "(ranks 0, 1)" in done.stdout
    assert "4 optimizer steps observed on 2 ranks" in done.stdout
    assert done.stderr.count("BB301") == 1  # at once, by whichever rank was first


@pytest.mark.slow
def test_a_right_training_of_two_ranks_is_clean(run):
    done = run([*DOCTOR, "SCRIPT"], method="fork", squeeze=RIGHT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing found; 4 optimizer steps observed on 2 ranks" in done.stdout


@pytest.mark.slow
def test_the_doctor_around_torchrun(run):
    done = run([*DOCTOR, "--json", "-m", *TORCHRUN, "SCRIPT"])
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert [(f["code"], f["place"]["line"], f["ranks"]) for f in report["findings"]] == [("BB301", 16, [0, 1])]
    assert report["ranks"] == [0, 1] and report["num_steps"] == 4 and report["unfinished"] == []
    assert "rank 0 has ended" in done.stderr and "rank 1 has ended" in done.stderr


@pytest.mark.slow
def test_torchrun_around_the_doctor(run):
    done = run([*TORCHRUN, "-m", *DOCTOR, "SCRIPT"])
    assert done.returncode == 1  # torchrun's own
    assert done.stdout.count("BB301 train.py:16") == 1 and "(ranks 0, 1)" in done.stdout, done.stderr
    assert "rank 0 has ended" in done.stdout and "rank 1 has ended" in done.stdout
    assert "1 error; 4 optimizer steps observed on 2 ranks" in done.stdout


@pytest.mark.slow
def test_torchrun_around_the_doctor_on_a_right_training(run):
    done = run([*TORCHRUN, "-m", *DOCTOR, "SCRIPT"], squeeze=RIGHT)
    assert done.returncode == 0 and done.stdout.count("Nothing found") == 1, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", ["spawned", "inside", "around"])
def test_a_rank_that_dies_does_not_hang_the_others_and_the_report_is_told(run, how):
    dies = "if step == 2 and rank == 1: os.kill(os.getpid(), signal.SIGKILL)"
    command = {
        "spawned": [*DOCTOR, "SCRIPT"],
        "inside": [*TORCHRUN, "-m", *DOCTOR, "SCRIPT"],
        "around": [*DOCTOR, "-m", *TORCHRUN, "SCRIPT"],
    }[how]
    done = run(command, dies, steps=10**6, method="fork" if how == "spawned" else None)
    assert done.returncode == (1 if how == "inside" else 3), done.stderr
    assert done.stdout.count("BB301 train.py:16") == 1, done.stdout + done.stderr
    assert "1 did not come to the end" in done.stdout
    assert "has ended" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", ["spawned", "around"])
def test_a_rank_that_raises(run, how):
    command = [*DOCTOR, "SCRIPT"] if how == "spawned" else [*DOCTOR, "-m", *TORCHRUN, "SCRIPT"]
    raises = "if step == 2 and rank == 1: raise ValueError('no more data')"
    done = run(command, raises, steps=10**6, method="fork" if how == "spawned" else None)
    assert done.returncode == 3 and "ValueError: no more data" in done.stderr
    assert done.stdout.count("BB301 train.py:16") == 1


@pytest.mark.slow
def test_ranks_end_after_so_many_steps(run):
    done = run([*DOCTOR, "--max-steps", "3", "--ignore", "BB301", "SCRIPT"], steps=10**6, method="fork")
    assert done.returncode == 0, done.stderr
    assert "3 optimizer steps observed on 2 ranks" in done.stdout


CHILDREN = """
import multiprocessing, os, sys, torch
from concurrent.futures import ProcessPoolExecutor

class Worker(multiprocessing.get_context("spawn").Process):
    def __init__(self, queue):
        super().__init__()
        self.queue = queue

    def run(self):
        train()
        self.queue.put(sorted(set(vars(self)) & {{"run", "queue"}}))

def train():
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss = ((model(torch.randn(8, 3)) - torch.randn(8)) ** 2).mean()
        loss.backward()
        optimizer.step()

def leave():
    train()
    os._exit(5)

def square(x):
    return x * x, type(multiprocessing.current_process()._target).__name__

if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    queue = multiprocessing.get_context("spawn").Queue()
    worker = Worker(queue)
    worker.start()
    print("in the child", queue.get(timeout=100), "in the parent", "run" in vars(worker))
    worker.join()
    leaver = fork.Process(target=leave)
    leaver.start()
    leaver.join()
    print("left with", leaver.exitcode)
    with fork.Pool(1) as pool, ProcessPoolExecutor(1, mp_context=fork) as executor:
        print("pools", pool.map(square, [3]), list(executor.map(square, [4])))
"""


@pytest.mark.slow
def test_processes_of_a_class_of_their_own_and_pools(tmp_path):
    """The object looks to the parent as without the doctor; what a library runs in a process is left alone."""
    path = tmp_path / "train.py"
    path.write_text(CHILDREN.format(), encoding="utf-8")
    words = [sys.executable, "-m", *DOCTOR, "--json", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, cwd=tmp_path, check=False)
    report = json.loads(done.stdout)
    assert [(f["code"], f["place"]["line"], f["ranks"]) for f in report["findings"]] == [("BB301", 19, [0, 1])]
    assert report["unfinished"] == [] and done.returncode == 1
    assert "in the child ['queue', 'run'] in the parent False" in done.stderr
    assert "left with 5" in done.stderr
    assert "pools [(9, '_Observed')]" not in done.stderr and "(16, " in done.stderr


@pytest.mark.slow
def test_one_rank_is_sure_and_ends_the_training_of_all(run):
    alone = "y = y if rank else y.unsqueeze(1)"
    done = run([*DOCTOR, "--until-sure", "SCRIPT"], steps=10**6, method="fork", before=alone)
    assert done.returncode == 1, done.stderr
    assert "(rank 1)" in done.stdout and "1 optimizer step observed" in done.stdout


def finding(rank_line=3, code="BB301", severity=Severity.ERROR, ranks=()):
    return Finding(
        code, severity, "it broadcasts", Place("/t/train.py", rank_line, "f"), "fix", {"a": "1"}, ranks=ranks
    )


def test_one_report_of_all():
    own = DoctorReport((finding(9),), 2)
    ranks = [
        RankReport(0, DoctorReport((finding(),), 5), 1, ended=True),
        RankReport(1, DoctorReport((finding(), finding(4, severity=Severity.WARNING)), 7, (("BB999", "Trace"),)), 2),
    ]
    report = merged(own, ranks)
    assert [(f.place.line, f.ranks) for f in report.findings] == [(9, ()), (3, (0, 1)), (4, (1,))]
    assert report.num_steps == 9 and report.ranks == (0, 1) and report.unfinished == (1,)
    assert report.failures == (("BB999", "Trace"),)
    text = str(report)
    assert "(ranks 0, 1)" in text and "(rank 1)" in text and "Rank 1 did not come to the end" in text
    assert merged(own, []) is own


def test_what_one_rank_explains_is_not_told_of_another():
    explains = finding(code="BB601")
    ranks = [
        RankReport(0, DoctorReport((explains,), 5), 1, ended=True),
        RankReport(1, DoctorReport((finding(8, code="BB607"),), 5), 2, ended=True),
    ]
    assert [f.code for f in merged(DoctorReport((), 0), ranks).findings] == ["BB601"]


def test_reports_and_facts_go_through_the_folder(tmp_path):
    one, other = Ranks(tmp_path, 0), Ranks(tmp_path, 1)
    report = DoctorReport((finding(),), 3, (("BB999", "Trace"),))
    one.write(report, ended=True)
    other.write(DoctorReport((), 0))
    first, second = read_reports(tmp_path)
    assert first.report == report and first.ended and not second.ended and second.pid == os.getpid()
    one.publish("hash-1", {"a": [1, 2]})
    assert other.others("hash-1") == {0: {"a": [1, 2]}} and one.others("hash-1") == {} and other.others("hash") == {}
    assert one.is_first(finding()) and not other.is_first(finding()) and other.is_first(finding(4))
    for path in tmp_path.iterdir():
        path.unlink()
    tmp_path.rmdir()
    one.write(report)  # nobody is there any more
    assert not one.is_first(finding()) and one.others("hash-1") == {}


def test_a_report_that_is_half_written_is_passed_over(tmp_path):
    (tmp_path / "report-0.json").write_text('{"rank": 0, "pi', encoding="utf-8")
    assert read_reports(tmp_path) == []


def test_every_field_of_a_finding_survives_the_folder(tmp_path):
    full = Finding("BB1", Severity.NOTE, "m", Place("f", 1, "g", "h", 2, "c"), "x", {"k": "v"}, "l", 4, (1, 2))
    values = dataclasses.asdict(full)
    assert all(values[field.name] for field in dataclasses.fields(Finding) if field.name != "severity")
    Ranks(tmp_path, 0).write(DoctorReport((full,), 1))
    assert read_reports(tmp_path)[0].report.findings == (full,)


def test_what_torchrun_says_of_this_process(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK", "BLACKBELT_RANKS"):
        monkeypatch.delenv(name, raising=False)
    assert from_environment() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a/../b")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert from_environment() is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    ranks, speaks = from_environment()
    assert ranks.rank == 3 and not speaks and ranks.folder.parent == tmp_path and ranks.folder.is_dir()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert from_environment()[1]
    ranks.folder.chmod(0o777)  # somebody else may have written there
    assert from_environment() is None
    monkeypatch.setenv("BLACKBELT_RANKS", str(tmp_path))
    ranks, speaks = from_environment()
    assert ranks.folder == tmp_path and not speaks


def test_torchruns_arguments():
    assert is_launcher("torch.distributed.run", as_module=True) and is_launcher("/bin/torchrun", as_module=False)
    assert not is_launcher("torchrun", as_module=True) and not is_launcher("train.py", as_module=False)
    given = ["--nproc-per-node=2", "-m", "package.train", "-m", "x"]
    wanted = ["--nproc-per-node=2", "-m", "blackbelt", "doctor", "--until-sure", "-m", "package.train", "-m", "x"]
    assert observed_arguments(given, ["--until-sure"]) == wanted
    with pytest.raises(ValueError, match="--no-python"):
        observed_arguments(["--no-python", "program"], [])
