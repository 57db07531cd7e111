"""BatchNorm, Scale and Bias; LRN, MVN and SSD's Normalize.

Caffe splits batch normalization into BatchNorm (statistics) and Scale (γ and β). Where a Scale is the only reader of
a BatchNorm, both become one operator; AutoMTL's BatchNorm has γ and β itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl.frontends.prototxt.builder import Builder, only
from onnxmtl.frontends.prototxt.registry import Blob, Layer, converts
from onnxmtl.frontends.prototxt.schema import enum

_WITHIN = enum("NormRegion")["WITHIN_CHANNEL"]
_INFERENCE = enum("BNMode")["INFERENCE"]
_BN_FILLERS = (("scale_filler", "slope_filler"), ("shift_filler", "bias_filler"))  # SegNet's names, PSPNet's
_MOMENTUM = 0.9  # of a running statistic, where the file does not say: Caffe's 0.999 needs Caffe's bias correction


@converts(
    "BatchNorm",
    reads="batch_norm_param: use_global_stats moving_average_fraction eps track_running_stats momentum affine",
)
def batch_norm(layer: Layer, net: Builder) -> Sequence[Blob]:
    """BatchNormalization; weight and bias of the Scale behind it, its own (AutoMTL), or 1 and 0."""
    x, param = layer.bottoms[0], layer.message.batch_norm_param
    only(layer, len(x.shape) >= 2, f"on a blob with {len(x.shape)} axes")
    channels = x.shape[1]
    mean, variance, first = _statistics(layer, net, channels)
    if layer.scale is not None:
        scale, own = layer.scale, layer.scale.message.scale_param
        weight = net.weight(scale, 0, "weight", (channels,), _filler(own, "filler"), default="constant", value=1.0)
        bias = net.weight(scale, 1, "bias", (channels,), _filler(own, "bias_filler"), default="constant")
    elif first:  # blobs of a .caffemodel that holds all of it
        weight, bias = (net.weight(layer, i, name, (channels,)) for i, name in enumerate(("weight", "bias")))
    else:
        weight = net.constant_weight(f"{layer.name}.weight", np.ones(channels))
        bias = net.constant_weight(f"{layer.name}.bias", np.zeros(channels))
        if not (layer.automtl and param.affine):
            what = "has no scale and shift of its own: they are 1 and 0, and would be trained"
            net.remark("prototxt-affine", what, layer)
    _say_what_is_lost(layer, net)
    y = net.node(
        layer,
        "BatchNormalization",
        [x, weight, bias, mean, variance],
        x.shape,
        epsilon=param.eps,
        momentum=_momentum(layer),
    )
    return [y]


def _statistics(layer: Layer, net: Builder, channels: int) -> tuple[ir.Value, ir.Value, int]:
    """Running mean and variance, and the index of the first blob that belongs to them.

    Caffe's third blob is what the sums in the first two have to be divided by; 0 means that there is nothing yet.
    Files with γ and β in front (5 blobs, or 4 without the divisor) are those of the one-layer form.
    """
    name = layer.name
    count = net.weights.count(name) if net.weights is not None else 0
    if net.weights is None or not count:
        net.drawn[name] = None
        mean = net.constant_weight(f"{name}.mean", np.zeros(channels))
        return mean, net.constant_weight(f"{name}.variance", np.ones(channels)), 0
    first = 2 if count in (4, 5) and layer.scale is None else 0
    arrays = [net.weights.take(name, first + i, (channels,)) for i in range(2)]
    factor = np.float32(1.0)
    if count - first > 2:
        divisor = net.weights.take(name, first + 2, (1,))
        assert divisor is not None
        factor = np.float32(0.0) if divisor[0] == 0 else np.float32(1.0) / divisor[0]
    values = []
    for array, what in zip(arrays, ("mean", "variance"), strict=True):
        assert array is not None
        values.append(net.constant_weight(f"{name}.{what}", array * factor))
    return values[0], values[1], first


def _momentum(layer: Layer) -> float:
    param = layer.message.batch_norm_param
    if param.HasField("momentum") or layer.automtl:
        return float(1.0 - param.momentum)  # torch's convention
    return float(param.moving_average_fraction) if param.HasField("moving_average_fraction") else _MOMENTUM


def _say_what_is_lost(layer: Layer, net: Builder) -> None:
    param = layer.message.batch_norm_param
    if any(spec.name for spec in layer.message.param):
        net.ignored(layer, "param.name", "its statistics are its own, although they have names to be shared by")
    if param.HasField("use_global_stats"):
        what = "use_global_stats is ignored: statistics are the batch's in training, the running ones otherwise"
        net.ignored(layer, "batch_norm_param.use_global_stats", what)
    if layer.automtl and not param.track_running_stats:
        what = "normalizes by running statistics outside training, although track_running_stats is false"
        net.remark("prototxt-differs", what, layer)


@converts("BN", reads="bn_param: slope_filler bias_filler scale_filler shift_filler bn_mode momentum decay eps")
def bn(layer: Layer, net: Builder) -> Sequence[Blob]:
    """PSPNet's and SegNet's batch normalization: blobs slope, bias, mean, variance.

    Older forks say ``scale_filler``, ``shift_filler``, and ``decay`` for 1 - momentum. In SegNet's
    ``bn_mode: INFERENCE`` there are two blobs, into which its own script has multiplied the statistics.
    """
    x, param = layer.bottoms[0], layer.message.bn_param
    channels = (x.shape[1],)
    folded = bool(param.bn_mode == _INFERENCE)
    if net.weights is not None and not folded and 0 < net.weights.count(layer.name) < 4:
        only(layer, False, "weights without running statistics (SegNet's form for training)")
    slope, shift = (_filler(param, old) or _filler(param, new) for old, new in _BN_FILLERS)
    weight = net.weight(layer, 0, "weight", channels, slope, default="constant", value=1.0)
    bias = net.weight(layer, 1, "bias", channels, shift, default="constant")
    if folded:  # 1 / sqrt(variance + eps) = 1
        mean = net.constant_weight(f"{layer.name}.mean", np.zeros(channels))
        variance = net.constant_weight(f"{layer.name}.variance", np.full(channels, 1.0 - param.eps))
    else:
        mean = net.weight(layer, 2, "mean", channels, default="constant")
        variance = net.weight(layer, 3, "variance", channels, default="constant", value=1.0)
    inputs: list[Blob | ir.Value] = [x, weight, bias, mean, variance]
    momentum = 1.0 - param.decay if param.HasField("decay") else param.momentum
    return [net.node(layer, "BatchNormalization", inputs, x.shape, epsilon=param.eps, momentum=momentum)]


@converts("Scale", reads="scale_param: axis num_axes filler bias_term bias_filler", bottoms=(1, 2))
def scale(layer: Layer, net: Builder) -> Sequence[Blob]:
    """x · weight + bias; with two bottoms the second one is the weight."""
    x, param = layer.bottoms[0], layer.message.scale_param
    if len(layer.bottoms) == 2:
        dims = layer.bottoms[1].shape
        factor: Blob | ir.Value = _second(layer, net)
        axis = layer.axis(param.axis) if dims else 0
        bias_index = 0
    else:
        axis, dims = _covered(layer, param.axis, param.num_axes)
        filler = _filler(param, "filler")
        stored = _stored(x, axis, dims)
        factor = net.weight(layer, 0, "weight", dims, filler, default="constant", value=1.0, stored=stored)
        bias_index = 1
    if not param.bias_term:
        return [net.node(layer, "Mul", [x, factor], x.shape)]
    only(layer, axis > 0 or not dims, "a bias along the batch")
    filler = _filler(param, "bias_filler")
    bias = net.weight(layer, bias_index, "bias", dims, filler, default="constant", stored=_stored(x, axis, dims))
    product = net.node(layer, "Mul", [x, factor], x.shape, suffix="product")
    return [net.node(layer, "Add", [product, bias], x.shape)]


@converts("Bias", reads="bias_param: axis num_axes filler", bottoms=(1, 2))
def bias(layer: Layer, net: Builder) -> Sequence[Blob]:
    """x + bias; with two bottoms the second one is the bias."""
    x, param = layer.bottoms[0], layer.message.bias_param
    if len(layer.bottoms) == 2:
        return [net.node(layer, "Add", [x, _second(layer, net)], x.shape)]
    axis, dims = _covered(layer, param.axis, param.num_axes)
    shift = net.weight(
        layer, 0, "bias", dims, _filler(param, "filler"), default="constant", stored=_stored(x, axis, dims)
    )
    return [net.node(layer, "Add", [x, shift], x.shape)]


def _covered(layer: Layer, axis: int, num_axes: int) -> tuple[int, tuple[int, ...]]:
    """First axis and sizes of a learnt scale or bias."""
    x = layer.bottoms[0]
    axis = layer.axis(axis)
    if num_axes < -1 or axis + num_axes > len(x.shape):
        raise layer.error(f"num_axes {num_axes} from axis {axis} of a blob with {len(x.shape)} axes")
    dims = x.shape[axis:] if num_axes == -1 else x.shape[axis : axis + num_axes]
    only(layer, axis > 0 or not dims, "weights along the batch")
    return axis, dims


def _stored(x: Blob, axis: int, dims: Sequence[int]) -> tuple[int, ...]:
    """Ones behind, so that it broadcasts from its own axis on."""
    return (*dims, *(1 for _ in x.shape[axis + len(dims) :])) if dims else (1,)


def _second(layer: Layer, net: Builder) -> Blob:
    """The second bottom with ones behind."""
    x, y = layer.bottoms
    param = layer.message.scale_param if layer.type == "Scale" else layer.message.bias_param
    axis = layer.axis(param.axis) if y.shape else 0
    if x.shape[axis : axis + len(y.shape)] != y.shape:
        raise layer.error(f"its second input of shape {y.shape} does not fit the first, {x.shape}, from axis {axis} on")
    behind = len(x.shape) - axis - len(y.shape)
    if not behind or not y.shape:
        return y
    axes = net.ints(layer, "axes", range(len(y.shape), len(y.shape) + behind))
    return net.node(layer, "Unsqueeze", [y, axes], (*y.shape, *(1,) * behind), suffix="broadcast")


@converts("LRN", reads="lrn_param: local_size alpha beta norm_region k")
def lrn(layer: Layer, net: Builder) -> Sequence[Blob]:
    """x / (k + α/n Σ x²)^β over n channels; or over n×n neighbours of the same channel, with k = 1."""
    x, param = layer.bottoms[0], layer.message.lrn_param
    only(layer, len(x.shape) == 4, f"on a blob with {len(x.shape)} axes")
    if param.local_size % 2 == 0:
        raise layer.error(f"local_size is {param.local_size}; it has to be odd")
    if param.norm_region != _WITHIN:
        attributes: dict[str, Any] = {
            "size": param.local_size,
            "alpha": param.alpha,
            "beta": param.beta,
            "bias": param.k,
        }
        return [net.node(layer, "LRN", [x], x.shape, **attributes)]
    size, pad = param.local_size, (param.local_size - 1) // 2
    if pad >= size + min(x.shape[2:]):
        raise layer.error(f"local_size {size} on an image of {x.shape[2]}×{x.shape[3]}")
    square = net.node(layer, "Mul", [x, x], x.shape, suffix="square")
    window: dict[str, Any] = {
        "kernel_shape": (size, size),
        "strides": (1, 1),
        "pads": (pad,) * 4,
        "count_include_pad": 1,
    }
    mean = net.node(layer, "AveragePool", [square], x.shape, suffix="mean", **window)
    scaled = net.node(layer, "Mul", [mean, net.scalar(layer, "alpha", param.alpha)], x.shape, suffix="scaled")
    shifted = net.node(layer, "Add", [scaled, net.scalar(layer, "one", 1.0)], x.shape, suffix="shifted")
    norm = net.node(layer, "Pow", [shifted, net.scalar(layer, "beta", param.beta)], x.shape, suffix="norm")
    return [net.node(layer, "Div", [x, norm], x.shape)]


@converts("MVN", reads="mvn_param: normalize_variance across_channels eps")
def mvn(layer: Layer, net: Builder) -> Sequence[Blob]:
    """(x − mean) / (σ + ε) of each image, per channel or across all of them."""
    x, param = layer.bottoms[0], layer.message.mvn_param
    only(layer, len(x.shape) == 4, f"on a blob with {len(x.shape)} axes")
    first = 1 if param.across_channels else 2
    shape = (*x.shape[:first], *(1,) * (4 - first))
    axes = net.ints(layer, "axes", range(first, 4))
    mean = net.node(layer, "ReduceMean", [x, axes], shape, suffix="mean", keepdims=1)
    if not param.normalize_variance:
        return [net.node(layer, "Sub", [x, mean], x.shape)]
    centred = net.node(layer, "Sub", [x, mean], x.shape, suffix="centred")
    square = net.node(layer, "Mul", [centred, centred], x.shape, suffix="square")
    variance = net.node(layer, "ReduceMean", [square, axes], shape, suffix="variance", keepdims=1)
    deviation = net.node(layer, "Sqrt", [variance], shape, suffix="deviation")
    norm = net.node(layer, "Add", [deviation, net.scalar(layer, "eps", param.eps)], shape, suffix="norm")
    return [net.node(layer, "Div", [centred, norm], x.shape)]


@converts("Normalize", reads="norm_param: across_spatial scale_filler channel_shared eps")
def normalize(layer: Layer, net: Builder) -> Sequence[Blob]:
    """SSD: x / √(Σx² + ε) over channels, or over the whole image, times a learnt scale."""
    x, param = layer.bottoms[0], layer.message.norm_param
    only(layer, len(x.shape) == 4, f"on a blob with {len(x.shape)} axes")
    axes = range(1, 4) if param.across_spatial else range(1, 2)
    shape = (x.shape[0], 1, 1, 1) if param.across_spatial else (x.shape[0], 1, *x.shape[2:])
    square = net.node(layer, "Mul", [x, x], x.shape, suffix="square")
    total = net.node(layer, "ReduceSum", [square, net.ints(layer, "axes", axes)], shape, suffix="sum", keepdims=1)
    total = net.node(layer, "Add", [total, net.scalar(layer, "eps", param.eps)], shape, suffix="shifted")
    norm = net.node(layer, "Sqrt", [total], shape, suffix="norm")
    unit = net.node(layer, "Div", [x, norm], x.shape, suffix="unit")
    channels = 1 if param.channel_shared else x.shape[1]
    blob = () if param.channel_shared else (channels,)
    filler = _filler(param, "scale_filler")
    factor = net.weight(layer, 0, "weight", blob, filler, default="constant", value=1.0, stored=(channels, 1, 1))
    return [net.node(layer, "Mul", [unit, factor], x.shape)]


def _filler(param: Any, name: str) -> Any:
    return getattr(param, name) if param.HasField(name) else None
