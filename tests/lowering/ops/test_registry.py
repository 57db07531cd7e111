"""The registry: what is refused, and how it is said."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import parser

from onnxmtl.errors import ModelError
from onnxmtl.lowering.ops import Context, check_supported, kernel_for, lowers, supported_operators

# What the issue asks for; more may be there.
WANTED = (
    "Conv ConvTranspose Gemm MatMul BatchNormalization InstanceNormalization LayerNormalization "
    "GroupNormalization LRN Relu LeakyRelu PRelu Elu Selu Sigmoid HardSigmoid HardSwish Tanh Softmax "
    "LogSoftmax Gelu Erf Softplus Clip Mish Add Sub Mul Div Pow Sqrt Exp Log Neg Abs Reciprocal Min Max Sum "
    "Mean Concat Split Slice Gather Pad Reshape Flatten Transpose Squeeze Unsqueeze Expand Shape Cast CastLike "
    "Identity Constant ConstantOfShape Dropout MaxPool AveragePool GlobalAveragePool GlobalMaxPool ReduceMean "
    "ReduceSum ReduceMax ReduceMin ReduceL2 Resize DepthToSpace SpaceToDepth ArgMax LpNormalization Where "
    "Equal Greater Less Tile "
)


def graph(body, opset=21):
    text = f'<ir_version: 10, opset_import: ["" : {opset}, "my.ops" : 1]> g (float[1, 3, 8, 8] x) => (y) {{ {body} }}'
    model = ir.from_proto(parser.parse_model(text))
    for i, node in enumerate(model.graph):
        node.name = f"node_{i}"
    return model.graph


def test_the_wanted_operators_are_there():
    assert {("", op_type) for op_type in WANTED.split()} <= set(supported_operators())


def test_a_supported_graph_passes():
    g = graph("a = Relu(x) y = Sigmoid(a)")
    check_supported(g)


def test_all_unsupported_nodes_are_named_at_once():
    g = graph("a = Unique(x) b = Relu(a) c = my.ops.Magic(b) d = DFT(c) y = MaxPool <kernel_shape=[1,1,1,1]> (d)")
    with pytest.raises(ModelError) as error:
        check_supported(g)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("4 nodes cannot be trained: ")
    for part in (
        "Unique 'node_0' (opset 21: cannot be trained)",
        "my.ops.Magic 'node_2' (opset 1: no such operator)",
        "DFT 'node_3' (opset 21: cannot be trained)",
        "MaxPool 'node_4' (opset 21: 4 spatial axes, 1 to 3 are covered)",
    ):
        assert part in message


def test_an_unsupported_form_gives_the_reason():
    g = graph("y = MaxUnpool <kernel_shape = [2, 2]> (x, i, s)")
    with pytest.raises(ModelError, match=r"1 node .* MaxUnpool 'node_0' \(opset 21: an output_shape"):
        check_supported(g)
    with pytest.raises(ModelError, match="output_shape"):
        kernel_for(g[0])


def test_an_old_opset_is_refused():
    with pytest.raises(ModelError, match=r"Softmax 'node_0' \(opset 11: needs opset 13 or newer\)"):
        check_supported(graph("y = Softmax(x)", opset=11))


def test_registering_twice_is_an_error():
    with pytest.raises(ValueError, match="Relu has a lowering already"):
        lowers("Relu")(lambda node: lambda xs, ctx: xs[0])


def test_own_domains_can_be_registered():
    lowers("Twice", domain="test.ops")(lambda node: lambda xs, ctx: 2 * xs[0])
    node = ir.Node("test.ops", "Twice", [ir.Value(name="x")])
    assert torch.equal(kernel_for(node)([torch.ones(2)], Context()), torch.full((2,), 2.0))


def test_all_wheel_models_can_be_lowered():
    """The nine classic networks in the onnx wheel, at our opset."""
    folder = onnx.__path__[0] + "/backend/test/data/light"
    for name in ("bvlc_alexnet", "densenet121", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19"):
        model = onnx.load(f"{folder}/light_{name}.onnx")
        check_supported(ir.from_proto(onnx.version_converter.convert_version(model, 21)).graph)
