"""Reading an einsum equation: which letter stands for which dimension, and how large it is.

The rules are those of ``einsum`` in aten/src/ATen/native/Linear.cpp: spaces are skipped, letters are a–z and A–Z, one
ellipsis an operand covers what the letters leave (aligned to the right), sizes must agree or be 1, and without an arrow
the result has the letters seen once, capitals before small letters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
ELLIPSIS = "..."


class EinsumError(ValueError):
    """An equation that cannot be read, or operands that do not fit it: says what was passed and what to try."""


@dataclass(frozen=True)
class Equation:
    """An equation joined to its shapes. Dimensions under an ellipsis are indices too, named ``e0``, ``e1``, …"""

    text: str
    terms: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: dict[str, int]
    implicit: bool

    @property
    def operands_of(self) -> dict[str, tuple[int, ...]]:
        """For each index, the operands that carry it."""
        return {name: tuple(i for i, term in enumerate(self.terms) if name in term) for name in self.sizes}

    @property
    def summed(self) -> tuple[str, ...]:
        """The indices that the result does not have, in order of appearance."""
        return tuple(name for name in self.sizes if name not in self.output)

    def num_elements(self, names: Sequence[str] | frozenset[str]) -> int:
        """Return the product of the sizes of some indices."""
        return math.prod(self.sizes[name] for name in names)


def read_equation(text: str, shapes: Sequence[tuple[int, ...]]) -> Equation:
    """Join an equation to the shapes of its operands, or say what is wrong with it as an :class:`EinsumError`."""
    inputs, arrow, result = text.partition("->")
    written = tuple(_read_term(part, f"operand {i}", text) for i, part in enumerate(inputs.split(",")))
    if len(written) != len(shapes):
        advice = "pass the missing operand" if len(written) > len(shapes) else "add a term for the operand left over"
        raise EinsumError(
            f"`{text}` names {_count(len(written), 'operand')} and {_count(len(shapes), 'operand')} came with it. "
            f"Expected one term per operand. Try: {advice}."
        )
    covered = [_covered_by_ellipsis(i, term, shape, text) for i, (term, shape) in enumerate(zip(written, shapes))]
    width = max(covered, default=0)
    ellipsis = tuple(f"e{j}" for j in range(width))
    terms = tuple(_expand(term, ellipsis[width - rank :]) for term, rank in zip(written, covered))
    output = _expand(_read_output(result, written, text), ellipsis) if arrow else _implicit_output(terms, ellipsis)
    return Equation(text, terms, output, tuple(shapes), _sizes(terms, shapes, text), implicit=not arrow)


def _read_term(part: str, where: str, text: str) -> tuple[str, ...]:
    names: list[str] = []
    position = 0
    while position < len(part):
        character = part[position]
        if part.startswith(ELLIPSIS, position):
            if ELLIPSIS in names:
                raise EinsumError(
                    f"`{text}` has two ellipses for {where}. Expected at most one, because nothing says where the "
                    "first would end. Try: name the dimensions of one of them with letters."
                )
            names.append(ELLIPSIS)
            position += len(ELLIPSIS)
            continue
        if character != " " and character not in LETTERS:
            raise EinsumError(f"`{text}` has {character!r} in {where}. {_letters_expected(character)}")
        if character != " ":
            names.append(character)
        position += 1
    return tuple(names)


def _letters_expected(character: str) -> str:
    if character == ".":
        return "Expected an ellipsis to be three dots without spaces. Try: `...`."
    if character in "->":
        return "Expected one arrow `->` between the operands and the result. Try: one arrow, without a space in it."
    return "Expected one letter a–z or A–Z for each dimension. Try: another letter; `einops.einsum` takes whole words."


def _covered_by_ellipsis(number: int, term: tuple[str, ...], shape: tuple[int, ...], text: str) -> int:
    letters = tuple(name for name in term if name != ELLIPSIS)
    left = len(shape) - len(letters)
    if ELLIPSIS in term and left >= 0:
        return left
    if ELLIPSIS not in term and left == 0:
        return 0
    spelled = f"`{''.join(term)}`" if term else "an empty term"
    at_least = "at least " if ELLIPSIS in term else ""
    hint = f"`...{''.join(letters)}` if the {left} on the left are a batch" if left > 0 else "fewer letters"
    raise EinsumError(
        f"Operand {number} of `{text}` has shape {shape}: {_count(len(shape), 'dimension')}, and {spelled} names "
        f"{_count(len(letters), 'index', 'indices')}. Expected {at_least}{_count(len(letters), 'dimension')}. "
        f"Try: {hint}, or reshape the operand."
    )


def _read_output(part: str, written: Sequence[tuple[str, ...]], text: str) -> tuple[str, ...]:
    output = _read_term(part, "the result", text)
    known = {name for term in written for name in term} | {ELLIPSIS}
    for name in output:
        if name not in known:
            raise EinsumError(
                f"The result of `{text}` asks for `{name}`, which no operand has. Expected letters of the operands: "
                f"{' '.join(sorted(known - {ELLIPSIS})) or 'none'}. "
                "Try: to get a new dimension, `unsqueeze` the result."
            )
        if output.count(name) > 1:
            raise EinsumError(
                f"The result of `{text}` has `{name}` twice. Expected each letter once: einsum reads a diagonal and "
                f"cannot write one. Try: `torch.diag_embed` on the result with a single `{name}`."
            )
    return output


def _implicit_output(terms: Sequence[tuple[str, ...]], ellipsis: tuple[str, ...]) -> tuple[str, ...]:
    names = [name for term in terms for name in term]
    return ellipsis + tuple(sorted(name for name in names if name not in ellipsis and names.count(name) == 1))


def _expand(term: tuple[str, ...], ellipsis: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for name in term for part in (ellipsis if name == ELLIPSIS else (name,)))


def _sizes(terms: Sequence[tuple[str, ...]], shapes: Sequence[tuple[int, ...]], text: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    seen_at: dict[str, int] = {}
    for number, (term, shape) in enumerate(zip(terms, shapes)):
        own: dict[str, int] = {}
        for name, size in zip(term, shape):
            if own.setdefault(name, size) != size:
                raise EinsumError(
                    f"`{name}` stands twice in operand {number} of `{text}`, for sizes {own[name]} and {size}. "
                    "Expected the same size: a repeated letter takes a diagonal. Try: two letters, if none is meant."
                )
            if sizes.get(name, 1) != 1 and size not in (1, sizes[name]):
                shown = "a dimension under the ellipsis" if name not in LETTERS else f"`{name}`"
                raise EinsumError(
                    f"{shown} has size {sizes[name]} in operand {seen_at[name]} and {size} in operand {number} of "
                    f"`{text}` (shapes {', '.join(map(str, shapes))}). Expected one size (or 1). "
                    f"Try: check the order of the letters of operand {number}, or give the two dimensions two letters."
                )
            if sizes.get(name, 1) == 1:
                sizes[name], seen_at[name] = size, number
    return sizes


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
