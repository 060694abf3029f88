"""BB201."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from blackbelt.doctor.events import Backward, Created, Step
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._sources import attribute_set_at
from blackbelt.doctor.run import Run

CONFIRMED = 2  # steps that left the parameters as they were


class Unregistered(Rule):
    """Layers in a Python list, a dict or an object of a plain class are not part of the module that uses them.

    `self.layers = [nn.Linear(8, 8), nn.Linear(8, 8)]` works in `forward`, and `model.parameters()` does not know of
    it: the optimizer never moves these weights, `model.to(device)`, `model.eval()` and `state_dict()` pass them by,
    and the rest of the model learns around layers that stay as they were initialized. The same holds for `self.scale =
    torch.ones(8, requires_grad=True)`, which is no `nn.Parameter`.

    Observed: the gradient of the loss reaches parameters that are in no optimizer and not among the parameters of the
    called model, but within a list, a tuple, a dict or a plain object that is an attribute of one of its modules; and
    two steps leave them unchanged.

    Not reported: what some optimizer holds, also if the model hides it; what does not require a gradient, or is in
    evaluation mode while the model is in training mode; a single module in a list of one, which is how a helper (a
    teacher, a perceptual loss) is hidden on purpose; parameters that code of your own moves.

    The fix: `nn.ModuleList([...])`, `nn.ModuleDict({...})`, `nn.ParameterList([...])`, `nn.Parameter(tensor)`; or let
    the plain class derive from `nn.Module`. Reported where the attribute is set.
    """

    code: ClassVar[str] = "BB201"
    title: ClassVar[str] = "layers that their module does not register"
    lesson: ClassVar[str] = "silent_failures/rules"
    first_steps_only: ClassVar[bool] = True
    explains: ClassVar[tuple[str, ...]] = ("BB404", "BB205")

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._optimizers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._reached: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}  # with its version, and how many steps
        self._fresh: set[int] = set()  # reached since the last step
        self._said: set[tuple[int, str]] = set()

    def created(self, thing: Created) -> Findings:
        if hasattr(thing.thing, "param_groups"):
            self._optimizers.add(thing.thing)
        return ()

    def backward_begins(self, call: Backward) -> Findings:
        if not self.run.traced:
            return ()
        known = self._trained()
        known |= {id(p) for model in self.run.models for p in model.parameters()}
        for key, leaf in call.graph.leaves.items():
            if key not in known:
                old, version, _ = self._reached.get(key, (None, 0, 0))
                if old is None or old() is not leaf or version != leaf._version:  # noqa: SLF001 - no public name
                    self._reached[key] = (weakref.ref(leaf), leaf._version, 0)  # noqa: SLF001 - likewise
                self._fresh.add(key)
        return ()

    def step_ends(self, step: Step) -> Findings:
        fresh, self._fresh = self._fresh, set()
        known = self._trained()
        ripe: dict[int, Tensor] = {}
        for key in fresh & self._reached.keys():
            reference, version, steps = self._reached[key]
            leaf = reference()
            if leaf is None or key in known or leaf._version != version:  # noqa: SLF001 - likewise
                self._reached.pop(key)
                continue
            self._reached[key] = (reference, version, steps + 1)
            if steps + 1 == CONFIRMED:
                ripe[key] = leaf
        for parent, name, value in self._hidden() if ripe else ():
            inside = [p for p in _trainable_in(value, parent) if id(p) in ripe]
            if inside and (id(parent), name) not in self._said:
                self._said.add((id(parent), name))
                yield self._report(parent, name, value, inside, step)

    def _trained(self) -> set[int]:
        optimizers = [*self._optimizers, *self.run.optimizers]
        return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}

    def _hidden(self) -> Iterator[tuple[nn.Module, str, Any]]:
        """Yield the attributes that are no parameters, buffers or submodules, of all modules, those found so too."""
        waiting = [module for model in self.run.models for module in model.modules()]
        seen = set(map(id, waiting))
        for module in waiting:
            for name, value in vars(module).items():
                if name in nn.Module.__annotations__ or name in ("_parameters", "_buffers", "_modules"):
                    continue
                yield module, name, value
                nested = [
                    child for thing in _things_in(value) if isinstance(thing, nn.Module) for child in thing.modules()
                ]
                waiting += [child for child in nested if id(child) not in seen]
                seen |= set(map(id, nested))

    def _report(self, parent: nn.Module, name: str, value: Any, inside: list[Tensor], step: Step) -> Any:
        owner, kind = type(parent).__name__, type(value).__name__
        if isinstance(value, Tensor):
            what, fix = "a tensor that is no nn.Parameter", f"self.{name} = nn.Parameter(…)"
        elif not isinstance(value, (list, tuple, dict)):
            what, fix = f"in an object of class {kind}, which is no nn.Module", f"class {kind}(nn.Module): …"
        elif any(isinstance(thing, nn.Module) for thing in _things_in(value)):
            what, fix = f"in a {kind}", f"self.{name} = nn.Module{'Dict' if kind == 'dict' else 'List'}(…)"
        else:
            what, fix = f"in a {kind}", f"self.{name} = nn.Parameter{'Dict' if kind == 'dict' else 'List'}(…)"
        return self.finding(
            f"{owner}.{name} is {what}, so its {len(inside)} parameter{'s' * (len(inside) > 1)} "
            f"({sum(p.numel() for p in inside):,} numbers) are not among the model's, and no optimizer holds them",
            attribute_set_at(type(parent), name) or self.run.made_at(inside[0]),
            fix=fix,
            evidence={
                "parameters reached by the loss, in no optimizer": len(inside),
                f"parameters of {type(step.optimizer).__name__}": len(step.parameters),
            },
        )


def _things_in(value: Any, depth: int = 3) -> Iterator[Any]:
    """Yield the modules and tensors in nested containers and plain objects."""
    if isinstance(value, (nn.Module, Tensor)):
        yield value
    elif depth and isinstance(value, (list, tuple, set, frozenset)):
        for item in list(value)[:1000]:
            yield from _things_in(item, depth - 1)
    elif depth and isinstance(value, Mapping):
        for item in list(value.values())[:1000]:
            yield from _things_in(item, depth - 1)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, (type, Optimizer, FunctionType, ModuleType)):
        yield from _things_in(vars(value), depth - 1)


def _trainable_in(value: Any, parent: nn.Module) -> Iterator[Tensor]:
    """Yield the leaves that hang on an attribute and are not hidden there on purpose."""
    things = list(_things_in(value))
    if (
        isinstance(value, (list, tuple, dict))
        and len(value) == 1
        and isinstance(things[0] if things else None, nn.Module)
    ):
        return
    for thing in things:
        if isinstance(thing, nn.Module):
            if thing.training or not parent.training:
                yield from (p for p in thing.parameters() if p.requires_grad)
        elif thing.is_leaf and thing.requires_grad:
            yield thing
