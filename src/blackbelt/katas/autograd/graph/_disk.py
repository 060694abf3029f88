"""What judges ``saved_on_disk``: one law for each thing that it must do, each with a program of its own."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.autograd.profiler import profile

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.strategies import numbers
from blackbelt.dojo.trial import Trial, seeded
from blackbelt.report import format_bytes

PER_FILE = 4096  # what a small file of torch.save may weigh above its tensor


def network(width: int = 8, depth: int = 2) -> nn.Sequential:
    """Return linear layers with tanh after each, numbers fixed."""
    model = nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())])
    for index, parameter in enumerate(model.parameters()):
        parameter.data.copy_(numbers(tuple(parameter.shape), seed=index) / width**0.5)
    return model


class _Folder:
    """An empty folder, the learner's hooks on it, and what lies in it."""

    def __init__(self, trial: Trial, path: str) -> None:
        self.trial = trial
        self.path = path

    def hooks(self, model: nn.Module) -> Any:
        return self.trial.function(self.path, list(model.parameters()))

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in Path(self.path).rglob("*") if path.is_file())

    @property
    def num_files(self) -> int:
        return sum(path.is_file() for path in Path(self.path).rglob("*"))


@contextlib.contextmanager
def _folder(trial: Trial) -> Iterator[_Folder]:
    with tempfile.TemporaryDirectory(prefix="blackbelt-") as path, seeded():
        yield _Folder(trial, path)


def _gradients(model: nn.Module, loss: torch.Tensor, **options: Any) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), **options))


def _must_equal(model: nn.Module, x: torch.Tensor, got: list[torch.Tensor], sentence: str) -> None:
    wanted = _gradients(model, model(x).sum())
    for name, one, other in zip(dict(model.named_parameters()), wanted, got):
        if not torch.equal(one, other):
            raise LawBroken(sentence, f"{name}.grad sums to {one.sum():.4g}", f"it sums to {other.sum():.4g}")


@dataclass(frozen=True)
class RightGradients(Law):
    """Backward after the ``with`` block gives the gradients that it gives without."""

    why: ClassVar[str] = "Where a tensor was kept must change nothing of what a model learns."

    def check(self, trial: Trial) -> None:
        model, x = network(), numbers((5, 8))
        with _folder(trial) as folder:
            with folder.hooks(model):
                loss = model(x).sum()
            _must_equal(model, x, _gradients(model, loss), "The gradients are not those without the hooks")


@dataclass(frozen=True)
class TwoAtATime(Law):
    """Two graphs made one after the other in the same folder give their own gradients."""

    why: ClassVar[str] = "Two files of one name are one file: the second graph's tensors become the first one's."

    def check(self, trial: Trial) -> None:
        model, one, other = network(), numbers((5, 8), seed=1), numbers((5, 8), seed=2)
        with _folder(trial) as folder:
            with folder.hooks(model):
                first = model(one).sum()
            with folder.hooks(model):
                second = model(other).sum()
            for x, loss in ((one, first), (other, second)):
                got = _gradients(model, loss)
                _must_equal(model, x, got, "With two graphs in one folder, the gradients are wrong")


@dataclass(frozen=True)
class BackwardTwice(Law):
    """With ``retain_graph=True`` a second backward gives the same gradients."""

    why: ClassVar[str] = "Whether a saved tensor is needed again, the graph knows: it drops what it no longer needs."

    def check(self, trial: Trial) -> None:
        model, x = network(), numbers((5, 8))
        with _folder(trial) as folder:
            with folder.hooks(model):
                loss = model(x).sum()
            _gradients(model, loss, retain_graph=True)
            try:
                again = _gradients(model, loss)
            except Exception as error:
                words = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                raise LawBroken("A second backward fails", "the same gradients again", words) from None
            _must_equal(model, x, again, "A second backward gives other gradients")


