"""What the extras of finalize do in ONNX Runtime: sibling fusion and float16, each side by side with the plain model.

Sibling fusion, on ResNet-18 and MobileNetV2 (untrained, heads for three tasks; all blocks shared, and a tree in which
segmentation leaves half-way), on heads of several widths over one feature, and on branches of one task as in an
Inception module: of all that are alike, not only of those that the pass fuses by default. float16 on the same networks;
"kept" are convolutions that stay float32 because the activations of the untrained network are too large. Ratios to the
plain model, medians of interleaved runs with their quartiles: processor time, which a busy machine does not change
much, and time that passes.
Run: python tests/benchmarks/bench_finalize.py [image size, 224] [seconds per model, 3] [threads, 1]
"""

from __future__ import annotations

import functools
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import onnx_ir as ir
from bench_deploy import NETWORKS, TASKS
from helpers.graphs import GraphBuilder

from onnxmtl import runtime
from onnxmtl.analysis.blocks import blocks
from onnxmtl.deploy.bench.timing import SETTINGS, interleaved, pinned
from onnxmtl.deploy.ranges import largest_activations
from onnxmtl.ir import clone, to_bytes
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize import FuseSiblings, HalfPrecision, OrderByLevel
from onnxmtl.passes.finalize.siblings import SIBLINGS_KEY
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.policy import Layout
from onnxmtl.workflows import load
from onnxmtl.workflows.recommending.costs import Emission

HEADS = ("aspp", "light")


def emitted(name: str, size: int, head: str) -> dict[str, ir.Model]:
    """Layout -> model as it would be emitted."""
    backbone = load(NETWORKS[name](size), guard=False)
    found = blocks(backbone.graph)
    emission = Emission(backbone, found, TaskSet(tuple(task.replace(head=head) for task in TASKS)))
    names, depth = TASKS.names, len(found)
    half = depth // 2
    tree = Layout(names, (((0, 1, 2),),) * half + (((0,), (1, 2)),) * (depth - half))
    return {"all shared": emission.of(Layout.shared(names, depth)), "tree": emission.of(tree)}


def narrow(tasks: int, width: int) -> ir.Model:
    """Heads of two layers on a feature of 64 channels, 56 x 56."""
    b = GraphBuilder(channels=64, size=56)
    feature = b.relu(b.conv(b.image, 64))
    found = {}
    for index in range(tasks):
        b.task = f"t{index}"
        found[b.task] = b.relu(b.conv(feature, width))
    b.task = None
    return b.heads(found, {task: 4 for task in found})


def inception(size: int) -> ir.Model:
    """Four modules of one task."""
    b = GraphBuilder(channels=192, size=size)
    x = b.image
    for _ in range(4):
        reduced = [b.relu(b.conv(x, width, k=1)) for width in (64, 96, 16)]
        x = b.concat(reduced[0], b.relu(b.conv(reduced[1], 128)), b.relu(b.conv(reduced[2], 32, k=5)))
    return b.heads(x, {"y": 3})


def image_of(model: ir.Model) -> np.ndarray:
    """One image."""
    shape = [int(dim) for dim in list(model.graph.inputs[0].shape or ())[1:]]
    return np.random.default_rng(0).random((1, *shape), np.float32)


def compared(plain: ir.Model, other: ir.Model, seconds: float, threads: int) -> str:
    """Milliseconds of the plain model, and ratios to it."""
    feed = {str(plain.graph.inputs[0].name): image_of(plain)}
    with pinned(threads):
        works = []
        for model in (plain, other):
            opened = runtime.session(to_bytes(model), threads=threads, settings=SETTINGS)
            works.append([functools.partial(opened.run, None, feed)])
        one, two = interleaved(works, seconds=2 * seconds, rounds=15)
    cells = [f"{statistics.median(one.totals[1]):8.2f} ms"]
    for base, found in zip(reversed(one.totals), reversed(two.totals), strict=True):
        low, middle, high = np.quantile([b / a for a, b in zip(base, found, strict=True)], [0.25, 0.5, 0.75])
        cells.append(f"{middle:.3f}x ({low:.3f}-{high:.3f})")
    return "  ".join(cells)


def fused(model: ir.Model, *, within_tasks: bool = False) -> tuple[ir.Model, int]:
    """A fused copy, and how many convolutions are in it that were several."""
    made = Pipeline([FuseSiblings(1, within_tasks=within_tasks), OrderByLevel()])(clone(model)).model
    return made, sum(SIBLINGS_KEY in node.metadata_props for node in made.graph)


def siblings(size: int, seconds: float, threads: int) -> None:
    """The table of sibling fusion."""
    print(f"sibling fusion, {threads} thread(s)")
    print(f"{'network':38} {'fused':>5}  plain, processor  processor                 passed")
    cases = {f"{name}, {head} heads, {layout}": model for name in ("ResNet-18", "MobileNetV2") for head in HEADS
             for layout, model in emitted(name, size, head).items()}  # fmt: skip
    cases |= {f"{n} heads of {width} channels": narrow(n, width) for n in (3, 4) for width in (8, 12, 16, 32, 40)}
    for name, model in cases.items():
        other, count = fused(model)
        print(f"{name:38} {count:5}  {compared(model, other, seconds, threads)}", flush=True)
    for side in (28, 14):
        other, count = fused(inception(side), within_tasks=True)
        told = compared(inception(side), other, seconds, threads)
        print(f"{f'within one task, Inception, {side} x {side}':38} {count:5}  {told}", flush=True)


def half(size: int, seconds: float, threads: int) -> None:
    """The table of float16."""
    print(f"float16, {threads} thread(s)")
    print(f"{'network':28} {'kept':>8} {'bytes':>6} {'error':>8}  plain, processor  processor                 passed")
    for name in NETWORKS:
        model = emitted(name, size, "light")["tree"]
        image = image_of(model)
        other = HalfPrecision(largest_activations(model, image))(clone(model)).model
        outputs = [runtime.run(to_bytes(one), image) for one in (model, other)]
        error = max(
            float(np.linalg.norm(outputs[1][task] - wanted) / np.linalg.norm(wanted))
            for task, wanted in outputs[0].items()
        )
        share = len(to_bytes(other)) / len(to_bytes(model))
        kept = sum(node.outputs[0].dtype is ir.DataType.FLOAT for node in other.graph if node.op_type == "Conv")
        convs = sum(node.op_type == "Conv" for node in other.graph)
        print(
            f"{name:28} {kept:3} / {convs:2} {share:5.3f}x {error:8.1e}  {compared(model, other, seconds, threads)}",
            flush=True,
        )


def main(size: int, seconds: float, threads: int) -> None:
    """Print both tables."""
    siblings(size, seconds, threads)
    half(size, seconds, threads)


if __name__ == "__main__":
    given = [*sys.argv[1:], *("224", "3", "1")[len(sys.argv) - 1 :]]
    main(int(given[0]), float(given[1]), int(given[2]))
