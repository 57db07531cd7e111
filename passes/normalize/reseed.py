"""Weights that are filled with one number cannot be trained: all channels would stay equal."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxmtl import ops
from onnxmtl.ir import Diagnostic, report
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.runs.seeds import derive_seed


class ReseedConstantWeights(InPlacePass):
    """Draw weights of linear operators anew where the file holds one number for all of them, and report it.

    Requires known shapes. Every weight is drawn from ``derive_seed(seed, its name)`` with variance 2 / fan-in (He et
    al. 2015). Weights of a single output or input channel, biases and normalizations are left as they are.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def call(self, model: ir.Model) -> PassResult:
        """Replace the data of constant kernels."""
        done: list[str] = []
        seen: set[ir.Value] = set()
        for node in model.graph:
            if not ops.is_linear_op(node):
                continue
            for slot, value in ops.weight_slots(node):
                if slot.name != "weight" or value in seen or value.const_value is None:
                    continue
                seen.add(value)
                array = value.const_value.numpy()
                if array.ndim < 2 or min(array.shape[:2]) < 2 or not np.all(array == array.flat[0]):
                    continue
                # Conv [out, in/groups, …]; Gemm and MatMul hold the inputs on one of the two axes: take the larger.
                fan_in = math.prod(array.shape[1:]) if array.ndim > 2 else max(array.shape)
                rng = np.random.default_rng(derive_seed(self.seed, str(value.name), "reseed"))
                drawn = (rng.standard_normal(array.shape) * math.sqrt(2.0 / fan_in)).astype(array.dtype)
                value.const_value = ir.tensor(drawn, name=value.name)
                done.append(str(node.name))
        if done:
            more = f" and {len(done) - 3} more" if len(done) > 3 else ""
            message = f"the weights of {', '.join(done[:3])}{more} were one number throughout and were drawn anew"
            report(model, Diagnostic("constant-weights", message, hint="use a file with trained weights to keep them"))
        return PassResult(model, bool(done))
