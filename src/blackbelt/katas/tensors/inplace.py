"""Katas of lesson 1.4: versions, what backward needs, safe updates, an in-place activation, optimizer, average, RNN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.gradients import Gradcheck
from blackbelt.dojo.laws.in_place import InPlaceGradient, InPlaceSaves, KeepsNoHistory, KeepsStorage, MovesVersion
from blackbelt.dojo.laws.operators import Calls, Forbids
from blackbelt.dojo.laws.saved import SavesForBackward
from blackbelt.dojo.laws.sharing import OwnsMemory, SharesMemory
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers, tensors

Step = tuple[str, ...]

# --- version_after ----------------------------------------------------------------------------------------------------

_ALIASES, _COPIES = ("view", "select", "detach", "data"), ("clone", "add", "relu")


@st.composite
def _scripts(draw: st.DrawFn) -> tuple[tuple[Step, ...]]:
    script: list[Step] = [("a", "empty")]
    for _ in range(draw(st.integers(0, 8))):
        known = sorted({step[0] for step in script})
        method = draw(st.sampled_from((*_ALIASES, *_COPIES, "add_", "zero_", "add_")))
        source = draw(st.sampled_from(known))
        script.append((source, method) if method.endswith("_") else (draw(st.sampled_from("abcd")), method, source))
    return (tuple(script),)


@kata(
    minutes=10,
    belt="yellow",
    hints=(
        (
            "The counter does not belong to a name, and not to a tensor either. What do a tensor and its view have in "
            "common that a tensor and its clone do not?"
        ),
        (
            "Keep one small mutable object per counter and let several names point to it. Which of the aliases gets a "
            "new one?"
        ),
        (
            "`view`, `select` and `detach` point to their source's counter; `empty`, `clone`, `add`, `relu` and `data` "
            "get a new one at 0. A method that ends in `_` adds 1 to the counter its name points to."
        ),
    ),
    cases=_scripts(),
    edge_cases=lambda: {
        "a new tensor": ((("a", "empty"),),),
        "two writes": ((("a", "empty"), ("a", "add_"), ("a", "zero_")),),
        "a write to a view": ((("a", "empty"), ("b", "view", "a"), ("b", "add_")),),
        "a write to a slice": ((("a", "empty"), ("b", "select", "a"), ("b", "add_"), ("a", "add_")),),
        "a write through detach": ((("a", "empty"), ("b", "detach", "a"), ("b", "add_")),),
        "a write through .data": ((("a", "empty"), ("a", "add_"), ("b", "data", "a"), ("b", "add_"), ("b", "add_")),),
        "a view of .data": ((("a", "empty"), ("b", "data", "a"), ("c", "view", "b"), ("c", "add_")),),
        "a clone of a written tensor": ((("a", "empty"), ("a", "add_"), ("b", "clone", "a")),),
        "an operation out of place": ((("a", "empty"), ("b", "relu", "a"), ("a", "add", "b")),),
        "a name bound anew": ((("a", "empty"), ("b", "view", "a"), ("a", "clone", "a"), ("b", "add_")),),
    },
    laws=[Value(), Calls(at_most=0)],
)
def version_after(script: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """Predict every version.

    A script is a list of steps. `("b", "view", "a")` stands for `b = a.view(...)`; the methods are `view`, `select`,
    `detach`, `data` (for `b = a.data`), `clone`, `add`, `relu`, and `("a", "empty")` for a new tensor. A pair whose
    method ends in `_`, such as `("a", "add_")`, writes in place. Return `{name: version}` for every name at the end,
    without running one tensor operation.

    ```python
    version_after([("a", "empty"), ("b", "view", "a"), ("b", "add_")])  # {"a": 1, "b": 1}
    ```
    """
    counters: dict[str, list[int]] = {}
    for name, method, *source in script:
        if method.endswith("_"):
            counters[name][0] += 1
        elif method in ("view", "select", "detach"):
            counters[name] = counters[source[0]]
        else:
            counters[name] = [0]
    return {name: counter[0] for name, counter in counters.items()}


def _simulate(script: Any, shared: tuple[str, ...], start: tuple[str, ...] = (), counted: tuple[str, ...] = ()) -> Any:
    counters: dict[str, list[int]] = {}
    for name, method, *source in script:
        if method.endswith("_"):
            counters[name][0] += 1
        elif method in shared:
            counters[name] = counters[source[0]]
        else:
            first = counters[source[0]][0] if method in start else 0
            counters[name] = [first + (method in counted)]
    return {name: counter[0] for name, counter in counters.items()}


@version_after.wrong(
    "It gives `detach()` a counter of its own. `detach()` cuts the graph, not the counter: that is why it is the safe "
    "one."
)
def detach_counts_alone(script):
    return _simulate(script, ("view", "select"))


@version_after.wrong(
    "It lets `.data` share the counter. `.data` shares the memory only; its writes are the ones that nobody sees."
)
def data_shares_the_counter(script):
    return _simulate(script, ("view", "select", "detach", "data"))


@version_after.wrong(
    "It gives views a counter of their own. All views of a tensor share one counter, even where they do not overlap."
)
def views_count_alone(script):
    return _simulate(script, ())


@version_after.wrong("It copies the version of the source into `.data` or a clone. A new counter starts at 0.")
def new_counters_start_at_the_source(script):
    return _simulate(script, ("view", "select", "detach"), start=("data", "clone", "add", "relu"))


@version_after.wrong(
    "It counts operations that are not in place. `relu` writes to new memory, and new memory starts at version 0."
)
def every_operation_counts(script):
    return _simulate(script, ("view", "select", "detach"), counted=("add", "relu"))


@version_after.wrong(
    "It follows names instead of tensors: after `a = a.clone()` the old views no longer belong to what `a` is now."
)
def follows_names(script):
    base: dict[str, str] = {}
    counts: dict[str, int] = {}
    for name, method, *source in script:
        if method.endswith("_"):
            counts[base[name]] += 1
        elif method in ("view", "select", "detach"):
            base[name] = base[source[0]]
        else:
            base[name], counts[name] = name, 0
    return {name: counts[base[name]] for name in base}


@version_after.also_right
def with_identifiers(script):
    owner: dict[str, int] = {}
    writes: dict[int, int] = {}
    for number, (name, method, *source) in enumerate(script):
        if method.endswith("_"):
            writes[owner[name]] += 1
            continue
        owner[name] = owner[source[0]] if method in ("view", "select", "detach") else number
        writes.setdefault(owner[name], 0)
    return {name: writes[number] for name, number in owner.items()}


# --- needs_its_output -------------------------------------------------------------------------------------------------


def _plus_one(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def _softmax(x: torch.Tensor) -> torch.Tensor:
    return x.softmax(-1)


def _exp_as_a_row(x: torch.Tensor) -> torch.Tensor:
    return x.exp().view(-1)


def _exp_and_more(x: torch.Tensor) -> torch.Tensor:
    return x.exp() * 2


def _clamp(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-99, 99)


_OPERATIONS = (
    torch.exp,
    torch.sin,
    torch.relu,
    torch.tanh,
    torch.abs,
    _plus_one,
    _softmax,
    _exp_as_a_row,
    _exp_and_more,
    _clamp,
)


def _positive(*shape: int) -> torch.Tensor:
    return (numbers(shape).abs() + 0.1).requires_grad_()


@kata(
    minutes=15,
    belt="green",
    hints=(
        "Whether a write breaks backward depends on what was saved. Autograd lets you watch it save.",
        (
            "`torch.autograd.graph.saved_tensors_hooks(pack, unpack)` calls `pack` with every tensor that is saved "
            "while the operation runs, by any node of the graph."
        ),
        (
            "Collect what `pack` gets, then compare storages: `t.untyped_storage().data_ptr()`. Equal values in other "
            "memory do not matter."
        ),
    ),
    cases=st.tuples(
        st.sampled_from(_OPERATIONS), st.sampled_from(((2,), (2, 3), (1, 2, 2))).map(lambda s: _positive(*s))
    ),
    edge_cases=lambda: {
        "exp": (torch.exp, _positive(2, 3)),
        "sin": (torch.sin, _positive(2, 3)),
        "relu": (torch.relu, _positive(3)),
        "softmax": (_softmax, _positive(2, 3)),
        "x + 1": (_plus_one, _positive(3)),
        "exp, then a view": (_exp_as_a_row, _positive(2, 3)),
        "exp, then times 2": (_exp_and_more, _positive(2, 3)),
        "clamp that changes nothing": (_clamp, _positive(2, 3)),
    },
    laws=[
        Value(),
        # `torch.overrides.resolve_name` knows no longer name for `torch.autograd.grad`.
        Forbids({"grad": "watch what is saved", "torch.Tensor.backward": "watch what is saved"}),
    ],
)
def needs_its_output(operation: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> bool:
    """Does backward need the output?

    Return whether writing in place to `operation(x)` would change a tensor that some node of its graph has saved. `x`
    requires grad. Do not find out by running backward.

    ```python
    needs_its_output(torch.exp, x)            # True: d exp(x)/dx is exp(x), so the output itself was saved
    needs_its_output(torch.sin, x)            # False: the input was saved
    needs_its_output(lambda x: x + 1, x)      # False: nothing was saved
    ```
    """
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.detach())
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = operation(x)
    memory = output.untyped_storage().data_ptr()
    return any(tensor.untyped_storage().data_ptr() == memory for tensor in saved)


def _saved_by(node: Any) -> list[torch.Tensor]:
    values = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
    return [value for value in values if isinstance(value, torch.Tensor)]


@needs_its_output.wrong("It looks at the last node only. A view of `exp(x)` is still the memory that `exp` saved.")
def last_node_only(operation, x):
    output = operation(x)
    memory = output.untyped_storage().data_ptr()
    return any(tensor.untyped_storage().data_ptr() == memory for tensor in _saved_by(output.grad_fn))


@needs_its_output.wrong("It asks whether anything was saved. `sin` saves its input; its output may be written to.")
def anything_saved(operation, x):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.detach()) or t.detach(), lambda t: t):
        operation(x)
    return bool(saved)


@needs_its_output.wrong("It compares values. Equal numbers in other memory are safe: compare storages.")
def compares_values(operation, x):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.detach()) or t.detach(), lambda t: t):
        output = operation(x)
    return any(t.numel() == output.numel() and torch.equal(t.reshape(-1), output.reshape(-1)) for t in saved)


@needs_its_output.wrong("It asks about the input. The question is whether the output's memory was saved.")
def asks_about_the_input(operation, x):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.detach()) or t.detach(), lambda t: t):
        operation(x)
    return any(t.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for t in saved)


@needs_its_output.wrong(
    "It tries a backward. That works, and you still do not know what was saved: watch it being saved."
)
def tries_it(operation, x):
    output = operation(x)
    with torch.no_grad():
        output += 1
    try:
        torch.autograd.grad(output.sum(), x)
    except RuntimeError:
        return True
    return False


@needs_its_output.also_right
def walks_the_graph(operation, x):
    output = operation(x)
    memory, nodes, found = output.untyped_storage().data_ptr(), [output.grad_fn], False
    while nodes:
        node = nodes.pop()
        found = found or any(t.untyped_storage().data_ptr() == memory for t in _saved_by(node))
        nodes += [parent for parent, _ in node.next_functions if parent is not None]
    return found


# --- with_row ---------------------------------------------------------------------------------------------------------


def _leaf(*shape: int, seed: int = 0) -> torch.Tensor:
    return numbers(shape, seed=seed).requires_grad_()


def _holed(*shape: int) -> torch.Tensor:
    values = numbers(shape)
    values[1] = float("inf")
    return values


@kata(
    minutes=10,
    belt="yellow",
    hints=(
        "Somebody saved `state` and will need it in backward. Whose memory may you write to?",
        "A write in place is fine on memory that is yours, and autograd records it (`CopySlices`).",
        "`out = state.clone()`, then `out[index] = row`: one copy, and both gradients flow.",
    ),
    cases=st.tuples(
        tensors((4, 3), layouts=("contiguous", "transposed", "sliced", "offset", "expanded")),
        st.integers(-4, 3),
        tensors((3,), layouts=("contiguous", "sliced", "expanded")),
    ),
    edge_cases=lambda: {
        "plain tensors": (numbers((4, 3)), 2, numbers((3,), seed=1)),
        "the last row, from behind": (numbers((4, 3)), -1, numbers((3,), seed=1)),
        "an infinite row is replaced": (_holed(4, 3), 1, numbers((3,), seed=1)),
        "a state that requires grad": (_leaf(4, 3), 0, numbers((3,), seed=1)),
        "the gradient of the state": (_leaf(3, 2), 1, numbers((2,), seed=1)),
        "the gradient of the row": (numbers((3, 2)), 1, _leaf(2, seed=1)),
        "a large state": (numbers((64, 256)), 5, numbers((256,), seed=1)),
    },
    laws=[
        Value(),
        OwnsMemory(),
        Gradcheck(arguments=(0,), on=("the gradient of the state",)),
        Gradcheck(arguments=(2,), on=("the gradient of the row",)),
        Allocates(at_most=lambda state, *_: state.numel() * state.element_size(), on=("a large state",)),
    ],
)
def with_row(state: torch.Tensor, index: int, row: torch.Tensor) -> torch.Tensor:
    """An update that is safe.

    Return `state` with `state[index]` replaced by `row`. `state` may be saved for a backward that has not run yet, so
    it must stay as it is. The gradient reaches the rows of `state` that are still there, and `row`. One copy of `state`
    is all you may allocate.

    ```python
    with_row(torch.zeros(3, 2), 1, torch.ones(2))  # tensor([[0., 0.], [1., 1.], [0., 0.]])
    ```
    """
    out = state.clone()
    out[index] = row
    return out


@with_row.wrong("It writes into `state`. Whoever saved `state` for backward now holds other values.")
def writes_in_place(state, index, row):
    state[index] = row
    return state


@with_row.wrong(
    "It writes through `.data`. Now nobody is even told that `state` has changed: the gradient is simply wrong."
)
def writes_through_data(state, index, row):
    state.data[index] = row.detach()
    return state


@with_row.wrong("It copies under `no_grad`: the values are right, and no gradient reaches anybody.")
def copies_without_gradient(state, index, row):
    with torch.no_grad():
        out = state.clone()
        out[index] = row
    return out


@with_row.wrong("It detaches the row. `out[index] = row` is recorded by autograd; there is no need to cut anything.")
def detaches_the_row(state, index, row):
    out = state.clone()
    out[index] = row.detach()
    return out


@with_row.wrong("It detaches the state: the rows that stay lose their gradient.")
def detaches_the_state(state, index, row):
    out = state.detach().clone()
    out[index] = row
    return out


@with_row.wrong(
    "It blends with a mask. That costs several tensors, and 0 · inf is NaN: what was in the replaced row leaks through."
)
def blends_with_a_mask(state, index, row):
    mask = torch.zeros(len(state), dtype=state.dtype)
    mask[index] = 1
    mask = mask.view(-1, *[1] * (state.dim() - 1))
    return state * (1 - mask) + row * mask


@with_row.wrong("It slices around the index and forgets that -1 + 1 is 0: counted from behind, the tail is everything.")
def forgets_negative_indices(state, index, row):
    return torch.cat([state[:index], row[None], state[index + 1 :]])


@with_row.also_right
def concatenates(state, index, row):
    index %= len(state)
    return torch.cat([state[:index], row[None], state[index + 1 :]])


@with_row.also_right
def copies_by_index(state, index, row):
    return state.index_copy(0, torch.tensor([index % len(state)]), row[None])


# --- leaky_relu_in_place ----------------------------------------------------------------------------------------------


@kata(
    minutes=25,
    belt="green",
    hints=(
        "After the write the input is gone. What does its gradient need, and can you still read that from the output?",
        (
            "Write a `torch.autograd.Function`. In `forward`, change `x`, tell autograd with `ctx.mark_dirty(x)`, and "
            "save the output: it has the input's memory and costs nothing."
        ),
        (
            "For a slope of at least 0, `y > 0` exactly where `x > 0`. So backward is "
            "`torch.where(y > 0, grad, slope * grad)`. For a negative slope the sign is lost: raise ValueError."
        ),
    ),
    cases=st.tuples(
        tensors((3, 4), layouts=("contiguous", "transposed", "sliced", "offset")), st.sampled_from((0.0, 0.01, 0.5))
    ),
    edge_cases=lambda: {
        "a row": (numbers((5,)), 0.1),
        "a matrix in steps": (numbers((3, 6))[:, ::2], 0.3),
        "slope 0": (numbers((4,), seed=2), 0.0),
        "a zero": (torch.tensor([-1.0, 0.0, 2.0]), 0.5),
        "a negative slope": (numbers((4,)), -0.1),
    },
    laws=[
        Value(),
        SharesMemory(),
        MovesVersion(),
        InPlaceGradient(on=("a row", "a matrix in steps", "slope 0")),
        InPlaceSaves(at_most=lambda *_: 0, on=("a row", "a matrix in steps")),
        Forbids(
            {
                "torch.nn.functional.leaky_relu": "write the Function yourself",
                "torch.nn.functional.leaky_relu_": "write the Function yourself",
            }
        ),
    ],
    changes=(0,),
)
def leaky_relu_in_place(x: torch.Tensor, slope: float) -> torch.Tensor:
    """An activation in place, with the right backward.

    Replace every negative element of `x` by `slope` times itself, in `x`'s own memory, and return `x`. The gradient
    must be right for the result and for `x` used afterwards, and nothing but `x` itself may be saved for backward.
    Raise ValueError for a negative slope: then the input's sign cannot be read from the output any more.

    ```python
    x = torch.tensor([-2.0, 3.0])
    leaky_relu_in_place(x, 0.1)  # tensor([-0.2000, 3.0000]), and so is x
    ```
    """
    if slope < 0:
        raise ValueError(f"slope is {slope}; in place it must be at least 0: the output has to keep the input's sign")

    class LeakyReLU(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            x.copy_(torch.where(x > 0, x, slope * x))
            ctx.mark_dirty(x)
            ctx.save_for_backward(x)
            return x

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            (y,) = ctx.saved_tensors
            return torch.where(y > 0, grad, slope * grad)

    return LeakyReLU.apply(x)  # type: ignore[no-any-return]


def _function(forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    names = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("LeakyReLU", (torch.autograd.Function,), names)


def _require_sign(slope: float) -> None:
    if slope < 0:
        raise ValueError("slope")


def _write(ctx: Any, x: torch.Tensor, slope: float) -> torch.Tensor:
    x.copy_(torch.where(x > 0, x, slope * x))
    ctx.mark_dirty(x)
    ctx.save_for_backward(x)
    ctx.slope = slope
    return x


def _from_output(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
    return torch.where(ctx.saved_tensors[0] > 0, grad, ctx.slope * grad), None


@leaky_relu_in_place.wrong("It makes a new tensor. The point was to use no more memory: write into `x` and return it.")
def out_of_place(x, slope):
    _require_sign(slope)
    return torch.where(x > 0, x, slope * x)


@leaky_relu_in_place.wrong(
    "It writes through `.data`. Autograd sees no operation: the gradient passes as if nothing had happened."
)
def past_autograd(x, slope):
    _require_sign(slope)
    x.data.copy_(torch.where(x > 0, x, slope * x))
    return x


@leaky_relu_in_place.wrong("It multiplies by a mask in place. Autograd saves the mask: as many bytes as you had saved.")
def saves_a_mask(x, slope):
    _require_sign(slope)
    return x.mul_(torch.where(x > 0, 1.0, slope).to(x.dtype))


@leaky_relu_in_place.wrong(
    "It does not say `ctx.mark_dirty(x)`. The result has the right gradient; `x` itself still claims to be what it was."
)
def not_marked_dirty(x, slope):
    _require_sign(slope)

    def forward(ctx, x, slope):
        x.copy_(torch.where(x > 0, x, slope * x))
        y = x.view_as(x)
        ctx.save_for_backward(y)
        ctx.slope = slope
        return y

    return _function(forward, _from_output).apply(x, slope)


@leaky_relu_in_place.wrong("Its backward is that of ReLU: below zero the gradient is `slope`, not 0.")
def backward_of_relu(x, slope):
    _require_sign(slope)
    return _function(_write, lambda ctx, grad: (grad * (ctx.saved_tensors[0] > 0), None)).apply(x, slope)


@leaky_relu_in_place.wrong(
    "It accepts a negative slope. Then both branches of the output can be positive, and backward guesses."
)
def any_slope(x, slope):
    return _function(_write, _from_output).apply(x, slope)


@leaky_relu_in_place.also_right
def with_masked_write(x, slope):
    _require_sign(slope)

    def forward(ctx, x, slope):
        x.sub_(x.clamp(max=0), alpha=1 - slope)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.slope = slope
        return x

    return _function(forward, _from_output).apply(x, slope)


# --- momentum_step ----------------------------------------------------------------------------------------------------


def _weights(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [_leaf(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def _plain(*shapes: tuple[int, ...], seed: int = 10) -> list[torch.Tensor]:
    return [numbers(shape, seed=seed + i) for i, shape in enumerate(shapes)]


@kata(
    minutes=15,
    belt="orange",
    hints=(
        "A weight is a leaf that requires grad. Where may it be changed in place, and what must autograd not see?",
        (
            "Everything in the step happens under `torch.no_grad()`: also the velocity, since the gradients may "
            "require grad (`create_graph=True`)."
        ),
        "`velocity.mul_(momentum).add_(gradient)`, then `weight.sub_(velocity, alpha=rate)`: no new tensor at all.",
    ),
    cases=st.tuples(
        st.just([(2,), (2, 3)]).map(lambda s: _weights(*s)),
        st.integers(0, 99).map(lambda seed: _plain((2,), (2, 3), seed=seed)),
        st.integers(100, 199).map(lambda seed: _plain((2,), (2, 3), seed=seed)),
        st.sampled_from((0.1, 1.0)),
        st.sampled_from((0.0, 0.9)),
    ),
    edge_cases=lambda: {
        "two weights": (_weights((3,), (2, 2)), _plain((3,), (2, 2)), _plain((3,), (2, 2), seed=20), 0.1, 0.9),
        "no momentum": (_weights((3,)), _plain((3,)), _plain((3,), seed=20), 0.5, 0.0),
        "gradients with a graph": (_weights((3,)), _weights((3,)), _plain((3,), seed=20), 0.1, 0.9),
        "a large weight": (_weights((64, 256)), _plain((64, 256)), _plain((64, 256), seed=20), 0.1, 0.9),
    },
    laws=[
        Value(),
        KeepsStorage(arguments=(0, 2)),
        KeepsNoHistory(arguments=(0, 2)),
        MovesVersion(arguments=(0, 2)),
        Allocates(at_most=lambda *_: 0, on=("a large weight",)),
    ],
    changes=(0, 2),
)
def momentum_step(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    velocities: list[torch.Tensor],
    rate: float,
    momentum: float,
) -> None:
    """An optimizer step that does not grow the graph.

    For every weight: velocity = momentum · velocity + gradient, then weight = weight − rate · velocity. Change
    weights and velocities in place: the same tensors, no `grad_fn`, no temporary, and a version counter that moves, so
    that a backward that still needs the old weights can refuse. The weights are leaves that require grad. Return
    nothing.

    ```python
    momentum_step(list(model.parameters()), gradients, velocities, rate=0.1, momentum=0.9)
    ```
    """
    with torch.no_grad():
        for weight, gradient, velocity in zip(weights, gradients, velocities):
            velocity.mul_(momentum).add_(gradient)
            weight.sub_(velocity, alpha=rate)


@momentum_step.wrong("It binds names. `weight = weight - …` makes a new tensor and leaves the model's own as it was.")
def binds_names(weights, gradients, velocities, rate, momentum):
    for weight, gradient, velocity in zip(weights, gradients, velocities):
        velocity = momentum * velocity + gradient  # noqa: PLW2901
        weight = weight - rate * velocity  # noqa: PLW2901


@momentum_step.wrong("It puts new tensors into the lists. The model still holds the old ones, and trains no more.")
def replaces_tensors(weights, gradients, velocities, rate, momentum):
    with torch.no_grad():
        for i, gradient in enumerate(gradients):
            velocities[i] = momentum * velocities[i] + gradient
            weights[i] = (weights[i] - rate * velocities[i]).requires_grad_()


@momentum_step.wrong(
    "It updates through `.data`. The version stays, so a backward that needs the old weights runs on the new ones and "
    "says nothing. PyTorch 1.5 removed `.data` from its optimizers for this."
)
def updates_through_data(weights, gradients, velocities, rate, momentum):
    for weight, gradient, velocity in zip(weights, gradients, velocities):
        velocity.data.mul_(momentum).add_(gradient.data)
        weight.data.sub_(velocity.data, alpha=rate)


@momentum_step.wrong("It leaves autograd on and changes a leaf: PyTorch refuses. Use `torch.no_grad()`.")
def autograd_left_on(weights, gradients, velocities, rate, momentum):
    for weight, gradient, velocity in zip(weights, gradients, velocities):
        velocity.mul_(momentum).add_(gradient)
        weight -= rate * velocity  # noqa: PLW2901


@momentum_step.wrong(
    "It guards the weights and not the velocity. Where gradients carry a graph, the velocity keeps every step's graph "
    "alive."
)
def velocity_keeps_history(weights, gradients, velocities, rate, momentum):
    for weight, gradient, velocity in zip(weights, gradients, velocities):
        velocity.mul_(momentum).add_(gradient)
        with torch.no_grad():
            weight.sub_(velocity, alpha=rate)


@momentum_step.wrong(
    "It averages: velocity = m · velocity + (1 − m) · gradient. That is Adam's first moment, not momentum."
)
def averages_gradients(weights, gradients, velocities, rate, momentum):
    with torch.no_grad():
        for weight, gradient, velocity in zip(weights, gradients, velocities):
            velocity.mul_(momentum).add_(gradient, alpha=1 - momentum)
            weight.sub_(velocity, alpha=rate)


@momentum_step.wrong("It makes temporaries as large as the weight. `mul_`, `add_` and `alpha=` need none.")
def makes_temporaries(weights, gradients, velocities, rate, momentum):
    with torch.no_grad():
        for weight, gradient, velocity in zip(weights, gradients, velocities):
            velocity.copy_(momentum * velocity + gradient)
            weight -= rate * velocity  # noqa: PLW2901


@momentum_step.also_right
def with_foreach(weights, gradients, velocities, rate, momentum):
    with torch.no_grad():
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, gradients)
        torch._foreach_add_(weights, velocities, alpha=-rate)


# --- update_average ---------------------------------------------------------------------------------------------------


def _states(
    *shape: int, dtype: torch.dtype = torch.float32, grad: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    weight = numbers(shape, dtype=dtype, seed=1)
    return {"weight": numbers(shape)}, {"weight": weight.requires_grad_() if grad else weight}


@kata(
    minutes=15,
    belt="orange",
    hints=(
        "The weights require grad, the average must not. Which tensors may not be replaced by new ones, and why?",
        (
            "Under `torch.no_grad()`, `lerp_` moves a tensor part of the way to another, in place. Mind entries that "
            "are no floating-point numbers (BatchNorm counts its batches)."
        ),
        (
            "`target.lerp_(value.to(target.dtype), 1 - decay)` for floating-point entries, `target.copy_(value)` for "
            "others."
        ),
    ),
    cases=st.tuples(st.booleans().map(lambda grad: _states(2, 3, grad=grad)), st.sampled_from((0.0, 0.9, 0.999))).map(
        lambda drawn: (*drawn[0], drawn[1])
    ),
    edge_cases=lambda: {
        "plain weights": (*_states(3), 0.9),
        "weights that require grad": (*_states(2, 2, grad=True), 0.9),
        "a counter of batches": ({"n": torch.tensor(3)}, {"n": torch.tensor(8)}, 0.9),
        "weights in bfloat16": (*_states(4, dtype=torch.bfloat16), 0.99),
        "a large weight": (*_states(64, 256), 0.9),
    },
    laws=[
        Value(),
        KeepsStorage(),
        KeepsNoHistory(),
        MovesVersion(),
        Allocates(at_most=lambda *_: 0, on=("a large weight",)),
    ],
    changes=(0,),
)
def update_average(average: dict[str, torch.Tensor], weights: Mapping[str, torch.Tensor], decay: float) -> None:
    """An average of the weights that stays out of the graph.

    Both arguments are like a `state_dict()`. Move every floating-point entry of `average` to
    decay · average + (1 − decay) · weight, in the average's own dtype; copy entries of other dtypes. Change the
    tensors in place, without history and without temporaries. `weights` may require grad and stay as they are.
    Return nothing.

    ```python
    update_average(average.state_dict(), dict(model.named_parameters()), decay=0.999)
    ```
    """
    with torch.no_grad():
        for name, value in weights.items():
            target = average[name]
            if target.is_floating_point():
                target.lerp_(value.to(target.dtype), 1 - decay)
            else:
                target.copy_(value)


@update_average.wrong(
    "It leaves autograd on. The average gets a `grad_fn` and keeps the graph of every step since the first alive."
)
def keeps_history(average, weights, decay):
    for name, value in weights.items():
        target = average[name]
        if target.is_floating_point():
            target.lerp_(value.to(target.dtype), 1 - decay)
        else:
            target.copy_(value)


@update_average.wrong("It puts new tensors into the dictionary. The averaged model still holds the old ones.")
def replaces_entries(average, weights, decay):
    for name, value in weights.items():
        target = average[name]
        if target.is_floating_point():
            average[name] = decay * target + (1 - decay) * value.detach().to(target.dtype)
        else:
            average[name] = value.clone()


@update_average.wrong("It writes through `.data`, past the version counter. `torch.no_grad()` is all it takes.")
def writes_the_average_through_data(average, weights, decay):
    for name, value in weights.items():
        target = average[name]
        if target.is_floating_point():
            target.data.lerp_(value.data.to(target.dtype), 1 - decay)
        else:
            target.data.copy_(value.data)


@update_average.wrong("It has `decay` and `1 - decay` the wrong way round: the average follows almost at once.")
def swaps_the_decay(average, weights, decay):
    with torch.no_grad():
        for name, value in weights.items():
            target = average[name]
            if target.is_floating_point():
                target.lerp_(value.to(target.dtype), decay)
            else:
                target.copy_(value)


@update_average.wrong("It averages counters too. 0.9 · 3 + 0.1 · 8 is 3 again as an integer: the counter never moves.")
def averages_counters(average, weights, decay):
    with torch.no_grad():
        for name, value in weights.items():
            target = average[name]
            if target.is_floating_point():
                target.lerp_(value.to(target.dtype), 1 - decay)
            else:
                target.copy_(decay * target + (1 - decay) * value)


@update_average.wrong(
    "It computes in the weights' dtype. In bfloat16 a step of 0.1 % is below half a rounding step: the average stands "
    "still."
)
def computes_in_low_precision(average, weights, decay):
    with torch.no_grad():
        for name, value in weights.items():
            target = average[name]
            if target.is_floating_point():
                low = target if target.dtype == value.dtype else target.to(value.dtype)
                low.lerp_(value, 1 - decay)
                if low is not target:
                    target.copy_(low)
            else:
                target.copy_(value)


@update_average.also_right
def scales_and_adds(average, weights, decay):
    for name, value in weights.items():
        target = average[name]
        with torch.no_grad():
            if target.is_floating_point():
                target.mul_(decay).add_(value, alpha=1 - decay)
            else:
                target.copy_(value)


# --- run_cell ---------------------------------------------------------------------------------------------------------


def _cell(
    steps: int, batch: int = 2, size: int = 3, grad: bool = False, scale: float = 0.5
) -> tuple[torch.Tensor, ...]:
    shapes = ((steps, batch, 2), (batch, size), (2, size), (size, size))
    made = [numbers(shape, seed=i) * (scale if i == 3 else 0.5) for i, shape in enumerate(shapes)]
    return tuple(tensor.requires_grad_(grad) for tensor in made)


@kata(
    minutes=20,
    belt="green",
    hints=(
        "`states[t - 1] @ w_state` saves `states[t - 1]`. What does the next line do to its version?",
        "All rows of one tensor share one version counter. Let the recurrence run over tensors of their own.",
        "Keep `state` as a variable, append it to a list, and `torch.stack` at the end.",
    ),
    cases=st.integers(1, 5).map(_cell),
    edge_cases=lambda: {
        "one step": _cell(1),
        "three steps": _cell(3),
        "a cell without memory": _cell(3, scale=0.0),
        "a long sequence": _cell(40, batch=4, size=8, grad=True),
    },
    laws=[
        Value(),
        Gradcheck(arguments=(0, 1, 2, 3), on=("one step", "three steps", "a cell without memory")),
        SavesForBackward(
            at_most=lambda inputs, state, *_: 2 * len(inputs) * state.numel() * state.element_size(),
            on=("a long sequence",),
        ),
    ],
)
def run_cell(inputs: torch.Tensor, state: torch.Tensor, w_in: torch.Tensor, w_state: torch.Tensor) -> torch.Tensor:
    """Repair a broken RNN.

    This code gives the right states, and its backward refuses:

    ```python
    states = torch.zeros(len(inputs), *state.shape)
    for t in range(len(inputs)):
        previous = state if t == 0 else states[t - 1]
        states[t] = torch.tanh(inputs[t] @ w_in + previous @ w_state)
    return states
    ```

    Return the same states, of shape `(steps, batch, size)`, so that backward runs and every gradient is right. What is
    saved for backward must grow with the number of steps, not with its square.
    """
    states = []
    for step in inputs:
        state = torch.tanh(step @ w_in + state @ w_state)
        states.append(state)
    return torch.stack(states)


@run_cell.wrong(
    "It is the broken cell. Each write to `states` moves the version of the row that the step before saved."
)
def as_it_was(inputs, state, w_in, w_state):
    states = torch.zeros(len(inputs), *state.shape, dtype=state.dtype)
    for t in range(len(inputs)):
        previous = state if t == 0 else states[t - 1]
        states[t] = torch.tanh(inputs[t] @ w_in + previous @ w_state)
    return states


@run_cell.wrong("It silences the error with `.data`: no gradient comes back at all, and nothing says so.")
def silences_with_data(inputs, state, w_in, w_state):
    states = torch.zeros(len(inputs), *state.shape, dtype=state.dtype)
    for t in range(len(inputs)):
        previous = state if t == 0 else states[t - 1]
        states.data[t] = torch.tanh(inputs[t] @ w_in + previous @ w_state)
    return states


@run_cell.wrong(
    "It detaches the state at every step. Backward runs, and no step learns what it did to the next: that is another "
    "model."
)
def detaches_every_step(inputs, state, w_in, w_state):
    states = []
    for step in inputs:
        state = torch.tanh(step @ w_in + (state.detach() if states else state) @ w_state)
        states.append(state)
    return torch.stack(states)


@run_cell.wrong(
    "It clones the whole history at every step. That is safe, and saves steps² states for backward where steps are "
    "enough."
)
def clones_the_history(inputs, state, w_in, w_state):
    states = torch.zeros(len(inputs), *state.shape, dtype=state.dtype)
    for t in range(len(inputs)):
        previous = state if t == 0 else states[t - 1]
        new = torch.tanh(inputs[t] @ w_in + previous @ w_state)
        states = states.clone()
        states[t] = new
    return states


@run_cell.wrong("It returns the initial state in front. `states[t]` is the state after step t.")
def with_the_initial_state(inputs, state, w_in, w_state):
    states = [state]
    for step in inputs:
        states.append(torch.tanh(step @ w_in + states[-1] @ w_state))
    return torch.stack(states)


@run_cell.also_right
def buffer_that_nobody_reads(inputs, state, w_in, w_state):
    states = torch.empty(len(inputs), *state.shape, dtype=state.dtype)
    for t, step in enumerate(inputs):
        state = torch.tanh(step @ w_in + state @ w_state)
        states[t] = state
    return states


@run_cell.also_right
def inputs_at_once(inputs, state, w_in, w_state):
    states = []
    for projected in (inputs @ w_in).unbind():
        state = torch.tanh(projected + state @ w_state)
        states.append(state)
    return torch.stack(states)
