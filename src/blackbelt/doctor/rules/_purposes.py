"""What a data loader is for, training or validation, as its user's own names say."""

from __future__ import annotations

import linecache
import re
from collections.abc import Sequence

from blackbelt.places import Place

TRAINING = frozenset(
    {"train", "training", "trn", "trainset", "trainloader", "traindata", "labeled", "unlabeled", "pool"}
)
VALIDATION = frozenset(
    {"val", "valid", "validation", "validate", "test", "testing", "dev", "holdout", "heldout", "held"}
    | {"valset", "testset", "valloader", "testloader", "validloader", "valdata", "testdata"}
)
EVALUATION = frozenset({"eval", "evaluate", "evaluation", "evalloader", "evalset", "score", "accuracy"})


def _words(text: str) -> set[str]:
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", re.sub(r"#.*", "", text))
    return {word.rstrip("0123456789").lower() for word in re.split(r"[^A-Za-z0-9]+", spaced)}


def said(text: str) -> str:
    """Return what a line says: "training", "validation", "evaluation", "either" where it says both, or ""."""
    words = _words(text)
    training = bool(words & TRAINING)
    if words & VALIDATION:
        return "either" if training else "validation"
    if training:
        return "training"
    return "evaluation" if words & EVALUATION else ""


def _target(line: str) -> str:
    """Return what a line assigns to: a name, or the key of a dict; the whole line where it does not."""
    match = re.match(r"\s*([\w.\[\]\"', ]+?)\s*(?::[^=]+)?=(?!=)", line) or re.match(r"\s*([\"']\w+[\"'])\s*:", line)
    return match[1] if match else line


def purpose(made: Sequence[Place], used: Sequence[Place]) -> str:
    """Return "training", "validation" or "evaluation", from the lines that made a loader and those that go through it.

    Lines are given innermost first. "either" where names only say both, as in a dict of loaders; "" where nothing.
    """
    heard = []
    for place in made:
        line = linecache.getline(place.file, place.line)
        heard += [said(_target(line)), said(line), said(place.function)]
    heard += [said(linecache.getline(place.file, place.line)) for place in used]
    heard += [said(place.function) for place in used]
    clear = next((word for word in heard if word not in ("", "either")), "")
    return clear or ("either" if "either" in heard else "")


def _within_script(places: Sequence[Place]) -> Sequence[Place]:
    """Return the places up to the module's own line: what has called the script is no part of it."""
    last = next((number for number, place in enumerate(places) if place.function == "<module>"), len(places))
    return places[: last + 1]
