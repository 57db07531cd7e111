"""``select``: from a supermodel and an architecture to a multi-task model that can still be trained.

No folding and no merging by value happens here; that is ``finalize``'s work, after retraining.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.ir.passes import IdentityEliminationPass, InPlacePass, PassBase, PassResult, RemoveUnusedNodesPass
from onnxmtl.passes.select.fusion import JoinEdges
from onnxmtl.passes.select.groups import ThawWeights, UntieGroups
from onnxmtl.passes.select.merge import MergeEqualNodes
from onnxmtl.passes.select.resolve import ResolveChoices
from onnxmtl.passes.select.statistics import SplitStatistics
from onnxmtl.policy import Architecture

__all__ = [
    "JoinEdges",
    "MarkMultitask",
    "MergeEqualNodes",
    "ResolveChoices",
    "SplitStatistics",
    "ThawWeights",
    "UntieGroups",
    "select_passes",
]


class MarkMultitask(InPlacePass):
    """Write into the model's metadata that it is a multi-task model, and of which architecture."""

    preserves_numerics = True

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def call(self, model: ir.Model) -> PassResult:
        """Write ``onnxmtl.kind`` and ``onnxmtl.architecture``."""
        model.metadata_props["onnxmtl.kind"] = "multitask"
        model.metadata_props["onnxmtl.architecture"] = self.architecture.to_json()
        return PassResult(model, modified=True)


def select_passes(architecture: Architecture) -> list[PassBase]:
    """The passes of ``select``, in order. Identities go before equal nodes merge, never after."""
    return [
        UntieGroups(architecture),
        ResolveChoices(architecture),
        ThawWeights(),
        IdentityEliminationPass(),
        RemoveUnusedNodesPass(),
        MergeEqualNodes(),
        JoinEdges(),
        SplitStatistics(),
        MarkMultitask(architecture),
    ]
