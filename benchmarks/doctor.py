"""The doctor: what it finds, what it says of trainings that are right, when, and what it costs.

    python benchmarks/doctor.py [detection] [cost] [peers PYTHON]

``detection`` (minutes) runs every script of tests/doctor: the cases that rules were written with, their twins, the
corpus of unusual trainings that are right, and ``unseen``, written without knowing the rules. ``cost`` compares steps,
start-up and memory with and without the doctor. ``peers`` runs other tools over one pair of each rule and the corpus,
with the interpreter of an environment that has them (torch, torchfix, torchtest2, torch-audit, mldoct). Without words:
detection and cost.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.doctor.trainings import causes, train  # noqa: E402

from blackbelt.doctor import Severity, watch  # noqa: E402

FOLDER = ROOT / "tests" / "doctor"
SECTIONS = ("data", "model", "loss", "optimizer", "precision", "distributed", "checkpoint", "evaluation")


@dataclass(frozen=True)
class Outcome:
    """A script with one defect, and what was said of it."""

    path: Path
    code: str
    said: list[tuple[str, int, int]]  # code, line, steps made
    line: int

    @property
    def is_found(self) -> bool:
        """Whether the code was said at all."""
        return any(code == self.code for code, _, _ in self.said)

    @property
    def is_exact(self) -> bool:
        """Whether the line of the cause was named."""
        return any((code, line) == (self.code, self.line) for code, line, _ in self.said)

    @property
    def step(self) -> int:
        """After how many optimizer steps."""
        return next(step for code, _, step in self.said if code == self.code)


def examine(path: Path) -> Outcome:
    """Run a script under observation."""
    report = train(path, doctor=True).report
    assert report is not None
    (code, line), *_ = causes(path) or [("", 0)]
    said = [(f.code, f.place.line if f.place else 0, f.step) for f in report.findings]
    return Outcome(path, code, said, line)


def detection() -> None:
    """Print what is found, by section, and what is said of right trainings."""
    print("Trainings with one silent failure\n")
    heads = ("scripts", "found", "nothing else", "right line", "within 3 steps", "latest step")
    print(f"{'':<26}" + "".join(f"{head:>15}" for head in heads))
    missed: list[Outcome] = []
    for title, paths in (
        ("cases", sorted(FOLDER.glob("cases/*/*_bug.py"))),
        ("unseen", sorted(FOLDER.glob("unseen/BB*.py"))),
    ):
        outcomes = [examine(path) for path in paths]
        for number, section in enumerate(SECTIONS, 1):
            line(f"{title}, {section}", [o for o in outcomes if o.code.startswith(f"BB{number}")])
        line(f"{title}, all", outcomes)
        print()
        missed += [o for o in outcomes if not o.is_exact or len(o.said) > 1]
    for outcome in missed:
        said = ", ".join(f"{code} at line {where}" for code, where, _ in outcome.said) or "nothing"
        print(f"{outcome.path.parent.name}/{outcome.path.name}, {outcome.code} at line {outcome.line}: said {said}")
    print("\nTrainings that are right\n")
    for title, paths in (
        ("twins of the cases", sorted(FOLDER.glob("cases/*/*_clean.py"))),
        ("corpus", sorted(FOLDER.glob("corpus/*.py"))),
        ("unseen", sorted(FOLDER.glob("unseen/clean_*.py"))),
    ):
        reports = {path: train(path, doctor=True).report for path in paths}
        counted = Counter(f.severity for report in reports.values() if report for f in report.findings)
        said = ", ".join(f"{counted[severity]} {severity}s" for severity in reversed(Severity))
        print(f"{title:<22}{len(paths):>4} scripts: {said}")
        for path, report in reports.items():
            for finding in report.findings if report else ():
                where = finding.place.line if finding.place else 0
                print(f"    {path.name}:{where}: {finding.code} {finding.severity}: {finding.message}")


def line(title: str, outcomes: Sequence[Outcome]) -> None:
    """Print one line of the table of detection."""
    if not outcomes:
        return
    found = [o for o in outcomes if o.is_found]
    alone = sum(len(o.said) == 1 for o in found)
    exact = sum(o.is_exact for o in outcomes)
    early = sum(o.step <= 3 for o in found)
    latest = max((o.step for o in found), default=0)
    cells = [f"{n} ({n / len(outcomes):.0%})" for n in (len(found), alone, exact, early)]
    print(f"{title:<26}{len(outcomes):>15}" + "".join(f"{cell:>15}" for cell in cells) + f"{latest:>15}")


def cost(rounds: int = 7) -> None:
    """Print what observation costs: of a step when the first twenty are over, at the start, and in memory."""
    print("Steps in the steady state, in turns, medians\n")
    print(f"{'':<44}{'alone':>10}{'observed':>10}{'ratio':>8}{'limit':>8}")
    for title, make, steps, limit in (
        ("perceptron, 2 layers of 128, batch 512, Adam", perceptron, 300, 1.10),
        ("convolutions of 32 channels, batch 64, SGD", convolutions, 30, 1.03),
    ):
        alone, observed = [], []
        for _ in range(rounds):
            alone.append(seconds_a_step(make(), steps))
            with watch():
                step = make()
                for _ in range(25):
                    step()
                observed.append(seconds_a_step(step, steps))
        ratio = statistics.median(b / a for a, b in zip(alone, observed))
        both = [f"{1e3 * statistics.median(column):.2f} ms" for column in (alone, observed)]
        print(f"{title:<44}{both[0]:>10}{both[1]:>10}{ratio:>8.3f}{limit:>8.2f}")
    with tempfile.TemporaryDirectory() as folder:
        start_up(Path(folder), rounds)
        memory(Path(folder))


def perceptron() -> Callable[[], None]:
    """A training of small steps."""
    model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return stepper(model, torch.randn(512, 128), torch.optim.Adam(model.parameters()))


def convolutions() -> Callable[[], None]:
    """A training of large steps."""
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return stepper(model, torch.randn(64, 3, 32, 32), torch.optim.SGD(model.parameters(), lr=0.01))


def stepper(model: nn.Module, x: torch.Tensor, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Return a step of this training."""
    y = torch.randint(10, (len(x),))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def seconds_a_step(step: Callable[[], None], steps: int) -> float:
    """Return the median of the seconds of these steps."""
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


