"""Attributes of libraries replaced for a while, and put back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_MISSING = object()


class Patches:
    """What was replaced, to be undone in reverse order."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any, Any]] = []

    def replace(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        """Let ``owner.name`` be ``wrapper(original, *args, **kwargs)``."""
        own = vars(owner).get(name, _MISSING)
        original = own.__func__ if isinstance(own, (staticmethod, classmethod)) else getattr(owner, name)

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        stored: Any = staticmethod(replacement) if isinstance(own, staticmethod) else replacement
        setattr(owner, name, stored)
        self._done.append((owner, name, own, stored))

    def undo(self) -> None:
        """Put everything back, but for what somebody else has replaced since: theirs calls ours, which is deaf now."""
        while self._done:
            owner, name, own, stored = self._done.pop()
            if vars(owner).get(name) is not stored:
                continue
            if own is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
