"""BB607."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from blackbelt.doctor.events import Batch, Collective, Created, ModuleCall, StateLoaded, Step, tensors_in
from blackbelt.doctor.places import users_lines
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.rules._ranks import digest, is_replicated, ranks_of, sampled, world_size
from blackbelt.doctor.rules._states import storage
from blackbelt.doctor.run import Run
from blackbelt.places import Place

STEPS = 3  # that are compared
BATCHES = 3  # in a row that must be equal


class ReplicasDiffer(Rule):
    """Data-parallel ranks that start from different weights, or that all see the same batches.

    Data parallelism rests on two things: every rank has the same weights, and every rank has other data. Averaged
    gradients keep replicas equal only when they began equal. Where gradients are averaged by hand, or a checkpoint is
    loaded on one rank after DistributedDataParallel has broadcast the weights, every rank goes on with its own offset,
    and the gradients are an average over different models. The other way round, without DistributedSampler and with
    the same seed everywhere, all ranks draw the same samples: the average of equal gradients, at twice the cost.

    Observed: ranks tell each other, in files, hashes of parameters, gradients and inputs. Different weights: at a step
    the gradients are bitwise equal, not 0, and the parameters are not. The same data: the model, wrapped in
    DistributedDataParallel or averaged by hand, gets bitwise equal inputs on two ranks at three steps in a row.

    Not reported: ranks that train models of their own (their gradients differ); sharded and tensor-parallel models;
    the same seed for dropout or augmentation of different samples, which costs diversity and is seldom a defect.

    The fix: broadcast, `for p in model.parameters(): dist.broadcast(p.data, src=0)`, or load before wrapping; and
    `DataLoader(…, sampler=DistributedSampler(dataset))`. Reported where the model was made, or loaded since, or where
    the data loader was made.
    """

    code: ClassVar[str] = "BB607"
    title: ClassVar[str] = "ranks start from different weights, or see the same data"
    first_steps_only: ClassVar[bool] = True

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._mine: dict[str, dict[str, Any]] = {}  # what was published, by key
        self._inputs: list[str] = []  # hashes of the inputs of the last calls
        self._input_at: Place | None = None
        self._averaged: set[int] = set()  # parameters whose gradients are averaged by hand
        self._replicated: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._made_at: weakref.WeakKeyDictionary[nn.Module, Place] = weakref.WeakKeyDictionary()  # outside of its class
        self._loaded_at: Place | None = None
        self._loader_at: Place | None = None
        self._batch: set[int] = set()  # storages of the last batch
        self._done: set[str] = set()

    def created(self, thing: Created) -> Findings:
        if is_replicated(thing.thing):
            self._replicated.add(thing.thing)
            self._loaded_at = None  # what was loaded before is broadcast
        elif isinstance(thing.thing, nn.Module):
            lines = users_lines()
            outside = (line for line in lines if line.function != "__init__")
            if (place := next(outside, None)) is not None and lines[0] != place:
                self._made_at[thing.thing] = place
        return ()

    def state_loaded(self, call: StateLoaded) -> Findings:
        if isinstance(call.owner, nn.Module):
            self._loaded_at = call.place
        return ()

    def batch_loaded(self, batch: Batch) -> Findings:
        if self.run.ranks is not None and self.run.traced:
            self._batch = {storage(t) for t in batch.tensors}
            self._loader_at = self.run.made_at(batch.loader)
        return ()

    def collective_called(self, call: Collective) -> Findings:
        if call.name.startswith("all_reduce") and self.run.traced:
            addresses = {storage(t) for t in call.tensors}
            for parameter in self.run.trained().values():
                if parameter.grad is not None and storage(parameter.grad) in addresses:
                    self._averaged.add(id(parameter))
        return ()

    def module_called(self, call: ModuleCall) -> Findings:
        if self.run.ranks is None or call.depth or not call.grad_enabled or not self.run.traced or world_size() < 2:
            return ()
        if call.module.training and (call.module in self._replicated or self._is_averaged(call.module)):
            inputs = [t for t in tensors_in([call.args, dict(call.kwargs)]) if t.numel() > 1]
            if inputs:
                self._inputs.append(digest(inputs))
                is_batch = any(storage(t) in self._batch for t in inputs)
                self._input_at = (self._loader_at if is_batch else None) or call.place
        return ()

    def _is_averaged(self, module: nn.Module) -> bool:
        parameters = [p for p in module.parameters() if p.requires_grad]
        return bool(self._averaged) and all(id(p) in self._averaged for p in parameters) and bool(parameters)

    def step_begins(self, step: Step) -> Findings:
        if self.run.ranks is None or world_size() < 2 or not self.run.traced:
            return
        if step.number <= STEPS:
            self._publish(step)
        yield from self._look()

    def _publish(self, step: Step) -> None:
        parameters = [p for p in step.parameters if p.grad is not None]
        if not parameters or self.run.ranks is None:
            return
        chosen = sampled(parameters)
        gradients: list[Tensor | None] = [p.grad for p in chosen]
        model = next((m for m in self.run.models if any(p is chosen[0] for p in m.parameters())), None)
        inner = getattr(model, "module", model) if model is not None and is_replicated(model) else model
        place = self._loaded_at or (self._maker(inner) if inner is not None else None)
        number = len(self.run.optimizers) and self.run.optimizers.index(step.optimizer)
        key = f"step-{number}-{step.number}"
        self._mine[key] = fact = {
            "parameters": digest(chosen),
            "gradients": digest(gradients),
            "moves": any(bool(g.any()) for g in gradients if g is not None and g.layout == torch.strided),
            "inputs": "".join(self._inputs),
            "group": sorted(ranks_of(model)) if model is not None and is_replicated(model) else None,
            "loaded": self._loaded_at is not None,
            "model": type(inner).__name__,
            "place": None if place is None else [place.file, place.line, place.function],
        }
        self._inputs = []
        self.run.ranks.publish(key, fact)

    def _maker(self, model: nn.Module) -> Place | None:
        return self._made_at.get(model) or self.run.made_at(model)

    def step_ends(self, _: Step) -> Findings:
        if self.run.traced:
            yield from self._look()

    def run_ends(self) -> Findings:
        yield from self._look()

    def _look(self) -> Findings:
        ranks = self.run.ranks
        if ranks is None or not self._mine or len(self._done) == 2:
            return
        equal: dict[int, int] = {}
        for key, mine in self._mine.items():
            for rank, theirs in ranks.others(key).items():
                if mine["group"] is not None and rank not in mine["group"]:
                    continue
                same = {name for name in ("parameters", "gradients", "inputs") if mine[name] == theirs[name]}
                if mine["moves"] and "gradients" in same and "parameters" not in same and "weights" not in self._done:
                    self._done.add("weights")
                    yield self._differ(key, rank, mine, theirs)
                equal[rank] = equal.get(rank, 0) + ("inputs" in same and bool(mine["inputs"]))
        for rank, number in equal.items():
            if number >= BATCHES and "data" not in self._done and not self._done:
                self._done.add("data")
                yield self._same(rank, number)

    def _differ(self, key: str, rank: int, mine: dict[str, Any], theirs: dict[str, Any]) -> Any:
        teller = theirs if theirs["loaded"] and not mine["loaded"] else mine
        place = Place(*teller["place"]) if teller["place"] else None
        why = (
            "a state was loaded on one of them only"
            if mine["loaded"] != theirs["loaded"]
            else "nothing made them equal"
        )
        return self.finding(
            f"{mine['model']} has other weights on rank {rank}, and the averaged gradients are the same: {why}",
            place,
            fix="for p in model.parameters():\n    dist.broadcast(p.data, src=0)",
            evidence={
                "step": key.rpartition("-")[2],
                "hash of the parameters here": mine["parameters"][:12],
                f"on rank {rank}": theirs["parameters"][:12],
                "hash of the gradients on both": mine["gradients"][:12],
            },
        )

    def _same(self, rank: int, number: int) -> Any:
        return self.finding(
            f"this rank and rank {rank} train on the same batches, {number} in a row",
            self._input_at,
            fix="sampler = DistributedSampler(dataset)\nloader = DataLoader(dataset, sampler=sampler, …)",
            evidence={"batches compared": number, "of these equal": number},
        )
