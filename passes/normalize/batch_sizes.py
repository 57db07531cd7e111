"""What becomes of the batch where onnx's own inference gives up: dimensions N and k·N, written "N" and "4*N"."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import onnx_ir as ir

BATCH = "N"  # what the batch dimension is called
_MULTIPLE = re.compile(r"(?:([0-9]+)\*)?([A-Za-z_]\w*)")
_OPEN_END = 2**31 - 1


def unknown(dim: int | ir.SymbolicDim) -> bool:
    """Whether nothing is known of the dimension, not even that it is a multiple of the batch."""
    return isinstance(dim, ir.SymbolicDim) and dim.value is None


def batch_multiple(dim: int | ir.SymbolicDim) -> tuple[int, str] | None:
    """(k, "N") of the dimension k·N, written "k*N" or "N"; None if the dimension is a number or unknown."""
    match = _MULTIPLE.fullmatch(dim.value) if isinstance(dim, ir.SymbolicDim) and dim.value is not None else None
    return None if match is None else (int(match[1] or 1), match[2])


def batch_axis(shape: ir.Shape | None) -> int | None:
    """The one axis whose size is a multiple of the batch; None if there is none, or another size is unknown."""
    if shape is None:
        return None
    axes = [i for i, dim in enumerate(shape) if not isinstance(dim, int)]
    return axes[0] if len(axes) == 1 and batch_multiple(shape[axes[0]]) is not None else None


def _batch_of_reshape(node: ir.Node, shape: ir.Shape) -> ir.Shape:
    """Where onnx gives up on a -1: [N, 4, 8, 8] reshaped to [-1, 256] is [N, 256], to [-1, 64] it is [4*N, 64]."""
    data = node.inputs[0]
    dims = list(shape)
    open_axes = [i for i, dim in enumerate(dims) if not isinstance(dim, int)]
    if data is None or len(open_axes) != 1 or not unknown(dims[open_axes[0]]):
        return shape
    axis = batch_axis(data.shape)
    if axis is None or data.shape is None or (lead := batch_multiple(data.shape[axis])) is None:
        return shape
    total = lead[0] * math.prod(dim for dim in data.shape if isinstance(dim, int))
    known = math.prod(dim for dim in dims if isinstance(dim, int))
    multiple, remainder = divmod(total, known) if known else (0, 1)
    if multiple and not remainder:
        dims[open_axes[0]] = multiple_of(multiple, lead[1])
    return ir.Shape(dims)


def multiple_of(count: int, symbol: str = BATCH) -> ir.SymbolicDim:
    """The dimension count·N."""
    return ir.SymbolicDim(symbol if count == 1 else f"{count}*{symbol}")


def symbolic_ints(value: ir.Value | None) -> list[int | ir.SymbolicDim] | None:
    """The elements of a shape that was made of constants and of dimensions, [N, 1, 192]; None if it is another value.

    It may be an initializer, a ``Shape`` node, or a ``Concat`` of these.
    """
    if value is None:
        return None
    node = value.producer()
    parts = list(node.inputs) if node is not None and node.op_type == "Concat" and node.domain == "" else [value]
    found: list[int | ir.SymbolicDim] = []
    for part in parts:
        source = None if part is None else part.producer()
        if part is not None and part.const_value is not None and not part.is_graph_input():
            found += [int(dim) for dim in part.const_value.numpy().reshape(-1)]
        elif source is not None and source.op_type == "Shape" and source.domain == "":
            shape = None if source.inputs[0] is None else source.inputs[0].shape
            if shape is None:
                return None
            start, end = source.attributes.get_int("start", 0), source.attributes.get_int("end", len(shape))
            found += list(shape)[start:end]
        else:
            return None
    return found


def _batch_of_expand(node: ir.Node, shape: ir.Shape) -> ir.Shape:
    """The batch size in the shape given to an Expand or a ConstantOfShape."""
    given = symbolic_ints(node.inputs[-1])
    if given is None or len(given) != len(shape):
        return shape
    return ir.Shape([new if unknown(dim) else dim for dim, new in zip(shape, given, strict=True)])


def _batch_of_tile(node: ir.Node, shape: ir.Shape) -> ir.Shape:
    """An open dimension that is repeated once, or k times."""
    data, repeats = node.inputs[0], symbolic_ints(node.inputs[1])
    if data is None or data.shape is None or repeats is None or len(repeats) != len(shape):
        return shape
    dims = list(shape)
    for i, (dim, count) in enumerate(zip(data.shape, repeats, strict=True)):
        multiple = batch_multiple(dim)
        if unknown(dims[i]) and multiple is not None and isinstance(count, int):
            dims[i] = multiple_of(multiple[0] * count, multiple[1])
    return ir.Shape(dims)


def _batch_of_slice(node: ir.Node, shape: ir.Shape) -> ir.Shape:
    """A slice of everything keeps an open dimension."""
    data = node.inputs[0]
    if data is None or data.shape is None or len(data.shape) != len(shape):
        return shape
    numbers = [symbolic_ints(value) for value in node.inputs[1:]]
    starts, ends = numbers[:2]
    axes = numbers[2] if len(numbers) > 2 and numbers[2] is not None else list(range(len(shape)))
    steps = numbers[3] if len(numbers) > 3 and numbers[3] is not None else [1] * len(axes)
    if starts is None or ends is None:
        return shape
    dims = list(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=False):
        whole = start == 0 and step == 1 and isinstance(end, int) and end >= _OPEN_END
        if whole and isinstance(axis, int) and unknown(dims[axis]):
            dims[axis] = data.shape[axis]
    return ir.Shape(dims)


def _batch_of_concat(node: ir.Node, shape: ir.Shape) -> ir.Shape:
    """Batches put one behind the other: N and N make 2*N."""
    axis = node.attributes["axis"].as_int() % len(shape)
    if not unknown(shape[axis]):
        return shape
    joined = [batch_multiple(v.shape[axis]) for v in node.inputs if v is not None and v.shape is not None]
    counts = [multiple[0] for multiple in joined if multiple is not None and multiple[1] == BATCH]
    if len(counts) != len(node.inputs):
        return shape
    dims = list(shape)
    dims[axis] = multiple_of(sum(counts))
    return ir.Shape(dims)


def _batch_of_resize(node: ir.Node, shape: ir.Shape) -> ir.Shape:
    """onnx does not multiply N by a scale of 1."""
    data = node.inputs[0]
    scales = node.inputs[2] if len(node.inputs) > 2 else None
    if data is None or data.shape is None or not len(shape) or not unknown(shape[0]):
        return shape
    same = "axes" in node.attributes and 0 not in node.attributes["axes"].as_ints()
    if (
        "axes" not in node.attributes
        and scales is not None
        and scales.const_value is not None
        and scales.const_value.size
    ):
        same = float(scales.const_value.numpy().reshape(-1)[0]) == 1.0
    return ir.Shape([data.shape[0], *list(shape)[1:]]) if same else shape


# Operator -> the shape of its output, from the node and the shape that onnx infers.
REPAIRS: dict[str, Callable[[ir.Node, ir.Shape], ir.Shape]] = {
    "Concat": _batch_of_concat,
    "ConstantOfShape": _batch_of_expand,
    "Expand": _batch_of_expand,
    "Flatten": _batch_of_reshape,
    "Reshape": _batch_of_reshape,
    "Resize": _batch_of_resize,
    "Slice": _batch_of_slice,
    "Tile": _batch_of_tile,
}
