"""What torch's exporter calls a buffer is no weight."""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.ops import mark_buffer

_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"  # PARAMETER, BUFFER, CONSTANT_TENSOR
_FIXED = frozenset({"BUFFER", "CONSTANT_TENSOR"})


class MarkBuffers(InPlacePass):
    """Marks buffers and plain tensors of an exported torch module as constants (:func:`onnxmtl.ops.mark_constant`).

    torch's default exporter writes into an initializer's metadata what it was in the module. Running statistics are
    buffers too, and stay what they are.

    Requires: no constant has been folded yet: its metadata would be lost. ``FoldConstants`` hands the mark on.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Walk once over the initializers."""
        fixed = [v for v in model.graph.initializers.values() if v.metadata_props.get(_KIND) in _FIXED]
        marked = [mark_buffer(value) for value in fixed]
        return PassResult(model, any(marked))
