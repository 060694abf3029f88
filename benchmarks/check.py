"""How fast is a verdict? Cold ``blackbelt check`` against ``python -c "import torch"``, and ``watch`` against the kata.

    python benchmarks/check.py [KATA] [ROUNDS]

Cold: the two commands run in turn, A B A B, and the median of the per-round ratios is printed; at most 1.5 is wanted.
Warm: the time from saving the file to the verdict on the screen, less the time the grader says it took; at most 0.3 s
is wanted. Ctrl-C: the time from the signal to the end of the command, while it loads torch; at most 1 s is wanted.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from blackbelt.dojo.catalog import find_kata

BLACKBELT = [sys.executable, "-m", "blackbelt"]


def main() -> None:
    """Measure and print."""
    kata = sys.argv[1] if len(sys.argv) > 1 else "can_view"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BLACKBELT_HOME"] = folder
        file = Path(folder) / "answers.py"
        write(file, kata, 0)
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()}"
        )
        cold(file, kata, rounds)
        warm(file, kata, rounds)
        stop(file, kata, rounds)


def write(file: Path, kata: str, number: int) -> None:
    """Write our solution of the kata, changed by a constant that no law sees."""
    file.write_text(
        f"import math\nimport torch\nROUND = {number}\n{find_kata(kata).solution}\n    ROUND\n", encoding="utf-8"
    )


def cold(file: Path, kata: str, rounds: int) -> None:
    """Print the ratio of a whole ``check`` to a bare import of torch."""
    imports, checks = [], []
    for _ in range(rounds):
        imports.append(seconds_of([sys.executable, "-c", "import torch"]))
        checks.append(seconds_of([*BLACKBELT, "check", kata, str(file)]))
    ratio = statistics.median(check / bare for check, bare in zip(checks, imports))
    print(f"import torch   {statistics.median(imports):6.2f} s")
    print(f"check {kata}   {statistics.median(checks):6.2f} s   ratio {ratio:.2f} (wanted: at most 1.5)")


def warm(file: Path, kata: str, rounds: int) -> None:
    """Print what ``watch`` adds to the grader's own time, from the moment the file is saved."""
    with subprocess.Popen(
        [*BLACKBELT, "watch", kata, str(file)],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
    ) as watching:
        verdict(watching)
        time.sleep(10)
        added = []
        for number in range(1, rounds + 1):
            write(file, kata, number)
            start = time.perf_counter()
            own = verdict(watching)
            added.append(time.perf_counter() - start - own)
            time.sleep(1)
        watching.send_signal(signal.SIGINT)
    print(f"watch adds     {statistics.median(added):6.3f} s   (median; worst {max(added):.3f}; wanted: at most 0.3)")


def verdict(watching: subprocess.Popen[str]) -> float:
    """Wait for the next verdict; return the seconds that grading took by its own account."""
    assert watching.stdout
    for line in watching.stdout:
        found = re.search(r"cases in ([\d.]+) (ms|s)", line)
        if found:
            return float(found[1]) * (1e-3 if found[2] == "ms" else 1.0)
    raise SystemExit("watch ended without a verdict")


def stop(file: Path, kata: str, rounds: int) -> None:
    """Print how long ``check`` takes to end after Ctrl-C."""
    ends = []
    for number in range(rounds):
        with subprocess.Popen([*BLACKBELT, "check", kata, str(file)], stderr=subprocess.DEVNULL) as checking:
            time.sleep(1 + number * 0.5)
            start = time.perf_counter()
            checking.send_signal(signal.SIGINT)
            checking.wait()
            ends.append(time.perf_counter() - start)
    print(f"Ctrl-C ends in {max(ends):6.3f} s   (worst of {rounds}; wanted: at most 1)")


def seconds_of(command: Sequence[str]) -> float:
    """Run a command and return its wall-clock time."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
