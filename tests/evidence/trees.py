"""Do two-task models tell which tree of four tasks is best? ``make evidence-trees`` asks, and prints the answer.

Two items of clothing per image and four tasks: what the left and the right one is, their segments, their outlines. Two
seeds of: BMTAS's search; a network per task; a model of every two tasks at every branching point; and twenty layouts
of all four, among them those that TreeMTL's estimator and BMTAS choose, and others drawn at random over all costs.
Everything is trained with the same number of updates from the same backbone. A layout's score is its relative
performance against the single-task networks in percent (AutoMTL's Eq. 5), the mean over the tasks.

Predictions are compared with these scores: of the two-task models, of the similarity of what single-task networks
represent (RSA), and of multiply-adds alone. How well one seed's scores predict the other's says how good a prediction
can be.

Everything that is trained stays under ``--out`` and is not trained again; a killed run goes on where it stopped.

    python tests/evidence/trees.py --out runs/evidence-trees
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxmtl.kinds import TaskSet
    from onnxmtl.policy.layout import Layout
    from onnxmtl.workflows.recommendation import Recommended

BACKBONE = Path(__file__).parents[2] / "samples" / "backbones" / "resnet14-tiny.onnx"
TASKS = {"left": "classification", "right": "classification", "seg": "segmentation", "edges": "edges"}
BLOCKS, BUDGET = 5, "madds<=0.6x"
OPTIONS: Mapping[str, Any] = {
    "data": "multifashion",
    "input_size": (36, 36),
    "batch_size": 16,
    "train_size": 8000,
}
TWO_TASK, SVD, RSA, RSA_MAX, COST = "two-task", "two-task, SVD entropy", "RSA", "RSA, largest", "multiply-adds"
PREDICTIONS = (TWO_TASK, SVD, RSA, RSA_MAX, COST)
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Tree:
    """A layout that was trained.

    Attributes:
        number: In TreeMTL's order.
        groups: Which tasks share each block.
        chosen: By whom.
        madds: Multiply-adds as a share of separate models'.
        predicted: Name of a prediction -> its score.
        of_seed: The two-task prediction of each seed's own models.
        measured: Per seed, task -> relative performance in percent.
    """

    number: int
    groups: tuple[tuple[tuple[int, ...], ...], ...]
    chosen: tuple[str, ...]
    madds: float
    predicted: Mapping[str, float]
    of_seed: tuple[float, ...]
    measured: tuple[Mapping[str, float], ...]

    def scores(self, weights: Mapping[str, float] | None = None) -> tuple[float, ...]:
        """Per seed, the measured performance: the mean over the tasks, or weighted."""
        return tuple(
            sum(value if weights is None else value * weights[task] * len(one) for task, value in one.items())
            / len(one)
            for one in self.measured
        )

    @property
    def score(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.scores())


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How well a prediction orders the layouts; per seed, then for the mean of the seeds (nan: not asked)."""

    prediction: str
    count: int
    spearman: tuple[float, ...]
    pearson: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that was found.

    Attributes:
        steps: Updates of every model.
        tasks: Names.
        weights: Task -> SVD-entropy weight.
        layouts: How many there are.
        trainings: How many were done, without BMTAS's.
        trees: Layouts that were trained.
    """

    steps: int
    tasks: tuple[str, ...]
    weights: Mapping[str, float]
    layouts: int
    trainings: int
    trees: tuple[Tree, ...]


@dataclasses.dataclass(frozen=True)
class Extent:
    """How much is trained.

    Attributes:
        out: Where it stays.
        steps: Updates of every model.
        seeds: 0, 1, …
        layouts: To be trained.
        images: That models are evaluated on.
        workers: Processes at the same time.
    """

    out: Path
    steps: int
    seeds: int
    layouts: int
    images: int
    workers: int

    def folder(self, name: str) -> Path:
        """The directory of a run of this extent."""
        return self.out / f"{name}-{self.steps}-{self.images}"


# -- the plan --------------------------------------------------------------------------------------------------------


def spread(layouts: Sequence[Layout], costs: Sequence[float], count: int, seed: int) -> list[Layout]:
    """`count` of the layouts at random, as evenly over the range of their costs as they lie.

    The range is cut into `count` parts of the same width, from each of which one is drawn. Parts without layouts leave
    some to be drawn from all others.
    """
    import random

    from onnxmtl.runs import derive_seed

    draw = random.Random(derive_seed(seed, "evidence", "trees"))
    low, high = min(costs), max(costs)
    parts: list[list[Layout]] = [[] for _ in range(count)]
    for layout, cost in zip(layouts, costs, strict=True):
        place = (cost - low) / (high - low) if high > low else 0.0
        parts[min(count - 1, int(place * count))].append(layout)
    chosen = [draw.choice(part) for part in parts if part]
    rest = [layout for layout in layouts if layout not in chosen]
    return chosen + draw.sample(rest, min(count - len(chosen), len(rest)))


def plan(
    named: Mapping[str, Layout], cost: Callable[[Layout], float], count: int, seed: int = 0
) -> dict[Layout, tuple[str, ...]]:
    """Which layouts are trained, and who chose each: those with a name, and random ones up to `count`."""
    from onnxmtl.policy.layout import Layout, count_layouts

    chosen: dict[Layout, tuple[str, ...]] = {}
    for name, layout in named.items():
        chosen[layout] = (*chosen.get(layout, ()), name)
    one = next(iter(chosen))
    every = [
        Layout.from_id(one.tasks, len(one.groups), number).with_blocks(one.blocks)
        for number in range(count_layouts(len(one.tasks), len(one.groups)))
    ]
    others = [layout for layout in every if layout not in chosen]
    missing = max(0, count - len(chosen))
    drawn = spread(others, [cost(layout) for layout in others], missing, seed) if missing else []
    return chosen | dict.fromkeys(drawn, (RANDOM,))


# -- trainings -------------------------------------------------------------------------------------------------------


def task_set() -> TaskSet:
    """The tasks with light heads, so that the trunk is what costs."""
    from onnxmtl import Task, TaskSet

    heads = {"classification": "pooled"}
    return TaskSet(tuple(Task(name, kind, head=heads.get(kind, "light")) for name, kind in TASKS.items()))


def searched(extent: Extent, seed: int) -> str:
    """BMTAS's tree within the budget, as JSON; read where it is done."""
    import torch

    from onnxmtl.search.recipe import recipe_named
    from onnxmtl.workflows import compile

    torch.set_num_threads(1)
    folder = extent.folder(f"bmtas-seed-{seed}")
    if not (folder / "report.json").is_file():  # the last thing that a run writes
        final = recipe_named("bmtas").final_stage
        assert final is not None
        compile(
            BACKBONE,
            task_set(),
            out=folder,
            resume=(folder / "run.json").is_file(),
            recipe="bmtas",
            budget=BUDGET,
            space={"groups": BLOCKS},
            steps=round(extent.steps / final.share),
            val_size=extent.images,
            seed=seed,
            baselines=("none",),
            **OPTIONS,
        )
    return (folder / "layout.json").read_text()


