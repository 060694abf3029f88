"""Why a reference keeps a graph, and the code that lets it go."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from blackbelt.autograd._retain_holders import Holder
from blackbelt.autograd._retain_rewrite import detached
from blackbelt.autograd._retain_source import Store, find_call, find_store
from blackbelt.places import Place
from blackbelt.report import format_bytes

_NAMES = frozenset({"global", "local", "attribute", "class", "closure", "defaults"})


@dataclass(frozen=True)
class Retained:
    """What is kept: in which way, by whom, made where, and how much."""

    kind: str
    holder: Holder
    made_at: Place | None
    num_nodes: int
    num_bytes: int
    is_node: bool
    files: tuple[str, ...]

    @property
    def kept(self) -> str:
        """How much, in words."""
        nodes = f"{self.num_nodes} nodes and " if self.num_nodes else ""
        return f"{nodes}{format_bytes(self.num_bytes)} of tensors so far"

    @property
    def expression(self) -> str:
        """The holder as far as Python can write it."""
        found = re.search(r"`([^`]*)`", self.holder.text)
        return found.group(1) if found else self.holder.text

    @property
    def container(self) -> str:
        """The same up to the first index that counts."""
        return re.split(r"\[\d+\]", self.expression)[0] if self.holder.kinds[-1] == "item" else self.expression


@dataclass(frozen=True)
class Advice:
    """What `explain` found out: the mechanism by name, the statement that stores, the reason and the fix."""

    kind: str
    stored_at: Place | None
    why: str
    fix: str


def explain(retained: Retained) -> Advice:
    """Return the mechanism by name, the statement that stores, the reason and the fix."""
    holder = retained.holder
    if retained.kind == "cycle":
        return _late(retained)
    if holder.kinds[:1] == ("object",) and (holder.names[-1] == "grad" or holder.is_cycle):
        return _cycle(retained)
    if retained.kind in _NOTES:
        return _NOTES[retained.kind](retained)
    for kind, advise in _BY_LINK.items():
        if kind in holder.kinds:
            return advise(retained)
    if holder.names and holder.names[-1] == "grad":
        return _grad(retained)
    return _chain(retained) if retained.kind == "chain" else _collection(retained)


# --- the statement that stores ---


def _names(holder: Holder, before: int | None = None) -> Iterator[tuple[str, bool, str]]:
    """Yield the names on the way to the tensor, innermost first: name, whether an index follows, the last index."""
    pairs = list(zip(holder.kinds, holder.names))[:before]
    for place in range(len(pairs) - 1, -1, -1):
        kind, name = pairs[place]
        if kind in _NAMES and not name.startswith("__"):
            inside = place + 1 < len(pairs) and pairs[place + 1][0] == "item"
            yield name, inside, pairs[-1][1] if pairs[-1][0] == "item" else ""


def _store(retained: Retained, before: int | None = None, skip: str = "") -> tuple[Store | None, str, str]:
    for name, inside, last in _names(retained.holder, before):
        if name == skip:
            continue
        for way in (inside, not inside):
            store = find_store(name, retained.files, retained.made_at, inside=way)
            if store is not None:
                return store, name, last
    return None, "", ""


def _place(store: Store | None) -> Place | None:
    return None if store is None else store.place()


def _depth(retained: Retained) -> int:
    """Return how many indices lie between the container and the tensor."""
    kinds = retained.holder.kinds
    return len(kinds) - 1 - max((i for i, kind in enumerate(kinds) if kind != "item"), default=-1)


# --- leaks ---


def _chain(retained: Retained) -> Advice:
    store, name, last = _store(retained)
    expression = retained.expression
    why = (
        f"`{expression}` carries its graph from step to step: the new value is computed from the one before, so its "
        f"graph reaches back through every step ({retained.kept}). A backward through it walks all of them again."
    )
    fix = detached(store, name, last) if store else f"{expression} = {expression}.detach()  # after each step"
    return Advice("chain", _place(store), why, fix)


def _collection(retained: Retained) -> Advice:
    closure = "closure" in retained.holder.kinds and retained.holder.kinds[-1] == "closure"
    local = retained.holder.names[-1]
    store, name, last = _store(retained, skip=local if closure else "")
    kind = "closure" if closure else "default" if "defaults" in retained.holder.kinds else "collection"
    if closure:
        why = (
            f"A function keeps the variables it uses of the function around it. Each step keeps one more of them, and "
            f"`{local}` with the graph behind it ({retained.kept})."
        )
        code = _place(store)
        return Advice(kind, code, why, f"{local} = {local}.detach()\n{code.code if code else ''}".rstrip())
    why = (
        f"`{retained.container}` gets one more in each step, and a tensor keeps the graph that computed it "
        f"({retained.kept})."
    )
    if kind == "default":
        why += " A default value is made once, when the function is defined, and lives as long as the function."
    if not store:
        fix = f"{retained.expression} = {retained.expression}.detach()  # at the end of the step"
    elif retained.holder.kinds[-1] == "attribute" and isinstance(store.node, ast.Assign):
        fix = f"{ast.unparse(store.node.targets[0])} = None  # once the step is done with it"
    elif retained.is_node:
        fix = detached(store, name, last, suffix="name()")
    else:
        fix = detached(store, name, last, depth=_depth(retained), made_at=retained.made_at)
    return Advice(kind, _place(store), why, fix)


def _traceback(retained: Retained) -> Advice:
    holder = retained.holder
    frame = holder.kinds.index("traceback")
    store, name, _ = _store(retained, before=frame)
    why = (
        "An exception holds its traceback, the traceback the frames it passed, and a frame all its locals. Whoever "
        f"keeps the exception keeps `{holder.names[frame]}` and its graph ({retained.kept})."
    )
    fix = detached(store, name, "", suffix="with_traceback(None)") if store else "error.__traceback__ = None"
    return Advice("traceback", _place(store), why, fix)


def _hook(retained: Retained) -> Advice:
    if retained.kind == "chain":
        return _chain(retained)
    if "closure" not in retained.holder.kinds:
        return _collection(retained)
    call = find_call("hook", retained.files, retained.made_at)
    local = retained.holder.names[retained.holder.kinds.index("closure")]
    why = (
        "A hook stays until it is removed, and its function keeps what it uses of the step: "
        f"`{local}` with its graph. Each step adds one more hook ({retained.kept}), and all of them run."
    )
    made = f"handle = {call.place().code}" if call else "handle = tensor.register_hook(hook)"
    return Advice("hook", _place(call), why, f"{made}\nloss.backward()\nhandle.remove()")


def _cache(retained: Retained) -> Advice:
    owner = retained.holder.names[retained.holder.kinds.index("cache")]
    why = (
        f"The cache of `{owner}` keeps the arguments and the result of every call. A tensor is hashed by its identity, "
        f"so a new one is never found there and always added ({retained.kept})."
    )
    return Advice("cache", retained.made_at, why, f"{owner}.cache_clear()  # after each step, or no cache at all")


def _generator(retained: Retained) -> Advice:
    holder = retained.holder
    frame = holder.kinds.index("generator")
    store, name, _ = _store(retained, before=frame)
    why = (
        f"A generator that has not run to its end keeps its frame, and the frame keeps `{holder.names[frame]}` and its "
        f"graph ({retained.kept})."
    )
    return Advice("generator", _place(store), why, f"{name or 'generator'}.close()  # each one, when you are done")


def _grad(retained: Retained) -> Advice:
    call = find_call("backward", retained.files, retained.made_at)
    why = (
        f"`backward(create_graph=True)` puts a gradient with a graph of its own into `{retained.expression}`, and the "
        f"next one is added to it ({retained.kept})."
    )
    fix = "gradients = torch.autograd.grad(loss, parameters, create_graph=True)  # fills no .grad"
    return Advice("grad", _place(call), why, fix)


def _cycle(retained: Retained) -> Advice:
    if retained.holder.names[-1] == "grad":
        why = (
            "`backward(create_graph=True)` makes a reference cycle in C++: the parameter holds `.grad`, `.grad` its "
            "graph, and the graph the parameter. Python's collector cannot see it, so it is never freed "
            f"({retained.kept})."
        )
        fix = "gradients = torch.autograd.grad(loss, parameters, create_graph=True)  # fills no .grad"
        return Advice("cycle", None, why, fix)
    why = (
        "It is part of a reference cycle that goes through C++, so Python's collector does not free it "
        f"({retained.kept})."
    )
    return Advice("cycle", None, why, "ctx.save_for_backward(result)  # an output belongs there, not on an attribute")


# --- notes ---


def _late(retained: Retained) -> Advice:
    why = (
        "It is part of a reference cycle, so only Python's collector frees it, and that one counts objects, not bytes: "
        f"it may come many steps later ({retained.kept.removesuffix(' so far')} in one step)."
    )
    if "traceback" in retained.holder.kinds:
        why += " A local holds the exception whose traceback holds the frame of that local: `del` it, or keep its text."
    elif "Backward object" in retained.holder.text:
        why += " An attribute of `ctx` holds the output that holds `ctx`: give outputs to `ctx.save_for_backward`."
    return Advice("cycle", None, why, "")


def _tensors(retained: Retained) -> Advice:
    store, _, _ = _store(retained)
    why = f"No graph hangs on them, and memory grows all the same ({retained.kept})."
    return Advice("tensors", _place(store), why, "")


def _bounded(retained: Retained) -> Advice:
    why = f"It stops at {retained.holder.bound} elements ({retained.kept})."
    return Advice("bounded", None, why, "")


def _unseen(retained: Retained) -> Advice:
    why = (
        f"Nodes of every step are alive ({retained.kept}), and no Python object that can be looked at refers to them: "
        "something in C++ does, or an object you froze (`gc.freeze`)."
    )
    return Advice("unseen", None, why, "")


def _held(retained: Retained) -> Advice:
    why = (
        f"The graph has {retained.num_nodes} nodes and lives until the name is bound to something else. The step's "
        "backward did not free it (`retain_graph=True`), or there was none."
    )
    return Advice("held", None, why, "")


_NOTES = {"tensors": _tensors, "bounded": _bounded, "held": _held, "unseen": _unseen}
_BY_LINK = {"traceback": _traceback, "cache": _cache, "hook": _hook, "generator": _generator}