SCRIPT = """
import torch
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(2, 4)).sum().backward()
optimizer.step()
"""


def start_up(folder: Path, rounds: int) -> None:
    """Print the seconds from the start of the process to its end, of a script of one step."""
    script = folder / "one_step.py"
    script.write_text(SCRIPT, encoding="utf-8")
    commands = ([sys.executable, str(script)], [sys.executable, "-m", "blackbelt", "doctor", str(script)])
    pairs = [[elapsed(command) for command in commands] for _ in range(rounds)]
    alone, observed = (statistics.median(column) for column in zip(*pairs))
    more = statistics.median(b - a for a, b in pairs)
    print(f"\nA script of one step: {alone:.2f} s, under the doctor {observed:.2f} s: {more:.2f} s more (limit 0.5 s)")


def elapsed(command: Sequence[str]) -> float:
    """Return the seconds that a process takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def memory(folder: Path) -> None:
    """Print the peak memory of 60 steps of the convolutions, with and without."""
    script = folder / "steps.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport importlib.util as u\n"
        f"spec = u.spec_from_file_location('bench', {__file__!r}); bench = u.module_from_spec(spec)\n"
        "sys.modules['bench'] = bench; spec.loader.exec_module(bench)\nstep = bench.convolutions()\n"
        "for _ in range(60): step()\n",
        encoding="utf-8",
    )
    peaks = [
        peak([sys.executable, str(script)]),
        peak([sys.executable, "-m", "blackbelt", "doctor", str(script)]),
    ]
    more = peaks[1] - peaks[0]
    print(f"Peak memory of 60 such steps: {peaks[0]:.0f} MB, under the doctor {more:+.0f} MB (limit 5 % or 50 MB)")


def peak(command: Sequence[str]) -> float:
    """Return the largest resident set of a process, in MB."""
    with tempfile.TemporaryFile() as nothing:
        process = subprocess.Popen(command, stdout=nothing, stderr=nothing)
        _, _, usage = os.wait4(process.pid, 0)
    return float(usage.ru_maxrss) / (1e3 if sys.platform != "darwin" else 1e6)


def peers(python: str) -> None:
    """Print how many pairs of cases other tools tell apart, and of how many right trainings they say anything.

    A tool that says the same of both, or speaks of right trainings as well, does not help to find the failure.
    """
    pairs = []
    for folder in sorted(FOLDER.glob("cases/*")):
        bug = min(folder.glob("*_bug.py"))
        if "multiprocessing" not in bug.read_text(encoding="utf-8"):
            pairs.append((bug, bug.with_name(bug.name.replace("_bug", "_clean"))))
    right = [p for p in sorted(FOLDER.glob("corpus/*.py")) if "multiprocessing" not in p.read_text(encoding="utf-8")]
    driver = Path(__file__).with_name("doctor_peers.py")
    scripts = [str(path) for pair in pairs for path in pair] + [str(path) for path in right]
    done = subprocess.run([python, str(driver), *scripts], stdout=subprocess.PIPE, text=True, check=True)
    said = {answer["script"]: answer["said"] for answer in map(json.loads, done.stdout.splitlines())}
    for script in scripts:
        report = train(Path(script), doctor=True).report
        said[script]["blackbelt doctor"] = [f.code for f in report.findings] if report else []
    print(f"{'':<22}{f'of {len(pairs)} pairs told apart':>28}{f'of {len(right)} right ones accused':>30}")
    for tool in said[scripts[0]]:
        apart = sum(said[str(bug)][tool] != said[str(clean)][tool] for bug, clean in pairs)
        accused = sum(bool(said[str(path)][tool]) for path in right)
        print(f"{tool:<22}{apart:>28}{accused:>30}")


def main() -> None:
    """Run the parts that are named."""
    words = sys.argv[1:] or ["detection", "cost"]
    print(f"{date.today()}  torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}\n")
    if "detection" in words:
        detection()
        print()
    if "cost" in words:
        cost()
    if "peers" in words:
        peers(words[words.index("peers") + 1])


if __name__ == "__main__":
    main()
