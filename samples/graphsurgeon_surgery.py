"""TensorRT-style surgery with onnx-graphsurgeon on an emitted model; what onnxmtl wrote into it stays.

python samples/graphsurgeon_surgery.py [MODEL.onnx]

A deployment wants images as they come from a camera, uint8 [N, H, W, C]: the function below puts Cast, Transpose and
a scaling in front, as one would for a TensorRT plugin. Without an argument, a small model is emitted first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import onnx_ir as ir

import onnxmtl
from onnxmtl import runtime
from onnxmtl.frontends.onnx import load
from onnxmtl.ir import sources, to_bytes
from onnxmtl.passes.finalize import finalize_passes
from onnxmtl.passes.graphsurgeon import GraphSurgeonPass
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.pipelines import Pipeline

BACKBONE = Path(__file__).parent / "backbones" / "resnet18-small.onnx"


def take_camera_frames(graph: gs.Graph) -> gs.Graph:
    """uint8 [N, H, W, C] in, the network's float32 [N, C, H, W] made of it. Plain onnx-graphsurgeon."""
    image = graph.inputs[0]
    n, c, h, w = image.shape
    frame = gs.Variable(f"{image.name}_frame", dtype=np.uint8, shape=[n, h, w, c])
    floats = gs.Variable("frame_float", dtype=np.float32, shape=[n, h, w, c])
    scaled = gs.Variable("frame_scaled", dtype=np.float32, shape=[n, h, w, c])
    factor = gs.Constant("one_over_255", np.array(1 / 255, np.float32))
    graph.nodes += [
        gs.Node("Cast", "frame/cast", {"to": np.float32}, inputs=[frame], outputs=[floats]),
        gs.Node("Mul", "frame/scale", inputs=[floats, factor], outputs=[scaled]),
        gs.Node("Transpose", "frame/to_nchw", {"perm": [0, 3, 1, 2]}, inputs=[scaled], outputs=[image]),
    ]
    graph.inputs = [frame]
    return graph.cleanup().toposort()


def small_model() -> ir.Model:
    """The sample's own model: a backbone with two untrained heads, finalized."""
    tasks = onnxmtl.TaskSet.parse("seg=segmentation:5,depth")
    passes = [AttachHeads(tasks, seed=0), *finalize_passes(tasks, {"range": [0.0, 1.0]})]
    return Pipeline(passes)(onnxmtl.load(BACKBONE)).model


def main() -> None:
    """Operate, look at what is left, compare."""
    before = load(sys.argv[1]) if len(sys.argv) > 1 else small_model()
    surgery = GraphSurgeonPass(take_camera_frames)
    after = Pipeline([surgery], instruments=[CheckInvariants()])(before).model

    kept = [node.name for node in after.graph if sources(node)]
    new = [node.name for node in after.graph if node.metadata_props.get("onnxmtl.pass") == "take_camera_frames"]
    print(
        f"{len(kept)} of {len(after.graph)} nodes know their layer of the backbone; new are {', '.join(map(str, new))}"
    )
    if after.metadata_props != before.metadata_props:
        raise SystemExit("the surgery lost the model's metadata")

    shape = [2, *(size for size in (before.graph.inputs[0].shape or ())[1:] if isinstance(size, int))]
    frames = np.random.default_rng(0).integers(0, 256, [shape[0], *shape[2:], shape[1]], np.uint8)
    wanted = runtime.run(to_bytes(before), frames.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255))
    found = runtime.run(to_bytes(after), frames)
    for name, expected in wanted.items():
        error = float(np.abs(found[name] - expected).max() / np.abs(expected).max())
        print(f"{name}: relative error {error:.1e}")
        if not error <= 1e-5:
            raise SystemExit(f"{name}: the surgery changed what the network computes")


if __name__ == "__main__":
    main()
