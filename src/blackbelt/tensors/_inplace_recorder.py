"""The machinery of `trace_inplace`: saved-tensor hooks see what is saved, a torch-function mode sees what is written.

Two properties of PyTorch shape it. With hooks in place, autograd's own version check is off ("we can't track versions
through the hooks", ``saved_variable.cpp``), so the unpack hook makes the same check at the same moment. And a torch-
function mode, unlike a dispatch mode, leaves the choice of kernels and backward formulas alone, so gradients stay the
same to the bit.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from blackbelt.places import Place, between, here
from blackbelt.tensors._inplace_evidence import (
    fingerprint,
    in_checkpoint,
    is_foreign,
    storage_key,
    version_of,
)
from blackbelt.tensors._inplace_findings import InplaceFinding
from blackbelt.tensors._inplace_fixes import NUMPY, Facts, explain, refusal
from blackbelt.tensors._inplace_saved import Group, Saved, Write, differs, native_message, overlap

WATCHED_BYTES = 1 << 20  # memory shared with NumPy is compared at every operation up to this size, else in backward
_EXPOSING = frozenset({"numpy", "__array__", "__dlpack__", "data_ptr"})
_BACKWARD = frozenset({"backward", "grad"})


class Recorder:
    """Watches one thread between :meth:`start` and :meth:`stop`."""

    def __init__(self, make_error: Callable[[str, InplaceFinding], RuntimeError]) -> None:
        self.findings: list[InplaceFinding] = []
        self.num_saved = 0
        self.num_writes = 0
        self._make_error = make_error
        self._groups: weakref.WeakValueDictionary[int, Group] = weakref.WeakValueDictionary()
        self._foreign: weakref.WeakSet[Saved] = weakref.WeakSet()
        self._pending: list[Saved] = []  # saved by the operation that is running now
        self._operation = ""
        self._last_place: Place | None = None
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._mode = _WriteMode(self)

    def start(self) -> None:
        """Begin to watch."""
        self._hooks.__enter__()
        self._mode.__enter__()

    def stop(self) -> None:
        """Stop watching. Tensors saved until now stay checked when a later backward needs them."""
        self._mode.__exit__(None, None, None)
        self._hooks.__exit__(None, None, None)

    def counts(self) -> tuple[int, int, int]:
        """Return how many findings, saved tensors and writes there have been."""
        return len(self.findings), self.num_saved, self.num_writes

    # --- what autograd saves and asks for ---

    def _pack(self, tensor: torch.Tensor) -> Saved:
        with _unobserved():
            saved = self._watch(tensor, self._operation or ("checkpoint" if in_checkpoint() else ""))
            self.num_saved += 1
            if self._operation:
                self._pending.append(saved)
            else:  # a custom autograd.Function packs after its forward
                saved.seal()
        return saved

    def _watch(self, tensor: torch.Tensor, operation: str) -> Saved:
        key = storage_key(tensor)
        group = None
        if key is not None:
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = Group()
        saved = Saved(tensor, operation, here(), group)
        if is_foreign(tensor) and tensor.nbytes <= WATCHED_BYTES:
            self._foreign.add(saved)
        return saved

    def _unpack(self, saved: Saved) -> torch.Tensor:
        with _unobserved():
            node = _running_node()
            tensor = saved.current(node)
            version = version_of(tensor)
            if version != saved.version:
                message = native_message(saved, tensor, version)
                finding = self._report("version", saved, tensor, node, message)
                raise self._make_error(message, finding)
            if not saved.is_reported and differs(saved.print, fingerprint(tensor)):
                self._report("unseen", saved, tensor, node, "")
        return tensor

    # --- what is written ---

    def before(self, function: Any, arguments: list[torch.Tensor]) -> None:
        """Called before an operation that Python asked for."""
        name = function.__name__
        if self._foreign:
            self._compare_foreign()
        if name in _EXPOSING and arguments:
            self._expose(arguments[0])
        elif name == "__set__" and getattr(function, "__self__", None) is torch.Tensor.data and arguments:
            self._reassign(arguments[0])
        self._operation = name

    def after(self, function: Any, written: list[torch.Tensor], args: Any, kwargs: Any) -> None:
        """Called after it, with the tensors whose version moved."""
        self._operation = ""
        for tensor in written:
            self._wrote(tensor, function.__name__)
        if self._pending:
            # Written past the version counter, and ignored by the backward of a batch norm in training mode.
            ignored = _running_statistics(function, args, kwargs)
            for saved in self._pending:
                if saved.key not in ignored:
                    saved.seal()
            self._pending.clear()

    def refused(self, operation: str, error: RuntimeError) -> RuntimeError | None:
        """Return the explained error where PyTorch refused an in-place operation, else None."""
        place = here()
        place = place.read() if place else None
        reason = refusal(str(error), place)
        if reason is None:
            return None
        message = str(error).split("\n", 1)[0]
        why, fix = reason
        finding = InplaceFinding("refused", "", "", "", None, operation, place, 1, None, None, False, message, why, fix)
        self.findings.append(finding)
        return self._make_error(message, finding)

    def _wrote(self, tensor: torch.Tensor, operation: str) -> None:
        self.num_writes += 1
        group = self._groups.get(storage_key(tensor) or 0)
        members = list(group.members) if group is not None else []
        place = here() if members else None
        for saved in members:
            if not any(saved is one for one in self._pending):
                saved.write(operation, place, overlaps=overlap(saved.tensor, tensor))
                saved.latest = None

    def _expose(self, tensor: torch.Tensor) -> None:
        group = self._groups.get(storage_key(tensor) or 0)
        if group is not None:
            group.exposed_at = here()
            self._foreign.update(saved for saved in group.members if saved.tensor.nbytes <= WATCHED_BYTES)
            self._last_place = here()

    def _reassign(self, tensor: torch.Tensor) -> None:
        group = self._groups.get(storage_key(tensor) or 0)
        for saved in list(group.members) if group is not None else ():
            if saved.original() is tensor:
                saved.write(".data =", here())

    def _compare_foreign(self) -> None:
        place = here()
        for saved in list(self._foreign):
            now = fingerprint(saved.tensor)
            if saved.latest is not None and differs(saved.latest, now):
                saved.write(NUMPY, between(self._last_place or saved.place, place))
            saved.latest = now
        self._last_place = place

    # --- tensors named by the caller ---

    def keep(self, named: Mapping[str, torch.Tensor]) -> dict[str, Saved]:
        """Watch tensors that nobody may change."""
        with _unobserved():
            kept = {name: self._watch(tensor, "") for name, tensor in named.items()}
            for saved in kept.values():
                saved.seal()
        return kept

    def check_kept(self, kept: Mapping[str, Saved]) -> None:
        """Report those that were changed after all."""
        with _unobserved():
            for name, saved in kept.items():
                tensor = saved.current(None)
                if differs(saved.print, fingerprint(tensor)):
                    self._report("argument", saved, tensor, None, "", name)

    # --- findings ---

    def _report(
        self, kind: str, saved: Saved, tensor: torch.Tensor, node: Any, message: str, name: str = ""
    ) -> InplaceFinding:
        changed = differs(saved.print, fingerprint(tensor))
        write = saved.culprit()
        if write is None and version_of(tensor) == saved.version:
            write = Write(NUMPY, between(self._last_place or saved.place, here()), overlaps=True)
        operation, place = (write.operation, write.place) if write else ("", None)
        node_name = node.name() if node is not None else ""
        saved_by = "" if name else saved.operation.strip("_") or node_name.removesuffix("Backward") or "a function"
        exposed = saved.group.exposed_at if saved.group else None
        place = place.read() if place else None
        why, fix = explain(Facts(saved_by, operation, place, kind, changed, saved.is_leaf, exposed))
        finding = InplaceFinding(
            kind, name or saved.describe(), saved_by, node_name, saved.place.read() if saved.place else None,
            operation, place, saved.num_writes, saved.version, version_of(tensor), changed, message, why, fix,
        )  # fmt: skip
        if not saved.is_reported:
            self.findings.append(finding)
        saved.is_reported = True
        return finding

    def saved_before(self, message: str) -> None:
        """Note PyTorch's own refusal about a tensor that was saved before the trace began."""
        why = (
            "The forward pass ran before `with trace_inplace()` began, so nothing is known about who saved the tensor."
        )
        fix = "with trace_inplace() as trace:\n    loss = forward()  # inside\n    loss.backward()"
        message = message.split(" Hint:", maxsplit=1)[0]
        self.findings.append(
            InplaceFinding("version", "", "", "", None, "", None, 0, None, None, True, message, why, fix)
        )


