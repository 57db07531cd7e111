"""Does what the search finds beat chance at the same cost? ``make evidence-sharing`` asks, and prints the answer.

For every data set and seed: a model per task, one trunk for all, and for every search method the model it finds and
four random architectures of its space with the same multiply-adds (±2 %). All of them are trained from the same start,
on the same images in the same order, with the same number of updates, so they differ in nothing but what is shared.
Δt is AutoMTL's Eq. 5 against the single-task models, in percent, over all metrics of all tasks.

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
from typing import Any

BACKBONE = Path(__file__).parents[2] / "samples" / "backbones" / "resnet18-small.onnx"
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
    """A search: its recipe, and the share of a run's steps that trains the selected model."""

    name: str
    recipe: str
    variant: str = ""


DATA = (
    DataSet("scenes", (("seg", "segmentation"), ("depth", "depth"), ("normals", "normals")), 48, 4000, 500),
    DataSet("multifashion", (("left", "classification"), ("right", "classification"), ("seg", "segmentation")), 36,
            8000, 1000),
)  # fmt: skip
METHODS = (
    Method("AutoMTL, ours", "automtl"),
    Method("AutoMTL, paper", "automtl", "paper"),
    Method("AdaShare", "adashare"),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """One run: a method on a data set with a seed. Δt in percent, costs as a share of separate models'."""

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


def run(data: DataSet, method: Method, seed: int, steps: int, out: Path) -> Result:
    """Train everything of one run, or read it where it is done."""
    import torch

    from onnxmtl import Task, TaskSet
    from onnxmtl.search.recipe import recipe_named
    from onnxmtl.workflows import compile

    torch.set_num_threads(1)
    recipe = recipe_named(method.recipe, method.variant)
    final = recipe.final_stage
    assert final is not None
    folder = out / "-".join(filter(None, (data.name, method.recipe, method.variant, str(steps), str(seed))))
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
        data=data.name,
        steps=round(steps / final.share),
        batch_size=16,
        seed=seed,
        input_size=(data.size, data.size),
        retrain="scratch",
        train_size=data.train,
        val_size=data.val,
        baselines=("single-task", "hard-sharing", "random-cost"),
        random_draws=DRAWS,
    )
    return read(data, method, seed, folder, time.monotonic() - start)


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
        random=tuple(draw["total"] for draw in report["draws"]),
        madds=share(costs["found"], "multiply_adds"),
        parameters=share(costs["found"], "parameters"),
        shared_madds=share(costs["shared"], "multiply_adds"),
        shared_parameters=share(costs["shared"], "parameters"),
        random_madds=tuple(share(draw, "multiply_adds") for draw in report["draws"]),
        seconds=seconds,
    )


# -- statistics ------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % confidence interval (Student's t); nan for fewer than two values."""
    from scipy.stats import t

    mean = statistics.fmean(values) if values else math.nan
    if len(values) < 2:
        return mean, math.nan
    return mean, float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def shown(values: Sequence[float]) -> str:
    """``mean ± half interval``."""
    mean, half = interval(values)
    return f"{mean:+.2f} ± {half:.2f}"


def summary(results: Iterable[Result]) -> str:
    """The tables, as Markdown."""
    rows = list(results)
    lines = [
        "| data | method | seeds | Δt found % | Δt random, same cost % | found − random | found − all shared |"
        " multiply-adds | parameters |",
        "|---|---|---|---|---|---|---|---|---|",
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
        madds, parameters = (statistics.fmean(getattr(r, f"shared_{q}") for r in once) for q in ("madds", "parameters"))
        lines.append(
            f"| {data} | all shared | {len(once)} | {shown([r.shared for r in once])} | | | | {madds:.2f}× "
            f"| {parameters:.2f}× |"
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
    ordered = [results[job[0].name, job[1].name, job[2]] for job in jobs]
    (given.out / "results.json").write_text(json.dumps([dataclasses.asdict(r) for r in ordered], indent=2) + "\n")
    print(summary(ordered))
    return 0


if __name__ == "__main__":
    sys.exit(main())
