"""What sharing saves in ONNX Runtime: multi-task models against separate ones, on the backbones of the papers.

ResNet-18, ResNet-34 and MobileNetV2 (untrained), each with heads for three tasks (segmentation, depth, normals), as
onnxmtl emits them: all blocks shared, and a tree in which segmentation leaves half-way. Latency as a ratio to three
separate models, its quartiles, the ratio of processor time, and that of multiply-adds; why they differ, where they do.
Run: python tests/benchmarks/bench_deploy.py [image size, 224] [seconds per model and setting, 10]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import onnx_ir as ir
from helpers.graphs import GraphBuilder

from onnxmtl.analysis.blocks import blocks
from onnxmtl.deploy.bench.bench import BenchOptions, bench
from onnxmtl.deploy.bench.candidates import Candidate
from onnxmtl.deploy.bench.results import follows
from onnxmtl.deploy.bench.rows import profile_rows
from onnxmtl.ir import save
from onnxmtl.kinds import TaskSet
from onnxmtl.policy import Layout
from onnxmtl.workflows import load
from onnxmtl.workflows.recommending.costs import Emission

TASKS = TaskSet.parse("seg=segmentation:13,depth,normals")


def resnet(counts: tuple[int, ...], size: int) -> ir.Model:
    """Basic blocks, widths 64 to 512, the stem of the paper."""
    b = GraphBuilder(size=size)
    x = b.relu(b.norm(b.conv(b.image, 64, k=7, stride=2, bias=False)))
    side = (x.shape[2] - 1) // 2 + 1
    x = b.node("MaxPool", [x], ["N", 64, side, side], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, blocks_of in enumerate(counts):
        for i in range(blocks_of):
            x = b.residual(x, 64 << stage, stride=2 if stage and not i else 1)
    return classified(b, x)


def mobilenet_v2(size: int) -> ir.Model:
    """17 inverted residual blocks at width 1."""
    b = GraphBuilder(size=size)
    x = b.block(b.image, 32, stride=2)
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, out, repeats, first in rows:
        for i in range(repeats):
            stride, inner = (first if not i else 1), x.shape[1] * expansion
            y = b.block(x, inner, k=1) if expansion > 1 else x
            y = b.block(y, inner, stride, group=inner)
            y = b.norm(b.conv(y, out, k=1, bias=False))
            x = b.node("Add", [x, y], y.shape) if stride == 1 and x.shape[1] == out else y
    return classified(b, b.block(x, 1280, k=1))


def classified(b: GraphBuilder, x: ir.Value) -> ir.Model:
    """A pooled output, so that the import finds the feature before it."""
    b.graph.outputs.append(b.node("GlobalAveragePool", [x], ["N", x.shape[1], 1, 1], "pool"))
    return ir.Model(b.graph, ir_version=10)


NETWORKS: dict[str, Callable[[int], ir.Model]] = {
    "ResNet-18": lambda size: resnet((2, 2, 2, 2), size),
    "ResNet-34": lambda size: resnet((3, 4, 6, 3), size),
    "MobileNetV2": mobilenet_v2,
}


def models(network: ir.Model, folder: Path) -> tuple[list[Candidate], Candidate]:
    """The multi-task models, and the separate ones."""
    backbone = load(network, guard=False)
    found = blocks(backbone.graph)
    emission = Emission(backbone, found, TASKS)
    names, depth = TASKS.names, len(found)
    half = depth // 2
    layouts = {
        "all shared": Layout.shared(names, depth),
        "tree": Layout(names, (((0, 1, 2),),) * half + (((0,), (1, 2)),) * (depth - half)),
    }
    multi = []
    for name, layout in layouts.items():
        file = folder / f"{name}.onnx"
        save(emission.of(layout), file)
        multi.append(Candidate(name, (file,)))
    files = []
    for task in TASKS:
        file = folder / f"{task.name}.onnx"
        save(Emission(backbone, found, TaskSet((task,))).shared, file)
        files.append(file)
    return multi, Candidate("separate models", tuple(files))


def main(size: int, seconds: float) -> None:
    """Print a table per network."""
    for name, build in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            multi, apart = models(build(size), Path(folder))
            found = bench(multi, apart, BenchOptions(threads=(1, 2), seconds=seconds, rounds=10))
        print(f"\n{name}, {size}×{size}, 3 tasks, {found.machine['processor']}")
        header = (
            "threads",
            "model",
            "separate ms",
            "latency",
            "quartiles",
            "processor",
            "multiply-adds",
            "within 10 %",
        )
        print("  ".join(f"{title:>13}" for title in header))
        for one in found.measurements:
            base = found.base_of(one)
            if one.ratio is None or one.work_ratio is None or one.ideal is None or base is None:
                continue
            held = follows(one, base)
            cells = (
                str(one.threads),
                one.candidate,
                f"{base.latency.median:.1f}",
                f"{one.ratio.median:.3f}×",
                f"{one.ratio.low:.3f}–{one.ratio.high:.3f}",
                f"{one.work_ratio.median:.3f}×",
                f"{one.ideal:.3f}×",
                "not asked" if held is None else "yes" if held else "no",
            )
            print("  ".join(f"{cell:>13}" for cell in cells))
        for row in profile_rows(found)[1:]:
            print(f"  profile, threads {row[0]}, {row[2]}: convolutions and products {row[3]}; {row[4]}")
        memory = {one.candidate: one.memory for one in found.measurements if one.memory is not None}
        sizes = (f"{who} {m.resident / 1e6:.0f} MB (peak {m.peak / 1e6:.0f})" for who, m in memory.items())
        print(f"  memory: {', '.join(sizes)}")
        for text in (*found.explanations(), *found.remarks):
            print(f"  {text}")
        sys.stdout.flush()


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 224, float(given[1]) if len(given) > 1 else 10.0)
