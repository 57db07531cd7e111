"""Operators that move numbers around."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxmtl.frontends.prototxt.export.net import Blob, Net
from onnxmtl.frontends.prototxt.export.registry import require, says

_ABSORBS = ("Conv", "AveragePool")  # whose layers pad by themselves


@says("Identity")
def identity(node: ir.Node, net: Net) -> None:
    """Nothing."""
    net.alias(node)


@says("Cast")
def cast(node: ir.Node, net: Net) -> None:
    """Nothing, where the numbers are floats in Caffe anyhow."""
    x = node.inputs[0]
    floats = x is not None and x.dtype is ir.DataType.FLOAT
    require(node.attributes["to"].as_int() == 1 and floats, "it changes the type of numbers; Caffe has float32")
    net.alias(node)


@says("Concat")
def concat(node: ir.Node, net: Net) -> None:
    """Concat."""
    if len(node.inputs) == 1:
        net.alias(node)
        return
    axis = node.attributes["axis"].as_int() % len(net.shape(node.outputs[0]))
    require(axis > 0, "it joins images of a batch")
    written = net.layer("Concat", node, node.inputs, [node.outputs[0]])
    if axis != 1:
        written.message.concat_param.axis = axis


@says("Split")
def split(node: ir.Node, net: Net) -> None:
    """Slice into all parts."""
    x = node.inputs[0]
    if len(node.outputs) == 1:
        net.alias(node)
        return
    axis = node.attributes.get_int("axis", 0) % len(net.shape(x))
    require(axis > 0, "it splits the batch")
    parts = [net.shape(value)[axis] for value in node.outputs]
    require(min(parts) > 0, "one of its parts is empty")
    _slice(node, net, x, list(node.outputs), axis, parts)


@says("Slice")
def slice_(node: ir.Node, net: Net) -> None:
    """One Slice per axis; the parts that nobody reads are silenced."""
    x, out = node.inputs[0], node.outputs[0]
    shape = list(net.shape(x))
    starts, ends = net.ints(node, 1, "its range"), net.ints(node, 2, "its range")
    require(starts is not None and ends is not None, "its range is left out")
    assert starts is not None and ends is not None
    axes = net.ints(node, 3, "its axes") or list(range(len(starts)))
    steps = net.ints(node, 4, "its steps") or [1] * len(starts)
    cuts = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= len(shape)
        first, last, _ = slice(start, end, step).indices(shape[axis])
        require(step == 1, f"it takes every {step}th element; Caffe cuts only")
        require(last > first, "nothing is left of it")
        if (first, last) != (0, shape[axis]):
            cuts.append((axis, first, last))
    if not cuts:
        net.alias(node)
        return
    source: Blob | None = x
    for i, (axis, first, last) in enumerate(cuts):
        require(axis > 0, "it cuts the batch")
        final = i == len(cuts) - 1
        middle: Blob = out if final else net.between(node, f"axis{axis}")
        before, behind = first, shape[axis] - last
        tops: list[Blob] = [middle]
        if before:
            tops.insert(0, net.between(node, "before"))
        if behind:
            tops.append(net.between(node, "behind"))
        parts = [part for part in (before, last - first, behind) if part]
        _slice(node, net, source, tops, axis, parts, suffix="" if final else f"axis{axis}")
        source = middle


def _slice(
    node: ir.Node, net: Net, x: Blob | None, tops: Sequence[Blob], axis: int, parts: Sequence[int], suffix: str = ""
) -> None:
    param = net.layer("Slice", node, [x], tops, suffix=suffix).message.slice_param
    param.axis = axis
    param.slice_point.extend(sum(parts[:i]) for i in range(1, len(parts)))


@says("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: ir.Node, net: Net) -> None:
    """Reshape, or Flatten where all but the batch becomes one axis."""
    old, new = net.shape(node.inputs[0]), net.shape(node.outputs[0])
    if old == new:
        net.alias(node)
        return
    write_reshape(node, net, node.inputs[0], old, node.outputs[0], new)


def write_reshape(
    node: ir.Node,
    net: Net,
    x: Blob | None,
    old: Sequence[int],
    top: Blob,
    new: Sequence[int],
    suffix: str = "",
) -> None:
    """A Reshape or Flatten layer; sizes that stay are written as 0, as the batch may differ."""
    if len(old) > 2 and tuple(new) == (old[0], math.prod(old[1:])):
        net.layer("Flatten", node, [x], [top], suffix=suffix)
        return
    dims, same = list(new), 0
    while same < min(len(old), len(new)) and old[same] == new[same]:
        dims[same] = 0
        same += 1
    net.layer("Reshape", node, [x], [top], suffix=suffix).message.reshape_param.shape.dim.extend(dims)


@says("Transpose")
def transpose(node: ir.Node, net: Net) -> None:
    """Permute."""
    rank = len(net.shape(node.inputs[0]))
    order = [int(axis) for axis in node.attributes.get_ints("perm", list(reversed(range(rank))))]
    if order == list(range(rank)):
        net.alias(node)
        return
    net.layer("Permute", node, [node.inputs[0]], [node.outputs[0]]).message.permute_param.order.extend(order)


@says("Expand", "Tile")
def tile(node: ir.Node, net: Net) -> None:
    """Tile, axis by axis."""
    x, out = node.inputs[0], node.outputs[0]
    require(not net.is_constant(x), "it repeats a constant")
    if net.shape(x) == net.shape(out):
        net.alias(node)
        return
    write_tiles(node, net, x, net.shape(x), out, net.shape(out))


def write_tiles(
    node: ir.Node,
    net: Net,
    x: Blob | None,
    old: Sequence[int],
    top: Blob,
    new: Sequence[int],
    suffix: str = "",
) -> None:
    """Copies along every axis whose size differs, missing axes in front added."""
    source: Blob | None = x
    wide = [*[1] * (len(new) - len(old)), *old]
    changed = [i for i, (a, b) in enumerate(zip(wide, new, strict=True)) if a != b]
    require(0 not in changed, "it repeats along the batch")
    if len(old) < len(new):
        target = net.between(node, f"{suffix}rank") if changed else top
        write_reshape(node, net, source, old, target, wide, suffix=f"{suffix}rank" if changed else suffix)
        source = target
    for axis in changed:
        final = axis == changed[-1]
        target = top if final else net.between(node, f"{suffix}tile{axis}")
        param = net.layer(
            "Tile", node, [source], [target], suffix=suffix if final else f"{suffix}tile{axis}"
        ).message.tile_param
        param.axis, param.tiles = axis, new[axis] // wide[axis]
        source = target


@says("Pad")
def pad(node: ir.Node, net: Net) -> None:
    """Zeros around the image become the padding of the convolutions and mean poolings that read it."""
    x, out = node.inputs[0], node.outputs[0]
    require(node.attributes.get_string("mode", "constant") == "constant", "it does not pad with zeros")
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        require(float(net.constant(node.inputs[2], "its value").reshape(-1)[0]) == 0, "it does not pad with zeros")
    rank = len(net.shape(x))
    amounts = net.ints(node, 1, "its padding") or []
    axes = net.ints(node, 3, "its axes") or list(range(rank))
    count = len(axes)
    begins, ends = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        begins[axis % rank], ends[axis % rank] = amounts[i], amounts[count + i]
    if not any(begins) and not any(ends):
        net.alias(node)
        return
    image = rank == 4 and not any(begins[:2]) and not any(ends[:2]) and min(*begins, *ends) >= 0
    require(image, "it pads or cuts more than height and width")
    users = [use.node for use in out.uses()]
    absorbed = all(user.op_type in _ABSORBS and user.inputs[0] is out for user in users)
    require(absorbed and not out.is_graph_output(), "Caffe pads within convolutions and mean poolings only")
    top, left, bottom, right = (a + b for a, b in zip((*begins[2:], *ends[2:]), net.zeros(x), strict=True))
    net.pads[out] = top, left, bottom, right
    net.put(out, net.blob(x))
