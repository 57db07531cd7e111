"""Remove what no output needs: nodes, initializers, functions, opset imports."""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.ir.passes import (
    InPlacePass,
    PassBase,
    PassResult,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)


class RemoveUnused(InPlacePass):
    """Dead code elimination. The inputs and outputs of the model stay."""

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Run onnx_ir's three passes in the order in which each uncovers work for the next."""
        modified = False
        passes: tuple[type[PassBase], ...] = (
            RemoveUnusedNodesPass,
            RemoveUnusedFunctionsPass,
            RemoveUnusedOpsetsPass,
        )
        for make in passes:
            modified |= make()(model).modified
        return PassResult(model, modified)
