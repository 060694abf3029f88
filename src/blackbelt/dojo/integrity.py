"""Notice when a learner's code replaces a function that the grade rests on, and put the original back.

A :class:`Guard` remembers, by identity, what the watched modules and classes hold, and what their Python functions run.
Names that appear later are fine (libraries load lazily), unless they hide a built-in or an inherited method; names
that point to something else are not. This protects the grade from accidents and shortcuts; it is no security boundary.
"""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

PREFIX = "blackbelt"
WATCHED = (
    *("builtins", "sys", "os", "time", "math", "copy", "gc", "random", "json", "threading", "statistics", "operator"),
    *("functools", "itertools", "contextlib", "dataclasses", "inspect", "tracemalloc"),
    *(
        "torch",
        "torch._C",
        "torch._tensor",
        "torch.nn",
        "torch.nn.functional",
        "torch.linalg",
        "torch.random",
        "torch.func",
    ),
    *(
        "torch.testing",
        "torch.testing._comparison",
        "torch.overrides",
        "torch.compiler",
        "torch.utils._python_dispatch",
    ),
    *("torch.autograd", "torch.autograd.gradcheck", "torch.autograd.graph", "torch.autograd.functional"),
    *("torch.autograd.profiler", "torch.profiler", "torch.profiler.profiler", "torch.autograd.grad_mode"),
    *("numpy", "numpy.testing", "hypothesis", "hypothesis.core", "hypothesis.strategies"),
)
_CONSTANTS = {"math": ("pi", "e", "inf", "nan", "tau")}
_CLASSES = {  # of torch; every class of our own is watched
    "torch": ("Tensor", "UntypedStorage", "TypedStorage", "Generator", "Size", "no_grad", "enable_grad"),
    "torch._C": ("TensorBase",),
    "torch.overrides": ("TorchFunctionMode",),
    "torch.utils._python_dispatch": ("TorchDispatchMode",),
    "torch.autograd.profiler": ("profile",),
    "torch.profiler": ("profile",),
}
_FREE_NAMES = frozenset(
    {
        *("_", "__", "___", "__builtins__", "__annotations__", "__doc__"),
        "input",  # a kernel gives every cell its own
    }
)
_FREE_NAMES |= {"last_type", "last_value", "last_exc", "last_traceback", "displayhook", "excepthook", "unraisablehook"}
# Captured once: the comparison itself must not depend on what it looks for.
_callable, _hasattr, _getattr, _setattr, _vars, _isinstance = callable, hasattr, getattr, setattr, vars, isinstance
_list, _sorted, _type = list, sorted, type
_MISSING = object()


@dataclass(frozen=True)
class _Place:
    """A module, class or object as it was: the values that must stay, and the names that must not appear."""

    name: str
    owner: Any
    kept: dict[str, Any]
    before: frozenset[str]
    hideable: frozenset[str]


@dataclass(frozen=True)
class _Body:
    """What a Python function ran when it was remembered."""

    name: str
    function: FunctionType
    code: Any
    defaults: Any
    keyword_defaults: Any


class Guard:
    """Remembers the watched names now; :meth:`changed` names what was replaced since; :meth:`restore` puts it back.

    Costs about 10 ms to make and 2 ms to ask (some 5,000 names, on a shared x86 core, November 2026).
    """

    def __init__(self) -> None:
        self._modules = {name: sys.modules[name] for name in _watched_names()}
        self._places = _list(_places(self._modules))
        self._bodies = _list(_bodies(self._places))

    def changed(self) -> list[str]:
        """Return the dotted names that now hold something else, such as ``torch.allclose``, sorted."""
        found = {place.name + "." + name for place, name, _ in self._differences()}
        found.update(body.name for body in self._bodies if _runs_other_code(body))
        found.update(
            "sys.modules[" + repr(name) + "]" for name in self._modules if _module(name) is not self._modules[name]
        )
        return _sorted(found)

    def restore(self) -> list[str]:
        """Put back every remembered value and function body, remove names that hide one, and return what changed."""
        replaced = self.changed()
        for place, name, value in _list(self._differences()):
            if value is _MISSING:
                delattr(place.owner, name)
            else:
                _setattr(place.owner, name, value)
        for body in self._bodies:
            if _runs_other_code(body):
                body.function.__code__ = body.code
                body.function.__defaults__ = body.defaults
                body.function.__kwdefaults__ = body.keyword_defaults
        sys.modules.update(self._modules)
        return replaced

    def _differences(self) -> Iterator[tuple[_Place, str, Any]]:
        """Yield place, name and the value to put back (``_MISSING``: the name was not there)."""
        for place in self._places:
            now = _vars(place.owner)
            for name, value in place.kept.items():
                found = now.get(name, _MISSING)
                if found is not value and not _wraps(found, value):
                    yield place, name, value
            for name in place.hideable.intersection(now).difference(place.before):
                yield place, name, _MISSING


