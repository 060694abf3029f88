"""What pytest leaves out where a package is absent: `--doctest-modules` imports every module of src/blackbelt."""

from __future__ import annotations

import importlib.util

# Triton has no wheels for macOS: these modules define kernels when they are imported.
KERNELS = ["src/blackbelt/reference/*/_triton*.py", "src/blackbelt/katas/reference/kernels/*.py"]
LIGHTNING = ["src/blackbelt/doctor/lightning.py"]
collect_ignore_glob = [
    path
    for name, paths in (("triton", KERNELS), ("lightning", LIGHTNING))
    if not importlib.util.find_spec(name)
    for path in paths
]
