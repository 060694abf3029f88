"""What a reference is called: `history[3]`, `model.hidden`, a closure variable of a hook, a local in a traceback."""

from __future__ import annotations

import functools
import re
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")  # where a tensor keeps them
_HOOKS = re.compile(r"^_\w*_hooks$")
_MEMBERS = ("_parameters", "_buffers", "_modules")
_GENERATORS: dict[type, tuple[str, str]] = {
    types.GeneratorType: ("gi_frame", "gi_code"),
    types.CoroutineType: ("cr_frame", "cr_code"),
    types.AsyncGeneratorType: ("ag_frame", "ag_code"),
}
_CACHE = type(functools.lru_cache(len))


@dataclass(frozen=True)
class Link:
    """One reference: of which kind, and the name, key or index under which the parent has the child."""

    kind: str
    name: str
    owner: str = ""
    bound: int | None = None  # the parent stops growing at so many elements

    @property
    def rank(self) -> tuple[int, int]:
        """Order of roots that are equally near: a name the user sees comes first."""
        order = ("local", "globals", "class", "module", "object")
        return order.index(self.kind) if self.kind in order else len(order), len(self.name)


def is_globals(namespace: Mapping[str, Any]) -> bool:
    """Whether a dict is the namespace of a module, of a notebook or of `exec`."""
    return "__builtins__" in namespace


def link(parent: Any, child: Any) -> Link | None:
    """Return what the reference from one object to another is called; None where it is of no interest."""
    for kinds, name in _RULES:
        if isinstance(parent, kinds):
            return name(parent, child)
    return _attribute(parent, child)


def _dict(parent: dict[Any, Any], child: Any) -> Link | None:
    for key, value in list(parent.items()):
        if value is child:
            return Link("item", _key(key))
    return Link("key", _key(child)[:40])


def _key(key: Any) -> str:
    return repr(key) if isinstance(key, (str, int, float, bool, bytes, type(None))) else "…"


def _sequence(parent: Sequence[Any], child: Any) -> Link | None:
    bound = parent.maxlen if isinstance(parent, deque) else None
    return next((Link("item", str(i), bound=bound) for i, value in enumerate(parent) if value is child), None)


def _cell(parent: types.CellType, child: Any) -> Link | None:  # noqa: ARG001 - the signature of a rule
    return Link("cell", "")


def _function(parent: types.FunctionType, child: Any) -> Link | None:
    if child is parent.__closure__:
        return Link("closure", " ".join(parent.__code__.co_freevars), parent.__name__)
    if child is parent.__defaults__:
        code = parent.__code__
        names = code.co_varnames[: code.co_argcount][-len(parent.__defaults__) :]
        return Link("defaults", " ".join(names), parent.__name__)
    if child is parent.__kwdefaults__:
        return Link("kwdefaults", "", parent.__name__)
    if child is parent.__dict__:
        return Link("dict", "", parent.__qualname__)
    return None


def _traceback(parent: types.TracebackType, child: Any) -> Link | None:
    return Link("traceback", "tb_frame" if child is parent.tb_frame else "tb_next")


def _frame(parent: types.FrameType, child: Any) -> Link | None:
    from blackbelt.autograd._retain_holders import read_locals

    names = [name for name, value in read_locals(parent) if value is child]
    return Link("frame", names[0], parent.f_code.co_name) if names else None


def _exception(parent: BaseException, child: Any) -> Link | None:
    for name in ("__traceback__", "__context__", "__cause__", "args"):
        if getattr(parent, name) is child:
            return Link("builtin", name)
    return _attribute(parent, child)


def _generator(parent: Any, child: Any) -> Link | None:
    from blackbelt.autograd._retain_holders import read_locals

    field = next(field for kind, (field, _) in _GENERATORS.items() if isinstance(parent, kind))
    frame = getattr(parent, field)
    names = [name for name, value in read_locals(frame) if value is child] if frame is not None else []
    return Link("generator", names[0], parent.__qualname__) if names else None


