"""Feature tensors of a backbone: finding them, their strides, and their record in the model's metadata."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from fractions import Fraction

import onnx_ir as ir

from onnxmtl.analysis.layouts import MapForm, channel_axes, map_form
from onnxmtl.errors import ModelError
from onnxmtl.ir.metadata import json_list
from onnxmtl.ir.wording import shape_text

KEY = "onnxmtl.features"
KIND_KEY = "onnxmtl.kind"

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_STRIDED = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})
_COLLAPSING = frozenset(
    {"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum", "Flatten", "Gemm", "Shape", "Size"}
)


@dataclasses.dataclass(frozen=True)
class Feature:
    """A feature tensor [N, channels, H/stride, W/stride].

    Attributes:
        name: Name of the value, which is a graph output of the backbone.
        stride: Image size divided by the feature's size, as the network's strides say it (a network without padding
            has sizes that divide only nearly).
        channels: Number of channels.
    """

    name: str
    stride: int
    channels: int


def read_features(model: ir.Model) -> tuple[Feature, ...]:
    """The features recorded in a backbone's metadata, in the order of its outputs; empty if it has no record."""
    found = []
    for entry in json_list(model.metadata_props, KEY):
        match entry:
            case {"name": str(name), "stride": int(stride), "channels": int(channels)}:
                found.append(Feature(name, stride, channels))
            case _:
                msg = f"the model's metadata {KEY!r} is damaged; give the backbone itself"
                raise ModelError(msg)
    return tuple(found)


def write_features(model: ir.Model) -> tuple[Feature, ...]:
    """Record the graph's outputs as features and the model as a backbone. Shapes must be known.

    Raises:
        ModelError: An output is no feature map; see :func:`describe`.
    """
    found = describe(model.graph, model.graph.outputs)
    model.metadata_props[KEY] = json.dumps([dataclasses.asdict(feature) for feature in found], ensure_ascii=False)
    model.metadata_props[KIND_KEY] = "backbone"
    return found


def describe(graph: ir.Graph, values: Sequence[ir.Value]) -> tuple[Feature, ...]:
    """Stride and channels of feature tensors.

    Raises:
        ModelError: A value is no 4-D tensor of floats with known size.
    """
    strides = nominal_strides(graph)
    image = next(
        (v for v in graph.inputs if not v.is_initializer() and v.shape is not None and len(v.shape) == 4), None
    )
    found = []
    for value in values:
        dims = feature_dims(value)
        if dims is None:
            shape = shape_text(value.shape)
            msg = f"{value.name!r} is no feature map: it must be [N, C, H, W] of floats, its shape is {shape}"
            raise ModelError(msg)
        height = None if image is None or image.shape is None else image.shape[2]
        ratio = height / dims[1] if isinstance(height, int) else None
        found.append(Feature(str(value.name), _stride(strides.get(value), ratio), dims[0]))
    return tuple(found)


def feature_dims(value: ir.Value) -> tuple[int, int, int] | None:
    """(C, H, W) of a 4-D float tensor whose size is known, or None."""
    if value.shape is None or len(value.shape) != 4 or value.dtype not in _FLOATS or value.is_initializer():
        return None
    _, channels, height, width = value.shape
    if not (isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)):
        return None
    return (channels, height, width) if min(channels, height, width) > 0 else None


