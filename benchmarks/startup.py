"""What the course costs before it does anything: `import blackbelt`, and the commands that need no tensor.

    python benchmarks/startup.py [rounds]

Prints medians over rounds that alternate between what is compared, each in a fresh process, against the limits: 50 ms
on top of `import torch`, and 0.5 s for a command. Ends with exit code 1 where a limit is broken or torch was imported.
The processor's time stands beside the wall clock's: on a busy machine it says more.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

IMPORT_LIMIT, COMMAND_LIMIT = 0.05, 0.5  # seconds
PARTS = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import blackbelt
print(middle - start, time.perf_counter() - middle)
"""
COMMAND = """
import sys
from blackbelt.cli import main
try:
    main()
finally:
    sys.stderr.write("torch" if "torch" in sys.modules else "")
"""
COMMANDS: tuple[list[str], ...] = (
    ["--help"],
    [],
    ["list"],
    ["hint", "{kata}"],
    ["solution", "{kata}", "--give-up"],
    ["progress"],
    ["reset", "--all", "-y"],
)


def main() -> int:
    """Measure, print, and return the exit code."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "typer", "rich"))
    print(f"{datetime.date.today()}: {platform.system()} {platform.machine()}, {os.cpu_count()} cores{load}")
    print(f"Python {platform.python_version()}, {versions}; median of {rounds} rounds\n")
    with tempfile.TemporaryDirectory() as home:
        os.environ["BLACKBELT_HOME"] = home
        is_fine = measure_import(rounds)
        return 0 if measure_commands(rounds) and is_fine else 1


def measure_import(rounds: int) -> bool:
    """Print what `import blackbelt` adds to `import torch`; return whether that is under the limit."""
    pairs = [tuple(map(float, run(["-c", PARTS]).stdout.split())) for _ in range(rounds)]
    torch_seconds, ours = (statistics.median(column) for column in zip(*pairs))
    print(f"import torch      {torch_seconds:7.3f} s")
    share = f"{ours / torch_seconds:.2%} of it; limit {IMPORT_LIMIT * 1000:.0f} ms"
    print(f"import blackbelt  {ours * 1000:7.2f} ms on top, {share}\n")
    return bool(ours < IMPORT_LIMIT)


def measure_commands(rounds: int) -> bool:
    """Print the wall-clock time of each command as a process; return whether all are under the limit, without torch."""
    from blackbelt.dojo.catalog import katas

    kata = katas()[0].name
    commands = [["-c", "pass"], *(["-c", COMMAND, *(part.format(kata=kata) for part in parts)] for parts in COMMANDS)]
    seconds: list[list[float]] = [[] for _ in commands]
    processor: list[list[float]] = [[] for _ in commands]
    imported = [False] * len(commands)
    for _ in range(rounds):  # A B C … A B C …: what else the machine does falls on all alike
        for number, command in enumerate(commands):
            start, before = time.perf_counter(), os.times()
            done = run(command)
            seconds[number].append(time.perf_counter() - start)
            after = os.times()
            used = after.children_user + after.children_system - before.children_user - before.children_system
            processor[number].append(used)
            imported[number] |= done.stderr.endswith("torch")
    medians = [statistics.median(times) for times in seconds]
    for command, median, used, has_torch in zip(commands, medians, map(statistics.median, processor), imported):
        name = "python -c pass" if command[1] == "pass" else " ".join(["blackbelt", *command[2:]])
        print(
            f"{name:<44} {median:6.3f} s, processor {used:6.3f} s, torch {'IMPORTED' if has_torch else 'not imported'}"
        )
    print(f"limit for a command {COMMAND_LIMIT} s")
    return max(medians) < COMMAND_LIMIT and not any(imported)


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
