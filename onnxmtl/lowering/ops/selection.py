"""Operators that join tensors or take parts of them: Concat, Split, Slice, Gather, TopK, Trilu, NonZero, OneHot."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch

from onnxmtl.lowering.ops.reading import constant, ints
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers

_OPEN_ENDS = (2**31 - 1, 2**63 - 1)


@lowers("Concat")
def concat(node: ir.Node) -> Kernel:
    """The inputs side by side."""
    axis = node.attributes["axis"].as_int()
    return lambda xs, ctx: torch.cat(tuple(xs), axis)


@lowers("Split")
def split(node: ir.Node) -> Kernel:
    """Parts of the given sizes, or as many equal ones as the node has outputs (the last may be smaller)."""
    axis = node.attributes.get_int("axis", 0)
    sizes_of = ints(node, 1)
    count = node.attributes.get_int("num_outputs", len(node.outputs))

    def kernel(xs: Inputs, ctx: Context) -> tuple[torch.Tensor, ...]:
        x: torch.Tensor = xs[0]
        sizes = sizes_of(xs)
        if sizes is None:
            total = x.shape[axis]
            part = math.ceil(total / count)
            sizes = (*(part,) * (count - 1), total - part * (count - 1))
        return torch.split(x, list(sizes), axis)

    return kernel


@lowers("Slice")
def slice_(node: ir.Node) -> Kernel:
    """Slices along some axes, negative steps included."""
    starts_of, ends_of, axes_of, steps_of = (ints(node, i) for i in (1, 2, 3, 4))

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        starts, ends = starts_of(xs) or (), ends_of(xs) or ()
        axes = axes_of(xs) or tuple(range(len(starts)))
        steps = steps_of(xs) or (1,) * len(starts)
        return _sliced(xs[0], starts, ends, axes, steps)

    return kernel


def _picked(start: int, end: int, step: int, size: int) -> range:
    """The indices a slice takes.

    As numpy's, but for two things: a start before the first element is moved to it for negative steps too, and
    the largest int32 or int64 as an end means None: as far as the step leads.
    """
    start += size if start < 0 else 0
    if step > 0:
        stop = size if end in _OPEN_ENDS else end + (size if end < 0 else 0)
        return range(min(max(start, 0), size), min(max(stop, 0), size), step)
    stop = -1 if end in _OPEN_ENDS else end + (size if end < 0 else 0)
    return range(min(max(start, 0), size - 1), min(max(stop, -1), size - 1), step)


def _sliced(
    x: torch.Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> torch.Tensor:
    slices = [slice(None)] * x.dim()
    flipped = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        picked = _picked(start, end, step, x.shape[axis])
        if step < 0:  # torch has no negative steps: take the same elements forwards and flip
            picked = picked[::-1]
            flipped.append(axis)
        slices[axis] = slice(picked.start, max(picked.stop, picked.start), picked.step)
    y = x[tuple(slices)]
    return y.flip(flipped) if flipped else y


@lowers("Gather")
def gather(node: ir.Node) -> Kernel:
    """Elements along one axis; negative indices count from the end. A constant single index is a view."""
    axis = node.attributes.get_int("axis", 0)
    known = constant(node, 1)
    if known is not None and known.ndim == 0:
        index = int(known)
        return lambda xs, ctx: xs[0].select(axis, index)
    fixed = None if known is None else torch.from_numpy(known.astype(np.int64))

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        indices: torch.Tensor = xs[1] if fixed is None else fixed.to(x.device)
        at = axis % x.dim()
        indices = torch.where(indices < 0, indices + x.shape[at], indices)
        y = x.index_select(at, indices.reshape(-1))
        return y.reshape(*x.shape[:at], *indices.shape, *x.shape[at + 1 :])

    return kernel


@lowers("TopK")
def top_k(node: ir.Node) -> Kernel:
    """The k largest (smallest) elements along an axis and their indices; equal ones by the smaller index."""
    axis = node.attributes.get_int("axis", -1)
    largest = bool(node.attributes.get_int("largest", 1))
    count_of = ints(node, 1)

    def kernel(xs: Inputs, ctx: Context) -> tuple[torch.Tensor, torch.Tensor]:
        x: torch.Tensor = xs[0]
        count = (count_of(xs) or (1,))[0]
        order = torch.argsort(x, dim=axis, descending=largest, stable=True).narrow(axis, 0, count)
        return torch.gather(x, axis, order), order

    return kernel


@lowers("Trilu")
def triangle(node: ir.Node) -> Kernel:
    """The upper (lower) triangle of matrices, zeros elsewhere."""
    function = torch.triu if node.attributes.get_int("upper", 1) else torch.tril
    diagonal_of = ints(node, 1)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        return function(xs[0], (diagonal_of(xs) or (0,))[0])

    return kernel


@lowers("NonZero")
def non_zero(node: ir.Node) -> Kernel:
    """Places of the elements that are not zero, [axes, count]."""
    return lambda xs, ctx: torch.nonzero(xs[0]).t()


@lowers("OneHot")
def one_hot(node: ir.Node) -> Kernel:
    """values[1] at each index along a new axis of length depth, values[0] elsewhere (everywhere, if out of range)."""
    axis = node.attributes.get_int("axis", -1)
    depth_of = ints(node, 1)

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        indices, values = xs[0].to(torch.int64), xs[2]
        depth = (depth_of(xs) or (0,))[0]
        places = torch.arange(depth, device=indices.device)
        hot = torch.where(indices < 0, indices + depth, indices).unsqueeze(-1) == places
        return torch.where(hot, values[1], values[0]).movedim(-1, axis)

    return kernel
