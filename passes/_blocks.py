"""The heads that come with onnxmtl: ASPP and a light head for dense tasks, a pooled linear one for images.

Each takes a feature and gives the raw prediction; dense ones at the feature's own size (the pass resizes).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxmtl.kinds import Task
from onnxmtl.passes._builder import Builder, scaled, static_channels

# DeepLabv3 reads a 33x33 feature (513 pixels, output stride 16) with these dilations.
_RATES, _RATES_SIZE = (6, 12, 18), 33
# Below this size a 3x3 kernel sees nearly everything: the image pooling branch adds nothing.
_POOLING_SIZE = 4
# The last layer starts small, so that the first losses are those of an undecided prediction.
_LAST_GAIN = 0.1


def default_width(channels: int) -> int:
    """Hidden channels of a head: a quarter of the feature's, in multiples of 8, within 32 … 256."""
    return min(256, max(32, channels // 4 // 8 * 8))


def dilation_rates(size: tuple[int, int] | None) -> tuple[int, ...]:
    """DeepLabv3's rates scaled to the feature's smaller side; equal ones once. Unscaled where the size is unknown."""
    if size is None:
        return _RATES
    return tuple(sorted({max(1, round(rate * min(size) / _RATES_SIZE)) for rate in _RATES}))


def aspp(builder: Builder, feature: ir.Value, task: Task) -> ir.Value:
    """Atrous spatial pyramid pooling (DeepLabv3, Chen et al. 2017) and the 1x1 prediction."""
    width = task.width or default_width(static_channels(feature))
    return last_conv(builder, pyramid(builder, feature, width), task)


def pyramid(builder: Builder, feature: ir.Value, width: int) -> ir.Value:
    """A 1x1 and up to three dilated 3x3 branches and image pooling, concatenated and projected to `width` channels."""
    size = builder.designed_size(feature)
    branches = [builder.conv_bn_relu(feature, width, name="point")]
    for rate in dilation_rates(size):
        branches.append(builder.conv_bn_relu(feature, width, kernel=3, dilation=rate, name=f"rate{rate}"))
    branches += image_level(builder, feature, width)
    return builder.conv_bn_relu(joined(builder, branches), width, name="project")


def image_level(builder: Builder, feature: ir.Value, width: int) -> list[ir.Value]:
    """The image pooling branch; none for a feature so small that it adds nothing.

    It has a bias instead of BatchNorm: over one pixel per image batch statistics are noise, and undefined for a batch
    of one.
    """
    size = builder.designed_size(feature)
    if size is not None and min(size) < _POOLING_SIZE:
        return []
    with builder.scope("image"):
        pooled = builder.op("GlobalAveragePool", [feature], name="pool")
        pooled = builder.op("Relu", [builder.conv(pooled, width)])
        assert feature.shape is not None
        shape = [feature.shape[0], width, *feature.shape[2:]]
        return [builder.op("Expand", [pooled, builder.size_of(feature, "size")], shape=shape)]


def joined(builder: Builder, maps: Sequence[ir.Value], name: str = "") -> ir.Value:
    """Maps of one size, concatenated along the channels."""
    first = maps[0]
    assert first.shape is not None
    shape = [first.shape[0], sum(static_channels(value) for value in maps), *first.shape[2:]]
    return builder.op("Concat", maps, {"axis": 1}, name=name, shape=shape)


def light(builder: Builder, feature: ir.Value, task: Task) -> ir.Value:
    """One 3x3 Conv-BN-ReLU and the 1x1 prediction."""
    width = task.width or default_width(static_channels(feature))
    return last_conv(builder, builder.conv_bn_relu(feature, width, kernel=3, name="hidden"), task)


def pooled(builder: Builder, features: Sequence[ir.Value], task: Task) -> ir.Value:
    """Mean over the image of each feature, joined, then linear; one hidden layer if the task gives a width."""
    vectors = []
    for feature in features:
        assert feature.shape is not None
        vector = feature
        if len(feature.shape) == 4:
            mean = builder.op("GlobalAveragePool", [feature], name="pool")
            shape = [feature.shape[0], static_channels(feature)]
            vector = builder.op("Flatten", [mean], {"axis": 1}, shape=shape)
        vectors.append(vector)
    joined = vectors[0]
    if len(vectors) > 1:
        assert joined.shape is not None
        shape = [joined.shape[0], sum(static_channels(v) for v in vectors)]
        joined = builder.op("Concat", vectors, {"axis": 1}, shape=shape)
    if task.width:
        joined = builder.op("Relu", [builder.gemm(joined, task.width, name="hidden")])
    return builder.gemm(joined, task.channels, init=scaled(_LAST_GAIN), name="predict")


def last_conv(builder: Builder, x: ir.Value, task: Task) -> ir.Value:
    """The 1x1 convolution to the task's channels.

    It starts small, but not for directions: the gradient of an angle grows as the vector shrinks.
    """
    gain = 1.0 if "unit" in task.spec.outputs else _LAST_GAIN
    return builder.conv(x, task.channels, init=scaled(gain), name="predict")
