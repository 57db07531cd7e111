"""The one place where onnx_ir's pass infrastructure and its ready-made passes are imported.

Everything else in onnxmtl imports them from here, so that a change in onnx_ir is met in one file.
"""

from __future__ import annotations

from onnx_ir.passes import (
    FunctionalPass,
    InPlacePass,
    PassBase,
    PassError,
    PassResult,
    PostconditionError,
    PreconditionError,
    Sequential,
    functionalize,
)
from onnx_ir.passes.common import (  # noqa: TID251  (this is the place)
    CheckerPass,
    IdentityEliminationPass,
    InlinePass,
    LiftConstantsToInitializersPass,
    OutputFixPass,
    RemoveInitializersFromInputsPass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
    TopologicalSortPass,
)

from onnxmtl.errors import ModelError

__all__ = [  # noqa: RUF022  (grouped, not sorted)
    # Infrastructure
    "FunctionalPass",
    "InPlacePass",
    "PassBase",
    "PassError",
    "PassResult",
    "PostconditionError",
    "PreconditionError",
    "Refused",
    "Sequential",
    "functionalize",
    # Ready-made passes of onnx_ir
    "CheckerPass",
    "IdentityEliminationPass",
    "InlinePass",
    "LiftConstantsToInitializersPass",
    "OutputFixPass",
    "RemoveInitializersFromInputsPass",
    "RemoveUnusedFunctionsPass",
    "RemoveUnusedNodesPass",
    "RemoveUnusedOpsetsPass",
    "TopologicalSortPass",
]


class Refused(ModelError, PreconditionError):
    """A pass cannot be applied to this model: raised by `requires`, worded for the user.

    It is both an :class:`~onnxmtl.errors.OnnxMTLError` and onnx_ir's ``PreconditionError``, so it reaches
    the user unwrapped whoever runs the pass.
    """
