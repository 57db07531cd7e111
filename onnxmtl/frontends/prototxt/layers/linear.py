"""InnerProduct: everything from an axis on, times a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxmtl.frontends.prototxt.builder import Builder, only
from onnxmtl.frontends.prototxt.registry import Blob, Layer, converts


@converts("InnerProduct", reads="inner_product_param: num_output bias_term weight_filler bias_filler axis transpose")
def inner_product(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Flatten and Gemm; Reshape, MatMul and Add where `axis` keeps more than the batch.

    Caffe's weight is [outputs, inputs], or [inputs, outputs] with ``transpose``.
    """
    x, param = layer.bottoms[0], layer.message.inner_product_param
    axis = layer.axis(param.axis)
    only(layer, axis > 0, "along the batch")
    kept, inputs, outputs = x.shape[:axis], math.prod(x.shape[axis:]), param.num_output
    if outputs < 1:
        raise layer.error("num_output is missing")
    if layer.automtl and len(x.shape) > 2:
        net.differs(layer, "flattens its input, as Caffe does; AutoMTL's own reader multiplies the last axis only")
    shape = (inputs, outputs) if param.transpose else (outputs, inputs)
    filler = param.weight_filler if param.HasField("weight_filler") else None
    gemm = axis == 1
    weight = net.weight(layer, 0, "weight", shape, filler, transpose=not gemm and not param.transpose)
    bias = []
    if param.bias_term:
        filler = param.bias_filler if param.HasField("bias_filler") else None
        bias = [net.weight(layer, 1, "bias", (outputs,), filler, default="constant")]
    if gemm:
        if len(x.shape) > 2:
            x = net.node(layer, "Flatten", [x], (*kept, inputs), suffix="flatten", axis=1)
        return [net.node(layer, "Gemm", [x, weight, *bias], (*kept, outputs), transB=int(not param.transpose))]
    if axis + 1 < len(x.shape):
        target = net.ints(layer, "shape", [*(0 for _ in kept), -1])
        x = net.node(layer, "Reshape", [x, target], (*kept, inputs), suffix="flatten", batched=x.batched and axis > 0)
    if not bias:
        return [net.node(layer, "MatMul", [x, weight], (*kept, outputs))]
    product = net.node(layer, "MatMul", [x, weight], (*kept, outputs), suffix="product")
    return [net.node(layer, "Add", [product, bias[0]], (*kept, outputs))]