@dataclass(frozen=True)
class OnDiskOnly(Law):
    """After the forward pass the activations are in the folder, and not in memory."""

    why: ClassVar[str] = "The whole point is the memory: what is on disk and in memory is in memory."

    def check(self, trial: Trial) -> None:
        model, x = network(), numbers((512, 8))
        activations = 4 * x.nbytes  # the input, the outputs of both tanh, the input of the second layer is one of them
        with _folder(trial) as folder:
            hooks = folder.hooks(model)
            with profile(use_cpu=True, profile_memory=True) as profiler:
                with hooks:
                    loss = model(x).sum()
                gc.collect()  # torch.save of 2.9 leaves its tensor in a cycle
            events = profiler.kineto_results.events() if profiler.kineto_results else []
            held = sum(event.nbytes() for event in events if event.name() == "[memory]")
            if folder.num_bytes < 2 * x.nbytes:
                raise LawBroken("It writes nothing, or not all, to disk", "files", f"{folder.num_bytes} bytes on disk")
            if held > x.nbytes // 2:
                raise LawBroken(
                    f"After the forward pass {format_bytes(held)} are still in memory",
                    f"the loss, and at most {format_bytes(activations)} on disk",
                    format_bytes(held),
                )
            del loss


@dataclass(frozen=True)
class LeavesParameters(Law):
    """A parameter that is saved is not written: it is in memory anyway."""

    why: ClassVar[str] = "A model's weights, written to disk in every step, cost more than the activations saved."

    def check(self, trial: Trial) -> None:
        model = nn.Module()
        model.scale = nn.Parameter(numbers((40_000,)))
        x = numbers((1,)).requires_grad_()
        with _folder(trial) as folder:
            with folder.hooks(model):
                loss = (x * model.scale).sum()
            _must_be_small(folder, model.scale)
            del loss


@dataclass(frozen=True)
class LeavesViewsOfParameters(Law):
    """A view of a parameter is not written either: `nn.Linear` saves its weight transposed."""

    why: ClassVar[str] = "What a layer saves is seldom the parameter itself; it shares the parameter's memory."

    def check(self, trial: Trial) -> None:
        model, x = nn.Linear(200, 200), numbers((2, 200)).requires_grad_()
        with _folder(trial) as folder:
            with folder.hooks(model):
                loss = model(x).sum()
            _must_be_small(folder, model.weight)
            del loss


def _must_be_small(folder: _Folder, parameter: torch.Tensor) -> None:
    if folder.num_bytes > parameter.nbytes // 2:
        raise LawBroken(
            f"It writes a parameter of {format_bytes(parameter.nbytes)} to disk",
            f"less than {format_bytes(parameter.nbytes // 2)} on disk",
            format_bytes(folder.num_bytes),
        )


@dataclass(frozen=True)
class WritesOnlyTheView(Law):
    """Of a saved view of large memory only the view is written."""

    why: ClassVar[str] = "`torch.save` writes the whole storage behind a view."

    def check(self, trial: Trial) -> None:
        x = numbers((100_000,)).requires_grad_()
        with _folder(trial) as folder:
            with folder.hooks(nn.Module()):
                loss = (x * 2)[:10].sin().sum()
            budget = folder.num_files * PER_FILE + 40
            if folder.num_bytes > budget:
                raise LawBroken(
                    f"Ten saved elements take {format_bytes(folder.num_bytes)} on disk",
                    f"at most {format_bytes(budget)}",
                    format_bytes(folder.num_bytes),
                )
            del loss


@dataclass(frozen=True)
class CleansUp(Law):
    """When the graph is gone, with or without a backward, so are the files."""

    why: ClassVar[str] = "A validation loop never runs backward; what stays behind fills the disk overnight."

    def check(self, trial: Trial) -> None:
        model, x = network(), numbers((5, 8))
        with _folder(trial) as folder:
            with folder.hooks(model):
                loss = model(x).sum()
            _gradients(model, loss)
            after_backward = folder.num_files
            with folder.hooks(model):
                loss = model(x).sum()
            del loss
            left = folder.num_files
            if left or after_backward:
                when = "after backward" if after_backward else "after a graph was dropped without backward"
                raise LawBroken(f"Files are left {when}", "an empty folder", f"{after_backward or left} files")
