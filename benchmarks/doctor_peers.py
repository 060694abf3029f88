"""What other tools say of training scripts: run by ``doctor.py peers`` with an interpreter that has them.

    python benchmarks/doctor_peers.py SCRIPT…

Prints a line of JSON for each script: the tool, and the messages at warning or above, without their numbers. TorchFix
and mldoct read the source. PyTorch's warnings are those of the run. torch-audit and torchtest2 are called as their
documentation says, with the model, its inputs, the loss and the optimizer that the script had at its first step.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

BIN = Path(sys.executable).parent
LOSSES = ("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "kl_div", "binary_cross_entropy")
LOSSES += ("binary_cross_entropy_with_logits", "huber_loss")


class Stop(BaseException):
    """The first step is reached."""


class Seen(TorchFunctionMode):
    """The model that was called last with gradients, its inputs, and the loss function with its target."""

    def __init__(self) -> None:
        super().__init__()
        self.model: torch.nn.Module | None = None
        self.inputs: tuple[Any, ...] = ()
        self.loss: Callable[..., torch.Tensor] | None = None
        self.target: Any = None
        self.optimizer: torch.optim.Optimizer | None = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in LOSSES and len(args) > 1:
            self.target = args[1]
            self.loss = lambda out, target: function(out, target, *args[2:], **kwargs)
        return function(*args, **kwargs)


def first_step(path: Path, seen: Seen) -> None:
    """Run a script up to its first optimizer step."""
    depth = [0]

    def enter(module: Any, args: Any) -> None:
        is_model = depth[0] == 0 and next(module.parameters(), None) is not None  # and not a loss
        if is_model and torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) for a in args):
            seen.model, seen.inputs = module, args
        depth[0] += 1

    def leave(*_: Any) -> None:
        depth[0] -= 1

    def stop(optimizer: Any, *_: Any) -> None:
        seen.optimizer = optimizer
        raise Stop

    hooks = [
        torch.nn.modules.module.register_module_forward_pre_hook(enter),
        torch.nn.modules.module.register_module_forward_hook(leave),
        register_optimizer_step_pre_hook(stop),
    ]
    try:
        with contextlib.suppress(Stop, Exception), seen:
            run(path)
    finally:
        for hook in hooks:
            hook.remove()


def run(path: Path) -> None:
    """Run a script from fixed seeds, silently."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (the scripts' stream)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        runpy.run_path(str(path), run_name="__main__")


def of_pytorch(path: Path) -> Iterator[str]:
    """Give the warnings of a run."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(Exception):
            run(path)
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            yield str(warning.message)


def of_torchfix(path: Path) -> Iterator[str]:
    """Give its lines."""
    done = subprocess.run([BIN / "torchfix", "--select", "ALL", path], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if match := re.search(r"(TOR\d+.*)", line):
            yield match[1]


def of_mldoct(path: Path) -> Iterator[str]:
    """Give the rows of its table that are warnings or worse."""
    done = subprocess.run([BIN / "mldoctor", "check", path], capture_output=True, text=True, check=False)
    row = ""
    for line in done.stdout.splitlines():
        if not line.startswith("│"):
            if row and not row.startswith("INFO"):
                yield row
            row = ""
            continue
        severity, issue, *_ = (cell.strip() for cell in line.strip("│").split("│"))
        row += f"{severity} {issue} "


def of_torch_audit(seen: Seen) -> Iterator[str]:
    """Give its findings at warning or above, of all that its one-shot audit looks at."""
    import torch_audit

    if seen.model is None:
        return
    for phase in torch_audit.Phase:
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            batch = seen.inputs[0] if len(seen.inputs) == 1 else seen.inputs
            result = torch_audit.audit(seen.model, phase=phase, batch=batch, optimizer=seen.optimizer, reporters=[])
            for finding in result.findings:
                if finding.severity.name != "INFO":
                    yield f"{finding.rule_id} {finding.message}"


def of_torchtest2(seen: Seen) -> Iterator[str]:
    """Give the checks that warn or fail."""
    import torchtest2

    if seen.model is None:
        return
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = torchtest2.check_model(
            seen.model, seen.inputs, seen.target, loss_fn=seen.loss, optimizer=seen.optimizer, overfit_steps=50
        )
    for result in report.results:
        if result.status.name in {"WARN", "FAIL", "ERROR"}:
            yield f"{result.name} {result.status.name}"


def main() -> None:
    """Answer for each script."""
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        path, seen = Path(name), Seen()
        sys.path.insert(0, str(path.parent))
        said: dict[str, list[str]] = {}
        for tool, ask in (("PyTorch's warnings", of_pytorch), ("TorchFix", of_torchfix), ("mldoct", of_mldoct)):
            said[tool] = list(ask(path))
        first_step(path, seen)
        for tool, ask_of_step in (("torch-audit", of_torch_audit), ("torchtest2", of_torchtest2)):
            try:
                said[tool] = list(ask_of_step(seen))
            except Exception as error:  # a tool that fails says nothing that helps
                said[tool] = []
                print(f"{tool} on {path.name}: {error!r}"[:200], file=sys.stderr)
        sys.path.pop(0)
        plain = {
            tool: sorted({re.sub(r"\d+(\.\d+)?(e-?\d+)?", "#", message) for message in words})
            for tool, words in said.items()
        }
        print(json.dumps({"script": name, "said": plain}), flush=True)


if __name__ == "__main__":
    main()
