"""Who holds a tensor: from the tensor up through Python's references to a name the user knows.

`gc.get_referrers` knows containers, instances, closures, tracebacks and suspended generators. Four kinds of holder it
does not know and are looked up here: locals of functions that are running, the ``grad`` of a tensor, hooks kept in C++,
and values of `threading.local`.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from blackbelt.autograd._retain_lines import OWN, kind_of
from blackbelt.autograd._retain_names import HOOKS, Link, is_globals, link, spell
from blackbelt.autograd._retain_snapshot import grad_of

MAX_DEPTH = 14
MAX_OBJECTS = 20_000
_TELLING = (BaseException, torch._C._FunctionBase)  # noqa: SLF001 - the type of `ctx`


@dataclass(frozen=True)
class Holder:
    """One way in which a tensor is held: the links from the root down to it, as text.

    ``pattern`` is the same for all elements of a list and for the locals of one function in many tracebacks.
    """

    text: str
    pattern: str
    kinds: tuple[str, ...]  # of the links, root first
    names: tuple[str, ...]  # what each link is called: the name of the global, the attribute, the local …
    owner: str = ""  # the type whose attribute holds it
    bound: int | None = None  # the container stops growing at so many elements
    depth: int = 0
    is_cycle: bool = False  # no way leads up to a root, and none ends


@dataclass
class _Search:
    """The references found so far, by identity: the objects live in one dict, so that the search can leave it out."""

    objects: dict[int, Any] = field(default_factory=dict)
    parents: dict[int, list[tuple[int, Link]]] = field(default_factory=dict)
    roots: dict[int, Link] = field(default_factory=dict)


def holders(
    targets: Sequence[Any], everything: Sequence[torch.Tensor], namespace: Mapping[str, Any], own: Iterable[Any] = ()
) -> dict[int, list[Holder]]:
    """Return for every target, by ``id``, all that holds it.

    ``everything`` are the tensors whose ``grad`` may be a target, ``namespace`` the globals whose names need no module,
    ``own`` the containers of the tool itself.
    """
    search = _Search({id(target): target for target in targets})
    modules = _namespaces(namespace)
    search.roots.update(_running_locals())
    _hidden_links(search, everything)
    skip = {id(targets), id(everything), id(search.objects), id(search.__dict__), *map(id, own)}
    frontier = list(search.objects.values())
    skip.add(id(frontier))
    for _ in range(MAX_DEPTH):
        frontier = _climb(search, frontier, modules, skip)
        skip.add(id(frontier))
        if not frontier or len(search.objects) > MAX_OBJECTS:
            break
    frontier.clear()
    found = {id(target): _paths(search, id(target)) for target in targets}
    search.objects.clear()
    return found


def _climb(search: _Search, frontier: list[Any], modules: dict[int, Link], skip: set[int]) -> list[Any]:
    """Find what refers to the objects of one level, and return what to look at next."""
    wanted = {id(item): item for item in frontier}
    skip.add(id(wanted))
    following: list[Any] = []
    skip.add(id(following))
    above = gc.get_referrers(*wanted.values()) if wanted else []
    for parent in above:
        if id(parent) in skip or parent is frontier or _is_noise(parent):
            continue
        is_new = id(parent) not in search.objects
        for child in _referents(parent):
            if id(child) in wanted and child is not parent:
                found = link(parent, child)
                if found is not None:
                    search.parents.setdefault(id(child), []).append((id(parent), found))
        if is_new:
            search.objects[id(parent)] = parent
            root = modules.get(id(parent)) or _root(parent)
            if root is not None:
                search.roots[id(parent)] = root  # before a local: a namespace may be the value of one
            else:
                following.append(parent)
    above.clear()
    wanted.clear()
    return following


def _referents(parent: Any) -> list[Any]:
    return list({id(child): child for child in gc.get_referents(parent)}.values())


def _is_noise(parent: Any) -> bool:
    """Whether a referrer is a frame that is running (its locals are known otherwise) or one of this tool's."""
    if isinstance(parent, types.FrameType):
        frame: types.FrameType | None = sys._getframe()  # noqa: SLF001 - to compare, not to read
        while frame is not None:
            if frame is parent:
                return True
            frame = frame.f_back
        return kind_of(parent.f_code.co_filename) == OWN
    return False


