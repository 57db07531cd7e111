"""Passes in a row, watched by instruments.

A :class:`Pipeline` is itself a pass, so pipelines nest and run inside onnx_ir's own ``Sequential``. ::

    result = Pipeline([MyPass(), *import_pipeline()], instruments=[Timing()])(model)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import onnx_ir as ir

from onnxmtl.errors import OnnxMTLError
from onnxmtl.ir import carry, clone, collection_paused
from onnxmtl.ir.passes import IdentityEliminationPass, PassBase, PassError, PassResult
from onnxmtl.passes.instruments import Instrument, pass_name
from onnxmtl.passes.normalize.batch import DynamicBatch
from onnxmtl.passes.normalize.batchnorm import InsertBatchNorm, ReportFoldedBatchNorm
from onnxmtl.passes.normalize.buffers import MarkBuffers
from onnxmtl.passes.normalize.dilate import StridesToDilations
from onnxmtl.passes.normalize.evaluation import EvaluationForm
from onnxmtl.passes.normalize.features import CutAtFeatures
from onnxmtl.passes.normalize.fold import FoldConstants
from onnxmtl.passes.normalize.inline import InlineFunctions
from onnxmtl.passes.normalize.input_size import SetInputSize, SetOpenSize
from onnxmtl.passes.normalize.inputs import CleanInputs
from onnxmtl.passes.normalize.layout import CancelTransposes, ChannelsFirst
from onnxmtl.passes.normalize.names import NameNodes
from onnxmtl.passes.normalize.noise import DropNoise
from onnxmtl.passes.normalize.opset import ConvertOpset
from onnxmtl.passes.normalize.precision import ToFloat32
from onnxmtl.passes.normalize.sequences import SplitSequences
from onnxmtl.passes.normalize.shapes import InferShapes
from onnxmtl.passes.normalize.strided import GatherToReshape
from onnxmtl.passes.normalize.untie import UntieWeights
from onnxmtl.passes.supermodel_guard import watched


class Pipeline(PassBase):
    """Runs `passes` in order.

    Foreign passes are watched: one that breaks a supermodel is refused (:mod:`onnxmtl.passes.supermodel_guard`).
    An :class:`~onnxmtl.errors.OnnxMTLError` of a pass reaches the caller as it is; any other exception is wrapped
    in a ``PassError`` that names the pass.

    Args:
        passes: The passes; may be pipelines.
        instruments: Told about every pass of this pipeline (and, through it, of nested pipelines without their own).
        name: Shown in errors; the default is "pipeline".
    """

    def __init__(
        self, passes: Sequence[PassBase], *, instruments: Sequence[Instrument] = (), name: str = "pipeline"
    ) -> None:
        self.passes = tuple(passes)
        self.instruments = tuple(instruments)
        self.name = name

    @property
    def in_place(self) -> bool:
        """Whether the same model object comes back: all passes are in place."""
        return all(pass_.in_place for pass_ in self.passes)

    @property
    def changes_input(self) -> bool:
        """Whether the model that is handed in may be changed: decided by the passes up to the first copy."""
        for pass_ in self.passes:
            if pass_.changes_input:
                return True
            if not pass_.in_place:
                return False
        return False

    @property
    def changes_outputs(self) -> bool:
        """Whether any of the passes may rename, add or drop outputs."""
        return any(getattr(pass_, "changes_outputs", False) for pass_ in self.passes)

    @property
    def preserves_numerics(self) -> bool:
        """Whether all passes promise to keep the numbers."""
        return all(getattr(pass_, "preserves_numerics", False) for pass_ in self.passes)

    def call(self, model: ir.Model) -> PassResult:
        """Run all passes."""
        result = self._run(model, self.instruments)
        if result.model is model and not self.in_place:  # an instrument held back every pass that copies
            copy = clone(model)
            carry(model, copy)
            return PassResult(copy, result.modified)
        return result

    def _run(self, model: ir.Model, instruments: tuple[Instrument, ...]) -> PassResult:
        modified = False
        for pass_ in self.passes:
            if not all(instrument.should_run(pass_, model) for instrument in instruments):
                continue
            if isinstance(pass_, Pipeline):
                result = pass_._run(model, pass_.instruments or instruments)
            else:
                for instrument in instruments:
                    instrument.before(pass_, model)
                result = self._apply(pass_, model)
                for instrument in reversed(instruments):
                    instrument.after(pass_, result.model, result.modified)
            carry(model, result.model)
            model = result.model
            modified = modified or result.modified
        return PassResult(model, modified)

    def _apply(self, pass_: PassBase, model: ir.Model) -> PassResult:
        try:
            with collection_paused():
                return watched(pass_, model)
        except OnnxMTLError:
            raise
        except Exception as e:
            # onnx_ir's PassBase wraps what `requires` and `ensures` raise: the user's error is the cause then.
            if isinstance(e.__cause__, OnnxMTLError):
                raise e.__cause__ from e
            msg = f"the pass {pass_name(pass_)} failed in the {self.name}: {type(e).__name__}: {e}"
            raise PassError(msg) from e


def import_pipeline(
    *,
    features: Sequence[str] | None = None,
    output_stride: int | None = None,
    batchnorm: Literal["keep", "insert"] = "keep",
    input_size: tuple[int, int] | None = None,
    instruments: Sequence[Instrument] = (),
) -> Pipeline:
    """A user's backbone into canonical form; for the arguments see :func:`onnxmtl.passes.normalize.normalize`."""
    passes: list[PassBase] = [NameNodes(), InlineFunctions(), NameNodes(), CleanInputs(), MarkBuffers()]
    passes += [ToFloat32(double=False), ChannelsFirst()]
    if input_size is not None:
        passes.append(SetOpenSize(input_size))
    passes += [
        ConvertOpset(),
        NameNodes(),
        FoldConstants(),
        GatherToReshape(),
        ToFloat32(),
        CancelTransposes(),
        SplitSequences(),
        DropNoise(),
        CutAtFeatures(features),
        IdentityEliminationPass(),
        DynamicBatch(),
        EvaluationForm(),
        UntieWeights(),
        InferShapes(complete=True),
    ]
    if input_size is not None:
        passes.append(SetInputSize(input_size))
    if output_stride is not None:
        passes.append(StridesToDilations(output_stride))
    passes.append(InsertBatchNorm() if batchnorm == "insert" else ReportFoldedBatchNorm())
    return Pipeline(passes, instruments=instruments, name="import")
