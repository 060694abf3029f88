"""What `accumulate` asks of a model, of a loss and of a count, and what it says where one of them will not do."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

LossSumAndCount = Callable[[Any, Any], Any]


def check_model(model: Any) -> list[nn.Parameter]:
    """Return the parameters of ``model`` that take gradients, each once."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is of type {type(model).__name__}; an nn.Module was expected, because its parameters' .grad is "
            "where the gradient goes. Call it as accumulate(model, micro_batches, loss_sum_and_count)"
        )
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            f"{type(model).__name__} has no parameter that requires a gradient, so there is nothing to accumulate. "
            "Unfreeze some with parameter.requires_grad_()"
        )
    if any(parameter.is_meta or _is_fake(parameter) for parameter in parameters):
        raise ValueError(
            f"{type(model).__name__} has parameters on the meta device or in FakeTensorMode: shapes without values, so "
            "there is no gradient to compute. Give them memory first: model.to_empty(device=...) and then load or "
            "initialize them"
        )
    return parameters


def _is_fake(tensor: torch.Tensor) -> bool:
    return any(kind.__name__ == "FakeTensor" for kind in (type(tensor), type(tensor.data)))


def check_micro_batches(micro_batches: Any) -> Iterable[Any]:
    """Return ``micro_batches`` where iterating over it yields micro-batches."""
    if isinstance(micro_batches, torch.Tensor):
        raise TypeError(
            f"micro_batches is one tensor of shape {tuple(micro_batches.shape)}; iterating over it would yield single "
            "rows. Pass a list of micro-batches, such as x.split(8) or zip(x.split(8), y.split(8))"
        )
    if isinstance(micro_batches, (Mapping, str, bytes)) or not isinstance(micro_batches, Iterable):
        raise TypeError(
            f"micro_batches is of type {type(micro_batches).__name__}; a list, a generator or a DataLoader of "
            "micro-batches was expected. A single micro-batch goes in a list: [micro_batch]"
        )
    return micro_batches


def check_function(function: Any) -> None:
    """Complain where ``loss_sum_and_count`` cannot be called."""
    if not callable(function):
        raise TypeError(
            f"loss_sum_and_count is of type {type(function).__name__}; a function (model, micro_batch) -> (sum, count) "
            "was expected"
        )


def check_scaler(scaler: Any) -> None:
    """Complain where ``scaler`` cannot scale a loss."""
    if scaler is not None and not callable(getattr(scaler, "scale", None)):
        raise TypeError(
            f"scaler is of type {type(scaler).__name__} without a method scale(); a torch.amp.GradScaler was expected, "
            "or None"
        )


def check_pair(pair: Any, number: int) -> tuple[torch.Tensor, float | torch.Tensor]:
    """Return the loss and the count that ``loss_sum_and_count`` returned for micro-batch ``number``, both checked."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        got = f"{len(pair)} values" if isinstance(pair, (tuple, list)) else f"a {type(pair).__name__}"
        raise TypeError(
            f"loss_sum_and_count returned {got} for micro-batch {number}; two were expected: the sum of the losses (a "
            "0-d tensor) and how many there are. Return (losses.sum(), losses.numel())"
        )
    loss, count = pair
    check_loss(loss, number)
    count = check_count(count, number)
    return loss, count.to(loss.device) if isinstance(count, torch.Tensor) else count


def check_loss(loss: Any, number: int) -> None:
    """Complain where ``loss`` is nothing that backward can start from."""
    what = f"the loss of micro-batch {number}"
    if not isinstance(loss, torch.Tensor):
        raise TypeError(
            f"{what} is of type {type(loss).__name__}; a 0-d tensor was expected. The order is (sum of losses, count), "
            "and the sum stays a tensor: no .item(), no float()"
        )
    if not loss.is_floating_point():
        raise TypeError(f"{what} has dtype {loss.dtype}; a real floating-point loss was expected")
    if loss.is_meta:
        raise ValueError(f"{what} is on the meta device: it has no value. Put the micro-batch on a real device")
    if loss.dim() != 0:
        raise ValueError(f"{what} has shape {tuple(loss.shape)}; a 0-d tensor was expected. Return losses.sum()")
    if not loss.requires_grad:
        where = "; gradients are off here" if not torch.is_grad_enabled() else ""
        raise ValueError(
            f"{what} has no graph{where}, so backward cannot start from it. Call accumulate outside of "
            "torch.no_grad(), and do not detach() the loss"
        )


def check_count(count: Any, number: int) -> float | torch.Tensor:
    """Return the count as a float; as a 0-d tensor, unread, where it lives on an accelerator."""
    what = f"the count of micro-batch {number}"
    if isinstance(count, torch.Tensor):
        if count.requires_grad:
            raise ValueError(
                f"{what} requires a gradient; a plain number was expected, because the loss is divided by it as by a "
                "constant. Count what the loss was summed over, or detach() it"
            )
        if count.dtype == torch.bool or count.is_complex():
            raise TypeError(f"{what} has dtype {count.dtype}; a real number was expected, such as mask.sum()")
        if count.dim() != 0:
            raise ValueError(f"{what} has shape {tuple(count.shape)}; a 0-d tensor was expected, such as mask.sum()")
        if count.is_meta:
            raise ValueError(f"{what} is on the meta device: it has no value. Count on a real device")
        if count.device.type != "cpu":
            return count.detach()
        count = count.item()
    if isinstance(count, bool) or not isinstance(count, numbers.Real):
        raise TypeError(f"{what} is {count!r} of type {type(count).__name__}; an int, a float or a 0-d tensor expected")
    return check_value(float(count), number)


def check_value(count: float, number: int) -> float:
    """Return the count where it is a finite number that is not negative."""
    if not math.isfinite(count) or count < 0:
        raise ValueError(
            f"the count of micro-batch {number} is {count:g}; a finite number of at least 0 was expected: how many "
            "losses the sum has, or their total weight"
        )
    return count


def check_leaves(loss: torch.Tensor, parameters: Iterable[torch.Tensor]) -> None:
    """Complain where the loss depends on a leaf that is no parameter of the model: its gradient would be wrong.

    Walks the graph once: about a microsecond per node.
    """
    owned = {id(parameter) for parameter in parameters}
    for leaf in leaves_of(loss):
        if id(leaf) not in owned:
            raise ValueError(
                f"the loss depends on a tensor of shape {tuple(leaf.shape)} that requires a gradient and is no "
                "parameter of the model that was passed. Use the model that loss_sum_and_count is given; put a "
                "criterion that has parameters into one nn.ModuleList with the model; detach() what is an input"
            )


def leaves_of(loss: torch.Tensor) -> list[torch.Tensor]:
    """Return the leaves that a backward from ``loss`` reaches."""
    if loss.grad_fn is None:
        return [loss]
    found, seen, ahead = [], {loss.grad_fn}, [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if type(node).__name__ == "AccumulateGrad":
            found.append(node.variable)  # type: ignore[attr-defined]  # only AccumulateGrad has it
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                ahead.append(following)
    return found
