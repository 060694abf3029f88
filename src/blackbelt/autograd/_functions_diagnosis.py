"""Why gradcheck says no: the Jacobian that backward claims beside the measured one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from blackbelt.autograd._functions_numbers import STEP, inner, pull_back, push_forward, random_like, with_graph
from blackbelt.autograd._functions_report import FAILED, Check
from blackbelt.autograd._functions_subject import Subject

_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Jacobians:
    """One output against one input, (output elements, input elements): ``claimed`` by backward, and ``measured``."""

    output: int
    position: int
    claimed: torch.Tensor
    measured: torch.Tensor

    @property
    def agrees(self) -> bool:
        return near(self.claimed, self.measured)


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two Jacobians agree as well as central differences allow."""
    if one.shape != other.shape:
        return False
    scale = float(other.abs().max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-3, atol=_TOLERANCE * max(scale, 0.1))


def diagnose(subject: Subject, words: str) -> Check:
    """Name what is wrong with a gradient that gradcheck refused."""
    leaves = [subject.fresh()[i] for i in subject.differentiable]
    outputs = subject.run(subject.fresh())
    if any(t.is_complex() for t in (*leaves, *outputs)):
        return _complex(subject, words)
    pairs = _jacobians(subject)
    kink = _kink(subject, pairs)
    if kink:
        return kink
    wrong = [pair for pair in pairs if not pair.agrees]
    if not wrong:
        return _failed("The gradient is near the true one and not near enough.", "wrong gradient", words)
    return (
        _dropped(pairs)
        or _swapped(subject, pairs, wrong)
        or _factor(subject, wrong)
        or _structure(subject, wrong[0])
        or _worst(subject, wrong)
    )


def _jacobians(subject: Subject) -> list[Jacobians]:
    arguments = subject.fresh()
    leaves = [arguments[i] for i in subject.differentiable]
    outputs = subject.run(arguments)
    kept = [i for i, o in enumerate(outputs) if o.requires_grad]
    measured: dict[tuple[int, int], list[torch.Tensor]] = {(k, p): [] for k in kept for p in subject.differentiable}
    for position, leaf in zip(subject.differentiable, leaves):
        for element in range(leaf.numel()):
            slopes = push_forward(subject, {position: _unit(leaf, element)})
            for k in kept:
                measured[k, position].append(slopes[k].flatten())
    pairs = []
    for k in kept:
        rows = [pull_back([outputs[k]], leaves, [_unit(outputs[k], e)]) for e in range(outputs[k].numel())]
        for column, (position, leaf) in enumerate(zip(subject.differentiable, leaves)):
            filled = [torch.zeros_like(leaf) if row[column] is None else row[column] for row in rows]
            claimed = torch.stack([g.flatten() for g in filled if g is not None])
            pairs.append(Jacobians(k, position, claimed, torch.stack(measured[k, position], dim=1)))
    return pairs