def _root(parent: Any) -> Link | None:
    if isinstance(parent, type):
        return Link("class", parent.__qualname__)
    if isinstance(parent, types.ModuleType):
        return Link("module", parent.__name__)
    if isinstance(parent, dict) and is_globals(parent):
        return Link("globals", "")
    return None


def _namespaces(namespace: Mapping[str, Any]) -> dict[int, Link]:
    found = {}
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType):
            plain = name == "__main__" or module.__dict__ is namespace
            found[id(module.__dict__)] = Link("globals", "" if plain else name)
    found[id(namespace)] = Link("globals", "")
    return found


def _running_locals() -> dict[int, Link]:
    """Return the values of the locals of all functions that are running, by identity."""
    found: dict[int, Link] = {}
    for top in sys._current_frames().values():  # noqa: SLF001 - every thread's
        frame: types.FrameType | None = top
        while frame is not None:
            if kind_of(frame.f_code.co_filename) != OWN and frame.f_locals is not frame.f_globals:
                for name, value in read_locals(frame):
                    found.setdefault(id(value), Link("local", name, frame.f_code.co_name))
            frame = frame.f_back
    return found


def read_locals(frame: types.FrameType) -> list[tuple[str, Any]]:
    """Return a frame's locals, and leave no snapshot of them in the frame that would keep them alive.

    Up to Python 3.12 ``f_locals`` of a function is a dict that stays with the frame. It is emptied unless the user has
    it too (``locals()`` returns the same one).
    """
    values = frame.f_locals
    items = list(values.items())
    if type(values) is dict and frame.f_code.co_flags & 1 and sys.getrefcount(values) <= 3:
        values.clear()
    return items


def _hidden_links(search: _Search, everything: Iterable[torch.Tensor]) -> None:
    """Add the references from a tensor that the collector does not follow."""
    for tensor in everything:
        grad = grad_of(tensor)
        if grad is not None and id(grad) in search.objects:
            search.objects[id(tensor)] = tensor
            search.parents.setdefault(id(grad), []).append((id(tensor), Link("attribute", "grad")))
        for name in HOOKS:
            hooks = getattr(tensor, name, None)
            if hooks:
                search.objects[id(tensor)] = tensor
                search.parents.setdefault(id(hooks), []).append((id(tensor), Link("attribute", name)))


def _paths(search: _Search, start: int) -> list[Holder]:
    """Return one path to a root for each object that refers to the start directly."""
    found: dict[str, Holder] = {}
    root = search.roots.get(start)
    if root is not None:
        holder = Holder(**spell([root]))
        found[holder.text] = holder
    for parent, first in search.parents.get(start, ()):
        path, is_cycle = _to_root(search, parent, start)
        holder = Holder(**spell([*path, first]), is_cycle=is_cycle)
        found.setdefault(holder.text, holder)
    return sorted(found.values(), key=lambda holder: holder.depth)


def _to_root(search: _Search, start: int, below: int) -> tuple[list[Link], bool]:
    """Return the links from the nearest root down to an object, and whether there is no root, but a cycle."""
    back: dict[int, tuple[int, Link] | None] = {start: None}
    level = [start]
    rootless: int | None = None
    while level:
        above: list[int] = []
        reached = sorted((search.roots[item].rank, item) for item in level if item in search.roots)
        if reached:
            return _unwind(search, reached[0][1], back), False
        for item in level:
            parents = search.parents.get(item, ())
            if not parents and rootless is None:
                rootless = item
            for parent, one in parents:
                if parent not in back and parent != below:
                    back[parent] = (item, one)
                    above.append(parent)
        level = above
    if rootless is not None:
        return _unwind(search, rootless, back), False
    telling = min(back, key=lambda item: not isinstance(search.objects[item], _TELLING))
    return _unwind(search, telling, back), True


def _unwind(search: _Search, item: int, back: dict[int, tuple[int, Link] | None]) -> list[Link]:
    top = search.roots.get(item)
    path = [top or Link("object", type(search.objects[item]).__name__)]
    step = back[item]
    while step is not None:
        path.append(step[1])
        step = back[step[0]]
    return path
