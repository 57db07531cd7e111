"""What the project knows about operators without torch: which it trains, weight slots, multiply-adds."""

from onnxmtl.ops.operators import Operator, operator, operators
from onnxmtl.ops.registry import ACTIVATIONS, OpSpec, Slot, multiply_adds, registered, spec
from onnxmtl.ops.support import (
    NEWEST_OPSET,
    OLDEST_OPSET,
    Refusal,
    refusal_message,
    refusal_texts,
    refusals,
    refusals_in,
    supported,
)
from onnxmtl.ops.weights import (
    freeze,
    is_constant,
    is_frozen,
    is_linear_op,
    is_tied,
    mark_buffer,
    mark_constant,
    mark_tied,
    thaw,
    trainable_values,
    weight_slots,
)

__all__ = [
    "ACTIVATIONS",
    "NEWEST_OPSET",
    "OLDEST_OPSET",
    "OpSpec",
    "Operator",
    "Refusal",
    "Slot",
    "freeze",
    "is_constant",
    "is_frozen",
    "is_linear_op",
    "is_tied",
    "mark_buffer",
    "mark_constant",
    "mark_tied",
    "multiply_adds",
    "operator",
    "operators",
    "refusal_message",
    "refusal_texts",
    "refusals",
    "refusals_in",
    "registered",
    "spec",
    "supported",
    "thaw",
    "trainable_values",
    "weight_slots",
]
