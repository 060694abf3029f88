"""Laws: what must hold of a solution, for its value and for how it was reached. One law per file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from blackbelt.dojo.trial import Trial


class LawBroken(Exception):
    """A law does not hold: the sentence says what happened; ``expected`` and ``got`` stand side by side."""

    def __init__(self, sentence: str, expected: str = "", got: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.expected = expected
        self.got = got


@dataclass(frozen=True, kw_only=True)
class Law:
    """Base of every law. ``on`` limits it to edge cases of those names; a ``costly`` law skips generated cases."""

    on: tuple[str, ...] = ()

    why: ClassVar[str]
    costly: ClassVar[bool] = False
    about_result: ClassVar[bool] = False  # two answers that break it are alike only where they return the same

    def check(self, trial: Trial) -> None:  # noqa: ARG002  # subclasses use it
        """Raise :class:`LawBroken` where the law does not hold for this call."""
        raise TypeError(f"{type(self).__name__} must define check()")

    def applies(self, case_name: str, *, costly: bool) -> bool:
        """Say whether the law is checked on the case of that name ("" for a generated one)."""
        if self.on or self.costly:
            return bool(case_name) and (costly or not self.costly) and (not self.on or case_name in self.on)
        return True
