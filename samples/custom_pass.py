"""A pass of your own, in onnx_ir's Sequential, between onnxmtl's passes and onnx_ir's.

python samples/custom_pass.py

The accelerator of this example has no Clip. The pass spells out Relu6, and the result is compared with the original
in ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxmtl import runtime
from onnxmtl.frontends.onnx import load
from onnxmtl.ir import set_sources, sources, to_bytes
from onnxmtl.ir.passes import CheckerPass, RemoveUnusedNodesPass
from onnxmtl.passes.finalize import FoldBatchNorm
from onnxmtl.passes.pipelines import import_pipeline

BACKBONE = Path(__file__).parent / "backbones" / "mobilenetv2-small.onnx"


class ClipToRelu(ir.passes.InPlacePass):
    """Clip(x, 0, m) becomes Min(Relu(x), m): the same bits. Other Clips stay."""

    preserves_numerics = True  # so that onnxmtl's NumericGuard checks it

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace in place; layers keep the names they have in the user's network."""
        clips = [node for node in model.graph if node.op_type == "Clip" and len(node.inputs) == 3]
        found = [clip for clip in clips if is_zero(clip.inputs[1]) and clip.inputs[2] is not None]
        for clip in found:
            x, _, high = clip.inputs
            relu = ir.node("Relu", [x], name=f"{clip.name}/relu")
            least = ir.node("Min", [relu.outputs[0], high], name=f"{clip.name}/min")
            for node in (relu, least):
                set_sources(node, sources(clip))
            ir.convenience.replace_nodes_and_values(
                model.graph, clip, [clip], [relu, least], clip.outputs, least.outputs
            )
        return ir.passes.PassResult(model, modified=bool(found))


def is_zero(value: ir.Value | None) -> bool:
    """Whether a value is the constant 0; an input that is left out is None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor is not None and not tensor.numpy().any()


def operators(model: ir.Model) -> dict[str, int]:
    """Operator -> how often."""
    names = [node.op_type for node in model.graph]
    return {name: names.count(name) for name in sorted(set(names))}


def main() -> None:
    """Import, rewrite, compare."""
    before = import_pipeline()(load(BACKBONE)).model  # onnxmtl's: a backbone with its features as outputs
    after = ir.passes.Sequential(
        FoldBatchNorm(),  # onnxmtl's
        ClipToRelu(),  # yours
        RemoveUnusedNodesPass(),  # onnx_ir's
        CheckerPass(),  # onnx_ir's
    )(before.clone()).model
    print("before:", operators(before))
    print("after: ", operators(after))

    image = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    wanted, found = (runtime.run(to_bytes(model), image) for model in (before, after))
    for name, expected in wanted.items():
        error = float(np.abs(found[name] - expected).max() / np.abs(expected).max())
        print(f"{name}: relative error {error:.1e}")
        if not error <= 1e-5:
            raise SystemExit(f"{name}: the passes changed what the network computes")


if __name__ == "__main__":
    main()
