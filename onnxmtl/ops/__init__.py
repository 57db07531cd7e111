"""What the project knows about operators without torch: weight slots, multiply-adds, linearity."""

from onnxmtl.ops.registry import OpSpec, Slot, multiply_adds, registered, spec
from onnxmtl.ops.weights import is_linear_op, trainable_values, weight_slots

__all__ = [
    "OpSpec",
    "Slot",
    "is_linear_op",
    "multiply_adds",
    "registered",
    "spec",
    "trainable_values",
    "weight_slots",
]
