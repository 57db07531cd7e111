"""Model-local functions are expanded: the version converter drops their bodies, and no pass looks into them."""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, is_supermodel, listed, report
from onnxmtl.ir.passes import InlinePass, InPlacePass, PassResult, Refused


class InlineFunctions(InPlacePass):
    """Replaces calls of model-local functions by their bodies.

    Requires: no Choice in the model (inlining would dissolve it); functions do not call themselves.
    Ensures: the model has no functions.
    """

    preserves_numerics = True

    def requires(self, model: ir.Model) -> None:
        """Refuse supermodels."""
        if is_supermodel(model):
            msg = (
                "this model is a supermodel (it has Choice operators), and inlining functions would dissolve its "
                "choices; give the backbone it was built from, or use `onnxmtl specialize`"
            )
            raise Refused(msg)

    def call(self, model: ir.Model) -> PassResult:
        """Inline."""
        if not model.functions:
            return PassResult(model, False)
        names = sorted(f"{domain}.{name}" if domain else name for domain, name, _ in model.functions)
        try:
            result = InlinePass()(model)
        except Exception as error:  # bodies of any origin; what stands in the way is the model's
            cause = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
            msg = (
                f"the model-local functions {listed(names)} cannot be expanded ({cause[0]}); export the model "
                "without functions, or inline them with the exporter's own tool"
            )
            raise ModelError(msg) from error
        model.functions.clear()
        report(model, Diagnostic("functions-inlined", f"expanded the model-local functions {listed(names)}"))
        return PassResult(model, result.modified)
