"""What several katas of this lesson use."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.strategies import numbers


def whole_numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Whole numbers as float32: every order of summing them gives the same bits."""
    return numbers(shape, torch.int64, seed).float()


@st.composite
def of_sizes(draw: st.DrawFn, *terms: str, max_size: int = 5, whole: bool = True) -> tuple[torch.Tensor, ...]:
    sizes = {name: draw(st.integers(1, max_size)) for name in sorted(set("".join(terms)))}
    shapes = [tuple(sizes[name] for name in term) for term in terms]
    seed = draw(st.integers(0, 99))
    return tuple(whole_numbers(*s, seed=seed + i) if whole else numbers(s, seed=seed + i) for i, s in enumerate(shapes))