def recommended(extent: Extent, folder: Path, **asked: Any) -> Recommended:
    """Ask ``recommend``; what it trained before is there."""
    from onnxmtl.workflows import recommend

    return recommend(
        BACKBONE,
        task_set(),
        blocks=BLOCKS,
        steps=extent.steps,
        seeds=extent.seeds,
        val_size=extent.images,
        workers=extent.workers,
        out=folder,
        resume=(folder / "run.json").is_file(),
        observer=Lines(),
        **OPTIONS,
        **asked,
    )


class Lines:
    """A line for every training that another process has done."""

    def __init__(self) -> None:
        self._name, self._total, self._start = "", 0, 0.0

    def stage(self, name: str, total: int, start: int = 0) -> None:
        """Something begins."""
        self._name, self._total, self._start = name, total, time.monotonic()

    def update(self, step: int, losses: Mapping[str, float], cost: float | None = None) -> None:
        """`step` of the trainings are done; or steps of a training here, of which only the last one is told."""
        if not losses or step == self._total:
            print(f"[{step}/{self._total}] {self._name}: {time.monotonic() - self._start:.0f} s", flush=True)


def run(extent: Extent) -> Evidence:
    """Train everything and predict, or read what is done."""
    import torch

    from onnxmtl.policy.layout import Layout, count_layouts
    from onnxmtl.workflows import recommend
    from onnxmtl.workflows.recommending.predicting import predictor

    torch.set_num_threads(extent.workers)  # one for each of them
    start, seeds = time.monotonic(), range(extent.seeds)
    processes = min(extent.workers, extent.seeds)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        texts = list(pool.map(searched, [extent] * extent.seeds, seeds))
    print(f"BMTAS has found {extent.seeds} trees: {time.monotonic() - start:.0f} s", flush=True)

    folder = extent.folder(f"two-task-{extent.seeds}-seeds")
    known = recommended(extent, folder).performance
    named = {
        "all shared": Layout.shared(known.tasks, BLOCKS),
        "separate": Layout.separate(known.tasks, BLOCKS),
        "recommended": recommend(folder, top=1).recommendation.layouts[0].layout,
        f"recommended, {BUDGET}": recommend(folder, top=1, budget=BUDGET).recommendation.layouts[0].layout,
    }
    named |= {f"BMTAS, {BUDGET}, seed {seed}": Layout.from_json(text) for seed, text in zip(seeds, texts, strict=True)}
    named = {name: layout.for_tasks(known.tasks).with_blocks(known.blocks) for name, layout in named.items()}
    chosen = plan(named, lambda layout: known.costs.of(layout, "multiply_adds"), extent.layouts)

    files = []
    for layout in chosen:
        files.append(extent.folder("layouts") / f"{layout.number}.json")
        files[-1].parent.mkdir(exist_ok=True)
        files[-1].write_text(layout.to_json())
    trained = recommended(extent, folder, train_given=tuple(map(str, files))).recommendation.trained
    similar = recommended(extent, extent.folder(f"rsa-{extent.seeds}-seeds"), estimator="rsa").performance

    predictors = {
        TWO_TASK: predictor(known, "two-task", "equal"),
        SVD: predictor(known, "two-task", "svd-entropy"),
        RSA: predictor(similar, "rsa", "equal"),
        RSA_MAX: predictor(similar, "rsa-max", "equal"),
    }
    own = [predictor(dataclasses.replace(known, table=table), "two-task", "equal") for table in known.tables]
    separate = known.costs.separate("multiply_adds")
    trees = []
    for row in trained:
        madds = row.costs["multiply_adds"] / separate
        predicted = {name: one.score(row.layout) for name, one in predictors.items()} | {COST: madds}
        trees.append(
            Tree(
                row.layout.number,
                row.layout.groups,
                chosen[row.layout],
                madds,
                predicted,
                tuple(one.score(row.layout) for one in own),
                tuple(dict(one) for one in row.measured),
            )
        )
    return Evidence(
        extent.steps,
        known.tasks,
        dict(predictors[SVD].weights),
        count_layouts(len(known.tasks), BLOCKS),
        known.trainings + len(trained) * extent.seeds,
        tuple(trees),
    )


