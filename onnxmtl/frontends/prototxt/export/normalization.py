"""BatchNormalization, LRN, Dropout."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmtl.frontends.prototxt.export.net import Net
from onnxmtl.frontends.prototxt.export.registry import require, says


@says("BatchNormalization")
def batch_normalization(node: ir.Node, net: Net) -> None:
    """BatchNorm with its statistics, and a Scale on the same blob with γ and β; AutoMTL's BatchNorm has all four.

    Caffe's statistics are sums that a third blob divides: 1, as for sums that are means already.
    """
    require(node.attributes.get_int("training_mode", 0) == 0, "it is in training mode; export the model with eval()")
    require(
        not any(value.uses() or value.is_graph_output() for value in node.outputs[1:]), "others read its statistics"
    )
    x, gamma, beta, mean, variance = node.inputs
    out = node.outputs[0]
    require(len(net.shape(x)) >= 2, "its input has one axis")
    written = net.layer("BatchNorm", node, [x], [out])
    param = written.message.batch_norm_param
    keep = node.attributes.get_float("momentum", 0.9)
    param.eps = node.attributes.get_float("epsilon", 1e-5)
    if net.automtl:
        param.track_running_stats, param.affine = True, True
        param.momentum = round(1.0 - keep, 7)  # torch's convention; 0.1 for the 0.9 that float32 has not
        for value, what in zip(node.inputs[1:], ("scale", "shift", "mean", "variance"), strict=True):
            net.weight(written, value, f"its {what}")
        return
    param.moving_average_fraction = keep
    net.weight(written, mean, "its mean")
    net.weight(written, variance, "its variance")
    net.numbers(written, np.ones(1, np.float32))
    scale = net.layer("Scale", node, [out], [out], suffix="scale")
    scale.message.scale_param.bias_term = True
    net.weight(scale, gamma, "its scale")
    net.weight(scale, beta, "its shift")


@says("LRN")
def lrn(node: ir.Node, net: Net) -> None:
    """LRN across channels."""
    size = node.attributes.get_int("size", 1)
    require(size % 2 == 1, f"its size {size} is even")
    require(len(net.shape(node.inputs[0])) == 4, "its input is no image")
    param = net.layer("LRN", node, [node.inputs[0]], [node.outputs[0]]).message.lrn_param
    param.local_size = size
    param.alpha = node.attributes.get_float("alpha", 1e-4)
    param.beta = node.attributes.get_float("beta", 0.75)
    param.k = node.attributes.get_float("bias", 1.0)


@says("Dropout")
def dropout(node: ir.Node, net: Net) -> None:
    """Dropout, which is the identity outside training."""
    require(not any(value.uses() or value.is_graph_output() for value in node.outputs[1:]), "its mask is used")
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        mode = bool(net.constant(node.inputs[2], "its mode").reshape(-1)[0])
        require(not mode, "it is in training mode; export the model with eval()")
    ratio = node.inputs[1] if len(node.inputs) > 1 else None
    written = net.layer("Dropout", node, [node.inputs[0]], [node.outputs[0]])
    number = 0.5 if ratio is None else float(net.constant(ratio, "its ratio").reshape(-1)[0])
    require(0 <= number < 1, f"its ratio is {number:g}")
    written.message.dropout_param.dropout_ratio = number
