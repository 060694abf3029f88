"""Import this before triton: it has kernels interpreted, so that they run on the CPU and can be watched."""

from __future__ import annotations

from blackbelt.dojo.laws.interpreted import interpret

interpret()
