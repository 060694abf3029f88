"""The value: equal to the reference's, with an error no worse than twice that of the same precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken

if TYPE_CHECKING:
    from blackbelt.dojo.trial import Trial


@dataclass(frozen=True)
class Value(Law):
    """Same structure, shape, dtype and numbers as the reference.

    Floating-point results: the error against the reference run in float64 is at most twice the error of the reference
    run in the inputs' own precision, or one rounding of the largest value where that error is zero. Where right answers
    add up in different orders, and the reference's own error is luck, ``roundings`` allows more than one.
    """

    roundings: int = 1

    why: ClassVar[str] = "A fast or elegant answer that is not the answer helps nobody."
    about_result: ClassVar[bool] = True

    def check(self, trial: Trial) -> None:
        _compare(trial.expected, trial.result, trial.in_double.value, "the result", self.roundings)
        calls = (trial.reference.arguments, trial.arguments, trial.in_double.arguments)
        for (index, name, expected), (_, _, got), (_, _, double) in zip(*map(trial.slots, calls)):
            if index in trial.kata.changes:
                _compare(expected, got, double, f"{name} after the call", self.roundings)


def _compare(expected: Any, got: Any, double: Any, what: str, roundings: int) -> None:
    if isinstance(expected, torch.Tensor):
        _compare_tensors(expected, got, double, what, roundings)
    elif isinstance(expected, torch.nn.Module):
        _compare(expected.state_dict(), got.state_dict(), double.state_dict(), f"{what}'s state", roundings)
    elif isinstance(expected, Mapping):
        _compare_mappings(expected, got, double, what, roundings)
    elif isinstance(expected, Sequence) and not isinstance(expected, (str, bytes)):
        _compare_sequences(expected, got, double, what, roundings)
    elif isinstance(expected, float):
        if isinstance(got, bool) or not isinstance(got, (int, float)):
            raise _broken(expected, got, f"{what} is {_kind(got)}; a number was expected")
        _compare_tensors(torch.tensor(expected), torch.tensor(float(got)), torch.tensor(double), what, roundings)
    elif type(got) is not type(expected):
        raise _broken(expected, got, f"{what} is {_kind(got)}; {_kind(expected)} was expected")
    elif got != expected:
        raise _broken(expected, got, f"{what} is not what it should be")


def _compare_mappings(expected: Mapping[Any, Any], got: Any, double: Any, what: str, roundings: int) -> None:
    if not isinstance(got, Mapping):
        raise _broken(expected, got, f"{what} is {_kind(got)}; a dictionary was expected")
    if set(got) != set(expected):
        raise _broken(sorted(map(str, expected)), sorted(map(str, got)), f"{what} has other keys than expected")
    for key in expected:
        _compare(expected[key], got[key], double[key], f"{what}[{key!r}]", roundings)


def _compare_sequences(expected: Sequence[Any], got: Any, double: Any, what: str, roundings: int) -> None:
    if not isinstance(got, Sequence) or isinstance(got, (str, bytes)):
        raise _broken(expected, got, f"{what} is {_kind(got)}; {_kind(expected)} was expected")
    if len(got) != len(expected):
        raise _broken(expected, got, f"{what} has {len(got)} items; {len(expected)} were expected")
    for index, item in enumerate(expected):
        try:
            _compare(item, got[index], double[index], f"{what}[{index}]", roundings)
        except LawBroken as broken:
            if isinstance(item, (torch.Tensor, Mapping)):
                raise
            raise _broken(expected, got, broken.sentence) from None


def _compare_tensors(expected: torch.Tensor, got: Any, double: torch.Tensor, what: str, roundings: int) -> None:
    if type(got) not in (torch.Tensor, torch.nn.Parameter):
        raise _broken(expected, got, f"{what} is {_kind(got)}; a torch.Tensor was expected")
    if got.shape != expected.shape:
        raise _broken(expected, got, f"{what} has shape {tuple(got.shape)}; {tuple(expected.shape)} was expected")
    if got.dtype != expected.dtype:
        raise _broken(expected, got, f"{what} has dtype {got.dtype}; {expected.dtype} was expected")
    if expected.numel() == 0:
        return
    if not (expected.is_floating_point() or expected.is_complex()):
        if not torch.equal(got, expected):
            raise _broken(expected, got, f"{what} has {int((got != expected).sum())} wrong values")
        return
    _compare_floats(expected.detach(), got.detach(), double.detach(), what, roundings)


def _compare_floats(expected: torch.Tensor, got: torch.Tensor, double: torch.Tensor, what: str, roundings: int) -> None:
    exact = double.to(torch.complex128 if expected.is_complex() else torch.float64)
    finite = torch.isfinite(exact) & torch.isfinite(expected)
    special = ~finite
    if not torch.equal(torch.isnan(got[special]), torch.isnan(expected[special])) or not torch.equal(
        got[special].nan_to_num(), expected[special].nan_to_num()
    ):
        raise _broken(expected, got, f"{what} has other NaN or infinite values than expected")
    if not finite.any():
        return
    exact, wanted, given = exact[finite], expected[finite].to(exact.dtype), got[finite].to(exact.dtype)
    if not torch.isfinite(given).all():
        raise _broken(expected, got, f"{what} has NaN or infinite values where finite ones were expected")
    baseline = (wanted - exact).abs().max()
    allowed = 2 * baseline + roundings * torch.finfo(expected.dtype).eps * exact.abs().max()
    error = (given - exact).abs().max()
    if error > allowed:
        raise _broken(
            expected, got, f"{what} is off by {error:.3g}; at most {allowed:.3g} is allowed in {expected.dtype}"
        )


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    name = (
        type(value).__name__
        if type(value).__module__ == "builtins"
        else f"{type(value).__module__}.{type(value).__name__}"
    )
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _broken(expected: Any, got: Any, sentence: str) -> LawBroken:
    return LawBroken(sentence[0].upper() + sentence[1:], describe(expected), describe(got))
