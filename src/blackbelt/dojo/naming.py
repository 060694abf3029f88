"""Lessons and katas are found by number or by name: ``1.2``, ``strides``, ``tensors/strides``, ``can_view``.

A miss names what was passed, what is expected and the nearest names there are. Imports no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from blackbelt.dojo.catalog import KataEntry, LessonEntry, katas, lessons


class UnknownNameError(ValueError):
    """No lesson or kata has the name that was passed."""

    exit_code = 2


def find(name: str) -> LessonEntry | KataEntry:
    """Return the lesson or kata of that name; where both have it, the lesson. Raises :class:`UnknownNameError`."""
    found = _lesson(name) or _kata(name)
    if found is None:
        raise _unknown(name, "lesson or kata", [*_lesson_names(), *_kata_names()])
    return found


def find_lesson(name: str) -> LessonEntry:
    """Return the lesson of that number or name; a kata's name finds its lesson. Raises :class:`UnknownNameError`."""
    found = _lesson(name)
    kata = None if found else _kata(name)
    if kata is not None:
        found = _lesson(kata.lesson)
    if found is None:
        raise _unknown(name, "lesson", [*_lesson_names(), *_kata_names()])
    return found


def find_kata(name: str) -> KataEntry:
    """Return the kata of that name. Raises :class:`UnknownNameError`; for the name of a lesson it lists the katas."""
    found = _kata(name)
    if found is not None:
        return found
    lesson = _lesson(name)
    if lesson is None:
        raise _unknown(name, "kata", _kata_names())
    names = ", ".join(f"`{kata.name}`" for kata in lesson.katas)
    raise UnknownNameError(f"{name!r} is a lesson; expected one of its katas: {names or 'it has none yet'}")


def _lesson(name: str) -> LessonEntry | None:
    wanted = _plain(name)
    for entry in lessons():
        if wanted in (known.lower() for known in (entry.number, entry.name, entry.slug, *_file_names(entry))):
            return entry
    return None


def _file_names(entry: LessonEntry) -> tuple[str, str]:
    """What tab completion or a copied path gives: ``2_strides`` and ``1_tensors/2_strides``."""
    path = entry.source_path
    return path.stem, f"{path.parent.name}/{path.stem}"


def _kata(name: str) -> KataEntry | None:
    wanted = _plain(name)
    for entry in katas():
        if wanted in (entry.name.lower(), f"{entry.lesson}/{entry.name}".lower()):
            return entry
    return None


def _plain(name: str) -> str:
    plain = name.strip().lower().replace("-", "_").replace("\\", "/").strip("/")
    for prefix in ("lessons/", "notebooks/"):
        plain = plain.removeprefix(prefix)
    return plain.removesuffix(".ipynb").removesuffix(".py")


def _lesson_names() -> list[str]:
    return [name for entry in lessons() for name in (entry.number, entry.name, entry.slug)]


def _kata_names() -> list[str]:
    return [entry.name for entry in katas()]


def _unknown(name: str, kind: str, known: Iterable[str]) -> UnknownNameError:
    nearest = difflib.get_close_matches(_plain(name), list(dict.fromkeys(known)), n=2, cutoff=0.55)
    guess = f"did you mean {' or '.join(f'`{one}`' for one in nearest)}? " if nearest else ""
    expected = "a name" if kind == "kata" else "a number like 1.2 or a name"
    return UnknownNameError(f"no {kind} is called {name!r}; expected {expected}; {guess}`blackbelt list` shows all")
