"""``finalize``: from a trained multi-task model to the model that is handed over.

Identities go first, so that a Dropout between a convolution and its normalization does not hide the pair; the output
contract comes after folding, so that nothing of it is taken for a layer; the order of nodes is canonical; metadata is
written last, and checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxmtl.ir.passes import PassBase
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize.batchnorm import FoldBatchNorm
from onnxmtl.passes.finalize.check import CheckFinal
from onnxmtl.passes.finalize.contract import ApplyOutputContract
from onnxmtl.passes.finalize.dedup import DedupInitializers
from onnxmtl.passes.finalize.fusion_units import FoldFusionUnits
from onnxmtl.passes.finalize.half import HalfPrecision
from onnxmtl.passes.finalize.metadata import WriteMetadata
from onnxmtl.passes.finalize.order import OrderByLevel
from onnxmtl.passes.finalize.resizing import ResizeAllAxes
from onnxmtl.passes.finalize.siblings import FuseSiblings, SeparateSiblings, has_siblings, separated
from onnxmtl.passes.finalize.training import DropTrainingOnly
from onnxmtl.passes.finalize.unused import RemoveUnused

__all__ = [
    "ApplyOutputContract",
    "CheckFinal",
    "DedupInitializers",
    "DropTrainingOnly",
    "FoldBatchNorm",
    "FoldFusionUnits",
    "FuseSiblings",
    "HalfPrecision",
    "OrderByLevel",
    "RemoveUnused",
    "ResizeAllAxes",
    "SeparateSiblings",
    "WriteMetadata",
    "finalize_passes",
    "half_passes",
    "has_siblings",
    "separated",
]


def finalize_passes(
    tasks: TaskSet,
    input_spec: Mapping[str, Any],
    *,
    fold: bool = True,
    dedup_weights: bool = False,
    siblings: bool = False,
) -> list[PassBase]:
    """The passes of ``finalize``, in order.

    Args:
        tasks: The tasks, in the order of the model's outputs.
        input_spec: What the images are, JSON-able (layout, range, mean, scale, size, colour).
        fold: Whether BatchNormalization is folded, and with it fusion units without an edge. Unfolded models are
            compared more tightly.
        dedup_weights: See :class:`DedupInitializers`.
        siblings: Whether convolutions of different tasks on one input are fused, see :class:`FuseSiblings`.
    """
    return [
        DropTrainingOnly(),
        *([FoldBatchNorm(), FoldFusionUnits()] if fold else []),
        ApplyOutputContract(tasks, input_spec),
        ResizeAllAxes(),
        DedupInitializers(weights=dedup_weights),
        *([FuseSiblings()] if siblings else []),
        RemoveUnused(),
        OrderByLevel(),
        WriteMetadata(),
        CheckFinal(),
    ]


def half_passes(largest: Mapping[str, float] | None = None) -> list[PassBase]:
    """What makes a finalized float32 model one of mixed precision, in order.

    Args:
        largest: See :class:`HalfPrecision`.
    """
    return [HalfPrecision(largest), OrderByLevel(), WriteMetadata(), CheckFinal()]
