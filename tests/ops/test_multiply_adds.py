"""Multiply-adds: hand-computed cases, and torch's own counter."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from onnxmtl.errors import ModelError
from onnxmtl.ops import multiply_adds


def graph(text, *, infer=True, **weights):
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g ' + text)
    for name, shape in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True) if infer else model).graph


HAND = [
    # 8·8 outputs of 16 channels, each 3·3·3 products
    ("(float[N,3,8,8] x) => (y) { y = Conv<pads=[1,1,1,1]>(x, w) }", {"w": (16, 3, 3, 3)}, 64 * 16 * 27),
    # the bias does not count; stride 2 leaves 4·4
    (
        "(float[N,3,8,8] x) => (y) { y = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w, b) }",
        {"w": (16, 3, 3, 3), "b": (16,)},
        16 * 16 * 27,
    ),
    # depthwise: one input channel per output
    ("(float[N,8,8,8] x) => (y) { y = Conv<group=8>(x, w) }", {"w": (8, 1, 3, 3)}, 36 * 8 * 9),
    # dilation 2 spans 5·5, leaves 4·4 outputs, and multiplies 9 times
    ("(float[N,3,8,8] x) => (y) { y = Conv<dilations=[2,2]>(x, w) }", {"w": (5, 3, 3, 3)}, 16 * 5 * 27),
    # every input element is multiplied into 2·2 places of 5 channels
    ("(float[N,3,4,4] x) => (y) { y = ConvTranspose<strides=[2,2]>(x, w) }", {"w": (3, 5, 2, 2)}, 16 * 3 * 20),
    ("(float[N,4,4,4] x) => (y) { y = ConvTranspose<group=2>(x, w) }", {"w": (4, 3, 2, 2)}, 16 * 4 * 12),
    ("(float[N,20] x) => (y) { y = Gemm<transB=1>(x, w, b) }", {"w": (10, 20), "b": (10,)}, 200),
    ("(float[N,20] x) => (y) { y = Gemm(x, w) }", {"w": (20, 10)}, 200),
    ("(float[N,20] x) => (y) { y = MatMul(x, w) }", {"w": (20, 10)}, 200),
    ("(float[N,7,20] x) => (y) { y = MatMul(x, w) }", {"w": (20, 10)}, 7 * 200),
    # activations by activations: 4 heads of 7×5 times 5×7
    ("(float[N,4,7,5] x, float[N,4,5,7] z) => (y) { y = MatMul(x, z) }", {}, 4 * 7 * 7 * 5),
    ("(float[N,7,5] x) => (y) { y = MatMul(x, w) }", {"w": (5,)}, 7 * 5),
    # a fixed batch is divided out
    ("(float[4,3,8,8] x) => (y) { y = Conv(x, w) }", {"w": (2, 3, 1, 1)}, 64 * 6),
    ("(float[4,20] x) => (y) { y = MatMul(x, w) }", {"w": (20, 10)}, 200),
    # nothing to count
    ("(float[N,3,8,8] x) => (y) { y = Relu(x) }", {}, 0),
    ("(float[N,3,8,8] x) => (y) { y = Add(x, w) }", {"w": (3, 1, 1)}, 0),
    ("(float[N,3,8,8] x) => (y) { y = AveragePool<kernel_shape=[2,2]>(x) }", {}, 0),
]


@pytest.mark.parametrize(("text", "weights", "expected"), HAND)
def test_by_hand(text, weights, expected):
    assert multiply_adds(graph(text, **weights)[0]) == expected


def test_a_multiple_of_the_batch_counts():
    """Windows moved into the batch: 16·N rows are 16 at batch 1, symbolic or fixed."""
    value = ir.Value(name="y", shape=ir.Shape([ir.SymbolicDim("16*N"), 10]))
    right = ir.Value(name="w", shape=ir.Shape([20, 10]))
    node = ir.Node("", "MatMul", [ir.Value(name="x"), right], outputs=[value])
    assert multiply_adds(node) == 16 * 200
    g = graph("(float[4,16,20] x) => (y) { s = Reshape(x, shape) y = MatMul(s, w) }", infer=False, w=(20, 10))
    g[1].outputs[0].shape = ir.Shape([64, 10])
    assert multiply_adds(g[1]) == 16 * 200


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 3),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 1),
)
def test_torch_counts_the_same(groups, cin, cout, kernel, stride, dilation, pad):
    x = torch.zeros(1, cin * groups, 9, 8)
    w = torch.zeros(cout * groups, cin, *kernel)
    text = (
        f"(float[N,{x.shape[1]},9,8] x) => (y) {{ y = Conv<group={groups}, strides=[{stride},{stride}], "
        f"dilations=[{dilation},{dilation}], pads=[{pad},{pad},{pad},{pad}]>(x, w) }}"
    )
    with FlopCounterMode(display=False) as counter:
        F.conv2d(x, w, None, stride, pad, dilation, groups)
    assert 2 * multiply_adds(graph(text, w=tuple(w.shape))[0]) == counter.get_total_flops()


def test_torch_counts_transposed_convolutions_and_products_the_same():
    with FlopCounterMode(display=False) as counter:
        F.conv_transpose2d(torch.zeros(1, 3, 5, 4), torch.zeros(3, 6, 3, 2), stride=2, padding=1)
    text = "(float[N,3,5,4] x) => (y) { y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w) }"
    assert 2 * multiply_adds(graph(text, w=(3, 6, 3, 2))[0]) == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        torch.zeros(1, 4, 7, 5) @ torch.zeros(1, 4, 5, 6)
    text = "(float[N,4,7,5] x, float[N,4,5,6] z) => (y) { y = MatMul(x, z) }"
    assert 2 * multiply_adds(graph(text)[0]) == counter.get_total_flops()


def test_unknown_shapes_are_an_error():
    g = graph("(float[N,3,8,8] x) => (y) { y = Conv(x, w) }", infer=False, w=(2, 3, 1, 1))
    g[0].name = "the_conv"
    with pytest.raises(ModelError, match=r"what Conv 'the_conv' costs: value 'y': its shape is unknown"):
        multiply_adds(g[0])
    g = graph("(float[N,3,H,W] x) => (y) { y = Conv(x, w) }", w=(2, 3, 1, 1))
    with pytest.raises(ModelError, match=r"value 'y': dimension 2 is \w+, not a number"):
        multiply_adds(g[0])
