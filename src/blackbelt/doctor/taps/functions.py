"""Functions of PyTorch and methods of tensors, through a mode, during the first steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode

from blackbelt.doctor.events import FunctionCall
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run

READ_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]  # cuts the graph as `detach` does


class Watch(TorchFunctionMode):
    """Tells the run of every call."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        run = self.run
        if run.hears and run.traced and is_ordinary(result, args):
            name = "data" if func == READ_DATA else getattr(func, "__name__", "")
            if name != "__get__":  # an attribute such as `shape`
                modules, grad_enabled = tuple(run.running), torch.is_grad_enabled()
                run.emit("function_called", FunctionCall(func, name, args, kwargs, result, modules, grad_enabled))
        return result

    def is_on_top(self) -> bool:
        """Return whether the mode is in, and under no mode of the user's."""
        num_modes = torch._C._len_torch_function_stack()  # noqa: SLF001 - has no public name
        return num_modes > 0 and torch._C._get_function_stack_at(num_modes - 1) is self  # noqa: SLF001 - likewise

    def take_out(self, *_: Any) -> Callable[[], None]:
        """Take the mode out, unless it is under one of the user's; return what puts it back."""
        if not self.is_on_top():
            return lambda: None
        torch.overrides._pop_mode()  # noqa: SLF001 - likewise
        return lambda: torch.overrides._push_mode(self)  # noqa: SLF001 - likewise

    def adjust(self, *_: Any) -> None:
        """Be in while the run is traced. Not over a mode of the user's, whose exit would take out this one."""
        if not self.run.traced:
            self.take_out()
        elif self.run.hears and not torch._C._len_torch_function_stack():  # noqa: SLF001 - likewise
            torch.overrides._push_mode(self)  # noqa: SLF001 - likewise


def is_ordinary(result: Any, args: Sequence[Any]) -> bool:
    """Return whether a call is about tensors with values to look at: not of a transform of functorch, lazy, or meta."""
    if torch._C._functorch.peek_interpreter_stack() is not None:  # noqa: SLF001 - has no public name
        return False
    tensors = (t for t in (result, args[0] if args else None) if isinstance(t, torch.Tensor))
    return not any(is_lazy(t) or t.is_meta or t.is_nested for t in tensors)


def install(run: Run, patches: Patches, stack: ExitStack) -> None:
    """Put the mode on the stack of modes, where it stays on top until it is of no more use."""
    if not run.listens("function_called"):
        return

    _listen_to_numpy(run, patches)
    mode = Watch(run)
    mode.__enter__()
    run.switches.append(mode.take_out)
    run.renewals.append(mode.adjust)
    stack.callback(mode.take_out)
    stack.callback(register_optimizer_step_post_hook(mode.adjust).remove)


def _listen_to_numpy(run: Run, patches: Patches) -> None:
    def from_numpy(original: Any, array: Any) -> Any:  # which modes do not see
        result = original(array)
        if run.hears and run.traced:
            modules, grad_enabled = tuple(run.running), torch.is_grad_enabled()
            run.emit(
                "function_called", FunctionCall(original, "from_numpy", (array,), {}, result, modules, grad_enabled)
            )
        return result

    patches.replace(torch, "from_numpy", from_numpy)
