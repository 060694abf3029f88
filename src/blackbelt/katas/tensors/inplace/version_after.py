"""Predict every version."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.operators import Calls
from blackbelt.dojo.laws.value import Value

Step = tuple[str, ...]


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
def version_after(script: list[tuple[str, ...]]) -> dict[str, int]:
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
