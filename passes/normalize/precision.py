"""Images and weights are float32."""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.ops import weight_slots

_OTHERS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
_ADVICE = "training is in float32: export the model in float32 (in torch: model.float())"


class RequireFloat32(InPlacePass):
    """Refuses images and weights of any other precision; changes nothing.

    Raises:
        ModelError: An input, or a weight that is stored in the model, is float16, bfloat16 or float64.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Look at inputs and weights."""
        for value in model.graph.inputs:
            if value.dtype in _OTHERS:
                msg = f"the input {value.name!r} is {_name(value)}, {_ADVICE}"
                raise ModelError(msg)
        found = {value: node for node in model.graph for _, value in weight_slots(node) if value.dtype in _OTHERS}
        if found:
            value, node = next(iter(found.items()))
            more = f" and {len(found) - 1} more weights are" if len(found) > 1 else " is"
            msg = f"the weight {value.name!r} of node {node.name!r}{more} {_name(value)}, {_ADVICE}"
            raise ModelError(msg)
        return PassResult(model, False)


def _name(value: ir.Value) -> str:
    return {ir.DataType.DOUBLE: "float64"}.get(value.dtype, str(value.dtype).lower()) if value.dtype else "untyped"
