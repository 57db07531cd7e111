"""Where should tasks branch off? A tree from known two-task results, planted with graph passes; nothing is trained.

python samples/recommend_tree.py
python samples/recommend_tree.py --budget 0.5 --out tree.onnx

`two_task.csv` says how well each pair of tasks did that branched off at each block. From it every tree is predicted
and the best one within the budget is found exactly; passes make it of the backbone, and ONNX Runtime runs it. Train it
with your own loop, or with `onnxmtl compile … --layout`. Needs numpy, onnx_ir and onnxruntime, no torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from onnxmtl import runtime
from onnxmtl.analysis.blocks import backbone_blocks
from onnxmtl.cost.count import count
from onnxmtl.cost.profile import group_cost
from onnxmtl.frontends.onnx import load
from onnxmtl.ir import save, to_bytes
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize import finalize_passes
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.pipelines import Pipeline, import_pipeline
from onnxmtl.passes.spaces import Tree
from onnxmtl.policy import Layout
from onnxmtl.recommend.estimators import Measured, estimate
from onnxmtl.recommend.program import best
from onnxmtl.recommend.table import read_csv
from onnxmtl.recommend.weights import weights

HERE = Path(__file__).parent
TASKS = TaskSet.parse("seg=segmentation:9,depth,normals")
IMAGE = {"layout": "NCHW", "colour": "RGB", "height": 64, "width": 64, "range": [0, 1], "mean": [0, 0, 0],
         "scale": [1, 1, 1]}  # fmt: skip


def main() -> None:
    """Recommend, plant, run."""
    parser = argparse.ArgumentParser(description="Recommend a tree of tasks and plant it.")
    parser.add_argument("--budget", type=float, default=0.7, help="multiply-adds, as a share of separate networks'")
    parser.add_argument("--out", type=Path, help="write the planted model here")
    args = parser.parse_args()

    backbone = import_pipeline()(load(HERE / "backbones" / "resnet18-small.onnx")).model
    table = read_csv(HERE / "two_task.csv", TASKS.names)
    blocks = backbone_blocks(backbone, groups=table.blocks)
    names = [block.name for block in blocks]
    work = [group_cost(block.nodes).multiply_adds for block in blocks]
    separate = len(TASKS.names) * sum(work)

    scores = estimate("two-task", Measured(table, weights("auto", table)))
    found = best(scores, work, k=3, budget=args.budget * separate)
    for one in found:
        tree = Layout(TASKS.names, one.groups, tuple(names))
        print(f"layout {tree.number}: predicted {one.score:+.2f}%, {one.cost / separate:.2f} of separate trunks")
    layout = Layout(TASKS.names, found[0].groups, tuple(names))
    print(layout.text(), end="")

    plant = Pipeline([AttachHeads(TASKS, seed=0), Tree(layout, blocks), *finalize_passes(TASKS, IMAGE)])
    model = plant(backbone).model
    if count(model).multiply_adds_trunk != found[0].cost:
        raise SystemExit("the planted tree does not cost what was predicted")
    outputs = runtime.run(to_bytes(model), np.zeros((1, 3, 64, 64), np.float32))
    print({task: output.shape for task, output in outputs.items()})
    if args.out is not None:
        save(model, args.out)


if __name__ == "__main__":
    main()
