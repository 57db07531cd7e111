"""Does what the search finds beat chance at the same cost? ``make evidence-sharing`` asks, and prints the answer.

For every data set and seed: a model per task, one trunk for all, and for every search method the model it finds and
four random architectures of its space with the same multiply-adds (±2 %). All of them are trained from the same start,
on the same images in the same order, with the same number of updates, so they differ in nothing but what is shared.
Methods that keep the weights of separate networks (MTL-NAS and soft sharing) have as many updates, in which those
networks' own training is counted. Δt is AutoMTL's Eq. 5 against the single-task models, in percent, over all metrics of
all tasks. Latency is that of ONNX Runtime on one thread, the models of one data set and seed measured side by side.

Every run is a directory under ``--out``; what is there is not done again, and a killed run goes on where it stopped.

    python tests/evidence/sharing.py --out runs/evidence-sharing
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal

BACKBONE = Path(__file__).parents[2] / "samples" / "backbones" / "resnet14-tiny.onnx"
DRAWS = 4


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What a model is trained on: tasks with light heads, so that the trunk is what costs."""

    name: str
    tasks: tuple[tuple[str, str], ...]  # (name, kind)
    size: int
    train: int
    val: int


@dataclasses.dataclass(frozen=True)
class Method:
    """A search, or an architecture that is given (nothing to compare with by chance), by its recipe."""

    name: str
    recipe: str
    variant: str = ""
    given: bool = False
    budget: str = ""


