"""BB206."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from blackbelt.doctor.events import Backward, FunctionCall, Step
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._cuts import CONFIRMED, SAMPLING, Cut, CutRule
from blackbelt.doctor.rules._drawn import Drawn, drawn_within
from blackbelt.doctor.rules._losses import number
from blackbelt.doctor.run import Run
from blackbelt.places import Place

STEPS = {"SignBackward0", "RoundBackward0", "RoundBackward1", "FloorBackward0", "CeilBackward0", "TruncBackward0"}
STEPS |= {"NormalBackward0", "NormalBackward1", "NormalBackward2", "NormalBackward3", "BernoulliBackward0"}
STEPS |= {"BernoulliBackward1", "BernoulliBackward2", "HeavisideBackward0", "SgnBackward0"}
MAKING = {"sign", "round", "floor", "ceil", "trunc", "normal", "bernoulli", "heaviside", "sgn", "__floordiv__"}
MAKING |= {"floor_divide", "fix", "sign_", "round_", "floor_", "ceil_"}


class ZeroGradient(CutRule):
    """All of a part's gradient passes an operator whose derivative is zero: the part never learns.

    `sign`, `round`, `floor` and a sample drawn by `torch.normal(mean, std)` hand back a gradient of exactly 0;
    `argmax`, a comparison such as `score > 0`, `.long()` and `distribution.sample()` hand back none. Nothing is
    thrown: the optimizer steps with zeros, and the layers before stay as they were.

    Observed: parameters that an optimizer holds and that the loss depends on; every way from the loss to them leads
    through such an operator, in three steps, so that their gradient is 0 or missing, while others get one.

    For `torch.normal` within a model also: the loss depends on the sample through trained layers only, in three steps.
    What was to learn from them gets no gradient, even if another term (the KL divergence of a VAE) trains it.

    Not reported: straight-through estimators (`x + (x.round() - x).detach()`), operators with a `backward` of your
    own, samples whose `log_prob` is in the loss, parts that get a gradient by another way as well (a router that is
    trained by the weight of the expert it chooses), parameters that code of your own moves.

    The fix: `mean + std * torch.randn_like(std)` or `distribution.rsample()` for a sample; a straight-through
    estimator, `gumbel_softmax(hard=True)` or a soft version (`sigmoid(score / temperature)`) for a choice. Reported
    where the operator is applied.
    """

    code: ClassVar[str] = "BB206"
    title: ClassVar[str] = "the gradient of an operator is zero everywhere"
    lesson: ClassVar[str] = "autograd/graph"
    kinds: ClassVar[frozenset[str]] = frozenset(
        {"argmax", "argmin", "gt", "lt", "ge", "le", "eq", "ne", "long", "int", "bool", "multinomial", "topk", "max"}
        | {"min", "sort", "argsort", "bucketize", "searchsorted", "heaviside", "sample", "one_hot", "greater", "less"}
        | {"__gt__", "__lt__", "__ge__", "__le__", "__eq__", "__ne__", *SAMPLING}
    )

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._made: dict[int, tuple[str, Place | None]] = {}  # operators of this kind, by the numbers of their nodes
        self._draws: dict[int, Place | None] = {}  # `torch.normal` in a model, since the last step, by number of node
        self._drawn: dict[str, Drawn] = {}  # by their lines
        self._zero: dict[int, tuple[weakref.ref[Tensor], int, str, Place | None]] = {}  # steps, operator, line

    def function_called(self, call: FunctionCall) -> Findings:
        if call.name in MAKING and isinstance(call.result, Tensor):
            key = number(call.result)
            if key is not None:
                self._made[key] = (call.name, call.place)
                if call.name == "normal" and call.modules:
                    self._draws[key] = call.place
        return super().function_called(call)

    def backward_begins(self, call: Backward) -> Findings:
        super().backward_begins(call)
        if self.run.traced and (self._made or self._zero) and not call.graph.cut:
            self._look_at_graph(call)
            for place, parameters in drawn_within(call, self._draws):
                known = self._drawn.setdefault(str(place), Drawn(place, [weakref.ref(p) for p in parameters]))
                known.times += 1
        return ()

    def _look_at_graph(self, call: Backward) -> None:
        open_leaves, behind = _leaves_before(call.roots), {}
        for node in call.graph.nodes:
            made = self._made.get(node._sequence_nr())  # noqa: SLF001 - has no public name
            if made is not None and _name(node) in STEPS:
                behind.update({key: made for key in _leaves_of(node) if key not in open_leaves and key not in behind})
        for key, leaf in call.graph.leaves.items():
            if key in open_leaves or key not in behind or not isinstance(leaf, nn.Parameter):
                self._zero.pop(key, None)
                self._alive.add(key)
                continue
            steps = self._zero[key][1] if key in self._zero and self._zero[key][0]() is leaf else 0
            if key not in self._alive or steps:
                self._zero[key] = (weakref.ref(leaf), steps + 1, *behind[key])
                self._alive.discard(key)

    def step_ends(self, step: Step) -> Iterator[Finding]:
        yield from super().step_ends(step)
        self._made.clear()
        self._draws.clear()
        ripe: dict[str, list[tuple[Tensor, str, Place | None]]] = {}
        for parameter in step.parameters if self._zero else ():
            reference, steps, name, place = self._zero.get(id(parameter), (None, 0, "", None))
            if reference is None or reference() is not parameter or steps < CONFIRMED or parameter.grad is None:
                continue
            self._zero.pop(id(parameter))
            if not bool(parameter.grad.any()):
                ripe.setdefault(str(place), []).append((parameter, name, place))
        for found in ripe.values():
            parameters, names, places = zip(*found)
            self._drawn.pop(str(places[0]), None)
            yield self._say(parameters, names[0], places[0], step, "exactly 0")
        yield from self._say_drawn(step)

    def _say_drawn(self, step: Step) -> Iterator[Finding]:
        for key, drawn in list(self._drawn.items()):
            held = {id(p) for p in step.parameters}
            behind = [p for reference in drawn.parameters if (p := reference()) is not None and id(p) in held]
            if drawn.times <= CONFIRMED or not behind:
                continue
            del self._drawn[key]
            if any(id(p) in self._zero for p in behind):
                continue  # these get no gradient at all, and that is said
            yield self.finding(
                f"a sample is drawn by `normal`, whose gradient is zero: nothing of what the layers after it want "
                f"reaches {self.run.name_of(behind[0])} and the {len(behind) - 1} other parameters before it",
                drawn.place,
                fix="sample = mean + std * torch.randn_like(std)  # or distribution.rsample()",
                evidence={"gradient through the sample": "exactly 0", "parameters before it": len(behind)},
            )

    def report(self, cut: Cut, parameters: Sequence[Tensor], step: Step) -> Finding:
        return self._say(parameters, cut.by, cut.place, step, "none")

    def _say(self, parameters: Sequence[Tensor], name: str, place: Place | None, step: Step, gradient: str) -> Finding:
        names = ", ".join(self.run.name_of(p) for p in parameters[:2]) + (", …" if len(parameters) > 2 else "")
        is_sample = name in ("normal", "sample")
        return self.finding(
            f"the loss reaches {len(parameters)} parameter{'s' * (len(parameters) > 1)} ({names}) only through "
            f"`{name}`, whose gradient is zero everywhere: they never learn",
            place,
            fix="sample = mean + std * torch.randn_like(std)  # or distribution.rsample()"
            if is_sample
            else "hard = soft + (hard - soft).detach()  # straight through; or the soft value alone",
            evidence={
                "their gradient": gradient,
                "parameters": f"{len(parameters)} of the {len(step.parameters)} of {type(step.optimizer).__name__}",
                "steps": step.number,
            },
        )


def _name(node: Any) -> str:
    return str(node.name()).rpartition(":")[2]


def _leaves_before(roots: Sequence[Tensor]) -> set[int]:
    """Return the leaves that some way leads to which passes no operator with a gradient of zero."""
    return {key for root in roots if root.grad_fn is not None for key in _leaves_of(root.grad_fn, stop=True)}


def _leaves_of(start: Any, *, stop: bool = False) -> set[int]:
    waiting, leaves = [start], set()
    seen = {start}
    for node in waiting:
        if stop and _name(node) in STEPS:
            continue
        if _name(node) == "AccumulateGrad":
            leaves.add(id(node.variable))
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return leaves
