"""Several processes that train one model, each on its part of every batch: what they have to add up.

Every process computes its share of the loss (sums over its samples, divided by counts over all of them), so the loss
is the sum over the processes, and so is every gradient. Batch statistics are those of the whole batch. With one
process nothing here does anything. The process group is torch.distributed's; who starts it (Fabric) is not known here.

A part of the program that one process runs while the others wait for it (:mod:`onnxmtl.lowering.agreement`) is
:func:`alone`: there nothing is added up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import distributed

from onnxmtl.errors import RunError

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)
_BUCKET = 4_000_000  # numbers that are sent together


def started() -> int:
    """How many processes there are, whether they do the same just now or not."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def world_size() -> int:
    """How many processes train together; 1 if none was started, and :func:`alone`."""
    return 1 if _ALONE.get() else started()


def rank() -> int:
    """The number of this process, from 0; the first one writes files."""
    return distributed.get_rank() if started() > 1 else 0


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What runs in this block is not done by the other processes: nothing in it waits for them."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def reduce(x: torch.Tensor) -> torch.Tensor:
    """Replace `x` by its sum over all processes, the same bits everywhere.

    Raises:
        RunError: A process is gone.
    """
    with connected():
        distributed.all_reduce(x)
    return x


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Turn what the backends raise when a process is gone into one line."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        msg = "another process of this training has ended; what is done so far is kept, go on with --resume"
        lost = RunError(msg)
        lost.told_elsewhere = rank() > 0
        raise lost from error


class _AllSum(torch.autograd.Function):
    """Σ over processes. Every process's loss depends on the sum, so the gradient of a summand is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return reduce(x.clone())

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        return reduce(dy.clone())


class _Shown(torch.autograd.Function):
    """Another value, the same gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None]:
        return dy, None


class _Once(torch.autograd.Function):
    """x; its gradient in the first process alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        return dy if rank() == 0 else torch.zeros_like(dy)


def all_sum(x: torch.Tensor) -> torch.Tensor:
    """The sum of `x` over all processes, differentiable; `x` itself with one process."""
    if world_size() == 1:
        return x
    return cast(torch.Tensor, cast(Any, _AllSum).apply(x))


def totals(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The sums of tensors over all processes, without gradient; the tensors themselves with one process.

    All processes must give tensors of the same shapes in the same order. Many small ones are sent at once.
    """
    if world_size() == 1:
        return list(tensors)
    found: list[torch.Tensor] = []
    waiting: list[torch.Tensor] = []

    def send() -> None:
        if waiting:
            flat = reduce(torch.cat([x.detach().reshape(-1) for x in waiting]))
            parts = torch.split(flat, [x.numel() for x in waiting])
            found.extend(part.reshape(x.shape) for part, x in zip(parts, waiting, strict=True))
            waiting.clear()

    for tensor in tensors:
        alike = not waiting or (tensor.dtype, tensor.device) == (waiting[0].dtype, waiting[0].device)
        if not alike or sum(x.numel() for x in waiting) > _BUCKET:
            send()
        waiting.append(tensor)
    send()
    return found


def whole(shares: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """From each process's shares of some losses the losses: the value is that of all, the gradient that of the share.

    So all that is decided by a loss is decided alike everywhere, and gradients still add up to that of the loss.
    """
    if world_size() == 1:
        return list(shares)
    apply = cast(Any, _Shown).apply
    return [apply(share, value) for share, value in zip(shares, totals(shares), strict=True)]


def once(x: torch.Tensor) -> torch.Tensor:
    """What every process computes alike and adds to its loss: the gradient of it counts in the first one only."""
    return x if world_size() == 1 else cast(torch.Tensor, cast(Any, _Once).apply(x))


def sum_present(tensors: Sequence[torch.Tensor | None], like: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """Σ over processes of tensors some of which a process may not have; None where nobody has one.

    Args:
        tensors: The same number in all processes.
        like: For each, a tensor of its shape, type and device.
    """
    if world_size() == 1 or not like:
        return list(tensors)
    held = torch.tensor([float(x is not None) for x in tensors], device=like[0].device)
    known = [bool(count) for count in reduce(held).tolist()]
    mine = [
        torch.zeros_like(shape) if x is None else x for x, shape, some in zip(tensors, like, known, strict=True) if some
    ]
    sums = iter(totals(mine))
    return [next(sums) if some else None for some in known]


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes.

    All processes must give the same parameters in the same order. One without a gradient anywhere keeps none (an
    option that nobody drew); one that has it in some processes only counts as zero in the others.
    """
    if world_size() == 1:
        return
    ordered = list(parameters)
    for parameter, total in zip(ordered, sum_present([p.grad for p in ordered], ordered), strict=True):
        parameter.grad = total


def training_norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    momentum: float,
    epsilon: float,
) -> torch.Tensor:
    """Batch normalization in training mode over the batches of all processes together.

    y = scale · (x − μ) / √(σ² + ε) + shift with the whole batch's mean μ and population variance σ²; the running
    `mean` and `variance` move by torch's convention, r ← (1 − m) r + m s with the unbiased variance.

    Args:
        x: [N, C, …], this process's part; the parts may have different N.
        scale: γ [C].
        shift: β [C].
        mean: Running mean [C], updated in place.
        variance: Running variance [C], updated in place. Left as it is if a channel has one value in all.
        momentum: Torch's: weight of the new batch.
        epsilon: Added to the variance.
    """
    if world_size() == 1:
        if x.numel() > x.shape[1]:
            return torch.batch_norm(x, scale, shift, mean, variance, True, momentum, epsilon, True)
        with torch.no_grad():
            mean.lerp_(x.reshape(-1).to(mean.dtype), momentum)
        return torch.batch_norm(x, scale, shift, None, None, True, 0.0, epsilon, True)
    axes = (0, *range(2, x.dim()))
    wide = (1, -1, *(1,) * (x.dim() - 2))
    count = torch.tensor(float(x.numel() // max(1, x.shape[1])), dtype=x.dtype, device=x.device)
    reduce(count)
    middle = all_sum(x.sum(axes)) / count
    centred = x - middle.view(wide)
    spread = all_sum(centred.square().sum(axes)) / count
    with torch.no_grad():
        mean.lerp_(middle.to(mean.dtype), momentum)
        if float(count) > 1:
            variance.lerp_((spread * count / (count - 1)).to(variance.dtype), momentum)
    factor = scale * torch.rsqrt(spread + epsilon)
    return torch.addcmul(shift.view(wide), centred, factor.view(wide))
