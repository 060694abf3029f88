"""An operator that writes to its input, and says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from blackbelt.dojo.describe import describe
from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws import LawBroken
from blackbelt.dojo.laws.custom_operator import OperatorChecks, OperatorLaw
from blackbelt.dojo.strategies import numbers
from blackbelt.dojo.trial import Trial


def _small() -> torch.Tensor:
    return numbers((3, 4))


def _half() -> torch.Tensor:
    return numbers((3, 4), torch.float16)


def _transposed() -> torch.Tensor:
    return numbers((4, 3)).t()


def _formula(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rstd = (x.float().square().mean(1) + 1e-6).rsqrt()
    return (x.float() * rstd[:, None]).to(x.dtype), rstd


@dataclass(frozen=True, kw_only=True)
class Normalizes(OperatorLaw):
    """The operator returns `rstd` and leaves the normalized rows in its argument; with ``written`` only the latter."""

    written: bool

    why: ClassVar[str] = "An operator is called from everywhere; its number is trusted everywhere."

    def check(self, trial: Trial) -> None:
        operator, x = self.register(trial), self.sample()
        wanted = _formula(x)[0 if self.written else 1]
        returned = operator(x)
        got, what = (x, "What it leaves in `x`") if self.written else (returned, "What it returns")
        alike = isinstance(got, torch.Tensor) and got.shape == wanted.shape and got.dtype == wanted.dtype
        if not alike or not torch.allclose(got, wanted, rtol=1e-3, atol=1e-4):
            raise LawBroken(f"{what} is wrong", describe(wanted), describe(got))


@dataclass(frozen=True, kw_only=True)
class ReturnsOnePerRow(OperatorLaw):
    """The operator returns a tensor with a number for each row."""

    why: ClassVar[str] = "A backward, or the next kernel, needs the root: to make it again costs another read of `x`."

    def check(self, trial: Trial) -> None:
        operator, x = self.register(trial), self.sample()
        got = operator(x)
        if not isinstance(got, torch.Tensor) or got.shape != x.shape[:1]:
            raise LawBroken("It does not return a number for each row", f"shape {(x.size(0),)}", describe(got))


class WritesToX(Normalizes):
    """The same, under a name of its own: two answers that break it made the same mistake."""


@dataclass(frozen=True, kw_only=True)
class DeclaresTheWrite(OperatorLaw):
    """The schema marks the first argument as written to, and a call moves its version counter."""

    why: ClassVar[str] = "Who is not told of a write saves the tensor for backward, or reads it before it is written."

    def check(self, trial: Trial) -> None:
        operator, x = self.register(trial), self.sample()
        schema = operator._opoverload._schema  # noqa: SLF001 - torch has no public way to read it
        alias = schema.arguments[0].alias_info
        if alias is None or not alias.is_write:
            raise LawBroken("The schema says that `x` is only read", "(Tensor(a!) x) -> Tensor", str(schema))
        before = x._version  # noqa: SLF001 - what autograd itself compares
        operator(x)
        if x._version <= before:  # noqa: SLF001
            raise LawBroken("The version counter of `x` stands still", f"above {before}", f"{x._version}")  # noqa: SLF001


@dataclass(frozen=True, kw_only=True)
class RunsOnFakes(OperatorLaw):
    """The operator can be called with a fake tensor, which has a shape and no numbers."""

    why: ClassVar[str] = "A compiler calls every operator with fake tensors before it calls any with real ones."

    def check(self, trial: Trial) -> None:
        operator = self.register(trial)
        with FakeTensorMode() as mode:
            try:
                operator(mode.from_tensor(self.sample()))
            except Exception as error:
                raise LawBroken(
                    "It cannot be called with a fake tensor", "a fake result", str(error).splitlines()[0]
                ) from None


_NAME = ("blackbelt_katas::normalize_",)
_CASES = (
    *("what it returns", "what it writes", "a transposed tensor", "half precision"),
    *("what it declares", "a fake tensor", "a fake tensor in half precision", "a fake transposed tensor"),
)
_FAKE = ("test_faketensor",)


@kata(
    minutes=20,
    belt="brown",
    hints=(
        (
            "An operator's schema is a promise: what it reads, what it writes, what it returns. Which word of "
            "`torch.library.custom_op` makes the promise about writing?"
        ),
        (
            '`mutates_args={"x"}` turns `Tensor x` into `Tensor(a!) x`. A result must be new memory: return `rstd`, '
            "never `x` itself. The fake kernel returns a tensor like `rstd`, and writes nothing."
        ),
        (
            "Kernel: `rstd = (x.float().square().mean(1) + 1e-6).rsqrt()`, `x.copy_(x.float() * rstd[:, None])`, "
            "return `rstd`. Fake: `x.new_empty(x.size(0), dtype=torch.float32)`."
        ),
    ),
    cases=st.just(_NAME),
    edge_cases=lambda: dict.fromkeys(_CASES, _NAME),
    laws=[
        ReturnsOnePerRow(sample=_small, on=("what it returns",)),
        Normalizes(sample=_small, written=False, on=("what it returns",)),
        WritesToX(sample=_small, written=True, on=("what it writes",)),
        WritesToX(sample=_transposed, written=True, on=("a transposed tensor",)),
        Normalizes(sample=_half, written=False, on=("half precision",)),
        DeclaresTheWrite(sample=_small, on=("what it declares",)),
        OperatorChecks(sample=_small, tests=("test_schema",), requires_grad=False, on=("what it declares",)),
        RunsOnFakes(sample=_small, on=("a fake tensor",)),
        OperatorChecks(sample=_small, tests=_FAKE, requires_grad=False, on=("a fake tensor",)),
        OperatorChecks(sample=_half, tests=_FAKE, requires_grad=False, on=("a fake tensor in half precision",)),
        OperatorChecks(sample=_transposed, tests=_FAKE, requires_grad=False, on=("a fake transposed tensor",)),
    ],
)
def normalize_operator(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """An operator that writes to its input, and says so.

    Register an operator under `name` (such as "mine::normalize_") that takes a tensor `x` (rows, columns), overwrites
    it with `x * rstd[:, None]`, and returns `rstd` (rows,) in float32: 1 over the root of the mean square of each row,
    with 1e-6 added under the root. Return what `torch.library.custom_op` gives you.

    ```python
    normalize_ = normalize_operator("mine::normalize_")
    x = torch.tensor([[3.0, 3.0]])
    normalize_(x)  # tensor([0.3333])
    x  # tensor([[1.0000, 1.0000]])
    ```

    Its schema must tell of the write, and `torch.library.opcheck` must believe all that it declares: also in half
    precision, where the sums are in float32, and of a transposed `x`. It needs no gradient.
    """

    @torch.library.custom_op(name, mutates_args={"x"})
    def normalize_(x: torch.Tensor) -> torch.Tensor:
        rstd = (x.float().square().mean(1) + 1e-6).rsqrt()
        x.copy_(x.float() * rstd[:, None])
        return rstd

    @normalize_.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return x.new_empty(x.size(0), dtype=torch.float32)

    return normalize_


def _kernel(x: torch.Tensor) -> torch.Tensor:
    normalized, rstd = _formula(x)
    x.copy_(normalized)
    return rstd


def _fake(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.size(0), dtype=torch.float32)


def _operator(
    name: str,
    kernel: Callable[..., Any] = _kernel,
    fake: Callable[..., Any] | None = _fake,
    schema: str = "(Tensor(a!) x) -> Tensor",
) -> Any:
    writes = {"x"} if "!" in schema else ()
    operator = torch.library.custom_op(name, kernel, mutates_args=writes, schema=schema)
    if fake is not None:
        operator.register_fake(fake)
    return operator


@normalize_operator.wrong(
    "It says that it writes to nothing (`mutates_args=()`) and writes to `x`. Autograd and the compiler believe it: "
    "they keep `x` for later, or move another read of it behind the call."
)
def keeps_silent(name):
    return _operator(name, schema="(Tensor x) -> Tensor")


@normalize_operator.wrong(
    "It computes a new tensor and lets go of it: `x = x * rstd[:, None]` binds a name. The caller's `x` is as it was; "
    "`x.mul_(…)` or `x.copy_(…)` writes."
)
def binds_a_name(name):
    return _operator(name, kernel=lambda x: _formula(x)[1])


@normalize_operator.wrong(
    "It writes first and computes `rstd` from what it wrote: of normalized rows that is 1. Read before you write."
)
def reads_what_it_wrote(name):
    def kernel(x):
        x.copy_(_formula(x)[0])
        return _formula(x)[1]

    return _operator(name, kernel=kernel)


@normalize_operator.wrong(
    "It returns nothing. What was asked for is `rstd`, one number for each row: who differentiates this needs it."
)
def returns_nothing(name):
    def kernel(x):
        _kernel(x)

    return _operator(name, kernel=kernel, fake=None, schema="(Tensor(a!) x) -> ()")


@normalize_operator.wrong(
    "It returns `x`. What an operator returns must be memory of its own, since schema and compiler know of no alias "
    "between the two: return `rstd`, and let the caller keep `x`."
)
def returns_its_input(name):
    def kernel(x):
        x.copy_(_formula(x)[0])
        return x

    return _operator(name, kernel=kernel)


@normalize_operator.wrong(
    "It has no fake kernel. The compiler must know shape and dtype of the result before anything runs: `register_fake`."
)
def without_a_fake_kernel(name):
    return _operator(name, fake=None)


@normalize_operator.wrong(
    "Its fake kernel returns a tensor like `x`. The result has one number per row; a compiler that allocates what the "
    "fake says goes on with a tensor of another shape."
)
def fake_like_x(name):
    return _operator(name, fake=torch.empty_like)


@normalize_operator.wrong(
    "Its fake kernel gives `rstd` the dtype of `x`. The real one returns float32 for half precision too."
)
def fake_in_half(name):
    return _operator(name, fake=lambda x: x.new_empty(x.size(0)))


@normalize_operator.wrong(
    "It returns `rstd` in half precision. What a backward will multiply by is saved in float32: one number per row is "
    "cheap."
)
def rstd_in_half(name):
    def kernel(x):
        rstd = _kernel(x)
        return rstd.to(x.dtype)

    return _operator(name, kernel=kernel, fake=lambda x: x.new_empty(x.size(0)))


@normalize_operator.wrong(
    "It writes through `x.view(-1)`, or into a contiguous copy: a transposed `x` has other strides, and stays as it "
    "was."
)
def writes_into_a_copy(name):
    def kernel(x):
        return _kernel(x.contiguous())

    return _operator(name, kernel=kernel)


@normalize_operator.wrong(
    "What it returns is a plain function. It has no name in the dispatcher and no schema to believe: return what "
    "`torch.library.custom_op` made, under the name that was asked for."
)
def plain_function(name):
    return _kernel


@normalize_operator.also_right
def with_a_schema(name):
    return _operator(name)
