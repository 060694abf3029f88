"""Keep on disk what backward will need."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.graph._disk import (
    BackwardTwice,
    CleansUp,
    LeavesParameters,
    LeavesViewsOfParameters,
    OnDiskOnly,
    RightGradients,
    TwoAtATime,
    WritesOnlyTheView,
)


@kata(
    minutes=30,
    belt="blue",
    hints=(
        "`torch.autograd.graph.saved_tensors_hooks(pack, unpack)`: what does the graph hold, if `pack` returns a path?",
        (
            "Return an object that holds a path. When the graph lets go of what `pack` returned, Python can tell you: "
            "`weakref.finalize(object, …)`. Then the file may go, and not before."
        ),
        (
            "Of a view, write `tensor.detach().clone()`: the clone has a storage of its own. Return a parameter's "
            "memory as it is; know it by `untyped_storage().data_ptr()`, since layers save views of it. A file name "
            "that nobody else has: `uuid.uuid4().hex`."
        ),
    ),
    cases=st.just((tempfile.gettempdir(), [numbers((2,))])),
    edge_cases=lambda: {"a folder": (tempfile.gettempdir(), [numbers((2,))])},
    laws=[
        RightGradients(),
        TwoAtATime(),
        BackwardTwice(),
        OnDiskOnly(),
        LeavesParameters(),
        LeavesViewsOfParameters(),
        WritesOnlyTheView(),
        CleansUp(),
    ],
)
def saved_on_disk(folder: str, parameters: Sequence[torch.Tensor]) -> AbstractContextManager[object]:
    """Keep on disk what backward will need.

    Return a context manager. What autograd saves while it is active goes to files in `folder` (it exists), and comes
    back when backward needs it:

    ```python
    with saved_on_disk("/scratch", list(model.parameters())):
        loss = model(x).sum()  # activations: on disk
    loss.backward()            # read back, one after the other
    ```

    - Gradients are the same, also in a second backward (`retain_graph=True`), also with two such graphs in one folder.
    - What is on disk is not in memory. The memory of `parameters` stays where it is and is not written.
    - Of a view, only what it shows is written.
    - When a graph is gone, with or without a backward, so are its files.
    """
    there = {parameter.untyped_storage().data_ptr() for parameter in parameters}

    class OnDisk:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.path = Path(folder) / f"{uuid.uuid4().hex}.pt"
            torch.save(tensor.detach().clone(), self.path)
            weakref.finalize(self, self.path.unlink, missing_ok=True)

    def pack(tensor: torch.Tensor) -> torch.Tensor | OnDisk:
        return tensor.detach() if tensor.untyped_storage().data_ptr() in there else OnDisk(tensor)

    def unpack(packed: torch.Tensor | OnDisk) -> torch.Tensor:
        return packed if isinstance(packed, torch.Tensor) else torch.load(packed.path)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


class _File:
    """A tensor in a file that goes when this does; ``extra`` is what a learner may hold on to."""

    def __init__(self, folder, tensor, name="", extra=None, keep=False):
        self.path = Path(folder) / f"{name or uuid.uuid4().hex}.pt"
        self.extra = extra
        torch.save(tensor, self.path)
        if not keep:
            weakref.finalize(self, self.path.unlink, missing_ok=True)

    def read(self):
        return torch.load(self.path)


def _hooks(folder, parameters, write, known=None, read=_File.read):
    there = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    is_known = known or (lambda tensor: tensor.untyped_storage().data_ptr() in there)

    def pack(tensor):
        return tensor.detach() if is_known(tensor) else write(tensor.detach().clone())

    return torch.autograd.graph.saved_tensors_hooks(
        pack, lambda packed: packed if isinstance(packed, torch.Tensor) else read(packed)
    )


@saved_on_disk.wrong("It deletes the files when the `with` block ends. Backward comes later, and finds nothing.")
@contextlib.contextmanager
def deleted_at_the_end(folder, parameters):
    files = []
    with _hooks(folder, parameters, lambda tensor: files.append(_File(folder, tensor)) or files[-1]):
        yield
    for file in files:
        file.path.unlink()


@saved_on_disk.wrong(
    "It numbers its files from 0 in every `with` block. Two graphs in one folder then write to the same files."
)
def numbered(folder, parameters):
    count = iter(range(1_000_000))
    return _hooks(folder, parameters, lambda tensor: _File(folder, tensor, name=str(next(count))))


@saved_on_disk.wrong(
    "It deletes a file as soon as it has been read. With `retain_graph=True`, backward reads it again: tie the file to "
    "the life of what `pack` returned."
)
def read_once(folder, parameters):
    def read(packed):
        tensor = packed.read()
        packed.path.unlink()
        return tensor

    return _hooks(folder, parameters, lambda tensor: _File(folder, tensor), read=read)


@saved_on_disk.wrong(
    "It writes the tensor and holds on to it as well: what `pack` returns must not refer to the tensor any more."
)
def in_both_places(folder, parameters):
    return _hooks(folder, parameters, lambda tensor: _File(folder, tensor, extra=tensor))


@saved_on_disk.wrong(
    "It writes parameters to disk. They are in memory anyway, and stay there: return them as they are."
)
def parameters_too(folder, parameters):
    return _hooks(folder, parameters, lambda tensor: _File(folder, tensor), known=lambda _: False)


@saved_on_disk.wrong(
    "It knows a parameter only when it sees the object itself. `nn.Linear` saves its weight transposed, a view of it: "
    "compare storages."
)
def parameters_by_identity(folder, parameters):
    own = {id(parameter) for parameter in parameters}
    known = lambda tensor: id(tensor) in own or (tensor.is_leaf and tensor.requires_grad)  # noqa: E731 - short
    return _hooks(folder, parameters, lambda tensor: _File(folder, tensor), known=known)


@saved_on_disk.wrong(
    "It saves views as they are. `torch.save` writes the whole storage behind a view: write a clone, which has its own."
)
def whole_storages(folder, parameters):
    there = {parameter.untyped_storage().data_ptr() for parameter in parameters}

    def pack(tensor):
        return tensor.detach() if tensor.untyped_storage().data_ptr() in there else _File(folder, tensor.detach())

    return torch.autograd.graph.saved_tensors_hooks(
        pack, lambda packed: packed if isinstance(packed, torch.Tensor) else packed.read()
    )


@saved_on_disk.wrong("It never deletes its files. A graph may also go without a backward; the file must go with it.")
def left_behind(folder, parameters):
    return _hooks(folder, parameters, lambda tensor: _File(folder, tensor, keep=True))


@saved_on_disk.also_right
def with_del(folder, parameters):
    class Stored:
        def __init__(self, tensor):
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                torch.save(tensor, file)
            self.path = Path(file.name)

        def __del__(self):
            self.path.unlink(missing_ok=True)

    return _hooks(folder, parameters, Stored, read=lambda packed: torch.load(packed.path))


@saved_on_disk.also_right
@contextlib.contextmanager
def as_a_generator(folder, parameters):
    with saved_on_disk.reference(folder, parameters):
        yield
