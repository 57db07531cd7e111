"""What ``make evidence-deploy`` measures: each function one part on one network, its answer rows of plain numbers."""

from __future__ import annotations

import functools
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import bench_deploy
import onnx_ir as ir
from deploy_rows import Extent, Int8, Predicted, Ratio
from helpers.merging import tuned

from onnxmtl.analysis.blocks import blocks
from onnxmtl.deploy.bench.bench import BenchOptions, bench
from onnxmtl.deploy.bench.candidates import Candidate
from onnxmtl.deploy.bench.results import Spread
from onnxmtl.kinds import TaskSet
from onnxmtl.workflows import load

if TYPE_CHECKING:
    from onnxmtl.deploy.entry_points import EntryPoints

TASKS = bench_deploy.TASKS
PREDICTED = 128  # height and width of the images whose latency is predicted, at most


Network = Callable[[int], ir.Model]


# -- multi-task models against separate ones -------------------------------------------------------------------------


def separate(name: str, network: Network, extent: Extent) -> list[Ratio]:
    """All tasks on one trunk, and a tree, against a network per task."""
    with tempfile.TemporaryDirectory() as folder:
        multi, apart = bench_deploy.models(network(extent.size), Path(folder))
        return _benched("separate", name, multi, apart, extent)


def _benched(
    part: str, name: str, multi: Sequence[Candidate], apart: Candidate, extent: Extent, **facts: Any
) -> list[Ratio]:
    options = BenchOptions(threads=extent.threads, seconds=extent.seconds, rounds=extent.rounds, memory=False)
    found = bench(multi, apart, options)
    reasons = dict(
        zip(
            ((one.candidate, one.threads) for one in found.measurements if one.ratio), found.explanations(), strict=True
        )
    )
    rows = []
    for one in found.measurements:
        base = found.base_of(one)
        if one.ratio is None or one.work_ratio is None or one.ideal is None or base is None:
            continue
        profiles = [each.profile.share for each in (one, base) if each.profile is not None]
        rows.append(
            Ratio(
                part=part,
                network=name,
                what=one.candidate,
                threads=one.threads,
                base=base.latency.median,
                latency=one.ratio.median,
                spread=one.ratio.relative,
                processor=one.work_ratio.median,
                ideal=one.ideal,
                share=min(profiles, default=None),
                why=reasons[one.candidate, one.threads].partition(": ")[2],
                **facts,
            )
        )
    return rows


# -- entry points ----------------------------------------------------------------------------------------------------


def entry_points(name: str, network: Network, extent: Extent) -> list[Ratio]:
    """Every subset of the tasks of a tree, from entry points, against the single file: a session per combination of
    tasks, and a session per segment."""
    from onnxmtl.deploy.entry_points import write_entry_points

    with tempfile.TemporaryDirectory() as folder:
        multi, _ = bench_deploy.models(network(extent.size), Path(folder))
        (file,) = next(one.files for one in multi if one.name == "tree")
        done = write_entry_points(file)  # refuses if a bit differs
        return [
            row
            for part, by_segment in {"entry points": False, "by segment": True}.items()
            for threads in extent.threads
            for row in _entry_points(part, name, file, done, threads, by_segment, extent)
        ]


def _entry_points(
    part: str, name: str, file: Path, done: EntryPoints, threads: int, by_segment: bool, extent: Extent
) -> list[Ratio]:
    from onnxmtl import runtime
    from onnxmtl.deploy.bench.timing import SETTINGS, interleaved, pinned

    work = {row.name: row.multiply_adds or 0 for row in done.segments}
    ulps = {row.task: row.ulps for row in done.tasks}
    errors = {row.task: row.relative for row in done.tasks}
    image = _image(extent.size)
    names = TASKS.names
    subsets = [subset for count in range(1, len(names) + 1) for subset in itertools.combinations(names, count)]
    with pinned(threads):
        whole = functools.partial(runtime.run, runtime.session(file, threads=threads, settings=SETTINGS), image)
        parts = runtime.load(done.path, threads=threads, by_segment=by_segment)
        assert isinstance(parts, runtime.EntryPoints)
        calls: list[list[Callable[[], object]]] = [[whole]]
        calls += [[functools.partial(parts.open(subset), image, subset)] for subset in subsets]
        times = interleaved(calls, seconds=extent.seconds * len(calls), rounds=extent.rounds)
    passed, worked = ([one.totals[i] for one in times] for i in (0, 1))
    rows = []
    for i, subset in enumerate(subsets, start=1):
        ratio = Spread.of([one / base for one, base in zip(passed[i], passed[0], strict=True)])
        needed = sum(work[segment.name] for segment in parts.segments_for(subset))
        differences = [ulps[task] for task in subset if ulps[task] is not None]
        rows.append(
            Ratio(
                part=part,
                network=name,
                what="all tasks" if len(subset) == len(names) else "+".join(subset),
                threads=threads,
                base=statistics.median(passed[0]),
                latency=ratio.median,
                spread=ratio.relative,
                processor=statistics.median(one / base for one, base in zip(worked[i], worked[0], strict=True) if base),
                ideal=needed / sum(work.values()),
                exact=True,
                ulps=max(differences, default=None),
                error=max(errors[task] for task in subset),
            )
        )
    return rows