def _unit(tensor: torch.Tensor, element: int) -> torch.Tensor:
    unit = torch.zeros(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    unit[element] = 1
    return unit.view(tensor.shape)


def _failed(sentence: str, cause: str, evidence: str, fix: str = "") -> Check:
    return Check("gradcheck", FAILED, sentence, cause, evidence, fix)


def _kink(subject: Subject, pairs: list[Jacobians]) -> Check | None:
    """Return the verdict where every wrong entry has another slope on the left than on the right."""
    wrong = [(pair, *index.tolist()) for pair in pairs for index in _wrong_entries(pair).nonzero()]
    if not wrong or len(wrong) > 64:
        return None
    with torch.no_grad():
        center = [o.detach().clone() for o in subject.run(subject.fresh(needing_grad=()))]
    lines = []
    for pair, row, column in wrong:
        slopes = []
        for sign in (-1.0, 1.0):
            arguments = subject.fresh(needing_grad=())
            argument = arguments[pair.position]
            arguments[pair.position] = argument + sign * STEP * _unit(argument, column)
            with torch.no_grad():
                moved = subject.run(arguments)[pair.output].flatten()[row]
            slopes.append(float(moved - center[pair.output].flatten()[row]) / (sign * STEP))
        left, right = slopes
        claimed = float(pair.claimed[row, column])
        low, high = min(slopes), max(slopes)
        if high - low < 1e-3 * max(1.0, abs(low), abs(high)) or not low - 1e-3 <= claimed <= high + 1e-3:
            return None
        where = _where(subject, pair, row, column)
        lines.append(f"{where}: slope {left:.4g} on the left, {right:.4g} on the right, backward says {claimed:.4g}")
    return _failed(
        "Forward has a kink at this input: another slope on the left than on the right. What backward gives lies "
        "between them and may well be meant; differences cannot judge it. Elsewhere it agrees.",
        "at a kink",
        "\n".join(lines[:3]),
        "# check at inputs away from the kink\nx = torch.where(x.abs() < 1e-2, x + 0.1, x)",
    )


def _wrong_entries(pair: Jacobians) -> torch.Tensor:
    scale = max(float(pair.measured.abs().max()) if pair.measured.numel() else 0.0, 0.1)
    return (pair.claimed - pair.measured).abs() > 1e-3 * pair.measured.abs() + _TOLERANCE * scale


def _dropped(pairs: list[Jacobians]) -> Check | None:
    outputs = {pair.output for pair in pairs}
    if len(outputs) < 2:
        return None
    for output in sorted(outputs):
        mine = [pair for pair in pairs if pair.output == output]
        if all(not bool(p.claimed.any()) for p in mine) and any(not p.agrees for p in mine):
            return _failed(
                f"What comes in through output {output} has no effect on any gradient, and that output does depend on "
                "the inputs. `backward` gets one incoming gradient for each output; their contributions add up.",
                "drops the gradient of an output",
                f"largest true derivative of output {output}: {max(float(p.measured.abs().max()) for p in mine):.4g}",
                "def backward(ctx, grad_a, grad_b):\n    return grad_a * da + grad_b * db\n"
                "# where it is meant, in forward: ctx.mark_non_differentiable(b)",
            )
    return None


def _swapped(subject: Subject, pairs: list[Jacobians], wrong: list[Jacobians]) -> Check | None:
    for pair in wrong:
        for other in pairs:
            if other.output != pair.output or other.position == pair.position or other.agrees:
                continue
            if near(pair.claimed, other.measured) and near(other.claimed, pair.measured):
                one, two = subject.name(pair.position), subject.name(other.position)
                return _failed(
                    f"The gradient of `{two}` is returned for `{one}`, and the other way round. Gradients are "
                    "returned in the order of forward's arguments.",
                    "gradients in the wrong order",
                    _entry(subject, pair),
                    f"# in the order of forward's arguments\nreturn grad_{one}, grad_{two}",
                )
    return None


def _factor(subject: Subject, wrong: list[Jacobians]) -> Check | None:
    for pair in wrong:
        square = float((pair.measured * pair.measured).sum())
        factor = float((pair.claimed * pair.measured).sum()) / square if square else 0.0
        if abs(factor) < 1e-6 or not near(pair.claimed, factor * pair.measured):
            continue
        name = subject.name(pair.position)
        if abs(factor + 1) < 1e-3:
            return _failed(
                f"The gradient of `{name}` is the true one with the opposite sign.",
                "wrong sign",
                _entry(subject, pair),
                f"return -grad_{name}",
            )
        return _failed(
            f"The gradient of `{name}` is the true one times {factor:.4g}.",
            "wrong factor",
            _entry(subject, pair),
            f"# a mean, a power, a constant: find where the factor comes from\nreturn grad_{name} / {factor:.4g}",
        )
    return None


def _structure(subject: Subject, pair: Jacobians) -> Check | None:
    claimed, measured = pair.claimed, pair.measured
    name = subject.name(pair.position)
    rows, columns = claimed.shape
    square = rows == columns
    if square and near(claimed, measured.T):
        return _failed(
            "Backward multiplies by the Jacobian; it must multiply by its transpose.",
            "transposed Jacobian",
            _entry(subject, pair),
            "grad_x = grad_output @ weight.mT    # for y = x @ weight",
        )
    if rows > 1 and near(claimed, claimed[:1].expand_as(claimed)) and bool(claimed.any()):
        return _failed(
            f"For `{name}` all elements of `grad_output` have the same effect: it was summed or averaged before it was "
            "used, or only its mean survives. That passes after `.sum()` and fails for a loss that weighs elements.",
            "uses only the sum of grad_output",
            _entry(subject, pair),
            "return grad_output * local    # element by element, before any sum",
        )
    diagonal = torch.eye(rows, columns, dtype=torch.bool, device=claimed.device)
    if square and rows > 1 and not bool(claimed[~diagonal].any()) and bool((measured[~diagonal].abs() > 1e-6).any()):
        return _failed(
            f"Backward treats each element on its own, and in forward an element of `{name}` changes other elements of "
            "the output too (through a sum, a mean, a maximum).",
            "drops the terms between elements",
            _entry(subject, pair),
            "# softmax, for one: not grad_output * y * (1 - y) but\n"
            "return y * (grad_output - (grad_output * y).sum(-1, keepdim=True))",
        )
    return None


def _worst(subject: Subject, wrong: list[Jacobians]) -> Check:
    pair = max(wrong, key=lambda p: float((p.claimed - p.measured).abs().max()))
    bad = sum(int(_wrong_entries(p).sum()) for p in wrong)
    total = sum(p.claimed.numel() for p in wrong)
    name = subject.name(pair.position)
    zero = " It is zero everywhere." if not bool(pair.claimed.any()) else ""
    return _failed(
        f"The gradient of `{name}` is not the derivative of forward ({bad} of {total} entries of the Jacobian).{zero}",
        "wrong gradient",
        _entry(subject, pair),
    )


def _entry(subject: Subject, pair: Jacobians) -> str:
    worst = int((pair.claimed - pair.measured).abs().argmax())
    row, column = divmod(worst, pair.claimed.shape[1])
    return (
        f"{_where(subject, pair, row, column)}:\n"
        f"  by central differences {float(pair.measured[row, column]):.6g}\n"
        f"  by backward            {float(pair.claimed[row, column]):.6g}"
    )


def _where(subject: Subject, pair: Jacobians, row: int, column: int) -> str:
    outputs = subject.run(subject.fresh())
    output = "output" if len(outputs) == 1 else f"output {pair.output} "
    shape = subject.arguments[pair.position].shape
    return (
        f"d {output}{_index(row, outputs[pair.output].shape)} / d {subject.name(pair.position)}{_index(column, shape)}"
    )


def _index(flat: int, shape: torch.Size) -> str:
    indices: list[int] = []
    for size in reversed(shape):
        flat, rest = divmod(flat, size)
        indices.insert(0, rest)
    return f"[{', '.join(map(str, indices))}]" if indices else ""


def _complex(subject: Subject, words: str) -> Check:
    """Try the one mistake that is made with complex numbers: the conjugate left out."""
    generator = subject.generator()
    arguments = subject.fresh()
    leaves = [arguments[i] for i in subject.differentiable]
    outputs = with_graph(subject.run(arguments))
    given, directions = random_like(outputs, generator), random_like(leaves, generator)
    slopes = push_forward(subject, dict(zip(subject.differentiable, directions)))
    kept = [s for s, o in zip(slopes, subject.run(subject.fresh())) if o.requires_grad]
    measured = inner(given, kept)
    claimed = inner(pull_back(outputs, leaves, given), directions)
    mirrored = [None if g is None else g.conj() for g in pull_back(outputs, leaves, [g.conj() for g in given])]
    if abs(inner(mirrored, directions) - measured) < 1e-4 * max(1.0, abs(measured)):
        return _failed(
            "A complex gradient is the incoming one times the *conjugate* of the derivative (Autograd mechanics, "
            "“Autograd for Complex Numbers”). Here the derivative itself is used.",
            "missing conjugate",
            f"slope by central differences {measured:.6g}, by backward {claimed:.6g}",
            "return grad_output * local.conj()",
        )
    return _failed("The gradient is not the derivative of forward.", "wrong gradient", words)