# -- statistics ------------------------------------------------------------------------------------------------------


def interval(correlation: float, count: int, spread: float = 1.06) -> tuple[float, float]:
    """95 % confidence interval of a rank correlation of `count` pairs (Fisher's z; Fieller, Hartley, Pearson 1957).

    Args:
        correlation: Between -1 and 1.
        count: Of the pairs.
        spread: Variance of z is spread / (count - 3): 1.06 for Spearman's, 1 for Pearson's.
    """
    if count < 4 or not abs(correlation) < 1:
        return math.nan, math.nan
    half = 1.96 * math.sqrt(spread / (count - 3))
    return math.tanh(math.atanh(correlation) - half), math.tanh(math.atanh(correlation) + half)


def rank(score: float, scores: Sequence[float]) -> int:
    """1: the best."""
    return 1 + sum(other > score for other in scores)


def comparisons(found: Evidence) -> list[Comparison]:
    """Every prediction against the scores of every seed, and against their means."""
    trees = found.trees
    seeds = len(trees[0].measured)
    equal = [tree.scores() for tree in trees]
    rows = [
        _comparison(
            name,
            [[tree.predicted[name] for tree in trees]] * seeds,
            [tree.scores(found.weights) for tree in trees] if name == SVD else equal,
        )
        for name in PREDICTIONS
    ]
    if seeds > 1:
        own = [[tree.of_seed[seed] for tree in trees] for seed in range(seeds)]
        rows.append(_comparison("two-task, own seed", own, equal, mean=False))
        rows.append(
            _comparison("two-task, other seeds", [_others(own, seed) for seed in range(seeds)], equal, mean=False)
        )
        columns = [[row[seed] for row in equal] for seed in range(seeds)]
        rows.append(
            _comparison("scores of other seeds", [_others(columns, s) for s in range(seeds)], equal, mean=False)
        )
    return rows


def _others(columns: Sequence[Sequence[float]], seed: int) -> list[float]:
    """Of each tree the mean over all seeds but one."""
    return [statistics.fmean(row) for row in zip(*(c for s, c in enumerate(columns) if s != seed), strict=True)]


