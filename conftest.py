"""What pytest leaves out where a package is absent: `--doctest-modules` imports every module of src/blackbelt."""

from __future__ import annotations

import importlib.util

# Triton has no wheels for macOS. These modules define kernels when they are imported.
KERNELS = ["src/blackbelt/reference/*/_triton*.py", "src/blackbelt/katas/reference/kernels/*.py"]
collect_ignore_glob = [] if importlib.util.find_spec("triton") else KERNELS