def _image(size: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).random((1, 3, size, size), np.float32)


# -- merge -----------------------------------------------------------------------------------------------------------


def merged(name: str, network: Network, extent: Extent) -> list[Ratio]:
    """Two models that were fine-tuned from one with the trunk frozen: the second one's last block has moved too."""
    from onnxmtl.ir import save
    from onnxmtl.workflows import merge
    from onnxmtl.workflows.recommending.costs import Emission

    with tempfile.TemporaryDirectory() as folder:
        backbone = load(network(extent.size), guard=False)
        last = blocks(backbone.graph)[-1]
        moved = [str(value.name) for node in last.nodes for value in node.inputs if value and value.is_initializer()]
        rows = []
        for what, second in {"heads differ": backbone, "last block differs": tuned(backbone, moved)}.items():
            files = []
            for task, trunk in zip(list(TASKS)[:2], (backbone, second), strict=True):
                emission = Emission(trunk, blocks(trunk.graph), TaskSet((task,)))
                files.append(save(emission.shared, Path(folder, f"{what}-{task.name}.onnx")))
            out = Path(folder, f"{what}.onnx")
            report = merge(files, out)
            steps = [one.optimized_ulps for one in report.parity if one.optimized_ulps is not None]
            rows += _benched(
                "merge",
                name,
                [Candidate(what, (out,))],
                Candidate("separate models", tuple(files)),
                extent,
                exact=all(one.identical for one in report.parity),
                ulps=max(steps, default=None),
                error=max(one.optimized_error for one in report.parity),
            )
        return rows


# -- predictions -----------------------------------------------------------------------------------------------------


def predictions(name: str, network: Network, extent: Extent) -> list[Predicted]:
    """Random trees, and random architectures of AutoMTL's space, that the tables were not made from: measured in turns,
    and predicted; both by the clock and in the time that the processor worked."""
    import bench_latency_table

    bench_deploy.NETWORKS.setdefault(name, network)
    size = min(extent.size, PREDICTED)
    most = len(blocks(load(network(size), guard=False).graph))
    bench_latency_table.BLOCKS = min(bench_latency_table.BLOCKS, most)
    return [
        Predicted(
            network=name,
            table=found.of,
            clock=found.clock,
            layouts=len(found.measured),
            within=found.within,
            middle=float(statistics.median(found.errors)),
            largest=float(max(found.errors)),
        )
        for measure in (bench_latency_table.trees, bench_latency_table.layers)
        for found in measure(name, size, 1, extent.layouts)
    ]


# -- int8 ------------------------------------------------------------------------------------------------------------


def int8(name: str, network: Network, extent: Extent, out: Path) -> list[Int8]:
    """A network trained on ``scenes``, all tasks on one trunk; then int8 with every block, and guarded.

    Args:
        name: Of the network.
        network: Makes it for a size of images.
        extent: How long it is trained.
        out: Where the run and the int8 models are kept.
    """
    import torch

    from onnxmtl.errors import VerificationError
    from onnxmtl.ir import save
    from onnxmtl.policy import Layout
    from onnxmtl.workflows import compile, quantize

    torch.set_num_threads(1)
    run = out / f"run-{name}-{extent.steps}"
    if not (run / "report.json").is_file():  # the last thing that a run writes
        size = 64  # of scenes
        backbone = out / f"{name}.onnx"
        if not backbone.is_file():
            save(network(size), backbone)
        compile(
            backbone,
            "seg=segmentation,depth,normals",
            out=run,
            resume=(run / "run.json").is_file(),
            layout=Layout.shared(("seg", "depth", "normals"), 1),
            data="scenes",
            steps=extent.steps,
            output_stride=16,
            val_size=extent.val,
            train_size=extent.train,
            baselines=(),
        )
    rows: list[Int8] = []
    for allowed in ("1%", "1000%"):  # the second one rolls nothing back, where the first one did
        if rows and rows[0].int8 == rows[0].blocks:
            break
        found = quantize(run / "model.onnx", max_drop=allowed, out=_fresh(out / f"int8-{name}-{allowed[:-1]}"))
        report = found.report
        try:
            report.check()
        except VerificationError as error:
            print(f"{name}, {allowed}: {error}", flush=True)
        times = report.times
        rows += [
            Int8(
                network=name,
                allowed=allowed,
                task=task.task,
                metric=task.metric,
                before=task.before,
                after=task.after,
                held=task.held,
                blocks=len(report.blocks),
                int8=sum(block.int8 for block in report.blocks),
                size=report.size_ratio,
                latency=None if times is None else times.processor_ratio.median,
                parameters=_parameters(run),
            )
            for task in report.tasks
        ]
    return rows


def _parameters(run: Path) -> int:
    import json

    return int(json.loads((run / "report.json").read_text())["costs"]["found"]["parameters"])


def _fresh(folder: Path) -> Path:
    """A folder that is not there: what an interrupted run left is removed."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    return folder