def _comparison(
    name: str, predicted: Sequence[Sequence[float]], scores: Sequence[Sequence[float]], mean: bool = True
) -> Comparison:
    """One row.

    Args:
        name: Of the prediction.
        predicted: [seeds][trees].
        scores: [trees][seeds].
        mean: Whether the prediction is one for all seeds.
    """
    from onnxmtl.deploy.recommendation import pearson, spearman

    pairs = [(predicted[seed], [row[seed] for row in scores]) for seed in range(len(predicted))]
    if mean:
        pairs.append((predicted[0], [statistics.fmean(row) for row in scores]))
    ranked, linear = ([how(*pair) for pair in pairs] for how in (spearman, pearson))
    if not mean:
        ranked.append(math.nan)
        linear.append(math.nan)
    return Comparison(name, len(scores), tuple(ranked), tuple(linear))


# -- tables ----------------------------------------------------------------------------------------------------------


def summary(found: Evidence) -> str:
    """The tables, as Markdown."""
    trees = sorted(found.trees, key=lambda tree: -tree.score)
    seeds = range(len(trees[0].measured))
    per_seed = "".join(f" seed {seed} |" for seed in seeds)
    lines = [
        f"{len(trees)} of {found.layouts} layouts of {', '.join(found.tasks)} trained, {len(seeds)} seeds, "
        f"{found.steps} updates each, {found.trainings} trainings.",
        "",
        f"| prediction | Spearman:{per_seed} mean of the seeds | 95 % | Pearson:{per_seed} mean of the seeds |",
        "|---|" + "---|" * (2 * len(seeds) + 3),
    ]
    for row in comparisons(found):
        low, high = interval(row.spearman[-1], row.count)
        span = f"{low:+.2f} … {high:+.2f}" if math.isfinite(low) else ""
        cells = [*map(_number, row.spearman), span, *map(_number, row.pearson)]
        lines.append(f"| {row.prediction} | {' | '.join(cells)} |")
    lines += [
        "",
        f"| chosen by | multiply-adds | rank:{per_seed} mean of the seeds | Δt % | below the best | above random |",
        "|---|---|" + "---|" * (len(seeds) + 4),
    ]
    columns = list(zip(*(tree.scores() for tree in trees), strict=True))
    means = [tree.score for tree in trees]
    chance = [tree.score for tree in trees if tree.chosen == (RANDOM,)]
    for tree in trees:
        for name in tree.chosen:
            if name != RANDOM:
                ranks = [rank(tree.scores()[seed], columns[seed]) for seed in seeds]
                cells = [str(r) for r in (*ranks, rank(tree.score, means))]
                above = f"{tree.score - statistics.fmean(chance):+.2f}" if chance else ""
                lines.append(
                    f"| {name} | {tree.madds:.2f}× | {' | '.join(cells)} | {tree.score:+.2f} | "
                    f"{max(means) - tree.score:.2f} | {above} |"
                )
    lines += [
        "",
        f"| rank | layout | chosen by | multiply-adds | {TWO_TASK} % | {RSA} | Δt %:{per_seed} mean of the seeds |",
        "|---|" + "---|" * (len(seeds) + 6),
    ]
    for place, tree in enumerate(trees, start=1):
        cells = [f"{value:+.2f}" for value in (*tree.scores(), tree.score)]
        lines.append(
            f"| {place} | {drawn(tree, found.tasks)} | {'; '.join(tree.chosen)} | {tree.madds:.2f}× | "
            f"{tree.predicted[TWO_TASK]:+.2f} | {tree.predicted[RSA]:+.2f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def drawn(tree: Tree, tasks: Sequence[str]) -> str:
    """A layout in a line: per block its groups, tasks by their first letters."""
    return " ".join("·".join("".join(tasks[task][0] for task in group) for group in block) for block in tree.groups)


def _number(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else ""


# -- the program -----------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/evidence-trees"))
    parser.add_argument("--steps", type=int, default=1000, help="updates of every model")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--layouts", type=int, default=20, help="of four tasks, to be trained")
    parser.add_argument("--images", type=int, default=2000, help="that models are evaluated on")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ["ONNXMTL_CACHE"] = str((given.out / "cache").resolve())  # singles and pairs: once for all estimators
    os.environ["OMP_NUM_THREADS"] = "1"
    found = run(Extent(**vars(given)))
    content = {**dataclasses.asdict(found), "comparisons": [dataclasses.asdict(row) for row in comparisons(found)]}
    (given.out / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    print(summary(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
