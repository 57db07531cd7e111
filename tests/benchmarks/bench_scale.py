"""How import, supermodel, selection and export grow with the number of nodes, and what 2 GB of weights cost in memory.

Processor time of each step for four sizes of a network, fitted as time ~ nodes^exponent: 1 is linear. Memory: peak
resident size of a process that builds the supermodel of a network with 2 GB of external weights (a sparse file).
Run: python tests/benchmarks/bench_scale.py [largest number of nodes, 10000]
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
from helpers.scale import Shape, peak_megabytes, write_network

from onnxmtl import ir as graphs
from onnxmtl.analysis.sites import site_table
from onnxmtl.cost.count import count
from onnxmtl.cost.expected import ExpectedCost
from onnxmtl.frontends.onnx import load
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize import finalize_passes
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.instruments import CheckInvariants
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.select import select_passes
from onnxmtl.passes.spaces import Vcn
from onnxmtl.policy import Policy
from onnxmtl.policy.decoders import sample

TASKS = TaskSet.parse("seg=segmentation:4,depth,normals,edges,parts=segmentation:3")


def steps(nodes: int, shape: Shape, folder: Path) -> dict[str, float]:
    """Seconds of processor time of every step for one network."""
    path = write_network(folder / f"{shape}{nodes}.onnx", nodes, shape=shape)
    seconds: dict[str, float] = {}

    def step(name: str, work: Callable[[], Any]) -> Any:
        gc.collect()  # the debts of the step before
        start = time.process_time()
        result = work()
        seconds[name] = seconds.get(name, 0.0) + time.process_time() - start
        return result

    def rewrite(model: Any, passes: list[Any]) -> Any:
        return Pipeline(passes, instruments=[CheckInvariants()])(model).model

    backbone = step("import", lambda: normalize(load(path), instruments=[CheckInvariants()]))
    multitask = step("heads", lambda: rewrite(backbone, [AttachHeads(TASKS, 0)]))
    supermodel = step("supermodel", lambda: rewrite(multitask, [Vcn()]))
    table = step("site table", lambda: site_table(supermodel))
    policy = Policy.uniform(table)
    uniform = [np.full((len(TASKS), len(site.options)), 1 / len(site.options)) for site in table.sites]
    step("expected cost", lambda: ExpectedCost(table).multiply_adds(uniform))
    architecture = step("decode", lambda: sample(policy, 1, seed=1)[0])
    step("save supermodel", lambda: graphs.save(supermodel, folder / "supermodel.onnx"))
    copy = step("clone", lambda: graphs.clone(supermodel))
    selected = step("select", lambda: rewrite(copy, select_passes(architecture)))
    step("count", lambda: count(selected))
    final = step("finalize", lambda: rewrite(selected, finalize_passes(TASKS, {"layout": "NCHW"})))
    step("save", lambda: graphs.save(final, folder / "final.onnx"))
    return seconds


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Slope of log(seconds) over log(nodes)."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(seconds, 1e-4)), 1)[0])


def growth(shape: Shape, sizes: list[int]) -> None:
    """Print one line per step."""
    with tempfile.TemporaryDirectory() as folder:
        found = [steps(nodes, shape, Path(folder)) for nodes in sizes]
    print(f"{shape}: {', '.join(map(str, sizes))} nodes, {len(TASKS)} tasks")
    total = [sum(seconds.values()) for seconds in found]
    for name in [*found[0], "all"]:
        times = total if name == "all" else [seconds[name] for seconds in found]
        ratio = times[-1] / max(times[0], 1e-4)
        print(
            f"  {name:16s} exponent {exponent(sizes, times):4.2f}   {ratio:5.1f}x for "
            f"{sizes[-1] / sizes[0]:.0f}x the nodes   ({times[-1]:.1f} s of processor time at the end)"
        )


def memory(folder: Path) -> None:
    """Print how the process grows while it works on 2 GB of external weights."""

    def grown() -> str:
        return f"+{peak_megabytes() - start:.0f} MB"

    path = write_network(folder / "large.onnx", 900, channels=512, kernel=3, data="sparse")
    start = peak_megabytes()
    size = path.with_name("large.onnx.data").stat().st_size
    backbone = normalize(load(path))
    print(f"memory: {size / 1e9:.1f} GB of external weights: import {grown()}", end=", ")
    supermodel = Pipeline([AttachHeads(TASKS, 0), Vcn()])(backbone).model
    site_table(supermodel)
    print(f"supermodel {grown()}", end=", ")
    graphs.save_external(supermodel, folder / "supermodel.onnx")
    written = (folder / "supermodel.onnx.data").stat().st_size
    print(f"saved {grown()}: {graphs.weight_bytes(supermodel) / 1e9:.1f} GB of weights in {written / 1e9:.1f} GB")


def main() -> None:
    if sys.argv[1:] == ["memory"]:
        with tempfile.TemporaryDirectory() as folder:
            memory(Path(folder))
        return
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    growth("residual", [largest // 10, largest // 4, largest // 2, largest])
    for shape in ("inception", "dense"):
        growth(shape, [largest // 40, largest // 20, largest // 10])
    subprocess.run([sys.executable, __file__, "memory"], check=True)  # a fresh process: nothing was allocated before


if __name__ == "__main__":
    main()
