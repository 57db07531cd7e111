"""What loading a batch takes, beside the training step that uses it: loading must not dominate.

The step is one update of a small ResNet-18 with all tasks on one trunk, the cheapest step there is. Data sets of files
are written for the occasion, as large as the real ones' files.

Run: OMP_NUM_THREADS=1 python tests/benchmarks/bench_data.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from helpers import pictures

from onnxmtl import ir as graphs
from onnxmtl.data import batch_at, load_data
from onnxmtl.errors import DataError
from onnxmtl.kinds import TaskSet
from onnxmtl.lowering import to_torch
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.train.objective import Objective
from onnxmtl.workflows import load

BACKBONE = Path(__file__).parents[2] / "samples" / "backbones" / "resnet18-small.onnx"


def seconds(work: Callable[[int], object], count: int) -> float:
    """Best of three runs of `count`, per call."""
    work(0)
    times = []
    for turn in range(3):
        start = time.perf_counter()
        for k in range(count):
            work(1 + turn * count + k)
        times.append((time.perf_counter() - start) / count)
    return min(times)


def compare(spec: str, tasks: TaskSet, size: tuple[int, int], batch_size: int) -> str:
    data = load_data(spec, tasks, size=size, seed=0)
    tasks = tasks.with_classes(data.classes, data.class_names)
    options = {"batch_size": batch_size, "seed": 0, "stream": "bench"}
    if spec == "scenes":  # drawn once, then kept: the first epoch is drawn here
        for k in range(len(data.train)):
            data.train[k]
    loading = seconds(lambda k: batch_at(data.train, tasks, **options, step=k), 20)
    backbone = load(str(BACKBONE), input_size=size)
    module = to_torch(Pipeline([AttachHeads(tasks, 0)], name="heads")(graphs.clone(backbone)).model).train()
    objective, optimizer = Objective(tasks), torch.optim.SGD(module.parameters(), 1e-3)
    batch = batch_at(data.train, tasks, **options, step=0)

    def step(_: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        objective.total(objective.losses(module(batch.images), batch)).backward()
        optimizer.step()

    training = seconds(step, 3)
    share = loading / (loading + training)
    return (
        f"{spec.partition(':')[0]:14} {size[0]}x{size[1]}, batch of {batch_size}: {1000 * loading:7.1f} ms to load, "
        f"{1000 * training:7.1f} ms to train ({100 * share:.0f} % of the time is loading)"
    )


def main() -> None:
    dense = TaskSet.parse("seg=segmentation,depth,normals")
    items = TaskSet.parse("left=classification,right=classification,seg=segmentation")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures.nyuv2(folder / "nyuv2", (480, 640))
        pictures.cityscapes(folder / "cityscapes", (256, 512))
        cases = [
            ("scenes", dense, (64, 64), 16),
            ("multifashion", items, (36, 36), 32),
            ("multifashion", items, (64, 64), 32),
            (f"nyuv2:{folder / 'nyuv2'}", dense, (321, 321), 4),
            (f"cityscapes:{folder / 'cityscapes'}", TaskSet.parse("seg=segmentation,depth"), (224, 224), 4),
        ]
        for spec, tasks, size, batch_size in cases:
            try:
                sys.stdout.write(compare(spec, tasks, size, batch_size) + "\n")
            except DataError as error:
                sys.stdout.write(f"{spec}: not measured: {error}\n")


if __name__ == "__main__":
    main()
