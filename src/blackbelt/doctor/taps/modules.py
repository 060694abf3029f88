"""Calls of modules, through the global hooks of ``torch.nn``.

Compiled code is called with the hooks taken out: it would be traced with them, and compile to something else.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from blackbelt.doctor.events import ModuleCall
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run

# These choose a fused kernel, with other rounding, where no mode watches their functions.
FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


def install(run: Run, patches: Patches, stack: ExitStack) -> None:
    """Listen to every module's forward while the run is traced, and to outermost ones always."""

    def before(module: nn.Module, _: Any) -> None:
        if run.hears:
            run.running.append(module)

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not run.hears or module not in run.running:
            return
        while run.running.pop() is not module:  # a call that raised left its modules behind
            pass
        _tell(run, module, args, kwargs, output)

    handles = [
        hooks.register_module_forward_pre_hook(before),
        hooks.register_module_forward_hook(after, with_kwargs=True),
    ]
    for handle in handles:
        stack.callback(handle.remove)
    # Which remove() forgets, so that PyTorch would go on believing that there are hooks:
    stack.callback(hooks._global_forward_hooks_with_kwargs.pop, handles[1].id, None)  # noqa: SLF001 - has no public name
    run.switches.append(functools.partial(_take_out, handles))
    _listen_to_compiled(run, patches)

    def call_fused(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training or not run.hears:
            return original(self, *args, **kwargs)
        with run.quiet():
            return original(self, *args, **kwargs)

    for kind in FUSED:
        patches.replace(kind, "forward", call_fused)


def _listen_to_compiled(run: Run, patches: Patches) -> None:
    """Listen to compiled modules and functions, without the seconds that importing the compiler takes where none is."""
    listening = False

    def call_compiled(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        return _quietly(run, functools.partial(original, self), self._orig_mod, args, kwargs)

    def listen_to_modules() -> None:
        nonlocal listening
        if not listening:
            listening = True
            patches.replace(sys.modules["torch._dynamo.eval_frame"].OptimizedModule, "__call__", call_compiled)

    def compile_function(original: Any, model: Any = None, *args: Any, **kwargs: Any) -> Any:
        made = original(model, *args, **kwargs)
        if run.hears and isinstance(made, nn.Module):
            listen_to_modules()
        if model is None or isinstance(made, nn.Module):
            return made
        owner = getattr(model, "__self__", None)  # of Module.compile() the module

        @functools.wraps(made)
        def compiled(*args: Any, **kwargs: Any) -> Any:
            return _quietly(run, made, owner, args, kwargs)

        return compiled

    patches.replace(torch, "compile", compile_function)
    if "torch._dynamo.eval_frame" in sys.modules:  # modules that were compiled before
        listen_to_modules()


def _quietly(run: Run, function: Callable[..., Any], module: Any, args: Any, kwargs: Any) -> Any:
    if not run.hears:
        return function(*args, **kwargs)
    with run.quiet():
        output = function(*args, **kwargs)
    if isinstance(module, nn.Module):
        _tell(run, module, args, kwargs, output)
    return output


def _tell(run: Run, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    depth = len(run.running)
    if torch._C._functorch.peek_interpreter_stack() is not None:  # noqa: SLF001 - has no public name; no values to look at
        return
    if depth == 0 or run.traced:
        parent = run.running[-1] if run.running else None
        run.called(ModuleCall(module, args, kwargs, output, depth, parent, torch.is_grad_enabled()))


def _take_out(handles: list[Any]) -> Callable[[], None]:
    tables = (hooks._global_forward_pre_hooks, hooks._global_forward_hooks)  # noqa: SLF001 - only removed for good in public
    registered = list(zip(tables, (handle.id for handle in handles)))
    extra = hooks._global_forward_hooks_with_kwargs  # noqa: SLF001 - which of them take kwargs
    taken = [(table, key, table.pop(key)) for table, key in registered if key in table]
    with_kwargs = extra.pop(handles[1].id, None)

    def put_back() -> None:
        for table, key, hook in taken:
            table[key] = hook
        if with_kwargs is not None:
            extra[handles[1].id] = with_kwargs

    return put_back