DATA = (
    DataSet("scenes", (("seg", "segmentation"), ("depth", "depth"), ("normals", "normals")), 48, 4000, 1000),
    DataSet("multifashion", (("left", "classification"), ("right", "classification"), ("seg", "segmentation")), 36,
            8000, 2000),
)  # fmt: skip
METHODS = (
    Method("AutoMTL, ours", "automtl"),
    Method("AutoMTL, half", "automtl", budget="madds<=0.5x"),
    Method("AutoMTL, paper", "automtl", "paper"),
    Method("AdaShare", "adashare"),
    Method("MTL-NAS", "mtlnas"),
    Method("Cross-stitch", "cross-stitch", given=True),
    Method("Sluice", "sluice", given=True),
    Method("NDDR-CNN", "nddr", given=True),
    Method("MTAN", "mtan", given=True),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """One run: a method on a data set with a seed. Δt in percent, costs and times as a share of separate models'."""

    data: str
    method: str
    seed: int
    found: float
    shared: float
    random: tuple[float, ...]
    madds: float
    parameters: float
    shared_madds: float
    shared_parameters: float
    random_madds: tuple[float, ...]
    seconds: float
    latency: float = math.nan
    shared_latency: float = math.nan


def run(data: DataSet, method: Method, seed: int, steps: int, out: Path) -> Result:
    """Train everything of one run, or read it where it is done."""
    import torch

    from onnxmtl import Task, TaskSet
    from onnxmtl.workflows import compile

    torch.set_num_threads(1)
    total, retrain = extent(method, steps)
    folder = folder_of(data, method, seed, steps, out)
    start = time.monotonic()
    if (folder / "report.json").is_file():  # the last thing that a run writes
        return read(data, method, seed, folder, 0.0)
    compile(
        BACKBONE,
        TaskSet(
            tuple(Task(name, kind, head="pooled" if kind == "classification" else "light") for name, kind in data.tasks)
        ),
        out=folder,
        resume=(folder / "run.json").is_file(),
        recipe=method.recipe,
        variant=method.variant,
        budget=method.budget,
        data=data.name,
        steps=total,
        batch_size=16,
        seed=seed,
        input_size=(data.size, data.size),
        retrain=retrain,
        train_size=data.train,
        val_size=data.val,
        baselines=("single-task", "hard-sharing", *(() if method.given else ("random-cost",))),
        random_draws=DRAWS,
    )
    return read(data, method, seed, folder, time.monotonic() - start)


def folder_of(data: DataSet, method: Method, seed: int, steps: int, out: Path) -> Path:
    """The directory of a run."""
    budget = "".join(letter for letter in method.budget if letter.isalnum() or letter == ".")
    return out / "-".join(filter(None, (data.name, method.recipe, method.variant, budget, str(steps), str(seed))))


def extent(method: Method, steps: int) -> tuple[int, Literal["", "scratch"]]:
    """Steps of a run whose model has `steps` updates behind it, and how its last stage begins.

    What a search selects is trained again from the start, unless its recipe uses the weights of the search.
    """
    from onnxmtl.search.recipe import recipe_named

    recipe = recipe_named(method.recipe, method.variant)
    if recipe.search_stages and recipe.final_stage is not None:
        return round(steps / recipe.final_stage.share), "scratch"
    many = 1_000_000
    return round(steps * many / recipe.weight_steps(many)), ""


def read(data: DataSet, method: Method, seed: int, folder: Path, seconds: float) -> Result:
    """The figures of a finished run."""
    report = json.loads((folder / "report.json").read_text())
    costs, separate = report["costs"], report["costs"]["separate"]

    def share(cost: Any, quantity: str) -> float:
        return float(cost[quantity] / separate[quantity])

    return Result(
        data=data.name,
        method=method.name,
        seed=seed,
        found=report["delta"]["found"],
        shared=report["delta"]["shared"],
        random=tuple(draw["total"] for draw in report["draws"]),  # none of a method that is given
        madds=share(costs["found"], "multiply_adds"),
        parameters=share(costs["found"], "parameters"),
        shared_madds=share(costs["shared"], "multiply_adds"),
        shared_parameters=share(costs["shared"], "parameters"),
        random_madds=tuple(share(draw, "multiply_adds") for draw in report["draws"]),
        seconds=seconds,
    )


# -- time ------------------------------------------------------------------------------------------------------------


def timed(results: Sequence[Result], folders: Sequence[Path], size: int, rounds: int = 200) -> list[Result]:
    """Results of one data set and seed with the latencies of their models, as shares of the separate models' sum.

    Every round runs every model once, so that what else the machine does meets them all; of each model the time that a
    tenth of its runs keep counts: others were disturbed, by up to ten times where processors are rationed.
    """
    import numpy as np

    from onnxmtl import runtime

    separate, shared = (
        [emitted(file) for file in sorted(folders[0].glob(f"phases/*-{name}/trained.onnx"))]
        for name in ("single-task-*", "hard-sharing")
    )
    models = [*separate, *shared, *(folder / "model.onnx" for folder in folders)]
    sessions = [runtime.session(model, threads=1) for model in models]
    image = np.random.default_rng(0).random((1, 3, size, size), np.float32)
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for session, of_model in zip(sessions, times, strict=True):
            begin = time.perf_counter()
            runtime.run(session, image)
            of_model.append(time.perf_counter() - begin)
    fast = [statistics.quantiles(of_model, n=10)[0] for of_model in times]
    whole = sum(fast[: len(separate)])
    behind = len(separate) + len(shared)
    return [
        dataclasses.replace(result, latency=own / whole, shared_latency=sum(fast[len(separate) : behind]) / whole)
        for result, own in zip(results, fast[behind:], strict=True)
    ]


def emitted(file: Path) -> bytes:
    """What would be handed over of a model that was trained for comparison."""
    from onnxmtl import ir
    from onnxmtl.kinds import TaskSet
    from onnxmtl.passes.finalize import finalize_passes
    from onnxmtl.passes.pipelines import Pipeline

    model = ir.load(file)
    (about,) = file.parents[1].glob("*-import/tasks.json")
    outputs = {output.name for output in model.graph.outputs}
    tasks = TaskSet(tuple(task for task in TaskSet.from_json(about.read_text()) if task.name in outputs))
    return ir.to_bytes(Pipeline(finalize_passes(tasks, {}))(model).model)


# -- statistics ------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % confidence interval (Student's t); nan for fewer than two values."""
    from scipy.stats import t

    mean = statistics.fmean(values) if values else math.nan
    if len(values) < 2:
        return mean, math.nan
    return mean, float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def shown(values: Sequence[float]) -> str:
    """``mean ± half interval``; nothing of no values."""
    mean, half = interval(values)
    return f"{mean:+.2f} ± {half:.2f}" if values else ""


def summary(results: Iterable[Result]) -> str:
    """The tables, as Markdown."""
    rows = list(results)
    lines = [
        "| data | method | seeds | Δt found % | Δt random, same cost % | found − random | found − all shared |"
        " multiply-adds | parameters | latency |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for data, method in itertools.product(dict.fromkeys(r.data for r in rows), dict.fromkeys(r.method for r in rows)):
        those = [r for r in rows if (r.data, r.method) == (data, method)]
        if those:
            lines.append(f"| {data} | {method} | {len(those)} | {_cells(those)} |")
    for method in dict.fromkeys(r.method for r in rows):
        those = [r for r in rows if r.method == method]
        lines.append(f"| all | {method} | {len(those)} | {_cells(those)} |")
    for data in dict.fromkeys(r.data for r in rows):
        once = {r.seed: r for r in rows if r.data == data}.values()
        madds, parameters, latency = (
            statistics.fmean(getattr(r, f"shared_{quantity}") for r in once)
            for quantity in ("madds", "parameters", "latency")
        )
        lines.append(
            f"| {data} | all shared | {len(once)} | {shown([r.shared for r in once])} | | | | {madds:.2f}× "
            f"| {parameters:.2f}× | {latency:.2f}× |"
        )
    return "\n".join(lines)


def _cells(those: Sequence[Result]) -> str:
    chance = [statistics.fmean(r.random) for r in those if r.random]
    paired = [r.found - statistics.fmean(r.random) for r in those if r.random]
    return " | ".join(
        [
            shown([r.found for r in those]),
            shown(chance),
            shown(paired),
            shown([r.found - r.shared for r in those]),
            f"{statistics.fmean(r.madds for r in those):.2f}×",
            f"{statistics.fmean(r.parameters for r in those):.2f}×",
            f"{statistics.fmean(r.latency for r in those):.2f}×",
        ]
    )


# -- the program -----------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/evidence-sharing"))
    parser.add_argument("--steps", type=int, default=600, help="updates of every model that is compared")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", nargs="*", default=[d.name for d in DATA], choices=[d.name for d in DATA])
    parser.add_argument("--methods", nargs="*", default=[m.name for m in METHODS], choices=[m.name for m in METHODS])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ["ONNXMTL_CACHE"] = str((given.out / "cache").resolve())  # the baselines: once for all methods
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = [
        (data, method, seed, given.steps, given.out)
        for seed in range(given.seeds)
        for data in DATA
        for method in METHODS
        if data.name in given.data and method.name in given.methods
    ]
    results: dict[tuple[str, str, int], Result] = {}
    of_name = {method.name: method for method in METHODS}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.workers, mp_context=context) as pool:
        waiting = {pool.submit(run, *job): job for job in jobs}
        for done in as_completed(waiting):
            result = done.result()
            results[result.data, result.method, result.seed] = result
            print(
                f"[{len(results)}/{len(jobs)}] {result.data}, {result.method}, seed {result.seed}: "
                f"Δt {result.found:+.2f} random {statistics.fmean(result.random or [math.nan]):+.2f} "
                f"shared {result.shared:+.2f} at {result.madds:.2f}× ({result.seconds:.0f} s)",
                flush=True,
            )
    for data, seed in itertools.product(DATA, range(given.seeds)):  # nothing else runs any more
        those = [r for r in results.values() if (r.data, r.seed) == (data.name, seed)]
        folders = [folder_of(data, of_name[r.method], seed, given.steps, given.out) for r in those]
        results |= {(r.data, r.method, r.seed): r for r in (timed(those, folders, data.size) if those else ())}
    ordered = [results[job[0].name, job[1].name, job[2]] for job in jobs]
    (given.out / "results.json").write_text(json.dumps([dataclasses.asdict(r) for r in ordered], indent=2) + "\n")
    print(summary(ordered))
    return 0


if __name__ == "__main__":
    sys.exit(main())
