"""The operators that can be trained, by family: what ``onnxmtl.lowering.ops`` computes, said without torch.

A test compares this table with the lowering's registry, and OPERATORS.md is written from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import onnx_ir as ir

Refuse = Callable[[ir.Node], str | None]


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of the standard domain.

    Attributes:
        op_type: ONNX operator name.
        family: What it is filed under in the documentation.
        limits: What of it is not covered, in a few words; "" if all is.
        refuse: Says why a node is not covered, or None; there wherever `limits` is.
    """

    op_type: str
    family: str
    limits: str = ""
    refuse: Refuse | None = None


def _table() -> Iterable[Operator]:
    for family, names in _FAMILIES.items():
        for name in names.split():
            limits, refuse = _LIMITS.get(name, ("", None))
            yield Operator(name, family, limits, refuse)


_FAMILIES = {
    "Convolutions and matrix products": "Conv ConvTranspose DeformConv Gemm MatMul Einsum Det",
    "Attention": "Attention RotaryEmbedding",
    "Normalization": (
        "BatchNormalization InstanceNormalization LayerNormalization GroupNormalization RMSNormalization LRN "
        "LpNormalization MeanVarianceNormalization"
    ),
    "Activations": (
        "Relu LeakyRelu PRelu Elu Celu Selu Sigmoid HardSigmoid HardSwish Swish Tanh Softplus Softsign Mish Gelu Clip "
        "ThresholdedRelu Shrink Softmax LogSoftmax Hardmax"
    ),
    "Arithmetic": (
        "Add Sub Mul Div Pow Mod Sum Mean Max Min Abs Neg Sign Ceil Floor Round Sqrt Reciprocal Exp Log Erf Sin Cos "
        "Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh"
    ),
    "Comparison and logic": (
        "Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not Where IsNaN IsInf BitwiseAnd BitwiseOr "
        "BitwiseXor BitwiseNot"
    ),
    "Pooling": "MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool MaxUnpool",
    "Reductions": (
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
        "ReduceSumSquare ArgMax ArgMin CumSum CumProd"
    ),
    "Resizing and sampling": "Resize GridSample AffineGrid Pad CenterCropPad",
    "Shape": "Reshape Flatten Transpose Squeeze Unsqueeze Expand Tile DepthToSpace SpaceToDepth Col2Im",
    "Joining and selecting": (
        "Concat Split Slice Gather GatherElements GatherND ScatterElements ScatterND TopK Trilu NonZero OneHot EyeLike"
    ),
    "Types, shapes and constants": "Cast CastLike Identity Constant ConstantOfShape Shape Size Range Dropout",
}


def _used(node: ir.Node, index: int) -> bool:
    """Whether an optional output is asked for."""
    if index >= len(node.outputs):
        return False
    value = node.outputs[index]
    return value.name != "" and (bool(value.uses()) or value.is_graph_output())


def _statistics(node: ir.Node) -> str | None:
    return "running statistics as outputs" if _used(node, 1) else None


# Of a raw graph this says nothing: the weight may be computed from constants.
UNKNOWN_WINDOW = "neither kernel_shape nor the shape of the weight is known"


def _rank(node: ir.Node) -> str | None:
    """Windows have 1 to 3 axes."""
    if "kernel_shape" in node.attributes:
        rank = len(node.attributes["kernel_shape"].as_ints())
    else:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        shape = None
        if weight is not None:
            shape = weight.shape if weight.const_value is None else weight.const_value.shape
        if shape is None:
            return UNKNOWN_WINDOW
        rank = len(shape) - 2
    return None if 1 <= rank <= 3 else f"{rank} spatial axes, 1 to 3 are covered"


def _planes(node: ir.Node) -> str | None:
    return _rank_of(node, {4}, "images [N, C, H, W] are covered")


def _planes_or_volumes(node: ir.Node) -> str | None:
    return _rank_of(node, {4, 5}, "images and volumes are covered")


def _rank_of(node: ir.Node, ranks: set[int], covered: str) -> str | None:
    shape = None if not node.inputs or node.inputs[0] is None else node.inputs[0].shape
    return None if shape is None or len(shape) in ranks else f"{len(shape)} axes, {covered}"


# What torch can hold. Strings, complex numbers, 4-bit and 8-bit floats are left.
TYPES = frozenset(
    {
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT16,
        ir.DataType.BFLOAT16,
        ir.DataType.INT8,
        ir.DataType.INT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.UINT8,
        ir.DataType.UINT16,
        ir.DataType.UINT32,
        ir.DataType.UINT64,
        ir.DataType.BOOL,
    }
)


def _target(node: ir.Node) -> str | None:
    dtype = ir.DataType(node.attributes["to"].as_int())
    return None if dtype in TYPES else f"element type {dtype.name}"


def _value(node: ir.Node) -> str | None:
    tensor = ir.convenience.get_const_tensor(node.outputs[0])
    if tensor is None:
        return "a Constant that is no tensor"
    return None if tensor.dtype in TYPES else f"element type {tensor.dtype.name}"


def _fill(node: ir.Node) -> str | None:
    attribute = node.attributes.get("value")
    dtype = ir.DataType.FLOAT if attribute is None else attribute.as_tensor().dtype
    return None if dtype in TYPES else f"element type {dtype.name}"


def _unpool(node: ir.Node) -> str | None:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return "an output_shape, which onnxruntime reads in another way than ONNX"
    return _rank(node)


def _one_of(name: str, default: str, known: tuple[str, ...]) -> Refuse:
    def refuse(node: ir.Node) -> str | None:
        value = node.attributes.get_string(name, default)
        return None if value in known else f"{name} {value}"

    return refuse


_WINDOW = ("1 to 3 spatial axes", _rank)
_ELEMENTS = "no strings, no 4-bit or 8-bit floats"
_BLOCKS = ("", _one_of("mode", "DCR", ("DCR", "CRD")))

_LIMITS: dict[str, tuple[str, Refuse | None]] = {
    "AffineGrid": ("", None),
    "AveragePool": _WINDOW,
    "BatchNormalization": ("no running statistics as outputs (train mode follows the module)", _statistics),
    "Cast": (_ELEMENTS, _target),
    "Constant": ("tensors of numbers", _value),
    "ConstantOfShape": (_ELEMENTS, _fill),
    "Conv": _WINDOW,
    "ConvTranspose": _WINDOW,
    "DeformConv": ("images [N, C, H, W]", _planes),
    "DepthToSpace": _BLOCKS,
    "GridSample": ("images and volumes", _planes_or_volumes),
    "LpPool": _WINDOW,
    "MaxPool": _WINDOW,
    "MaxUnpool": ("1 to 3 spatial axes, no output_shape", _unpool),
    "Pad": ("", _one_of("mode", "constant", ("constant", "reflect", "edge", "wrap"))),
    "SpaceToDepth": _BLOCKS,
}

_OPERATORS: dict[str, Operator] = {operator.op_type: operator for operator in _table()}


def operator(op_type: str) -> Operator | None:
    """The entry of a standard operator; None if there is no lowering for it."""
    return _OPERATORS.get(op_type)


def operators() -> tuple[Operator, ...]:
    """All entries, by family."""
    return tuple(_OPERATORS.values())
