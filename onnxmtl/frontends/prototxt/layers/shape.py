"""Layers that move numbers around: Concat, Slice, Split, Reshape, Flatten, Crop, Permute, Tile, ShuffleChannel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from onnxmtl.frontends.prototxt.builder import Builder, only
from onnxmtl.frontends.prototxt.registry import MANY, Blob, Layer, converts


@converts("Concat", reads="concat_param: axis concat_dim", bottoms=(1, MANY))
def concat(layer: Layer, net: Builder) -> Sequence[Blob]:
    """One after the other along an axis (channels by default)."""
    param, first = layer.message.concat_param, layer.bottoms[0]
    axis = layer.axis(_axis(layer, param, "concat_dim"))
    only(layer, axis > 0, "along the batch")
    for blob in layer.bottoms[1:]:
        if len(blob.shape) != len(first.shape) or _without(blob.shape, axis) != _without(first.shape, axis):
            raise layer.error(f"its inputs have shapes {first.shape} and {blob.shape}")
    if len(layer.bottoms) == 1:
        return [first]
    total = sum(blob.shape[axis] for blob in layer.bottoms)
    return [net.node(layer, "Concat", layer.bottoms, (*first.shape[:axis], total, *first.shape[axis + 1 :]), axis=axis)]


@converts("Slice", reads="slice_param: axis slice_dim slice_point")
def slice_(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Parts along an axis: cut at the given points, or into equal ones."""
    x, param, count = layer.bottoms[0], layer.message.slice_param, len(layer.tops)
    axis = layer.axis(_axis(layer, param, "slice_dim"))
    only(layer, axis > 0, "along the batch")
    size, points = x.shape[axis], list(param.slice_point)
    if points:
        if len(points) != count - 1 or sorted(set(points)) != points or not 0 < points[0] <= points[-1] < size:
            raise layer.error(f"slice points {points} do not cut {size} into {count} parts")
        edges = [0, *points, size]
        parts = [b - a for a, b in itertools.pairwise(edges)]
    else:
        if count < 1 or size % count:
            raise layer.error(f"{size} does not divide into {count} equal parts")
        parts = [size // count] * count
    if count == 1:
        return [x]
    shapes = [(*x.shape[:axis], part, *x.shape[axis + 1 :]) for part in parts]
    return net.nodes(layer, "Split", [x, net.ints(layer, "split", parts)], shapes, axis=axis)


@converts("Split")
def split(layer: Layer, net: Builder) -> Sequence[Blob]:
    """The same blob under several names."""
    return [layer.bottoms[0]] * len(layer.tops)


@converts("Reshape", reads="reshape_param: shape axis num_axes")
def reshape(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Another shape; 0 keeps an axis, −1 takes what is left, `axis` and `num_axes` bound the part that changes."""
    x, param = layer.bottoms[0], layer.message.reshape_param
    rank = len(x.shape)
    start = param.axis if param.axis >= 0 else rank + param.axis + 1
    end = rank if param.num_axes == -1 else start + param.num_axes
    if not 0 <= start <= rank or not start <= end <= rank:
        raise layer.error(f"axis {param.axis} and num_axes {param.num_axes} of a blob with {rank} axes")
    dims = list(param.shape.dim)
    if dims.count(-1) > 1 or any(dim < -1 for dim in dims):
        raise layer.error(f"shape {dims}: -1 may stand once, other numbers are sizes or 0")
    for i, dim in enumerate(dims):
        if dim == 0:
            if start + i >= rank:
                raise layer.error(f"shape {dims}: the input has no axis {start + i} to copy")
            dims[i] = x.shape[start + i]
    target = [*x.shape[:start], *dims, *x.shape[end:]]
    known = math.prod(dim for dim in target if dim != -1)
    if -1 in target:
        if not known or math.prod(x.shape) % known:
            raise layer.error(f"{math.prod(x.shape)} numbers do not fit into shape {target}")
        target[target.index(-1)] = math.prod(x.shape) // known
    if math.prod(target) != math.prod(x.shape):
        raise layer.error(f"shape {x.shape} has {math.prod(x.shape)} numbers, {tuple(target)} has {math.prod(target)}")
    return [_reshaped(layer, net, x, tuple(target))]


@converts("Flatten", reads="flatten_param: axis end_axis")
def flatten(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Axes `axis` to `end_axis` become one."""
    x, param = layer.bottoms[0], layer.message.flatten_param
    start, end = layer.axis(param.axis), layer.axis(param.end_axis)
    if end < start:
        raise layer.error(f"end_axis {param.end_axis} lies before axis {param.axis}")
    shape = (*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])
    if start == 1 and end == len(x.shape) - 1:
        return [net.node(layer, "Flatten", [x], shape, axis=1)]
    return [_reshaped(layer, net, x, shape)]


@converts("Crop", reads="crop_param: axis offset", bottoms=(2, 2))
def crop(layer: Layer, net: Builder) -> Sequence[Blob]:
    """As much of the first blob as the second is large, from `axis` on."""
    x, like = layer.bottoms
    param, rank = layer.message.crop_param, len(x.shape)
    axis = layer.axis(param.axis)
    only(layer, axis > 0, "along the batch")
    offsets = list(param.offset) or [0]
    if len(offsets) == 1:
        offsets *= rank - axis
    if len(like.shape) != rank or len(offsets) != rank - axis:
        raise layer.error(f"{len(offsets)} offsets for axes {axis} to {rank - 1}")
    ends = [offset + size for offset, size in zip(offsets, like.shape[axis:], strict=True)]
    if any(end > size for end, size in zip(ends, x.shape[axis:], strict=True)):
        raise layer.error(f"{like.shape[axis:]} from {offsets} on does not lie within {x.shape[axis:]}")
    if x.shape[axis:] == like.shape[axis:]:
        return [x]
    return [sliced(layer, net, x, range(axis, rank), offsets, ends)]


@converts("Permute", reads="permute_param: order")
def permute(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Axes in another order; those that are not named follow in their own."""
    x = layer.bottoms[0]
    order = list(layer.message.permute_param.order)
    if len(set(order)) != len(order) or any(axis >= len(x.shape) for axis in order):
        raise layer.error(f"order {order} of a blob with {len(x.shape)} axes")
    order += [axis for axis in range(len(x.shape)) if axis not in order]
    shape = tuple(x.shape[axis] for axis in order)
    return [net.node(layer, "Transpose", [x], shape, batched=x.batched and order[0] == 0, perm=order)]


@converts("Tile", reads="tile_param: axis tiles")
def tile(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Copies along an axis."""
    x, param = layer.bottoms[0], layer.message.tile_param
    axis = layer.axis(param.axis)
    only(layer, axis > 0, "along the batch")
    if param.tiles < 1:
        raise layer.error(f"tiles is {param.tiles}")
    repeats = [param.tiles if i == axis else 1 for i in range(len(x.shape))]
    shape = tuple(n * k for n, k in zip(x.shape, repeats, strict=True))
    return [net.node(layer, "Tile", [x, net.ints(layer, "repeats", repeats)], shape)]


@converts("ShuffleChannel", reads="shuffle_channel_param: group")
def shuffle_channel(layer: Layer, net: Builder) -> Sequence[Blob]:
    """ShuffleNet: channels (group, n) become (n, group)."""
    x, group = layer.bottoms[0], layer.message.shuffle_channel_param.group
    only(layer, len(x.shape) == 4, f"on a blob with {len(x.shape)} axes")
    batch, channels, height, width = x.shape
    if group < 1 or channels % group:
        raise layer.error(f"{channels} channels do not divide into {group} groups")
    n = channels // group
    y = net.node(layer, "Reshape", [x, net.ints(layer, "groups", [0, group, n, height, width])],
                 (batch, group, n, height, width), suffix="grouped")  # fmt: skip
    y = net.node(layer, "Transpose", [y], (batch, n, group, height, width), suffix="shuffled", perm=[0, 2, 1, 3, 4])
    return [net.node(layer, "Reshape", [y, net.ints(layer, "shape", [0, channels, height, width])], x.shape)]


def sliced(
    layer: Layer,
    net: Builder,
    x: Blob,
    axes: Sequence[int],
    starts: Sequence[int],
    ends: Sequence[int],
    suffix: str = "",
) -> Blob:
    """A part of `x`: from `starts` to before `ends` along `axes`."""
    shape = list(x.shape)
    for axis, start, end in zip(axes, starts, ends, strict=True):
        shape[axis] = end - start
    names = (f"{suffix}starts", f"{suffix}ends", f"{suffix}axes")
    constants = [net.ints(layer, name, list(v)) for name, v in zip(names, (starts, ends, axes), strict=True)]
    return net.node(layer, "Slice", [x, *constants], shape, suffix=suffix)


def _reshaped(layer: Layer, net: Builder, x: Blob, shape: tuple[int, ...]) -> Blob:
    """Reshape with a free batch where the first axis stays what it is, or can be what is left."""
    keeps = x.batched and bool(shape) and shape[0] == x.shape[0]
    first = 0 if keeps else -1
    numbers = [first, *shape[1:]] if x.batched and shape else list(shape)
    return net.node(layer, "Reshape", [x, net.ints(layer, "shape", numbers)], shape, batched=keeps)


def _axis(layer: Layer, param: object, old: str) -> int:
    """``axis``, or its older name."""
    has = param.HasField  # type: ignore[attr-defined]
    if has("axis") and has(old):
        raise layer.error(f"axis is given together with {old}; keep one of them")
    return int(getattr(param, old if has(old) else "axis"))


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])
