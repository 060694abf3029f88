from __future__ import annotations

import builtins
import math
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from blackbelt.dojo import integrity, kata, trial
from blackbelt.dojo.integrity import Guard


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """A guard that has put everything back by the end of the test, whatever the test did."""
    made = kata.kata(minutes=1, belt="white", hints=("h",), cases=st.tuples(), edge_cases=dict, laws=[])(_reference)
    module = types.ModuleType("blackbelt.katas.stand_in")
    module.stand_in = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    guard = Guard()
    yield guard
    guard.restore()
    assert guard.changed() == []


def _reference() -> int:
    return 1


def _stand_in() -> Any:
    return sys.modules["blackbelt.katas.stand_in"].stand_in


def _lie(*_: Any, **__: Any) -> bool:
    return True


def _replace_code() -> None:
    trial.call.__code__ = (lambda *_: None).__code__


def _replace_default() -> None:
    torch.nn.functional.softmax.__defaults__ = (None, 3, torch.float64)


TAMPERINGS: dict[str, Callable[[], object]] = {
    "torch.allclose": lambda: setattr(torch, "allclose", _lie),
    "torch.equal": lambda: setattr(torch, "equal", torch.is_tensor),
    "torch.testing.assert_close": lambda: setattr(torch.testing, "assert_close", _lie),
    "torch.Tensor.data_ptr": lambda: setattr(torch.Tensor, "data_ptr", _lie),  # inherited: a new name that hides it
    "torch.Tensor.__add__": lambda: setattr(torch.Tensor, "__add__", _lie),
    "torch.autograd.gradcheck": lambda: setattr(torch.autograd, "gradcheck", _lie),
    "torch.nn.functional.softmax": _replace_default,
    "time.perf_counter": lambda: setattr(time, "perf_counter", lambda: 0.0),
    "math.inf": lambda: setattr(math, "inf", 0.0),
    "builtins.isinstance": lambda: setattr(builtins, "isinstance", _lie),
    "builtins.sorted": lambda: delattr(builtins, "sorted"),
    "sys.modules['torch']": lambda: sys.modules.__setitem__("torch", types.ModuleType("torch")),
    "blackbelt.dojo.trial.call": _replace_code,
    "blackbelt.dojo.trial.Trial.result": lambda: setattr(trial.Trial, "result", 1),
    "blackbelt.dojo.trial.len": lambda: setattr(trial, "len", _lie),  # a new global that hides a built-in
    "blackbelt.dojo.integrity.Guard.changed": lambda: setattr(Guard, "changed", lambda _: []),
    "blackbelt.katas.stand_in.stand_in.reference": lambda: setattr(_stand_in(), "reference", _lie),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_names_what_was_replaced_and_puts_it_back(guard: Guard, name: str) -> None:
    ask = guard.changed  # bound now: one tampering is with this very method
    TAMPERINGS[name]()
    found = ask()
    guard.restore()
    assert found and name in found and all(name.split(".", 1)[0] in each for each in found)
    assert guard.changed() == []


def test_ordinary_work_changes_nothing(guard: Guard) -> None:
    import torch.utils.flop_counter
    from torch.profiler import profile

    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    with profile(profile_memory=True):
        (x * 2).sum().backward()
    torch.autograd.gradcheck(lambda x: x * 2, (x,))
    torch.func.vmap(torch.sin)(x)
    torch.set_default_dtype(torch.float64)
    torch.set_default_dtype(torch.float32)
    trial.call(torch.ones, (2,))
    assert guard.changed() == []


def test_new_names_are_fine(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "loaded_lazily", _lie, raising=False)
    monkeypatch.setattr(builtins, "_", _lie, raising=False)
    assert guard.changed() == []


def test_a_wrapper_by_torch_itself_is_fine_and_one_by_the_learner_is_not(guard: Guard) -> None:
    import functools

    original = torch.manual_seed
    torch.manual_seed = torch._disable_dynamo(original)  # what `import torch._dynamo` does
    assert guard.changed() == []
    torch.manual_seed = functools.wraps(original)(_lie)
    assert guard.changed() == ["torch.manual_seed"]


def test_watches_the_grader_and_torch() -> None:
    watched = {place.name for place in Guard()._places}
    assert {
        integrity.__name__,
        trial.__name__,
        "blackbelt.dojo.trial.Trial",
        "torch.Tensor",
        "torch._C.TensorBase",
    } <= watched
