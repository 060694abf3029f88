"""In which module did it begin?"""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value


class Log(nn.Module):
    """Minus infinity for 0, NaN below it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.log()


class Ratio(nn.Module):
    """Infinity for 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1 / x


class Guarded(nn.Module):
    """What is not finite becomes 0 again."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.inner(x).nan_to_num(0.0, 0.0, 0.0)
        return result


class Backwards(nn.Module):
    """Calls its layers in another order than it names them."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = Log(), Ratio()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(-self.first(x))
        return result


def _case(name):
    x = torch.tensor([[1.0, 0.0, 2.0]])
    models = {
        "all finite": nn.Sequential(nn.ReLU(), nn.Tanh()),
        "guarded twice": nn.Sequential(Guarded(Log()), Guarded(Ratio())),
        "infinite": nn.Sequential(nn.ReLU(), Ratio(), nn.ReLU()),
        "nested": nn.Sequential(nn.Sequential(nn.Identity(), nn.Sequential(Ratio()), nn.ReLU()), nn.ReLU()),
        "guarded": nn.Sequential(Guarded(Log()), nn.ReLU()),
        "called in another order": Backwards(),
        "the input itself": nn.Sequential(nn.ReLU(), nn.Tanh()),
        "below zero": nn.Sequential(nn.ReLU(), Log(), Ratio()),
    }
    inputs = {"the input itself": torch.tensor([[1.0, float("nan")]]), "below zero": x.sub(1).abs()}
    return models[name], inputs.get(name, x)


NAMES = (
    "all finite",
    "guarded twice",
    "infinite",
    "nested",
    "guarded",
    "called in another order",
    "the input itself",
    "below zero",
)


@kata(
    minutes=20,
    belt="green",
    hints=(
        "A forward hook is called with the module, its inputs and its output. When, for a module within a module?",
        (
            "The inner forward ends before the outer one: the first call of a hook with an output that is not finite "
            "is the innermost. But what if its input was not finite to begin with?"
        ),
        (
            "`module.register_forward_hook(hook)` for every `name, module` of `model.named_modules()`; note the name "
            "if the inputs are finite, the output is not, and nothing is noted yet. `handle.remove()` in a `finally`."
        ),
    ),
    cases=st.sampled_from(NAMES).map(_case),
    edge_cases=lambda: {name: _case(name) for name in NAMES},
    laws=[Value()],
)
def first_nonfinite(model: torch.nn.Module, inputs: torch.Tensor) -> str | None:
    """In which module did it begin?

    Run `model(inputs)` once. Return the name, as of `named_modules()`, of the module that was the first to turn finite
    inputs into an output with NaN or infinity; where one lies in another, the inner one. Return None where no module
    did. Every module takes one tensor and returns one. Leave no hook behind.

    ```python
    first_nonfinite(nn.Sequential(nn.ReLU(), Log()), torch.zeros(2))  # "1"
    ```
    """
    found: list[str] = []
    handles = []
    for name, module in model.named_modules():

        def hook(module, args, output, name=name):
            if not found and bool(args[0].isfinite().all()) and not bool(output.isfinite().all()):
                found.append(name)

        handles.append(module.register_forward_hook(hook))
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _heard(model, inputs, is_bad):
    """Return the names of modules that are bad, in the order in which they end."""
    found, handles = [], []
    for name, module in model.named_modules():

        def hook(module, args, output, name=name):
            if is_bad(args[0], output):
                found.append(name)

        handles.append(module.register_forward_hook(hook))
    model(inputs)
    for handle in handles:
        handle.remove()
    return found


def _finite(tensor):
    return bool(tensor.isfinite().all())


def _first(names):
    return names[0] if names else None


@first_nonfinite.wrong(
    "It looks at outputs only. Where the input had a NaN already, the first module hands it on, and is accused of what "
    "the data has done. Look at what came in as well."
)
def outputs_only(model, inputs):
    return _first(_heard(model, inputs, lambda _, output: not _finite(output)))


@first_nonfinite.wrong(
    "It looks for NaN. Infinity comes first as a rule, of a division or an overflow, and becomes NaN later, somewhere "
    "else: `isfinite` knows both."
)
def nan_only(model, inputs):
    return _first(_heard(model, inputs, lambda given, output: _finite(given) and bool(output.isnan().any())))


@first_nonfinite.wrong(
    "It goes through the modules in the order of their names, the outer ones first. The order in which their forward "
    "*ends* is another: inner before outer, and as they are called."
)
def in_the_order_of_names(model, inputs):
    bad = _heard(model, inputs, lambda given, output: _finite(given) and not _finite(output))
    return _first([name for name, _ in model.named_modules() if name in bad])


@first_nonfinite.wrong(
    "It returns the last that it has heard of. What comes later takes the bad values from the first, or is the whole "
    "model: keep the first."
)
def the_last(model, inputs):
    return _first(_heard(model, inputs, lambda given, output: _finite(given) and not _finite(output))[::-1])


@first_nonfinite.wrong(
    "All its hooks share one variable for the name, and when they are called it holds the last one. Bind it when the "
    "hook is made: `def hook(module, args, output, name=name)`."
)
def one_name_for_all(model, inputs):
    *_, (last, _) = model.named_modules()
    return last if _heard(model, inputs, lambda given, output: _finite(given) and not _finite(output)) else None


@first_nonfinite.wrong(
    "It looks at the model's result first, and stops where that is finite. Something inside may replace a NaN by 0 and "
    "hide it; that is what you have been called for."
)
def asks_the_result_first(model, inputs):
    if _finite(model(inputs)):
        return None
    return _first(_heard(model, inputs, lambda given, output: _finite(given) and not _finite(output)))


@first_nonfinite.also_right
def with_a_global_hook(model, inputs):
    names = {module: name for name, module in model.named_modules()}
    found = []

    def hook(module, args, output):
        if _finite(args[0]) and not _finite(output):
            found.append(names[module])

    with torch.no_grad():
        handle = torch.nn.modules.module.register_module_forward_hook(hook)
        try:
            model(inputs)
        finally:
            handle.remove()
    return _first(found)
