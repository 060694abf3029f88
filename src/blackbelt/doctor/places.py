"""The user's line: the innermost frame that is neither PyTorch's, nor a library's, nor ours."""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from blackbelt.places import Place

_OWN = os.path.dirname(os.path.dirname(__file__)) + os.sep  # noqa: PTH120 - compared with co_filename as text


def _library_folders() -> tuple[str, ...]:
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {*site.getsitepackages(), site.getusersitepackages(), str(Path(os.__file__).parent)}
    return tuple(os.path.realpath(path) + os.sep for path in paths if path)


_LIBRARIES = _library_folders()
_roots: tuple[str, ...] = ()


def observe_folders(folders: Iterable[Path]) -> None:
    """Count what lies in these folders as the user's code, though a library's folder is around them."""
    global _roots  # noqa: PLW0603  (the script's own folder: one per process)
    _roots = tuple(str(folder.resolve()) + os.sep for folder in folders)
    is_users.cache_clear()


def roots() -> tuple[str, ...]:
    """Return the folders that were named last."""
    return _roots


@functools.cache
def is_users(file: str) -> bool:
    """Return whether a file holds the user's code."""
    if file.startswith(("<frozen", "<string>", "<__array_function__")):
        return False
    path = os.path.realpath(file) if not file.startswith("<") else file
    if path.startswith(_roots) and _roots:
        return True
    return not path.startswith((_OWN, *_LIBRARIES))


def users_line() -> Place | None:
    """Return the line of the user's code that is running now; None where there is none on this thread."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - reads the stack without building it
    while frame is not None:
        code = frame.f_code
        if is_users(code.co_filename):
            return Place(code.co_filename, frame.f_lineno, code.co_name)
        frame = frame.f_back
    return None


def users_lines() -> list[Place]:
    """Return the lines of the user's code that led here, innermost first."""
    places = []
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - reads the stack without building it
    while frame is not None:
        code = frame.f_code
        if is_users(code.co_filename):
            places.append(Place(code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return places