def _lru(parent: Any, child: Any) -> Link | None:  # noqa: ARG001 - the signature of a rule
    return Link("cache", "", parent.__wrapped__.__name__, parent.cache_parameters()["maxsize"])


def _type(parent: type, child: Any) -> Link | None:
    if type(child) is dict and child.keys() == vars(parent).keys():
        return Link("dict", "", parent.__qualname__)
    return next((Link("attribute", name) for name, value in vars(parent).items() if value is child), None)


def _partial(parent: functools.partial[Any], child: Any) -> Link | None:
    for name in ("func", "args", "keywords"):
        if getattr(parent, name) is child:
            return Link("builtin", name)
    return None


def _method(parent: types.MethodType, child: Any) -> Link | None:
    return Link("builtin", "__self__" if child is parent.__self__ else "__func__")


def _threads(parent: threading.local, child: Any) -> Link | None:  # noqa: ARG001 - the signature of a rule
    return Link("threads", "")


def _tensor(parent: torch.Tensor, child: Any) -> Link | None:
    for name in HOOKS:
        if getattr(parent, name, None) is child:
            return Link("attribute", name)
    # What else a tensor refers to, but for attributes set on it, is its graph: what is held, and no holder.
    found = _attribute(parent, child)
    return None if found is None or found.kind == "inside" else found


def _attribute(parent: Any, child: Any) -> Link | None:
    kind = type(parent)
    try:
        names = object.__getattribute__(parent, "__dict__")
    except AttributeError:
        names = {}
    if names is child:
        return Link("dict", "", kind.__qualname__)
    for name, value in list(names.items()):
        if value is child:
            return Link("attribute", name, kind.__qualname__)
    for name in _slots(kind):
        if getattr(parent, name, None) is child:
            return Link("attribute", name, kind.__qualname__)
    return Link("inside", "", kind.__qualname__)


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        yield from (name for name, member in vars(base).items() if isinstance(member, types.MemberDescriptorType))


def _nothing(parent: Any, child: Any) -> Link | None:  # noqa: ARG001 - the signature of a rule
    return None


_RULES: tuple[tuple[Any, Callable[[Any, Any], Link | None]], ...] = (
    (dict, _dict),
    (torch.Tensor, _tensor),
    (threading.local, _threads),
    ((list, tuple, deque), _sequence),
    (types.CellType, _cell),
    (types.FunctionType, _function),
    (types.TracebackType, _traceback),
    (types.FrameType, _frame),
    (BaseException, _exception),
    (tuple(_GENERATORS), _generator),
    (_CACHE, _lru),
    (type, _type),
    (functools.partial, _partial),
    (types.MethodType, _method),
    ((types.ModuleType, types.CodeType), _nothing),
)


# --- a whole path as text ---


def spell(links: Sequence[Link]) -> dict[str, Any]:
    """Return the fields of a `Holder` for a path of links, root first."""
    speller = _Speller()
    for one in links:
        speller.add(one)
    text = speller.text()
    return {
        "text": text,
        "pattern": pattern_of(text),
        "kinds": tuple(speller.kinds),
        "names": tuple(speller.names),
        "owner": speller.owner,
        "bound": next((one.bound for one in links if one.bound is not None), None),
        "depth": len(links),
    }


def pattern_of(text: str) -> str:
    """Return the text with every number in an index, and at the end of a name, replaced by ``*``."""
    text = re.sub(r"\[(?:\d+|…)\]", "[*]", text)
    return re.sub(r"(?<=[A-Za-z_])\d+(?=['\"\]`.])|(?<=\[')\d+", "*", text)


