"""What replaces an operator that a task skips: nothing where shapes agree, else the cheapest thing that fits.

The projections are parameter-free by default (average pooling by the stride, zero channels appended or the last
ones cut off): they cost no multiply-adds and stay equal for all tasks that skip. ``"grouped1x1"`` and
``"dense1x1"`` are learnt, one per task; ``"dense1x1"`` is what AutoMTL's code does (1x1 convolution + BatchNorm).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxmtl import ops

SkipMode = Literal["auto", "grouped1x1", "dense1x1", "none"]
Form = Literal["identity", "free", "grouped1x1", "dense1x1"]


@dataclasses.dataclass(frozen=True)
class Skip:
    """How an operator is skipped.

    Attributes:
        form: ``identity``, ``free`` (pooling and channel padding or slicing) or a learnt projection.
        channels_in: Channels of the operator's input.
        channels_out: Channels of its output.
        strides: (vertical, horizontal).
        ceil: Whether the operator rounds the output size up (ceil(H/s)) rather than down (floor(H/s)).
        groups: Groups of a learnt projection.
    """

    form: Form
    channels_in: int
    channels_out: int
    strides: tuple[int, int]
    ceil: bool
    groups: int = 1


def plan_skip(node: ir.Node, mode: SkipMode) -> Skip | str:
    """Decide how `node` can be skipped; a string says why it cannot.

    Conv of rank 4 whose output size is ceil(H/s) or floor(H/s) for every H, and Gemm/MatMul that keep the shape.
    """
    if mode == "none":
        return "skips are switched off"
    if node.op_type in ("Gemm", "MatMul"):
        before, after = node.inputs[0], node.outputs[0]
        if before is not None and before.shape is not None and before.shape == after.shape:
            return Skip("identity", 0, 0, (1, 1), ceil=True)
        return f"{node.op_type} changes the shape"
    if node.op_type != "Conv":
        return f"no skip is known for {node.op_type}"
    weight = node.inputs[1]
    if weight is None or weight.shape is None or len(weight.shape) != 4:
        return "only two-dimensional convolutions can be skipped"
    rounding = _rounding(node)
    if rounding is None:
        return "its output size is not the input size divided by the stride"
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    shape = weight.shape.numpy()
    c_out, c_in = int(shape[0]), int(shape[1]) * groups
    strides = _ints(node, "strides", (1, 1))
    if strides == (1, 1) and c_in == c_out:
        return Skip("identity", c_in, c_out, strides, ceil=True)
    if mode == "dense1x1":
        return Skip("dense1x1", c_in, c_out, strides, ceil=True) if rounding else "a 1x1 projection would not fit"
    if mode == "grouped1x1" and rounding:
        per_group = math.gcd(c_in, c_out)
        positions = ops.multiply_adds(node) // max(1, int(np.prod(shape)))
        # A learnt skip that costs as much as its operator is no alternative to it.
        if positions * c_in * c_out // per_group < ops.multiply_adds(node):
            return Skip("grouped1x1", c_in, c_out, strides, ceil=True, groups=per_group)
    return Skip("free", c_in, c_out, strides, ceil=rounding)


def skip_nodes(skip: Skip, x: ir.Value, y: ir.Value, base: str, graph: ir.Graph) -> tuple[list[ir.Node], ir.Value]:
    """Nodes of a parameter-free skip from `x` to a value shaped like `y`; none for an identity."""
    nodes: list[ir.Node] = []
    value = x

    def add(op: str, inputs: Sequence[ir.Value | None], attributes: Sequence[ir.Attr], channels: int) -> ir.Value:
        shape = None
        if y.shape is not None:
            before = x.shape if op != "AveragePool" and value is x and x.shape is not None else y.shape
            shape = ir.Shape([before[0], channels, *before[2:]])
        out = ir.Value(name=f"{base}/{op.lower()}_out", type=x.type, shape=shape)
        nodes.append(ir.Node("", op, inputs, attributes, outputs=[out], name=f"{base}/{op.lower()}"))
        return out

    if skip.form == "identity":
        return nodes, value
    if skip.strides != (1, 1):
        attributes = [
            ir.AttrInt64s("kernel_shape", list(skip.strides)),
            ir.AttrInt64s("strides", list(skip.strides)),
            ir.AttrInt64("ceil_mode", int(skip.ceil)),
        ]
        value = add("AveragePool", [value], attributes, skip.channels_in)
    if skip.channels_out > skip.channels_in:
        pads = _constant(graph, f"onnxmtl/pad_channels_{skip.channels_out - skip.channels_in}",
                         [0, 0, 0, 0, 0, skip.channels_out - skip.channels_in, 0, 0])  # fmt: skip
        value = add("Pad", [value, pads], [], skip.channels_out)
    elif skip.channels_out < skip.channels_in:
        inputs = [value, _constant(graph, "onnxmtl/zero", [0]),
                  _constant(graph, f"onnxmtl/first_{skip.channels_out}", [skip.channels_out]),
                  _constant(graph, "onnxmtl/one", [1])]  # fmt: skip
        value = add("Slice", inputs, [], skip.channels_out)
    return nodes, value


def _constant(graph: ir.Graph, name: str, ints: Sequence[int]) -> ir.Value:
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.tensor(np.asarray(ints, np.int64), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([len(ints)]), const_value=tensor)
    graph.register_initializer(value)
    return value


def _ints(node: ir.Node, name: str, default: tuple[int, int]) -> tuple[int, int]:
    if name not in node.attributes:
        return default
    first, second = node.attributes[name].as_ints()
    return int(first), int(second)


def _rounding(node: ir.Node) -> bool | None:
    """True: output = ceil(H/s) for all H; False: floor(H/s); None: something else."""
    auto = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return True
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None
    kernel = tuple(int(k) for k in weight.shape.numpy()[2:])
    pads = (0, 0, 0, 0)
    if auto == "NOTSET" and "pads" in node.attributes:
        pads = tuple(node.attributes["pads"].as_ints())  # type: ignore[assignment]
    strides, dilations = _ints(node, "strides", (1, 1)), _ints(node, "dilations", (1, 1))
    # floor((H + P - e) / s) + 1 equals ceil(H / s) for all H iff P = e - 1, and floor(H / s) iff P = e - s.
    slack = {(pads[a] + pads[a + 2] - ((kernel[a] - 1) * dilations[a] + 1), strides[a]) for a in (0, 1)}
    if all(difference == -1 for difference, _ in slack):
        return True
    if all(difference == -stride for difference, stride in slack):
        return False
    return None
