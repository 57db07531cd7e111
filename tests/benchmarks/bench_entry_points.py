"""Latency of entry points against the single file: all tasks together, and each task against its share of the work.

    python tests/benchmarks/bench_entry_points.py

Interleaved runs, medians; one and two threads; one session per combination of tasks, and one per segment, with ONNX
Runtime's threads spinning or not. Then the memory of a ResNet-34 that is asked for each task alone and for all tasks.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_deploy import NETWORKS, models
from helpers.graphs import GraphBuilder

from onnxmtl import runtime
from onnxmtl.deploy.bench import timing
from onnxmtl.deploy.entry_points import EntryPoints, write_entry_points
from onnxmtl.ir import save
from onnxmtl.runtime import entry_points

SETTINGS: dict[str, dict[str, str] | None] = {
    "as one model": None,
    "no spinning": {"session.intra_op.allow_spinning": "0"},
    "spinning stops": {"session.force_spinning_stop": "1"},
    "spinning": {},
}


def tree(width: int, blocks: int, size: int) -> ir.Model:
    """A residual trunk; a branch of two tasks, each with a part of its own; and a branch of one."""
    b = GraphBuilder(size=size)
    trunk = b.block(b.image, width, stride=2)
    for _ in range(blocks):
        trunk = b.residual(trunk, width)
    ends = []
    for _ in range(2):
        x = b.residual(trunk, 2 * width, stride=2)
        for _ in range(blocks - 1):
            x = b.residual(x, 2 * width)
        ends.append(x)
    own = [b.residual(b.residual(ends[0], 2 * width), 2 * width) for _ in range(2)]
    return b.heads({"seg": own[0], "depth": own[1], "normals": ends[1]}, {"seg": 13, "depth": 1, "normals": 3})


def medians(calls: dict[str, Callable[[], object]], seconds: float = 6.0) -> dict[str, float]:
    """Milliseconds of each call, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            time.sleep(0.005)  # what spins after the run before has stopped by then
            begin = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def told(file: Path, done: EntryPoints, image: runtime.Array, threads: int, by_segment: bool) -> str:
    """One line: the single file, all tasks from segments, and each task alone."""
    whole = runtime.session(file, threads=threads, settings=timing.SETTINGS)  # the next one is to have the cores
    parts = runtime.load(done.path, threads=threads, by_segment=by_segment)
    calls: dict[str, Callable[[], object]] = {"file": lambda: runtime.run(whole, image), "all": lambda: parts(image)}
    calls |= {row.task: functools.partial(parts, image, [row.task]) for row in done.tasks}
    found = medians(calls)
    said = [f"file {found['file']:.2f} ms, all {found['all'] / found['file']:.3f} of it"]
    for row in done.tasks:
        ratio, share = found[row.task] / found["file"], row.share or 1.0
        said.append(f"{row.task} {ratio:.3f} = {ratio / share:.3f} x its multiply-adds {share:.3f}")
    return "; ".join(said)


def memory(folder: Path, combinations: list[list[str]], by_segment: bool) -> float:
    """Megabytes (10⁶) that a process takes at most which asks for these tasks, one call each. On Linux."""
    code = f"""
import numpy, onnxmtl.runtime
model = onnxmtl.runtime.load({str(folder)!r}, threads=1, by_segment={by_segment})
for tasks in {combinations!r}:
    model(numpy.zeros((1, 3, 224, 224), 'float32'), tasks)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024 / 1e6


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        for width, blocks, size in ((32, 4, 128), (64, 3, 128)):
            file = save(tree(width, blocks, size), Path(folder, f"{width}.onnx"))
            done = write_entry_points(file, Path(folder, f"parts-{width}"))
            image = np.random.default_rng(0).random((1, 3, size, size), np.float32)
            for threads in (1, 2):
                for name, settings in SETTINGS.items():
                    entry_points._BY_SEGMENT = settings or {}
                    print(f"width {width}, {len(done.segments)} segments, threads {threads}, {name}:")
                    print("   ", told(file, done, image, threads, settings is not None))
        made, _ = models(NETWORKS["ResNet-34"](224), Path(folder))
        (file,) = next(one.files for one in made if one.name == "tree")
        done = write_entry_points(file)
        alone = [[row.task] for row in done.tasks]
        together = [row.task for row in done.tasks]
        for name, asked in {"one task": alone[:1], "each task, then all": [*alone, together]}.items():
            one, parts = (memory(done.path, asked, by_segment) for by_segment in (False, True))
            print(f"ResNet-34, {name}: {one:.0f} MB as one model, {parts:.0f} MB by segment")


if __name__ == "__main__":
    main()