class _Speller:
    """Turns links into an expression as far as Python can write it, and into words where it cannot."""

    def __init__(self) -> None:
        self.before = ""
        self.expression = ""
        self.after = ""
        self.kinds: list[str] = []
        self.names: list[str] = []
        self.owner = ""
        self._pending: Link | None = None  # waits for the index that tells which name is meant
        self._hook = False

    def text(self) -> str:
        return f"{self.before}`{self.expression}`{self.after}" if self.expression else f"{self.before}{self.after}"

    def add(self, one: Link) -> None:
        getattr(self, f"_{one.kind}")(one)

    def _note(self, kind: str, name: str) -> None:
        self.kinds.append(kind)
        self.names.append(name)

    def _globals(self, one: Link) -> None:
        self.before, self._pending = "global ", one

    def _local(self, one: Link) -> None:
        self.before, self.expression, self.after = "local ", one.name, f" of `{one.owner}`"
        self._note("local", one.name)

    def _class(self, one: Link) -> None:
        self.before, self.expression = "class attribute ", one.name
        self._note("class", one.name)

    def _module(self, one: Link) -> None:
        self.expression = one.name

    def _object(self, one: Link) -> None:
        self.expression = f"<{one.name} object>"
        self._note("object", one.name)

    def _attribute(self, one: Link) -> None:
        if "cache" in self.kinds:
            return
        if one.name in _MEMBERS or _HOOKS.match(one.name):
            self._pending = Link("member", one.name)
            return
        self.expression += f".{one.name}"
        self.owner = one.owner or self.owner
        self._note("attribute", one.name)

    def _builtin(self, one: Link) -> None:
        if "cache" not in self.kinds:
            self.expression += f".{one.name}"
            self._note("builtin", one.name)

    def _dict(self, one: Link) -> None:
        self._pending = one

    def _item(self, one: Link) -> None:
        if "cache" in self.kinds:
            return  # what a cache holds is named by the cache
        waiting, self._pending = self._pending, None
        if waiting is None:
            self.expression += f"[{one.name}]"
            self._note("item", one.name)
        elif waiting.kind == "globals":
            self.expression = (f"{waiting.name}." if waiting.name else "") + one.name.strip("'")
            self._note("global", one.name.strip("'"))
        elif waiting.kind == "threads":  # which thread's
            self._pending = Link("dict", "")
        elif waiting.kind == "dict":
            self._attribute(Link("attribute", one.name.strip("'"), waiting.owner))
        elif waiting.kind in ("closure", "defaults"):
            self._variable(waiting, waiting.name.split()[int(one.name)])
        elif waiting.kind == "kwdefaults":
            self._variable(Link("defaults", "", waiting.owner), one.name.strip("'"))
        elif waiting.name == "_modules" and one.name.strip("'").isdigit():
            self.expression += f"[{one.name.strip(chr(39))}]"
        elif waiting.name in _MEMBERS:
            self.expression += f".{one.name.strip(chr(39))}"
            self._note("attribute", one.name.strip("'"))
        else:
            self._hook = True
            self._note("hook", waiting.name)

    def _threads(self, one: Link) -> None:
        self._pending = one

    def _key(self, one: Link) -> None:
        if "cache" in self.kinds:
            return
        self.after = f", a key of {self.text()}"
        self.expression = one.name

    def _variable(self, where: Link, name: str) -> None:
        what = "closure variable " if where.kind == "closure" else "default value "
        self.after = (
            f" of the hook `{where.owner}` on {self.text()}" if self._hook else f" of the function `{where.owner}`"
        )
        self.before, self.expression = what, name
        self._note(where.kind, name)

    def _closure(self, one: Link) -> None:
        self._pending = one

    _defaults = _kwdefaults = _closure

    def _cell(self, one: Link) -> None:
        pass

    def _traceback(self, one: Link) -> None:
        pass

    def _frame(self, one: Link) -> None:
        where = self.text().replace(".__traceback__", "")
        self.before, self.expression, self.after = "local ", one.name, f" of `{one.owner}`, in the traceback of {where}"
        self._note("traceback", one.name)

    def _generator(self, one: Link) -> None:
        where = self.text()
        self.before, self.expression, self.after = "local ", one.name, f" of `{one.owner}`, suspended as {where}"
        self._note("generator", one.name)

    def _cache(self, one: Link) -> None:
        self.before, self.expression, self.after = "the cache of ", one.owner, ""
        self._note("cache", one.owner)

    def _inside(self, one: Link) -> None:
        if "cache" in self.kinds:
            return
        self.after += f", inside a `{one.owner}`"
        self._note("inside", one.owner)
