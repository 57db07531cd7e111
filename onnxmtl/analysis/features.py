"""Feature tensors of a backbone: finding them, their strides, and their record in the model's metadata."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from fractions import Fraction

import onnx_ir as ir

from onnxmtl.analysis.blocks import boundaries
from onnxmtl.errors import ModelError
from onnxmtl.ops import is_linear_op

KEY = "onnxmtl.features"
KIND_KEY = "onnxmtl.kind"

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_PASS_THROUGH = frozenset({"Dropout", "Identity"})
_STRIDED = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})
_COLLAPSING = frozenset(
    {"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum", "Flatten", "Gemm", "Shape", "Size"}
)
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# What may stand behind a convolutional classifier. At the network's very end a Relu makes it an ordinary layer.
_LOGITS_END = frozenset({"Resize", "Softmax", "LogSoftmax", "Sigmoid"})
_LOGITS_INSIDE = frozenset({"Resize", "Relu"})
_MAX_CLASSIFIER_LAYERS = 3  # AlexNet and VGG have three


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
    return tuple(Feature(**entry) for entry in json.loads(model.metadata_props.get(KEY, "[]")))


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
            shape = "unknown" if value.shape is None else list(value.shape)
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
        if len(known) != 1 or node.op_type in _COLLAPSING:
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
    maps = [known for known, value in {**nodes, **values}.items() if feature_dims(value) is not None]
    close = difflib.get_close_matches(name, maps, n=3, cutoff=0.4) or maps[-3:]
    hint = f"; close to it: {', '.join(close)}" if close else ""
    msg = f"there is no tensor or node {name!r} in the model{hint}"
    raise ModelError(msg)


def find_feature(graph: ir.Graph) -> ir.Value:
    """The tensor at which the classifier of a convolutional network is cut off.

    It is the last spatial tensor [N, C, H, W] that every path from the image to the output runs through. Where nothing
    with weights follows it, and it comes from a 1×1 convolution, that convolution is the classifier: before pooling
    (as in SqueezeNet) and, if it is bare or only resized, at the network's end (the logits of FCN, U-Net, DeepLab).

    Raises:
        ModelError: There is none: no convolutional network, or one whose layers go on behind its last feature map
            (a vision transformer).
    """
    nodes, output = _main_path(graph)
    cuts = [cut.values[0] for cut in boundaries(nodes)]
    if feature_dims(output) is not None and output not in cuts:
        cuts.append(output)
    seen_conv: set[ir.Value] = set()
    for node in nodes:
        if node.op_type == "Conv" or any(v in seen_conv for v in node.inputs if v is not None):
            seen_conv.update(node.outputs)
    maps = [value for value in cuts if value in seen_conv and _is_spatial(value)]
    if not maps:
        msg = (
            "found no CNN features: no tensor [N, C, H, W] behind a convolution that every path runs through; name "
            "the features with --features, or give a convolutional backbone"
        )
        raise ModelError(msg)
    feature = _behind(maps[-1])
    upstream = _ancestors(feature)
    tail = [node for node in nodes if node not in upstream]
    _check_tail(feature, tail, nodes)
    if not any(node.op_type in _LAYERS for node in tail):
        ends = all(node.op_type in _PASS_THROUGH for node in tail)
        feature = _before_convolutional_classifier(feature, _LOGITS_END if ends else _LOGITS_INSIDE) or feature
    return feature


def _is_spatial(value: ir.Value) -> bool:
    dims = feature_dims(value)
    return dims is not None and dims[1] * dims[2] > 1


def _main_path(graph: ir.Graph) -> tuple[list[ir.Node], ir.Value]:
    """The output that most nodes work for (others may be auxiliary classifiers), and these nodes in graph order."""
    best: tuple[set[ir.Node], ir.Value] | None = None
    for output in graph.outputs:
        needed = _ancestors(output)
        if best is None or len(needed) > len(best[0]):
            best = (needed, output)
    if best is None:
        msg = "the model has no outputs"
        raise ModelError(msg)
    return [node for node in graph if node in best[0]], best[1]


def _ancestors(value: ir.Value) -> set[ir.Node]:
    """All nodes that `value` is computed by, without recursion."""
    found: set[ir.Node] = set()
    stack = [value.producer()]
    while stack:
        node = stack.pop()
        if node is None or node in found:
            continue
        found.add(node)
        stack.extend(v.producer() for v in node.inputs if v is not None)
    return found


def _behind(value: ir.Value, ops: frozenset[str] = _PASS_THROUGH) -> ir.Value:
    """Walk back over nodes of the given operators."""
    node = value.producer()
    while node is not None and node.op_type in ops and node.inputs[0] is not None and node.inputs[0].producer():
        value = node.inputs[0]
        node = value.producer()
    return value


def _before_convolutional_classifier(feature: ir.Value, between: frozenset[str]) -> ir.Value | None:
    """The input of a 1×1 convolution (with at most the operators `between` behind it) that makes `feature`."""
    node = _behind(feature, _PASS_THROUGH | between).producer()
    if node is None or node.op_type != "Conv" or not is_linear_op(node):
        return None
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or weight.shape is None or list(weight.shape)[2:] != [1, 1]:
        return None
    before = _behind(data)
    return before if before.producer() is not None and _is_spatial(before) else None


def _check_tail(feature: ir.Value, tail: Sequence[ir.Node], nodes: Sequence[ir.Node]) -> None:
    """What follows the feature must be a classifier, not the larger part of a transformer or mixer."""
    follows = {feature}  # what is computed from the feature
    attention = False
    for node in tail:
        products = [value for value in node.inputs if value in follows]
        if products:
            follows.update(node.outputs)
        attention |= node.op_type == "Attention" or (node.op_type in ("MatMul", "Einsum") and len(products) > 1)
    layers = sum(node.op_type in _LAYERS for node in tail)
    total = sum(node.op_type in _LAYERS for node in nodes)
    if attention or layers > max(_MAX_CLASSIFIER_LAYERS, total - layers):
        msg = (
            f"found no CNN features: {layers} of {total} layers with weights follow the last feature map "
            f"{feature.name!r}, as in a vision transformer; give a convolutional backbone, or name the features with "
            "--features"
        )
        raise ModelError(msg)
