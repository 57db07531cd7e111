"""Conv, ConvTranspose, Gemm and MatMul: layers with a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl.frontends.prototxt.export.net import Array, Net, Written
from onnxmtl.frontends.prototxt.export.registry import require, says
from onnxmtl.frontends.prototxt.export.windows import attribute_ints, set_window, window_pads


@says("Conv")
def conv(node: ir.Node, net: Net) -> None:
    """Convolution; zeros that a Pad before it puts around the image are part of its padding."""
    x, weight = node.inputs[0], node.inputs[1]
    kernel = _kernel(net, x, weight)
    strides, dilations = attribute_ints(node, "strides", [1, 1]), attribute_ints(node, "dilations", [1, 1])
    sizes = net.shape(x)[2:]
    pads: Sequence[int] = window_pads(node, sizes, kernel, strides, dilations)
    pads = [a + b for a, b in zip(pads, net.zeros(x), strict=True)]
    require(pads[:2] == pads[2:], f"it pads {_asymmetric(pads)}; Caffe pads both ends alike")
    written = net.layer("Convolution", node, [x], [node.outputs[0]])
    param = written.message.convolution_param
    param.num_output = net.shape(node.outputs[0])[1]
    _fill(node, net, written, param, (kernel, strides, (pads[0], pads[1]), dilations))


@says("ConvTranspose")
def conv_transpose(node: ir.Node, net: Net) -> None:
    """Deconvolution: s · (n − 1) + d · (k − 1) + 1 − 2p pixels."""
    x, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    kernel = _kernel(net, x, weight)
    strides, dilations = attribute_ints(node, "strides", [1, 1]), attribute_ints(node, "dilations", [1, 1])
    pads = attribute_ints(node, "pads", [0, 0, 0, 0])
    require(node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID"), "it has auto_pad")
    require(pads[:2] == pads[2:], f"it cuts {_asymmetric(pads)} off; Caffe cuts both ends alike")
    columns = zip(net.shape(x)[2:], strides, dilations, kernel, pads[:2], strict=True)
    sizes = tuple(s * (n - 1) + d * (k - 1) + 1 - 2 * p for n, s, d, k, p in columns)
    require(sizes == net.shape(out)[2:], "it adds to its output's size (output_padding), which Caffe cannot")
    written = net.layer("Deconvolution", node, [x], [out])
    param = written.message.convolution_param
    param.num_output = net.shape(out)[1]
    _fill(node, net, written, param, (kernel, strides, (pads[0], pads[1]), dilations))


@says("Gemm")
def gemm(node: ir.Node, net: Net) -> None:
    """InnerProduct; alpha and beta become part of the weights."""
    x, matrix = node.inputs[0], node.inputs[1]
    require(node.attributes.get_int("transA", 0) == 0, "it transposes its input")
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    stored = bool(node.attributes.get_int("transB", 0))
    _inner_product(node, net, x, matrix, bias, node.outputs[0], stored=stored, alpha=alpha, beta=beta)


@says("MatMul")
def mat_mul(node: ir.Node, net: Net) -> None:
    """InnerProduct along the last axis, with the Add behind it as its bias."""
    x, matrix = node.inputs
    require(not net.is_constant(x), "its first factor is a constant")
    require(net.is_constant(matrix), "it multiplies two computed tensors")
    out, bias, named = node.outputs[0], None, node
    users = [use.node for use in out.uses()]
    if len(users) == 1 and users[0].op_type == "Add" and not out.is_graph_output():
        other = next((value for value in users[0].inputs if value is not out), None)
        columns = net.shape(out)[-1]
        if other is not None and net.is_constant(other) and net.constant(other, "").shape in ((columns,), (1, columns)):
            bias, out, named = other, users[0].outputs[0], users[0]
            net.done.add(users[0])
    _inner_product(named, net, x, matrix, bias, out, stored=False)


def _inner_product(
    node: ir.Node,
    net: Net,
    x: ir.Value | None,
    matrix: ir.Value | None,
    bias: ir.Value | None,
    out: ir.Value,
    *,
    stored: bool,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> None:
    """`stored`: whether the matrix is [outputs, inputs] already."""
    outputs = net.shape(out)[-1]
    require(net.is_constant(matrix), "its matrix is computed")
    require(net.constant(matrix, "its matrix").ndim == 2, "its matrix has more than two axes")
    inputs = math.prod(net.constant(matrix, "its matrix").shape) // outputs
    written = net.layer("InnerProduct", node, [x], [out])
    param = written.message.inner_product_param
    param.num_output = outputs
    if bias is None:
        param.bias_term = False
    param.weight_filler.type = "xavier"
    axis = len(net.shape(x)) - 1
    if axis != 1:
        param.axis = axis

    def scaled(array: Array) -> Array:
        return np.float32(alpha) * (array if stored else array.T)

    form = f"{stored} {alpha}"
    net.weight(written, matrix, "its matrix", shape=(outputs, inputs), change=scaled, form=form)
    if bias is not None:
        full = (outputs,)

        def spread(array: Array) -> Array:
            rows = array.reshape(-1)
            require(rows.size in (1, outputs), "its bias is not one per output")
            return np.float32(beta) * np.broadcast_to(rows, full)

        require(net.constant(bias, "its bias").size in (1, outputs), "its bias is not one per output")
        net.weight(written, bias, "its bias", shape=full, change=spread, form=f"bias {beta}")


def _kernel(net: Net, x: ir.Value | None, weight: ir.Value | None) -> list[int]:
    require(net.is_constant(weight), "its weight is computed")
    kernel = list(net.constant(weight, "its weight").shape[2:])
    require(len(net.shape(x)) == 4 and len(kernel) == 2, f"it is a {len(kernel)}-D convolution")
    return kernel


def _fill(node: ir.Node, net: Net, written: Written, param: Any, window: tuple[Any, ...]) -> None:
    """What Convolution and Deconvolution have in common."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        param.bias_term = False
    for name, values in zip(("kernel_size", "stride", "pad", "dilation"), window, strict=True):
        set_window(param, name, values)
    group = node.attributes.get_int("group", 1)
    if group != 1:
        param.group = group
    param.weight_filler.type = "msra"
    net.weight(written, node.inputs[1], "its weight")
    if bias is not None:
        net.weight(written, bias, "its bias")


def _asymmetric(pads: Any) -> str:
    return f"{pads[0]} and {pads[1]} pixels at the top and left, {pads[2]} and {pads[3]} at the bottom and right"
