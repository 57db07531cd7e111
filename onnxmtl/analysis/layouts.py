"""Where a tensor keeps its channels, and how tokens or channels-last maps become maps [N, C, H, W].

Vision transformers work on tokens [N, L, C], one per image patch and perhaps a few more (a class token, registers);
Swin and TensorFlow's networks on maps [N, H, W, C]. :func:`channel_axes` follows the channels from the image through
the graph, :func:`map_form` says how a tensor is turned into a map.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping

import onnx_ir as ir

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_CHANNELS_FIRST = frozenset(
    {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"}
    | {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "DepthToSpace", "SpaceToDepth"}
)
_MAX_EXTRA_TOKENS = 16  # class, distillation and register tokens
_WALK = 4000  # nodes that are searched for the patch embedding and for the class token's Concat


@dataclasses.dataclass(frozen=True)
class MapForm:
    """A tensor seen as a feature map.

    Attributes:
        layout: "NCHW", "NHWC", "NLC" (tokens) or "NCL".
        size: (C, H, W).
        first: Index of the first token of the grid, 0 if there are no others before it.
        tokens: Number of tokens in the tensor; H·W for maps.
    """

    layout: str
    size: tuple[int, int, int]
    first: int = 0
    tokens: int = 0


def map_form(value: ir.Value, axes: Mapping[ir.Value, int]) -> MapForm | None:
    """How `value` is a feature map; None if it is none.

    A tensor [N, A, B, C] of unknown origin counts as channels first. The grid of tokens is that of the nearest map they
    were made from whose size fits: L = H·W, or a few more.

    Args:
        value: A tensor of floats whose size is known.
        axes: From :func:`channel_axes`.
    """
    dims = _dims(value)
    axis = axes.get(value)
    if dims is None:
        return None
    if len(dims) == 3:
        if axis == 3:
            return MapForm("NHWC", (dims[2], dims[0], dims[1]), 0, dims[0] * dims[1])
        return MapForm("NCHW", (dims[0], dims[1], dims[2]), 0, dims[1] * dims[2])
    if len(dims) != 2 or axis not in (1, 2):
        return None
    channels, tokens = (dims[0], dims[1]) if axis == 1 else (dims[1], dims[0])
    found = _grid(value, tokens, axes)
    if found is None:
        return None
    (height, width), first = found
    return MapForm("NCL" if axis == 1 else "NLC", (channels, height, width), first, tokens)


def channel_axes(nodes: Iterable[ir.Node]) -> dict[ir.Value, int]:
    """The axis of the channels of each value where it is known; `nodes` in topological order, shapes inferred."""
    axes: dict[ir.Value, int] = {}
    for node in nodes:
        axis = _axis_behind(node, axes)
        if axis is not None:
            for value in node.outputs:
                if value.shape is not None and 0 <= axis < len(value.shape):
                    axes[value] = axis
    return axes


def _axis_behind(node: ir.Node, axes: Mapping[ir.Value, int]) -> int | None:
    """The channels' axis of the node's outputs."""
    if not node.inputs or node.inputs[0] is None or not node.outputs:
        return None
    data, out = node.inputs[0], node.outputs[0]
    rank = -1 if out.shape is None else len(out.shape)
    if node.op_type in _CHANNELS_FIRST:
        return 1
    if node.op_type in ("MatMul", "Gemm"):  # a product with a weight makes channels in the last place
        if any(v is not None and v.is_initializer() for v in node.inputs[:2]):
            return rank - 1
        right = node.inputs[1] if len(node.inputs) > 1 else None  # attention weights times values
        return rank - 1 if right is not None and axes.get(right) == rank - 1 else None
    if node.op_type == "LayerNormalization":
        return rank - 1 if node.attributes.get_int("axis", -1) in (-1, rank - 1) else axes.get(data)
    known = [(v, axes[v]) for v in node.inputs if v is not None and v in axes]
    if not known:
        return None
    value, axis = known[0]
    if node.op_type == "Transpose":
        order = list(node.attributes.get_ints("perm") or reversed(range(rank)))
        return order.index(axis) if axis in order else None
    if node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gather"):
        return _axis_of_same_channels(value, axis, out)
    return axis if value.shape is not None and len(value.shape) == rank else None


def _axis_of_same_channels(value: ir.Value, axis: int, out: ir.Value) -> int | None:
    """The axis of `out` that has as many channels, with as many elements per channel behind it."""
    if value.shape is None or out.shape is None:
        return None
    behind = list(value.shape)[axis:]
    new = list(out.shape)
    if not all(isinstance(dim, int) for dim in behind):
        return None
    inner = math.prod(dim for dim in behind[1:] if isinstance(dim, int))
    size = 1
    for i in reversed(range(1, len(new))):
        dim = new[i]
        if not isinstance(dim, int):
            return None
        if dim == behind[0] and size == inner:
            return i
        size *= dim
    return None


def _dims(value: ir.Value) -> list[int] | None:
    """All dimensions but the first one of a tensor of floats, if they are known."""
    if value.shape is None or value.dtype not in _FLOATS or value.is_initializer():
        return None
    dims = [dim for dim in list(value.shape)[1:] if isinstance(dim, int) and dim > 0]
    return dims if len(dims) == len(value.shape) - 1 else None


def _grid(value: ir.Value, tokens: int, axes: Mapping[ir.Value, int]) -> tuple[tuple[int, int], int] | None:
    """((H, W), first token) of tokens: from the nearest map upstream that fits, an exact fit first."""
    maps: list[tuple[int, int]] = []
    for candidate in _upstream(value):
        dims = _dims(candidate)
        if dims is None or len(dims) != 3 or axes.get(candidate) not in (1, 3):
            continue
        size = (dims[1], dims[2]) if axes[candidate] == 1 else (dims[0], dims[1])
        if size not in maps:
            maps.append(size)
    fitting = sorted(
        (size for size in maps if 0 <= tokens - size[0] * size[1] <= _MAX_EXTRA_TOKENS and size[0] * size[1] > 1),
        key=lambda size: (tokens - size[0] * size[1], min(size) == 1),  # [N, L, 1, C] is one head, rarely a map
    )
    for height, width in fitting:
        first = _first_token(value, height * width, tokens)
        if first is not None:
            return (height, width), first
    return None


def _first_token(value: ir.Value, positions: int, tokens: int) -> int | None:
    """How many of the tokens stand before those of the grid; None if the others are no tokens of their own.

    Those are joined to the grid's by a Concat, and do not depend on the image.
    """
    if positions == tokens:
        return 0
    for candidate in _upstream(value):
        node = candidate.producer()
        if node is None or node.op_type != "Concat" or candidate.shape is None or len(candidate.shape) != 3:
            continue
        axis = node.attributes.get_int("axis", 1) % 3
        parts = [v for v in node.inputs if v is not None and v.shape is not None and len(v.shape) == 3]
        sizes = [size for part in parts if part.shape is not None and isinstance(size := part.shape[axis], int)]
        if len(sizes) == len(node.inputs) and sum(sizes) == tokens and positions in sizes:
            grid = sizes.index(positions)
            others = [part for i, part in enumerate(parts) if i != grid]
            return None if any(map(_depends_on_image, others)) else sum(sizes[:grid])
    return None


def _depends_on_image(value: ir.Value) -> bool:
    """Whether a value is computed from a graph input, otherwise than through its shape."""
    return any(v.is_graph_input() for v in _upstream(value, stop=("Shape", "Size")) if not v.is_initializer())


def _upstream(value: ir.Value, stop: Collection[str] = ()) -> Iterable[ir.Value]:
    """What `value` is computed from, the nearest first (in breadth); not through operators in `stop`."""
    queue, seen = [value], {value}
    for current in queue:
        yield current
        node = current.producer()
        if node is None or node.op_type in stop or len(seen) > _WALK:
            continue
        for before in node.inputs:
            if before is not None and before not in seen and not before.is_initializer():
                seen.add(before)
                queue.append(before)
