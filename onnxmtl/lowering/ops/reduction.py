"""Reductions over axes, and ArgMax."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import torch

from onnxmtl.lowering.ops.reading import axes_reader, ints
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers

Reduction = Callable[[torch.Tensor, tuple[int, ...], bool], torch.Tensor]


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _sum(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return torch.sum(x, axes, keep, dtype=x.dtype)


def _mean(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return torch.mean(x, axes, keep)


def _l1(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return _sum(x.abs(), axes, keep)


def _l2(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    if not x.is_floating_point():
        return _sum(x * x, axes, keep).to(torch.float64).sqrt().to(x.dtype)
    # Its gradient at 0 is 0, not infinite.
    norm: torch.Tensor = torch.linalg.vector_norm(x, 2, axes, keep)
    return norm


def _sum_square(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return _sum(x * x, axes, keep)


def _prod(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keep, dtype=x.dtype)
    return x


def _log_sum(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return _sum(x, axes, keep).log()


def _max(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return _over_nothing(x, axes, keep, largest=False) if x.numel() == 0 else torch.amax(x, axes, keep)


def _min(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return _over_nothing(x, axes, keep, largest=True) if x.numel() == 0 else torch.amin(x, axes, keep)


def _over_nothing(x: torch.Tensor, axes: tuple[int, ...], keep: bool, *, largest: bool) -> torch.Tensor:
    """What ONNX says of an empty set: its minimum is the largest number there is, its maximum the smallest."""
    shape = [1 if i in axes else size for i, size in enumerate(x.shape) if keep or i not in axes]
    if x.dtype is torch.bool:
        return x.new_full(shape, largest)
    if x.is_floating_point():
        return x.new_full(shape, float("inf") if largest else float("-inf"))
    limits = torch.iinfo(x.dtype)
    return x.new_full(shape, limits.max if largest else limits.min)


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": _max,
    "ReduceMean": _mean,
    "ReduceMin": _min,
    "ReduceProd": _prod,
    "ReduceSum": _sum,
    "ReduceSumSquare": _sum_square,
}
# What is left of a reduction over no axes at all.
_WITHOUT_AXES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ReduceL1": torch.abs,
    "ReduceL2": torch.abs,
    "ReduceLogSum": torch.log,
    "ReduceSumSquare": torch.square,
}


@lowers(*_REDUCTIONS)
def reduce(node: ir.Node) -> Kernel:
    """Reduction over the given axes; over all if none are given, unless ``noop_with_empty_axes``."""
    function = _REDUCTIONS[node.op_type]
    alone = _WITHOUT_AXES.get(node.op_type, _same)
    keep = bool(node.attributes.get_int("keepdims", 1))
    noop = bool(node.attributes.get_int("noop_with_empty_axes", 0))
    axes_of = axes_reader(node, 1)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        axes = axes_of(xs)
        if axes:
            return function(x, tuple(axis % x.dim() for axis in axes), keep)
        return alone(x) if noop or x.dim() == 0 else function(x, tuple(range(x.dim())), keep)

    return kernel


@lowers("ArgMax", "ArgMin")
def arg_extreme(node: ir.Node) -> Kernel:
    """Index of the largest (smallest) element along an axis: the first one, or the last if asked for."""
    axis = node.attributes.get_int("axis", 0)
    keep = bool(node.attributes.get_int("keepdims", 1))
    last = bool(node.attributes.get_int("select_last_index", 0))
    function = torch.argmax if node.op_type == "ArgMax" else torch.argmin

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        if not last:
            return function(x, axis, keep)
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keep)

    return kernel


@lowers("CumSum", "CumProd")
def cumulate(node: ir.Node) -> Kernel:
    """Running sums (products) along an axis: ``exclusive`` ones leave the element itself out, ``reverse`` ones run
    backwards."""
    function = torch.cumsum if node.op_type == "CumSum" else torch.cumprod
    neutral = 0 if node.op_type == "CumSum" else 1
    exclusive = bool(node.attributes.get_int("exclusive", 0))
    reverse = bool(node.attributes.get_int("reverse", 0))
    axis_of = ints(node, 1)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        axis = (axis_of(xs) or (0,))[0]
        if reverse:
            x = x.flip(axis)
        if exclusive:
            first = torch.full_like(x.narrow(axis, 0, 1), neutral)
            x = torch.cat((first, x.narrow(axis, 0, x.shape[axis] - 1)), axis)
        y = function(x, axis, dtype=x.dtype)
        return y.flip(axis) if reverse else y

    return kernel