class _WriteMode(TorchFunctionMode):
    """Compares the version counters of an operation's arguments before and after it."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # Dynamo traces into a mode that is active; compiled code has no in-place
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in ("__get__", "_set_grad_enabled") or not name:
            return func(*args, **kwargs)
        recorder = self._recorder
        arguments = _tensors(args, kwargs)
        versions = [version_of(tensor) for tensor in arguments]
        recorder.before(func, arguments)
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            explained = recorder.refused(name, error) if name not in _BACKWARD else None
            if explained is None:
                raise
            raise explained from error
        finally:
            written = [tensor for tensor, version in zip(arguments, versions) if version_of(tensor) != version]
            if name.startswith("_fused_") and name.endswith("_") and not written:
                written = list(args[0])  # fused optimizers write past the version counter (torch 2.9 and 2.15)
            recorder.after(func, written, args, kwargs)


def _tensors(args: Any, kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [item for item in value if isinstance(item, torch.Tensor)]
    return found


def _running_node() -> Any:
    """Return the node whose backward is running on this thread, if one is."""
    return torch._C._current_autograd_node()  # noqa: SLF001 - has no public name


def _unobserved() -> Any:
    """Return a context in which no torch-function mode, ours or another's, sees what the trace itself does."""
    return torch._C.DisableTorchFunction()  # noqa: SLF001 - has no public name


def _running_statistics(function: Any, args: Any, kwargs: Any) -> set[int | None]:
    """Return the storages of running statistics that a batch norm in training mode was given."""
    if function is torch.nn.functional.batch_norm:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        statistics, training = (given.get("running_mean"), given.get("running_var")), given.get("training")
    elif function in (torch.batch_norm, torch.native_batch_norm) and len(args) > 5:
        statistics, training = args[3:5], args[5]
    else:
        return set()
    return {storage_key(tensor) for tensor in statistics if training and tensor is not None}
