"""What an einsum really does: its loops, the order it is contracted in, and the matrix products it becomes."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from blackbelt.report import Block, Code, Prose, Report, Steps, Table, Verdict, format_bytes
from blackbelt.tensors._einsum_equation import LETTERS, EinsumError, Equation, read_equation
from blackbelt.tensors._einsum_plan import Contraction, ContractionOrder, Lowering, find_orders, record_lowering, spell

__all__ = ["Contraction", "ContractionOrder", "EinsumError", "EinsumReport", "Index", "Lowering", "explain_einsum"]

CODE_WIDTH = 72
CUSTOMARY = {"b": "batch", "h": "head", "q": "query", "k": "key", "t": "time", "s": "source"}


@dataclass(frozen=True)
class Index:
    """One letter: its size, its role (batch, free, summed, summed alone) and every dimension it stands for."""

    name: str
    size: int
    role: str
    where: tuple[str, ...]


@dataclass(frozen=True)
class EinsumReport(Report):
    """The explanation of one einsum. Operations are counted as opt_einsum does: multiplications and additions."""

    equation: str
    canonical: str
    shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    indices: tuple[Index, ...]
    warnings: tuple[str, ...]
    loop_form: str
    orders: tuple[ContractionOrder, ...]
    planner: str
    lowering: tuple[Lowering, ...]
    einops: str
    einops_pattern: str
    element_size: int

    @property
    def chosen(self) -> ContractionOrder:
        """The order PyTorch takes with the settings of this moment."""
        return next(order for order in self.orders if order.chosen)

    @property
    def best(self) -> ContractionOrder:
        """The order with the fewest operations of those compared."""
        return min(self.orders, key=lambda order: order.flops)

    @property
    def flops(self) -> int:
        """Operations in the order PyTorch takes."""
        return self.chosen.flops

    @property
    def bmm_flops(self) -> int:
        """The part of the work done in ``bmm``: what ``torch.utils.flop_counter.FlopCounterMode`` counts."""
        return sum(step.flops for step in self.lowering)

    def blocks(self) -> Iterator[Block]:
        """Verdict, warnings, indices, loops, orders (three operands or more), lowering, einops."""
        yield self._verdict()
        if self.warnings:
            yield Steps(self.warnings, title="Is this what you meant?")
        rows = [(i.name, f"{i.size:,}", i.role, ", ".join(i.where)) for i in self.indices]
        yield Table(("index", "size", "role", "where (operand.dimension)"), rows)
        yield Code(self.loop_form, title="As loops (this is Python, and slow):")
        if len(self.orders) > 1:
            yield self._order_table()
        yield from self._lowering_blocks()
        yield Code(self.einops, title="The same in einops, with names:")

    def _verdict(self) -> Verdict:
        result = f"`{self.canonical}` gives {self.output_shape} in {_short(self.flops)} operations"
        worst = max(order.flops for order in self.orders)
        if len(self.orders) > 1 and worst > self.flops:
            result += f"; the worst order listed takes {worst / max(self.flops, 1):,.1f} times as many"
        elif self.best.flops < self.flops:
            result += f"; the best order takes {self.flops / max(self.best.flops, 1):,.1f} times fewer"
        end = ", and it may not be what you meant." if self.warnings else "."
        return Verdict(result + end, ok=None if self.warnings else True)

    def _order_table(self) -> Table:
        rows = [
            (
                order.name,
                " ".join("".join(str(step.positions).split()) for step in order.steps),
                _short(order.flops),
                _short(order.largest_intermediate),
                format_bytes(order.largest_intermediate * self.element_size),
            )
            for order in self.orders
        ]
        marked = frozenset(number for number, order in enumerate(self.orders) if order.chosen)
        columns = ("order", "path", "operations", "largest result", "bytes")
        title = f"Orders of contraction; PyTorch takes the marked one ({self.planner}):"
        return Table(columns, rows, title=title, marked=marked)

    def _lowering_blocks(self) -> Iterator[Block]:
        columns = ("step", "runs as", "batch", "rows", "summed", "columns", "copied first")
        rows = [
            (
                step.equation,
                step.operator,
                *(_group(names, size) for names, size in zip(_groups(step), step.sizes or (None,) * 4)),
                format_bytes(step.copied_bytes),
            )
            for step in self.lowering
        ]
        yield Table(columns, rows, title="What PyTorch dispatches:")
        alone = [f"`{step.summed_first}` of `{step.equation}`" for step in self.lowering if step.summed_first]
        if alone and len(self.shapes) > 1:
            yield Prose(f"Summed before the product, because one side alone has it: {', '.join(alone)}.")


def explain_einsum(
    equation: str, *operands_or_shapes: Any, names: Mapping[str, str] | None = None, dtype: torch.dtype = torch.float32
) -> EinsumReport:
    """Explain ``torch.einsum(equation, *operands)`` without computing it.

    Takes tensors of any strides, device and dtype, or shapes (tuples of int, taken as contiguous and of ``dtype``).
    ``names`` gives letters long names for the einops spelling. Reads ``torch.backends.opt_einsum`` to say which order
    PyTorch takes, and records the lowering by running einsum on meta tensors: no data is read, no memory of any size is
    taken. Up to 6 operands every order is tried. Copies made inside a kernel are not seen.

    Raises :class:`EinsumError` (a ValueError) where ``torch.einsum`` would raise, and for the sublist format.

    Source: ``einsum`` and ``sumproduct_pair`` in aten/src/ATen/native/Linear.cpp, ``einsum`` in torch/functional.py.

    >>> report = explain_einsum("ij,jk,kl->il", (2, 1000), (1000, 1000), (1000, 1))
    >>> report.chosen.path, report.flops
    (((1, 2), (0, 1)), 2004000)
    >>> [(order.name, order.flops) for order in report.orders][:2]
    [('all at once', 6000000), ('left to right', 4004000)]
    """
    if not isinstance(equation, str):
        raise EinsumError(
            f"explain_einsum got a {type(equation).__name__} where the equation stands. Expected the equation "
            "first, as a string; the sublist format (tensor, [0, 1], …) is not explained. "
            "Try: explain_einsum('ij,jk->ik', x, y)."
        )
    operands = [_as_meta(operand, i, dtype) for i, operand in enumerate(_unpack(operands_or_shapes))]
    if not operands:
        raise EinsumError(
            f"explain_einsum('{equation}') got no operands. Expected one tensor or shape per term. "
            "Try: explain_einsum('ij,jk->ik', (2, 3), (3, 4))."
        )
    read = read_equation(equation, [tuple(operand.shape) for operand in operands])
    enabled, strategy = bool(torch.backends.opt_einsum.enabled), str(torch.backends.opt_einsum.strategy or "auto")
    orders = find_orders(read, enabled, strategy)
    chosen = next(order for order in orders if order.chosen)
    long_names = _long_names(read, names or {})
    return EinsumReport(
        equation=equation,
        canonical=f"{','.join(map(spell, read.terms))}->{spell(read.output)}",
        shapes=read.shapes,
        output_shape=tuple(read.sizes[name] for name in read.output),
        indices=tuple(_indices(read)),
        warnings=tuple(_warnings(read)),
        loop_form=_loop_form(read),
        orders=orders,
        planner=f"opt_einsum, strategy {strategy}" if enabled else "torch.backends.opt_einsum.enabled is False",
        lowering=record_lowering(read, chosen, operands),
        einops=_einops_call(read, long_names),
        einops_pattern=_einops_pattern(read, long_names),
        element_size=max(operand.element_size() for operand in operands),
    )


def _unpack(operands: Sequence[Any]) -> Sequence[Any]:
    """Accept ``einsum(equation, [x, y])`` as torch does."""
    is_listed = len(operands) == 1 and isinstance(operands[0], (list, tuple))
    return operands if not is_listed or all(type(size) is int for size in operands[0]) else list(operands[0])


def _as_meta(operand: Any, number: int, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(operand, torch.Tensor):
        if operand.layout != torch.strided:
            raise EinsumError(
                f"Operand {number} has layout {operand.layout}. Expected a strided tensor. Try: pass its shape instead."
            )
        return torch.empty_strided(operand.shape, operand.stride(), dtype=operand.dtype, device="meta")
    is_shape = isinstance(operand, (tuple, list)) and all(type(size) is int and size >= 0 for size in operand)
    if not is_shape:
        raise EinsumError(
            f"Operand {number} is {_described(operand)}. Expected a tensor, or a shape as a tuple of sizes 0 or more. "
            "Try: explain_einsum('ij,jk->ik', (2, 3), (3, 4))."
        )
    return torch.empty(tuple(operand), dtype=dtype, device="meta")


def _described(operand: Any) -> str:
    text = repr(operand)
    return text if len(text) <= 40 else f"a {type(operand).__name__}"


def _indices(equation: Equation) -> Iterator[Index]:
    for name, carriers in equation.operands_of.items():
        where = [f"x{i}.{d}" for i, term in enumerate(equation.terms) for d, other in enumerate(term) if other == name]
        where += [f"out.{d}" for d, other in enumerate(equation.output) if other == name]
        roles = ("batch", "free") if name in equation.output else ("summed", "summed alone")
        role = roles[0] if len(carriers) > 1 else roles[1]
        if any(term.count(name) > 1 for term in equation.terms):
            role += ", diagonal"
        yield Index(name, equation.sizes[name], role, tuple(where))


# --- warnings: what einsum accepts and few people mean ----------------------------------------------------------------


def _warnings(equation: Equation) -> Iterator[str]:
    carriers = equation.operands_of
    for number, term in enumerate(equation.terms):
        for name in dict.fromkeys(name for name in term if term.count(name) > 1):
            read = equation.num_elements(frozenset(term))
            total = read * equation.sizes[name] ** (term.count(name) - 1)
            yield (
                f"`{name}` stands {_times(term.count(name))} in operand {number}: einsum takes the diagonal and reads "
                f"{read:,} of its {total:,} elements. If two different dimensions were meant, give them two letters."
            )
    ellipsis_lost = [name for name in equation.summed if name not in LETTERS]
    if ellipsis_lost:
        yield "The ellipsis is missing from the result, so einsum sums over it (NumPy refuses). To keep it: `->...`."
    if len(equation.terms) > 1:
        for name in equation.summed:
            if len(carriers[name]) == 1 and name in LETTERS:
                yield (
                    f"`{name}` (size {equation.sizes[name]}) is in operand {carriers[name][0]} alone and not in the "
                    f"result: operand {carriers[name][0]} is summed over `{name}` first. A batch letter here adds the "
                    f"examples together. To keep it, write `{name}` in the result."
                )
        yield from _batch_summed(equation)
        yield from _stretched(equation)
    if equation.implicit:
        yield from _implicit_warnings(equation)
    twins = [name for name in equation.sizes if name in string.ascii_lowercase and name.upper() in equation.sizes]
    for name in twins:
        yield f"`{name}` and `{name.upper()}` are two different indices."


def _batch_summed(equation: Equation) -> Iterator[str]:
    first = {term[0] if term else "" for term in equation.terms}
    contracted = [name for name in equation.summed if len(equation.operands_of[name]) > 1]
    if len(first) == 1 and len(contracted) > 1 and first <= set(contracted):
        (name,) = first
        yield (
            f"Every operand starts with `{name}` and the result does not have it: the {equation.sizes[name]} entries "
            f"along `{name}` are added together. If `{name}` is the batch, write it in the result."
        )


def _stretched(equation: Equation) -> Iterator[str]:
    for number, (term, shape) in enumerate(zip(equation.terms, equation.shapes)):
        for name, size in zip(term, shape):
            if size == 1 != equation.sizes[name] and name in LETTERS:
                yield (
                    f"`{name}` has size 1 in operand {number} and {equation.sizes[name]} elsewhere: einsum broadcasts "
                    "it, where `@` would refuse. If the sizes were meant to agree, check that operand."
                )


def _implicit_warnings(equation: Equation) -> Iterator[str]:
    letters = [name for name in equation.output if name in LETTERS]
    appearance = [name for name in equation.sizes if name in letters]
    if letters != appearance:
        yield (
            f"There is no arrow, so the result has the letters seen once in alphabetical order (capitals first): "
            f"`{spell(equation.output)}`, not `{''.join(appearance)}`. Write the arrow: `->{spell(equation.output)}`."
        )


# --- other spellings --------------------------------------------------------------------------------------------------


def _loop_form(equation: Equation) -> str:
    """Nested loops that run: free and batch indices outside, summed ones inside."""
    names = [*equation.output, *equation.summed]
    indent = "    " if len(names) <= 8 else " "
    shape = tuple(equation.sizes[name] for name in equation.output)
    lines = [f"out = torch.zeros({shape})"]
    for depth, name in enumerate(names):
        comment = "  # summed" if name in equation.summed else ""
        lines.append(f"{indent * depth}for {name} in range({equation.sizes[name]}):{comment}")
    factors = [
        f"x{i}{_subscript([name if size == equation.sizes[name] else '0' for name, size in zip(term, operand)])}"
        for i, (term, operand) in enumerate(zip(equation.terms, equation.shapes))
    ]
    pad = indent * len(names)
    line = f"{pad}out{_subscript(equation.output)} += {' * '.join(factors)}"
    if len(line) > CODE_WIDTH:
        inner = f"\n{pad}{indent}* ".join(factors)
        line = f"{pad}out{_subscript(equation.output)} += (\n{pad}{indent}{inner}\n{pad})"
    return "\n".join([*lines, line])


def _subscript(names: Iterable[str]) -> str:
    return f"[{', '.join(names) or '()'}]"


def _long_names(equation: Equation, given: Mapping[str, str]) -> dict[str, str]:
    letters = [name for name in equation.sizes if name in LETTERS]
    _check_names(equation, letters, given)
    customary = dict(CUSTOMARY) if {"q", "k"} <= set(letters) else {"b": CUSTOMARY["b"]}
    found = {name: given.get(name, customary.get(name, name)) for name in letters}
    twice = [word for word in found.values() if list(found.values()).count(word) > 1]
    if twice:
        raise EinsumError(
            f"Two letters of `{equation.text}` would be called {twice[0]!r}. Expected different names for different "
            f"letters. Try: {twice[0]}_1 and {twice[0]}_2 in names."
        )
    return found


def _check_names(equation: Equation, letters: Sequence[str], given: Mapping[str, str]) -> None:
    unknown = [name for name in given if name not in letters]
    if unknown:
        raise EinsumError(
            f"names has `{unknown[0]}`, which `{equation.text}` does not use. Expected letters of the equation: "
            f"{' '.join(letters) or 'none'}. Try: leave `{unknown[0]}` out of names."
        )
    for name, word in given.items():
        if not word.isidentifier() or word.startswith("_") or word.endswith("_"):
            raise EinsumError(
                f"names gives `{name}` the name {word!r}. Expected an identifier without an underscore at either end, "
                "as einops does. Try: names={'b': 'batch'}."
            )


def _einops_pattern(equation: Equation, long_names: Mapping[str, str]) -> str:
    def words(names: Sequence[str]) -> str:
        written = [long_names.get(name, "...") for name in names]
        return " ".join(word for i, word in enumerate(written) if word != "..." or "..." not in written[:i])

    return f"{', '.join(words(term) for term in equation.terms)} -> {words(equation.output)}".strip()


def _einops_call(equation: Equation, long_names: Mapping[str, str]) -> str:
    pattern = _einops_pattern(equation, long_names)
    operands = ", ".join(f"x{i}" for i in range(len(equation.terms)))
    line = f'einops.einsum({operands}, "{pattern}")'
    if len(line) <= CODE_WIDTH:
        return line
    inputs, _, output = pattern.partition(" ->")
    pieces = [*(f"{part}, " for part in inputs.split(", ")[:-1]), inputs.split(", ")[-1], f" ->{output}"]
    body = "\n".join(f'    "{piece}"' for piece in pieces)
    return f"einops.einsum(\n    {operands},\n{body},\n)"


def _groups(step: Lowering) -> tuple[str, str, str, str]:
    return step.batch, step.rows, step.summed, step.columns


def _group(names: str, size: int | None) -> str:
    if size is None:
        return names or "-"
    return f"{names}={size:,}" if names else "1"


def _short(number: int) -> str:
    return f"{number:,}" if number < 10**7 else f"{number:.3g}".replace("e+0", "e").replace("e+", "e")


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"