def _module(name: str) -> Any:
    return sys.modules.get(name)


def _watched_names() -> list[str]:
    ours = (name for name in sys.modules if name == PREFIX or name.startswith(PREFIX + "."))
    return [name for name in (*WATCHED, *ours) if _isinstance(sys.modules.get(name), ModuleType)]


def _places(modules: dict[str, Any]) -> Iterator[_Place]:
    hideable = frozenset(_vars(builtins)) - _FREE_NAMES
    classes: dict[str, type] = {}
    for name, module in modules.items():
        namespace = _vars(module)
        constants = _CONSTANTS.get(name, ())
        kept = {
            key: v for key, v in namespace.items() if key not in _FREE_NAMES and (_watchable(v) or key in constants)
        }
        yield _Place(name, module, kept, frozenset(namespace), hideable if name != "builtins" else frozenset())
        ours, chosen = name.startswith(PREFIX), _CLASSES.get(name, ())
        for key, value in kept.items():
            if _isinstance(value, type) and (value.__module__.startswith(PREFIX) if ours else key in chosen):
                classes.setdefault(f"{value.__module__}.{value.__qualname__}" if ours else f"{name}.{key}", value)
        if name.startswith(PREFIX + ".katas."):
            yield from _objects(name, namespace)
    for name, each in {id(value): (name, value) for name, value in classes.items()}.values():
        yield _class_place(name, each)


def _class_place(name: str, each: type) -> _Place:
    namespace = _vars(each)
    kept = {key: value for key, value in namespace.items() if key not in _FREE_NAMES and _watchable(value)}
    inherited = frozenset(key for base in each.__mro__[1:] if base is not object for key in _vars(base)) - _FREE_NAMES
    return _Place(name, each, kept, frozenset(namespace), inherited)


def _objects(name: str, namespace: dict[str, Any]) -> Iterator[_Place]:
    """Yield the katas of a module: what their attributes point to counts too."""
    for key, value in namespace.items():
        if _type(value).__module__.startswith(PREFIX) and _hasattr(value, "__dict__"):
            yield _Place(f"{name}.{key}", value, dict(_vars(value)), frozenset(_vars(value)), frozenset())


def _watchable(value: Any) -> bool:
    return _callable(value) or _isinstance(value, ModuleType) or _hasattr(_type(value), "__get__")


def _bodies(places: list[_Place]) -> Iterator[_Body]:
    seen: set[int] = set()
    for place in places:
        for name, value in place.kept.items():
            function = _getattr(value, "__func__", value) if _type(value) in (staticmethod, classmethod) else value
            function = value.fget if _type(value) is property else function
            if _type(function) is FunctionType and id(function) not in seen:
                seen.add(id(function))
                code, defaults, keyword_defaults = function.__code__, function.__defaults__, function.__kwdefaults__
                yield _Body(f"{place.name}.{name}", function, code, defaults, keyword_defaults)


def _runs_other_code(body: _Body) -> bool:
    function = body.function
    return (
        function.__code__ is not body.code
        or function.__defaults__ is not body.defaults
        or function.__kwdefaults__ is not body.keyword_defaults
    )


def _wraps(found: Any, original: Any) -> bool:
    """Say whether torch put a wrapper of its own around the original (``torch.manual_seed`` once Dynamo is loaded)."""
    if _type(found) is not FunctionType or not found.__code__.co_filename.startswith(_torch_folder()):
        return False
    inner: Any = found
    while _hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__
        if inner is original:
            return True
    return False


@functools.cache
def _torch_folder() -> str:
    return str(sys.modules["torch"].__file__).removesuffix("__init__.py") if "torch" in sys.modules else "\0"
