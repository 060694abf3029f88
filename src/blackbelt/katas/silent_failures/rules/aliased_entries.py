"""Which entries of a saved state are still the model's own?"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import nn

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value


def _keep(name: str, model: nn.Module) -> dict[str, torch.Tensor]:
    own = model.state_dict()
    keepers: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "state_dict itself": lambda: own,
        "a deep copy": lambda: copy.deepcopy(own),
        "moved to the CPU, where it is": lambda: {key: value.cpu() for key, value in own.items()},
        "weights copied, buffers not": lambda: own | {key: p.detach().clone() for key, p in model.named_parameters()},
        "under other names": lambda: {f"module.{key}": value for key, value in own.items()},
        "a part of a weight": lambda: {"rows": own["2.weight"][2:], "copy": own["2.weight"][2:].clone()},
        "nothing in it": lambda: {"empty": torch.zeros(0), "one": torch.ones(1)},
    }
    return keepers[name]()


def _case(name):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model.register_buffer("nothing", torch.zeros(0))
    return model, functools.partial(_keep, name)


NAMES = (
    "state_dict itself",
    "a deep copy",
    "moved to the CPU, where it is",
    "weights copied, buffers not",
    "under other names",
    "a part of a weight",
    "nothing in it",
)


@kata(
    minutes=15,
    belt="yellow",
    hints=(
        "Two tensors can be different objects with the same memory. How does one ask for the memory?",
        (
            "`untyped_storage().data_ptr()` is the address of the memory that a tensor lies in, also of a slice. "
            "Parameters and buffers both have one."
        ),
        "A tensor without elements has the address 0, as every other such tensor: they share nothing.",
    ),
    cases=st.sampled_from(NAMES).map(_case),
    edge_cases=lambda: {name: _case(name) for name in NAMES},
    laws=[Value()],
)
def aliased_entries(model: torch.nn.Module, keep: Callable[[torch.nn.Module], dict[str, torch.Tensor]]) -> list[str]:
    """Which entries of a saved state are still the model's own?

    `keep(model)` is what a training calls to put the best state away. Return the names of the entries of what it
    returns, sorted, that lie in memory of one of the model's parameters or buffers: the next step of the training will
    change them. Names need not be those of the model. A part of a weight lies in its memory; a tensor without elements
    lies nowhere.

    ```python
    aliased_entries(model, lambda model: copy.deepcopy(model.state_dict()))  # []
    ```
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers()) if t.numel()}
    return sorted(name for name, tensor in keep(model).items() if tensor.untyped_storage().data_ptr() in own)


@aliased_entries.wrong(
    "It compares with `is`. `state_dict` detaches every parameter, which makes a new tensor on the same memory: no "
    "entry is ever the same object."
)
def same_object(model, keep):
    state = keep(model)
    own = {id(t) for t in (*model.parameters(), *model.buffers())}
    return sorted(name for name, tensor in state.items() if id(tensor) in own)


@aliased_entries.wrong(
    "It compares values. A fresh copy has the values of the model too, and none of its memory; it is what you want "
    "people to have."
)
def equal_values(model, keep):
    state = keep(model)
    own = [t for t in (*model.parameters(), *model.buffers()) if t.numel()]
    return sorted(
        name for name, tensor in state.items() if any(t.shape == tensor.shape and torch.equal(t, tensor) for t in own)
    )


@aliased_entries.wrong(
    "It looks each entry up under its own name. A state is often renamed, with `module.` before it for example; the "
    "memory keeps no names. Compare with all of them."
)
def by_name(model, keep):
    state = keep(model)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return sorted(
        name
        for name, tensor in state.items()
        if name in own
        and tensor.numel()
        and tensor.untyped_storage().data_ptr() == own[name].untyped_storage().data_ptr()
    )


@aliased_entries.wrong(
    "It compares `data_ptr()`, the address of the first element. A slice begins elsewhere in the same memory, and "
    "changes with it: ask the storage."
)
def first_elements(model, keep):
    state = keep(model)
    own = {t.data_ptr() for t in (*model.parameters(), *model.buffers()) if t.numel()}
    return sorted(name for name, tensor in state.items() if tensor.data_ptr() in own)


@aliased_entries.wrong(
    "It forgets the buffers. The running statistics of BatchNorm move with every forward pass in training mode; they "
    "must be copied as well."
)
def parameters_only(model, keep):
    state = keep(model)
    own = {t.untyped_storage().data_ptr() for t in model.parameters() if t.numel()}
    return sorted(name for name, tensor in state.items() if tensor.untyped_storage().data_ptr() in own)


@aliased_entries.wrong("It takes the address 0 for memory. All tensors without elements have it, and share nothing.")
def zero_is_an_address(model, keep):
    state = keep(model)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    return sorted(name for name, tensor in state.items() if tensor.untyped_storage().data_ptr() in own)


@aliased_entries.also_right
def from_the_state_of_now(model, keep):
    state = keep(model)
    now = {value.untyped_storage().data_ptr() for value in model.state_dict().values()} - {0}
    return sorted(key for key in state if state[key].untyped_storage().data_ptr() in now)
