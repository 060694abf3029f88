"""BB213."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.data import default_collate

from blackbelt.doctor.events import Batch, Created, FunctionCall, ModuleCall, Step, tensors_in
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

SEQUENCE = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
CONFIRMED = 2  # calls
MAX_OPEN = 64


@dataclass(eq=False)
class Mixing:
    """Something that mixes along the first dim of what it was given."""

    what: str
    shape: tuple[int, ...]
    place: Place | None
    fix: str
    needs_loader: bool


class BatchMixed(Rule):
    """Samples of a batch are mixed with each other: a layer takes the batch for its sequence.

    `nn.LSTM`, `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` take (length, batch, features) unless they are
    made with `batch_first=True`. Given (batch, length, features), an LSTM runs from sample to sample, and attention
    looks at the other samples instead of at the other tokens. `softmax(dim=0)` makes the weights of different samples
    compete. Shapes fit, the loss falls somewhat, and a prediction depends on which samples are beside it.

    Observed, twice: such a layer, made without `batch_first`, gets a tensor whose first dim is the batch (the number of
    samples that the data loader drew; or the first dim of the model's input and of an output that has lost the second)
    and whose second is not; or a softmax over dim 0 within a model's `forward`, of a tensor with as many rows as the
    loader drew samples; or, without a loader, of one with the first two dims of the model's input, which holds tokens
    or a vector per position, of whose output only the first is left.

    Not reported: batches that a `collate_fn` of your own put together; a second dim of size 1 (attention among samples
    is written so), or equal to the batch; a softmax whose model does not return one row per sample (pooling over a
    bag); models without a loader whose output keeps both dims, since the first may be time; BatchNorm and contrastive
    losses, which mix rightly.

    The fix: `batch_first=True`, or `x.transpose(0, 1)` before the layer and after it; `softmax(dim=-1)`. Reported where
    the layer was made, or where softmax is called.
    """

    code: ClassVar[str] = "BB213"
    title: ClassVar[str] = "samples of a batch are mixed"
    lesson: ClassVar[str] = "tensors/strides"
    first_steps_only: ClassVar[bool] = True

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._loaded = 0  # samples in the last batch
        self._open: list[Mixing] = []  # in the outermost call that runs
        self._times: dict[str, int] = {}
        self._ripe: dict[str, Mixing] = {}
        self._layers: dict[type, Place | None] = {}  # where the last of each type was made; encoders copy them
        self._result: weakref.ref[Tensor] | None = None

    def created(self, thing: Created) -> Findings:
        if isinstance(thing.thing, SEQUENCE):
            self._layers[type(thing.thing)] = self.run.made_at(thing.thing)
        return ()

    def batch_loaded(self, batch: Batch) -> Findings:
        if self.run.traced:
            by_default = getattr(batch.loader, "collate_fn", None) is default_collate
            indices = batch.indices if isinstance(batch.indices, (list, tuple)) and by_default else ()
            fits = all(t.dim() and t.shape[0] == len(indices) for t in batch.tensors)
            self._loaded = len(indices) if fits else 0
        return ()

    def function_called(self, call: FunctionCall) -> Findings:
        if call.name != "softmax" or not call.modules or not call.grad_enabled or not isinstance(call.result, Tensor):
            return ()
        shape, dim = call.result.shape, call.argument(1, "dim")
        dim = (0 if len(shape) in (1, 3) else 1) if dim is None else dim
        if (
            dim not in (0, -len(shape))
            or not call.result.requires_grad
            or len(shape) < 2
            or shape[0] in (1, *shape[1:])
        ):
            return ()
        owner = call.modules[-1]
        place = self.run.made_at(owner) if isinstance(owner, nn.Softmax) else None
        self._result = weakref.ref(call.result)
        self._note(Mixing("softmax over dim 0", tuple(shape), place or call.place, "softmax(…, dim=-1)", True))
        return ()

    def module_called(self, call: ModuleCall) -> Findings:
        module = call.module
        if isinstance(module, SEQUENCE) and not _is_batch_first(module) and not isinstance(call.parent, SEQUENCE):
            given = call.args[0] if call.args else next(iter(call.kwargs.values()), None)
            if isinstance(given, Tensor) and given.dim() == 3 and 1 not in given.shape[:2]:
                place = self.run.made_at(module) or self._layers.get(type(module))
                name = type(module).__name__
                if given.shape[0] != given.shape[1]:
                    fix = f"nn.{name}(…, batch_first=True)"
                    self._note(Mixing(name, tuple(given.shape), place, fix, False))
        if call.depth == 0:
            self._close(call)
        return ()

    def _note(self, mixing: Mixing) -> None:
        if self.run.traced and len(self._open) < MAX_OPEN:
            self._open.append(mixing)

    def _close(self, call: ModuleCall) -> None:
        noted, self._open = self._open, []
        if not noted or not call.grad_enabled:
            return
        given = next(tensors_in((call.args, dict(call.kwargs)), 3), None)
        outputs = [t for t in tensors_in(call.output, 2) if t.requires_grad and t.dim()]
        if given is None or not outputs or (self._result is not None and self._result() is outputs[0]):
            return
        for mixing in noted:
            rows, length = mixing.shape[:2]
            returned = outputs[0].shape
            from_loader = rows == self._loaded == given.shape[0] and (returned[0] == rows)
            lost = given.shape[:2] == (rows, length) and returned[0] == rows and length not in returned[1:]
            tokens = len(mixing.shape) > 2 and (given.dim() > 2 or not given.is_floating_point())
            if from_loader or (lost and len(returned) < 3 and (tokens or not mixing.needs_loader)):
                key = str(mixing.place)
                self._times[key] = self._times.get(key, 0) + 1
                if self._times[key] == CONFIRMED:
                    self._ripe[key] = mixing

    def step_ends(self, _: Step) -> Findings:
        ripe, self._ripe = self._ripe, {}
        for mixing in ripe.values():
            yield self._report(mixing)

    def _report(self, mixing: Mixing) -> Any:
        rows, length = mixing.shape[:2]
        layer = mixing.what.startswith("softmax")
        takes = "makes the samples compete" if layer else f"takes them for the {rows} steps of {length} sequences"
        return self.finding(
            f"{mixing.what} gets {mixing.shape}, whose first dim is the {rows} samples of the batch, and {takes}: a "
            f"prediction depends on the other samples",
            mixing.place,
            fix=mixing.fix,
            evidence={"samples in the batch": rows, "shape given": mixing.shape},
        )


def _is_batch_first(module: nn.Module) -> bool:
    attention = module if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)) else module.self_attn
    return bool(attention.batch_first)  # type: ignore[union-attr]
