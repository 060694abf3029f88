"""What the zoo of functions is made of: specimens and their inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Specimen:
    fn: Any
    inputs: Callable[[], tuple[Any, ...]]
    cause: str = ""
    check: str = ""
    status: str = "failed"
    meant: Callable[..., Any] | None = None


def floats(*shape: int, seed: int = 0, **options: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(shape, generator=generator)
    value = value + 0.3 * value.sign()  # away from the kink at zero
    return value.to(options.pop("dtype", torch.float32)).requires_grad_(options.pop("requires_grad", True))


def one() -> tuple[Any, ...]:
    return (floats(2, 3),)


def two() -> tuple[Any, ...]:
    return (floats(2, 3), floats(2, 3, seed=1))


def matrices() -> tuple[Any, ...]:
    return (floats(3, 3), floats(3, 3, seed=1))
