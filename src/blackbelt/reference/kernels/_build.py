"""Kernels in C++ and CUDA, compiled on first use by ``torch.utils.cpp_extension`` and kept for the next time.

What was built is kept per PyTorch version, vector instructions of the machine and content of the sources, in the user's
cache folder (or ``TORCH_EXTENSIONS_DIR``). A lock, which ends with the process that holds it, lets one process build
while the others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")

# The sources read vectors through at::vec, which these definitions and flags widen to what the processor has.
_VECTORS = {
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c"],
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
}
_outcomes: dict[str, Exception | None] = {}  # of this process: loaded, or why not
_building = threading.Lock()


@dataclass(frozen=True)
class Extension:
    """What is built together: a name, its sources, and the seconds it took on two cores of the year 2026."""

    name: str
    sources: tuple[Path, ...]
    seconds: int
    is_cuda: bool = False

    @property
    def digest(self) -> str:
        """A hash of every file beside the sources, headers included, and of the flags."""
        folders = sorted({source.parent for source in self.sources})
        files = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
        content = b"".join(path.read_bytes() for path in files) + repr(self.flags).encode()
        return hashlib.sha256(content).hexdigest()[:12]

    @property
    def flags(self) -> list[str]:
        """Flags of the host compiler."""
        capability = torch.backends.cpu.get_cpu_capability()
        vectors = _VECTORS.get(capability, [])
        name = capability if vectors else "DEFAULT"
        openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
        return ["-O3", *openmp, f"-DCPU_CAPABILITY={name}", f"-DCPU_CAPABILITY_{name}", *vectors]

    @property
    def folder(self) -> Path:
        """Where it is built and kept."""
        version = re.sub(r"\W", "_", torch.__version__)
        return cache_folder() / f"{self.name}-torch{version}-{self.digest}"


def extension(which: str) -> Extension:
    """Return the extension of the kernels for "cpu" or "cuda"."""
    if which == "cpu":
        return Extension("blackbelt_cpu", tuple(sorted((HERE / "csrc" / "cpu").glob("*.cpp"))), seconds=60)
    return Extension("blackbelt_cuda", (HERE / "csrc" / "cuda" / "bindings.cu",), seconds=120, is_cuda=True)


def load(which: str) -> None:
    """Make ``torch.ops.blackbelt_cpu`` or ``torch.ops.blackbelt_cuda`` exist: build once, load once."""
    load_extension(extension(which))


def obstacle(which: str) -> str | None:
    """Return why the kernels for "cpu" or "cuda" cannot be built here, or None."""
    return obstacle_to(extension(which))


def obstacle_to(extension: Extension) -> str | None:
    """Return why an extension cannot be built here, or None where it can or has been."""
    if (extension.folder / "complete").exists():
        return None
    if compiler() is None:
        return f"no C++ compiler was found ({', '.join(COMPILERS)}; install one, or set CXX)"
    if ninja() is None:
        return "ninja was not found, which runs the compiler (pip install ninja)"
    if extension.is_cuda:
        if not torch.version.cuda:
            return "this build of PyTorch has no CUDA"
        if not (os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or shutil.which("nvcc")):
            return "nvcc was not found, the compiler of CUDA (install the CUDA toolkit, or set CUDA_HOME)"
    return None


def operators_of(namespace: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module whose functions are operators that are built later than it is imported."""

    def look_up(name: str) -> Any:
        if name.startswith("__"):  # what Python and pytest ask of every module
            raise AttributeError(name)
        return getattr(getattr(torch.ops, namespace), name)

    return look_up


def load_extension(extension: Extension) -> None:
    """Load an extension, building it first where nobody has; RuntimeError where that fails, now and every next time."""
    with _building:
        if extension.name not in _outcomes:
            try:
                with _locked(extension.folder):
                    if not _loads(extension):
                        _compile(extension)
                _outcomes[extension.name] = None
            except RuntimeError as error:
                _outcomes[extension.name] = error
        if (failure := _outcomes[extension.name]) is not None:
            raise RuntimeError(str(failure))


def cache_folder() -> Path:
    """Return the folder that holds what was built."""
    import platformdirs

    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("pytorch-black-belt")) / "extensions"


def compiler() -> str | None:
    """Return the C++ compiler that would be used, or None."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    return next((found for name in names if (found := shutil.which(name))), None)


def ninja() -> str | None:
    """Return the ninja on the path or beside this Python, or None."""
    return shutil.which("ninja") or shutil.which("ninja", path=sysconfig.get_path("scripts"))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import filelock  # PyTorch depends on it

    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(filelock.FileLock(f"{folder}.lock"))
        except OSError as error:
            raise RuntimeError(
                f"kernels are kept in {folder.parent}, which cannot be written ({error.strerror}): set "
                f"TORCH_EXTENSIONS_DIR to a folder of yours, or pass backend='eager'"
            ) from error
        yield


def _loads(extension: Extension) -> bool:
    if not (extension.folder / "complete").exists():
        return False
    try:
        torch.ops.load_library(extension.folder / f"{extension.name}.so")
    except OSError:  # of another machine, or damaged
        return False
    return True


def _compile(extension: Extension) -> None:
    reason = obstacle_to(extension)
    if reason is not None:
        raise RuntimeError(f"{extension.name} cannot be built: {reason}")
    sys.stderr.write(f"Building {extension.name} (once on this machine, about {extension.seconds} s) …\n")
    for leftover in extension.folder.iterdir():  # of a build that was interrupted
        leftover.unlink()
    try:
        _run_ninja(extension, extension.folder)
    except (RuntimeError, OSError) as error:
        errors = dict.fromkeys(line for line in str(error).splitlines() if " error: " in line)
        words = [f"{extension.name} could not be compiled with {compiler()}:", *list(errors)[:8]]
        raise RuntimeError("\n".join(words)) from error
    (extension.folder / "complete").touch()


def _run_ninja(extension: Extension, folder: Path) -> None:
    logger = logging.getLogger("torch.utils.cpp_extension")
    level, path = logger.level, os.environ["PATH"]
    logger.setLevel(logging.ERROR)  # it warns that there is no GPU, which is known
    os.environ["PATH"] = os.pathsep.join([path, str(Path(ninja() or "").parent)])
    try:
        from torch.utils import cpp_extension

        cpp_extension.load(
            extension.name,
            [str(source) for source in extension.sources],
            extra_cflags=extension.flags,
            extra_cuda_cflags=["-O3", "-std=c++20", "-lineinfo"],
            extra_ldflags=["-fopenmp"] if "-fopenmp" in extension.flags else [],
            build_directory=str(folder),
            with_cuda=extension.is_cuda,
            is_python_module=False,
        )
    finally:
        os.environ["PATH"] = path
        logger.setLevel(level)
