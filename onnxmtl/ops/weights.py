"""Which initializers of a graph are weights, and which of them are trained.

An ONNX file does not say what its author trained. The rule: a float initializer is a weight if it stands where an
operator has its weights (:mod:`onnxmtl.ops.registry`, :func:`weight_slots`), and then it is trained, unless

- it is a running statistic;
- it is marked as a constant (:func:`mark_constant`). Import marks attention masks, and what torch says to be a buffer
  or a plain tensor of the module and no parameter: tables of sinusoidal positions, grids of anchors, kernels that
  blur. Files of torch's default exporter say it for what they did not fold into other constants (``optimize=False``
  folds nothing); a module given to ``onnxmtl.load`` always says it. What is folded from marked constants alone is one.

Files of others, of torch's older exporter too, do not tell: a fixed table that is added to the activations is trained
there as a learnt one is. A parameter that does not require a gradient in torch is trained: whether a whole network is
frozen for fine-tuning or one table for good cannot be told apart.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxmtl.ir.roles import Role, role_of
from onnxmtl.ops.registry import Slot, spec

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
_TOKENS = frozenset({"Expand", "Tile", "Concat"})
_TOKEN_AXES = 3  # [1, 1, C]: a joined map [1, C, H, W] is padding or coordinates
CONSTANT_KEY = "onnxmtl.constant"
TIED_KEY = "onnxmtl.tied"
FROZEN_KEY = "onnxmtl.frozen"


def weight_slots(node: ir.Node) -> list[tuple[Slot, ir.Value]]:
    """The node's slots that are fed by floating-point initializers, with these initializers.

    In arithmetic (Add, Sub, Mul, Div) an initializer counts as a weight only if it has more than one element
    (0.5 in an activation is a constant) and the other operand is not the image itself (mean and scale of the
    user's preprocessing are constants too); but a single number with the role ``fusion``, as cross-stitch
    units have it, is a weight. What is repeated or joined counts if it is a token, [1, 1, C] or smaller.
    An initializer that normalization has marked as a constant (an attention mask) is no weight anywhere.
    """
    entry = spec(node)
    if entry is None:
        return []
    found = []
    for slot in entry.slots_of(node):
        value = node.inputs[slot.index] if slot.index < len(node.inputs) else None
        if value is None or not value.is_initializer() or _dtype(value) not in _FLOATS:
            continue
        if not is_constant(value) and (node.op_type not in _TOKENS or _is_token(value)):
            found.append((slot, value))
    if found and node.op_type in _ARITHMETIC:
        weight = found[0][1]
        if (_elements(weight) <= 1 and role_of(weight) is not Role.FUSION) or _on_image(node):
            return []
    return found


def is_linear_op(node: ir.Node) -> bool:
    """Whether the node is linear in its weights, and these are initializers: Conv, ConvTranspose, Gemm, and
    MatMul with exactly one activation."""
    entry = spec(node)
    if entry is None or not entry.linear:
        return False
    fed = {slot.index for slot, _ in weight_slots(node)}
    present = {i for i, value in enumerate(node.inputs) if value is not None}
    if node.op_type in ("Gemm", "MatMul"):
        return len(fed & {0, 1}) == 1 and present - fed <= {0, 1}
    return present - fed == {0}


def trainable_values(graph: ir.Graph) -> dict[ir.Value, Slot]:
    """Initializers in trainable slots, in graph order, with the first slot each one feeds.

    Constants of Clip, Resize, Pad and the like are in no slot. An initializer that also serves as a running
    statistic is left out.
    """
    found: dict[ir.Value, Slot] = {}
    statistics: set[ir.Value] = set()
    for node in graph:
        for slot, value in weight_slots(node):
            if slot.trainable:
                found.setdefault(value, slot)
            else:
                statistics.add(value)
    return {
        value: slot for value, slot in found.items() if value not in statistics and role_of(value) is not Role.STATISTIC
    }


def mark_constant(value: ir.Value, what: str) -> None:
    """Say that an initializer is no weight although it feeds a slot; `what` it is, is kept in its metadata."""
    value.metadata_props[CONSTANT_KEY] = what


def is_constant(value: ir.Value) -> bool:
    """Whether the value is marked as a constant."""
    return CONSTANT_KEY in value.metadata_props


def mark_tied(value: ir.Value) -> None:
    """Say that the places that share an initializer are meant to: exporters also merge what only happens to be equal
    (all zero biases of a fresh network), which import unties."""
    value.metadata_props[TIED_KEY] = "on purpose"


def is_tied(value: ir.Value) -> bool:
    """Whether the value is marked as shared on purpose."""
    return TIED_KEY in value.metadata_props


def freeze(value: ir.Value) -> None:
    """Say that a weight keeps its numbers until it is thawed: it is counted as a weight, but not trained."""
    value.metadata_props[FROZEN_KEY] = "until selected"


def thaw(value: ir.Value) -> bool:
    """Take :func:`freeze` back. Returns whether the weight was frozen."""
    return value.metadata_props.pop(FROZEN_KEY, None) is not None


def is_frozen(value: ir.Value) -> bool:
    """Whether the weight is not trained for now."""
    return FROZEN_KEY in value.metadata_props


def mark_buffer(value: ir.Value) -> bool:
    """Mark a buffer of a torch module as a constant, unless it is a running statistic. Returns whether it is new."""
    if is_constant(value) or _dtype(value) not in _FLOATS:
        return False
    for node, index in value.uses():
        entry = spec(node)
        if entry is not None and any(slot.index == index and not slot.trainable for slot in entry.slots_of(node)):
            return False
    mark_constant(value, "buffer")
    return True


def _is_token(value: ir.Value) -> bool:
    shape = value.shape if value.const_value is None else value.const_value.shape
    return _elements(value) > 1 and shape is not None and len(shape) <= _TOKEN_AXES


def _dtype(value: ir.Value) -> ir.DataType | None:
    return value.dtype if value.const_value is None else value.const_value.dtype


def _elements(value: ir.Value) -> int:
    """Number of elements; 0 where it is unknown."""
    shape = value.shape if value.const_value is None else value.const_value.shape
    return 0 if shape is None else math.prod(dim if isinstance(dim, int) else 0 for dim in shape)


def _on_image(node: ir.Node) -> bool:
    """Whether only arithmetic with constants lies between the graph's input and `node`."""
    current = node
    while current.op_type in _ARITHMETIC or current.op_type == "Cast":
        activations = [v for v in current.inputs if v is not None and not v.is_initializer()]
        if len(activations) != 1:
            return False
        producer = activations[0].producer()
        if producer is None:
            return activations[0].is_graph_input()
        current = producer
    return False