def nominal_strides(graph: ir.Graph) -> dict[ir.Value, Fraction]:
    """Product of the strides (height) from the image to each value; only where all paths agree."""
    strides: dict[ir.Value, Fraction] = {value: Fraction(1) for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        known = {strides[value] for value in node.inputs if value is not None and value in strides}
        if len(known) != 1 or node.op_type in _COLLAPSING or _gathers_neighbours(node):
            continue
        stride = known.pop()
        if node.op_type in _STRIDED:
            stride *= (node.attributes.get_ints("strides") or (1,))[0]
        elif node.op_type == "ConvTranspose":
            stride /= (node.attributes.get_ints("strides") or (1,))[0]
        elif node.op_type in ("Resize", "Upsample", "SpaceToDepth", "DepthToSpace"):
            ratio = _size_ratio(node)
            if ratio is None:
                continue
            stride *= ratio
        for value in node.outputs:
            strides[value] = stride
    return strides


def read_strides(graph: ir.Graph) -> dict[ir.Value, int]:
    """The stride of every value that is a map (or tokens of one) and where it can be told, as :func:`describe` does."""
    nominal, axes = nominal_strides(graph), channel_axes(graph)
    image = next((v for v in graph.inputs if not v.is_initializer() and feature_dims(v) is not None), None)
    height = None if image is None or image.shape is None else image.shape[2]
    found: dict[ir.Value, int] = {}
    for node in graph:
        for value in node.outputs:
            known = nominal.get(value)
            dims = value.shape
            if known is not None and known.denominator == 1 and dims is not None and len(dims) in (3, 4):
                found[value] = int(known)
            elif isinstance(height, int) and dims is not None and len(dims) == 4 and axes.get(value) in (1, 3):
                size = dims[2] if axes[value] == 1 else dims[1]
                if isinstance(size, int) and size > 0:
                    found[value] = max(1, round(height / size))
    return found


def _gathers_neighbours(node: ir.Node) -> bool:
    """Whether the node may put neighbours side by side (space to depth by reshaping or by strided slices), as
    the merging of patches in Swin does: what the stride is behind it, its strides do not say."""
    if node.op_type == "Reshape":
        shape = node.outputs[0].shape
        return shape is None or len(shape) > 5
    if node.op_type == "Slice" and len(node.inputs) > 4 and node.inputs[4] is not None:
        steps = node.inputs[4].const_value
        return steps is None or any(abs(int(step)) != 1 for step in steps.numpy().reshape(-1))
    return False


def _size_ratio(node: ir.Node) -> Fraction | None:
    before, after = node.inputs[0], node.outputs[0]
    a = feature_dims(before) if before is not None else None
    b = feature_dims(after)
    return None if a is None or b is None or not b[1] else Fraction(a[1], b[1])


def _stride(nominal: Fraction | None, ratio: float | None) -> int:
    """The nominal stride, or where paths disagree the rounded ratio of the sizes."""
    if nominal is not None and nominal.denominator == 1:
        return int(nominal)
    return max(1, round(ratio)) if ratio is not None else 1


def feature_form(value: ir.Value, axes: dict[ir.Value, int]) -> MapForm:
    """How a tensor that is to be a feature becomes a map [N, C, H, W].

    Raises:
        ModelError: It is no tensor of floats with known size that is a map, or tokens of a known grid.
    """
    form = map_form(value, axes)
    if form is None:
        hint = ""
        if value.shape is not None and len(value.shape) == 3:
            hint = "; tokens [N, L, C] become one if the patches they come from are a map of H·W = L positions"
        shape = shape_text(value.shape)
        msg = f"{value.name!r} is no feature map: it must be [N, C, H, W] of floats, its shape is {shape}{hint}"
        raise ModelError(msg)
    return form


def named_value(graph: ir.Graph, name: str) -> ir.Value:
    """The tensor of that name, or the first output of the node of that name.

    Raises:
        ModelError: There is none; lists close matches.
    """
    values = {str(value.name): value for value in graph.inputs}
    nodes: dict[str, ir.Value] = {}
    for node in graph:
        values.update({str(value.name): value for value in node.outputs if value.name})
        nodes[str(node.name)] = node.outputs[0]
    if name in values or name in nodes:
        return values.get(name) or nodes[name]
    axes = channel_axes(graph)
    maps = [
        known for known, value in {**nodes, **values}.items() if feature_dims(value) is not None or axes.get(value) == 2
    ]
    close = difflib.get_close_matches(name, maps, n=3, cutoff=0.4) or maps[-3:]
    hint = f"; close to it: {', '.join(close)}" if close else ""
    msg = f"there is no tensor or node {name!r} in the model{hint}"
    raise ModelError(msg)
