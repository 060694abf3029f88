"""What several katas of this lesson use."""

from __future__ import annotations

Shape = tuple[int, ...]
