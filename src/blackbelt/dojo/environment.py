"""What this machine is, and what it can and cannot show."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from blackbelt import __version__
from blackbelt.report import Block, Report, Table


@dataclass(frozen=True)
class EnvironmentReport(Report):
    """The machine as the course sees it; ``can_show`` says for what not every machine can show whether this one can."""

    blackbelt: str
    python: str
    system: str
    torch: str
    devices: tuple[str, ...]
    num_cores: int
    num_threads: int
    compiler: str | None
    triton: str | None
    can_show: dict[str, bool]

    def blocks(self) -> Iterator[Block]:
        rows = (
            ("blackbelt", self.blackbelt),
            ("Python", self.python),
            ("system", self.system),
            ("torch", self.torch),
            ("devices", ", ".join(self.devices)),
            ("cores", f"{self.num_cores}, of which torch uses {self.num_threads}"),
            ("C++ compiler", self.compiler or "none found"),
            ("triton", self.triton or "not installed"),
        )
        yield Table(("what", "here"), rows)
        yield Table(
            ("can this machine show …", ""), [(what, "yes" if can else "no") for what, can in self.can_show.items()]
        )


def describe_environment() -> EnvironmentReport:
    """Return the facts about this machine. Imports torch; allocates nothing on a device."""
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(num_gpus)]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    compiler, triton = _compiler(), _version("triton")
    return EnvironmentReport(
        blackbelt=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        system=f"{platform.system()} {platform.release()} on {platform.machine()}",
        torch=str(torch.__version__),
        devices=("cpu", *gpus, *mps),
        num_cores=os.cpu_count() or 1,
        num_threads=torch.get_num_threads(),
        compiler=compiler,
        triton=triton,
        can_show={
            "tensors, strides, autograd": True,
            "torch.compile on the CPU (needs a C++ compiler)": compiler is not None,
            "claims that need a GPU": num_gpus >= 1,
            "claims that need two GPUs": num_gpus >= 2,
            "Triton kernels (need triton and a GPU)": triton is not None and num_gpus >= 1,
        },
    )


def _compiler() -> str | None:
    """The compiler that inductor takes for the CPU: torch/_inductor/config.py, ``cpp.cxx``."""
    names = {"darwin": "clang++", "win32": "cl"}
    return shutil.which(os.environ.get("CXX") or names.get(sys.platform, "g++"))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
