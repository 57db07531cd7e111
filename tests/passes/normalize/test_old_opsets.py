"""One-node models of every opset from 7 on: the converted one computes in onnxruntime what the original does, and so
does its lowering."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper

from onnxmtl import ops, runtime
from onnxmtl.ir import to_bytes
from onnxmtl.lowering import to_torch
from onnxmtl.passes.normalize.fold import FoldConstants
from onnxmtl.passes.normalize.names import NameNodes
from onnxmtl.passes.normalize.opset import CANONICAL_OPSET, ConvertOpset

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


IMAGE = normal(2, 4, 6, 5)
SQUARE = normal(2, 3, 4)


@dataclasses.dataclass(frozen=True)
class Node:
    """A node as opsets `first` to `last` write it; the first input is the image, the others are initializers."""

    op_type: str
    inputs: tuple[np.ndarray | None, ...] = (IMAGE,)
    attributes: dict[str, object] = dataclasses.field(default_factory=dict)
    first: int = 7
    last: int = CANONICAL_OPSET
    outputs: int = 1
    label: str = ""

    def proto(self, opset: int) -> onnx.ModelProto:
        names = ["" if array is None else f"x{i}" for i, array in enumerate(self.inputs)]
        results = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(self.op_type, names, results, name="the_node", **self.attributes)
        kind = helper.np_dtype_to_tensor_dtype(self.inputs[0].dtype)
        image = helper.make_tensor_value_info("x0", kind, self.inputs[0].shape)
        weights = [numpy_helper.from_array(a, n) for a, n in zip(self.inputs[1:], names[1:], strict=True) if n]
        outputs = [helper.make_empty_tensor_value_info(name) for name in results]
        graph = helper.make_graph([node], "g", [image], outputs, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def f32(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


UNARY = (
    "Abs Ceil Cos Elu Exp Floor HardSigmoid Identity LeakyRelu Neg Relu Selu Shape Sigmoid Sin Size Softplus Softsign "
    "Tan Atan Tanh GlobalAveragePool GlobalMaxPool LpNormalization Flatten GlobalLpPool"
)
NEWER = {
    **dict.fromkeys(
        ["Asinh", "Cosh", "Erf", "IsNaN", "MeanVarianceNormalization", "Shrink", "Sign", "Sinh", "NonZero"], 9
    ),
    **dict.fromkeys(["ThresholdedRelu", "IsInf"], 10),
    **dict.fromkeys(["Round"], 11),
    **dict.fromkeys(["Celu"], 12),
    **dict.fromkeys(["HardSwish"], 14),
    **dict.fromkeys(["Mish"], 18),
    **dict.fromkeys(["Gelu"], 20),
}
REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
NODES = [
    *(Node(name) for name in UNARY.split()),
    *(Node(name, first=first) for name, first in NEWER.items()),
    *(Node(name, (positive(2, 3, 4),)) for name in ["Log", "Sqrt", "Reciprocal"]),
    *(Node(name, (RNG.uniform(-0.9, 0.9, (2, 3)).astype(np.float32),)) for name in ["Asin", "Acos"]),
    Node("Acosh", (positive(2, 3) + 1,), first=9),
    Node("Atanh", (positive(2, 3) - 1,), first=9),
    *(Node(name, (SQUARE, normal(3, 1))) for name in ["Add", "Sub", "Mul", "Div", "PRelu"]),
    *(Node(name, (SQUARE, normal(3, 1)), first=9) for name in ["Less", "Greater"]),
    *(Node(name, (SQUARE, normal(3, 1)), first=12) for name in ["LessOrEqual", "GreaterOrEqual"]),
    Node("Equal", (SQUARE, SQUARE[:1].copy()), first=11),
    Node("Equal", (i64(1, 2, 3), i64(1, 5, 3)), label="integers"),
    *(Node(name, (SQUARE > 0, normal(3, 1) > 0)) for name in ["And", "Or", "Xor"]),
    Node("Not", (SQUARE > 0,)),
    Node("Pow", (positive(2, 3), f32(2.0))),
    *(Node(name, (SQUARE, normal(2, 3, 4), normal(2, 3, 4))) for name in ["Max", "Min", "Mean", "Sum"]),
    Node("Mod", (positive(2, 3), positive(2, 3)), {"fmod": 1}, first=10),
    Node("Where", (SQUARE > 0, normal(3, 1), normal(2, 1, 4)), first=9),
    Node("Cast", attributes={"to": onnx.TensorProto.INT32}),
    Node("ArgMax", attributes={"axis": 1}),
    Node("ArgMin", attributes={"axis": -1, "keepdims": 0}, first=11),
    # Softmax flattened the axes behind `axis` before opset 13.
    *(Node(name, attributes={"axis": 1}) for name in ["Softmax", "LogSoftmax", "Hardmax"]),
    *(Node(name, attributes={"axis": 3}, label="last") for name in ["Softmax", "LogSoftmax", "Hardmax"]),
    *(Node(name, label="default") for name in ["Softmax", "LogSoftmax", "Hardmax"]),
    *(Node(name, (normal(3, 5),), label="matrix") for name in ["Softmax", "LogSoftmax"]),
    # Axes and sizes that became inputs.
    *(Node(f"Reduce{name}", (positive(2, 3, 4),), {"axes": [1, 2]}, last=12) for name in REDUCTIONS.split()),
    *(
        Node(f"Reduce{name}", (positive(2, 3, 4),), {"axes": [1], "keepdims": 0}, last=12, label="dropped")
        for name in REDUCTIONS.split()
    ),
    *(Node(f"Reduce{name}", (positive(2, 3, 4),), label="all") for name in REDUCTIONS.split()),
    *(
        Node(f"Reduce{name}", (positive(2, 3, 4),), {"axes": [1, 2]}, 13, 17, label="13")
        for name in REDUCTIONS.split()
        if name != "Sum"
    ),
    Node("ReduceSum", (SQUARE, i64(1)), first=13),
    Node("Squeeze", (normal(2, 1, 3, 1),), {"axes": [1]}, last=12),
    Node("Squeeze", (normal(2, 1, 3, 1),), label="all"),
    Node("Squeeze", (normal(2, 1, 3, 1), i64(3)), first=13),
    Node("Unsqueeze", (SQUARE,), {"axes": [0, 4]}, last=12),
    Node("Unsqueeze", (SQUARE, i64(0, 4)), first=13),
    Node("Split", attributes={"axis": 1, "split": [1, 3]}, last=12, outputs=2),
    Node("Split", attributes={"axis": 1}, last=17, outputs=2, label="equal"),
    Node("Split", (IMAGE, i64(1, 3)), {"axis": 1}, first=13, outputs=2),
    Node("Split", attributes={"axis": 1, "num_outputs": 2}, first=18, outputs=2, label="count"),
    Node("Slice", attributes={"axes": [1, 3], "starts": [1, -4], "ends": [3, 1000]}, last=9),
    Node("Slice", attributes={"starts": [0, 1], "ends": [1, 3]}, last=9, label="default"),
    Node("Slice", (IMAGE, i64(1, -4), i64(3, 1000), i64(1, 3), i64(1, 2)), first=10),
    Node("Pad", attributes={"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 1.5}, last=10),
    Node("Pad", attributes={"pads": [0, 0, 1, 2, 0, 0, 0, 1], "mode": "reflect"}, last=10, label="reflect"),
    Node("Pad", (IMAGE, i64(0, 0, 1, 2, 0, 0, 0, 1), np.array(1.5, np.float32)), first=11),
    Node("Clip", attributes={"min": -0.5, "max": 0.25}, last=10),
    Node("Clip", attributes={"min": 0.0}, last=10, label="below"),
    Node("Clip", attributes={"max": 0.0}, last=10, label="above"),
    Node("Clip", (IMAGE, np.array(-0.5, np.float32), np.array(0.25, np.float32)), first=11),
    Node("Clip", (IMAGE, None, np.array(0.25, np.float32)), first=11, label="above"),
    Node("Dropout", attributes={"ratio": 0.3}, last=11),
    Node("Dropout", (IMAGE, np.array(0.3, np.float32)), first=12),
    Node("TopK", (normal(3, 5),), {"k": 2, "axis": 1}, last=9, outputs=2),
    Node("TopK", (normal(3, 5), i64(2)), {"axis": 1}, first=10, outputs=2),
    # Sampling.
    Node("Upsample", (IMAGE,), {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}, last=8),
    Node("Upsample", (IMAGE,), {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}, last=8, label="linear"),
    Node("Upsample", (IMAGE, f32(1, 1, 2, 3)), {"mode": "nearest"}, 9, 9),
    Node("Upsample", (IMAGE, f32(1, 1, 2, 2)), {"mode": "linear"}, 9, 9, label="linear"),
    Node("Resize", (IMAGE, f32(1, 1, 2, 3)), {"mode": "nearest"}, 10, 10),
    Node("Resize", (IMAGE, f32(1, 1, 2, 1.5)), {"mode": "linear"}, 10, 10, label="linear"),
    Node("Resize", (IMAGE, f32(), f32(1, 1, 2, 1.5)), {"mode": "linear"}, 11, 12),
    Node("Resize", (IMAGE, f32(), f32(), i64(2, 4, 9, 9)), {"mode": "cubic"}, 11, 12, label="sizes"),
    Node("Resize", (IMAGE, None, f32(1, 1, 2, 1.5)), {"mode": "linear"}, 13),
    # Layers.
    Node("Conv", (IMAGE, normal(6, 2, 3, 3), normal(6)), {"group": 2, "pads": [1, 0, 1, 2], "strides": [2, 1]}),
    Node("ConvTranspose", (IMAGE, normal(4, 3, 3, 3), normal(3)), {"strides": [2, 2], "output_padding": [1, 0]}),
    Node("Gemm", (normal(3, 4), normal(5, 4), normal(5)), {"transB": 1, "alpha": 0.5}),
    Node("Gemm", (normal(3, 4), normal(4, 5)), first=11, label="no bias"),
    Node("MatMul", (SQUARE, normal(4, 5))),
    Node("BatchNormalization", (IMAGE, positive(4), normal(4), normal(4), positive(4)), {"epsilon": 1e-3}),
    Node("InstanceNormalization", (IMAGE, positive(4), normal(4))),
    Node("LRN", attributes={"size": 3, "alpha": 0.1}),
    Node("MaxPool", attributes={"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    Node("MaxPool", attributes={"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}, first=10, label="ceil"),
    Node("MaxPool", attributes={"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]}, label="same"),
    Node("MaxPool", attributes={"kernel_shape": [2, 2]}, first=8, outputs=2, label="places"),
    Node("AveragePool", attributes={"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    Node(
        "AveragePool", attributes={"kernel_shape": [3, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}, label="pads"
    ),
    Node("AveragePool", attributes={"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}, first=10, label="ceil"),
    Node("LpPool", attributes={"kernel_shape": [3, 2], "strides": [2, 2]}),
    # Shapes.
    Node("Reshape", (IMAGE, i64(0, -1, 5))),
    Node("Transpose", attributes={"perm": [0, 2, 3, 1]}),
    Node("Expand", (normal(2, 1, 4), i64(2, 3, 4)), first=8),
    Node("Tile", (SQUARE, i64(1, 2, 1))),
    Node("Concat", (SQUARE, normal(2, 1, 4)), {"axis": 1}),
    Node("DepthToSpace", attributes={"blocksize": 2}),
    Node("DepthToSpace", attributes={"blocksize": 2, "mode": "CRD"}, first=11, label="CRD"),
    Node("SpaceToDepth", (normal(2, 3, 4, 6),), {"blocksize": 2}),
    Node("Gather", (SQUARE, i64(2, 0)), {"axis": 1}),
    Node("GatherElements", (normal(3, 3), np.array([[0, 2], [1, 1]])), {"axis": 1}, first=11),
    Node("GatherND", (SQUARE, np.array([[0, 1], [1, 2]])), first=11),
    Node("ScatterElements", (normal(3, 3), np.array([[0, 2]]), normal(1, 2)), {"axis": 1}, first=11),
    Node("Scatter", (normal(3, 3), np.array([[0, 2]]), normal(1, 2)), {"axis": 1}, 9, 10),
    Node("ScatterND", (SQUARE, np.array([[0, 1], [1, 2]]), normal(2, 4)), first=11),
    Node("CumSum", (SQUARE, np.array(1)), first=11),
    Node("Einsum", (normal(2, 3), normal(3, 4)), {"equation": "ij,jk->ik"}, first=12),
    Node("EyeLike", (normal(3, 4),), {"k": 1}, first=9),
    Node("OneHot", (i64(0, 2, 1), i64(3), f32(0, 1)), first=9),
    Node("Trilu", (SQUARE, np.array(1)), first=14),
    Node("LayerNormalization", (SQUARE, positive(4), normal(4)), first=17),
    Node("GridSample", (IMAGE, normal(2, 3, 3, 2)), {"mode": "bilinear"}, 16, 19),
    Node("GridSample", (IMAGE, normal(2, 3, 3, 2)), {"mode": "linear"}, first=20),
]
# What onnxruntime itself does not run in these opsets, so there is nothing to compare with; and what came later.
ONLY_LATER = frozenset(
    {"Attention", "RotaryEmbedding", "RMSNormalization", "Swish", "CumProd", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
    | {"BitwiseNot", "Col2Im", "CenterCropPad", "GroupNormalization", "AffineGrid", "DeformConv"}
)
ELSEWHERE = frozenset(["Constant", "ConstantOfShape", "CastLike", "Det", "MaxUnpool", "Range"])


def converted(proto: onnx.ModelProto) -> ir.Model:
    model = ir.from_proto(proto)
    for pass_ in (NameNodes(), ConvertOpset(), NameNodes(), FoldConstants()):
        pass_(model)
    return model


def run(source: bytes, image: np.ndarray) -> list[np.ndarray]:
    opened = runtime.session(source, optimize=False, threads=1)
    return list(runtime.run(opened, {"x0": image}).values())


@pytest.mark.parametrize("node", NODES, ids=lambda node: f"{node.op_type} {node.label} {node.first}".replace("  ", " "))
def test_every_opset_computes_the_same(node):
    compared = 0
    for opset in opsets(node):
        proto = node.proto(opset)
        want = run(proto.SerializeToString(), node.inputs[0])
        model = converted(proto)
        assert model.graph.opset_imports[""] == CANONICAL_OPSET
        results = [run(to_bytes(model), node.inputs[0])]
        if opset in (node.first, node.last):
            results.append(lowered(model, node.inputs[0]))
        for got in results:
            for a, b in zip(got, want, strict=True):
                assert a.shape == b.shape and a.dtype == b.dtype, opset
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=f"opset {opset}")
        compared += 1
    assert compared >= 1


def opsets(node: Node) -> list[int]:
    """The first, the last, and where the operator or the converter's treatment of it changes."""
    versions = {s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.name == node.op_type}
    changes = {v for version in versions for v in (version - 1, version)}
    return sorted({node.first, node.last} | {v for v in changes if node.first <= v <= node.last})


def lowered(model: ir.Model, image: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        outputs = to_torch(model).eval()(torch.from_numpy(image))
    return [outputs[str(value.name)].numpy() for value in model.graph.outputs]


def test_every_operator_is_here():
    tested = {node.op_type for node in NODES}
    assert {operator.op_type for operator in ops.operators()} - ONLY_LATER - ELSEWHERE <= tested
