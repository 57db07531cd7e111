"""Does the entropy of MTL-NAS leave one architecture? ``make evidence-fusion`` asks, and prints the answer.

The paper's Tables 4 and A3 and its Fig. A1 on ``scenes``: the deterministic (D) and the stochastic (S) relaxation, each
with and without the entropy, each read out deterministically (every edge whose α is above 1/2) and stochastically
(edges drawn with their α). Nothing is retrained, as in the paper. Beside them: random edges, and all (the SuperNet).
All models have the same number of updates, those of the single-task networks that they begin with included. Δt is
AutoMTL's Eq. 5 against single-task models, in percent, over all metrics of both tasks.

Every run is a directory under ``--out``; what is there is not done again, and a killed run goes on where it stopped.

    python tests/evidence/fusion.py --out runs/evidence-fusion
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
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal

BACKBONE = Path(__file__).parents[2] / "samples" / "backbones" / "resnet14-tiny.onnx"
TASKS = (("seg", "segmentation"), ("normals", "normals"))  # the paper's
CERTAIN = 0.02  # how near to 0 or 1
BINS = (0.0, 0.02, 0.1, 0.5, 0.9, 0.98, 1.0)  # of α; the outer two are those that are certain


@dataclasses.dataclass(frozen=True)
class Arm:
    """What is compared: a search with its relaxation, or something that needs none."""

    name: str
    kind: Literal["search", "random", "supernet"]
    relaxation: Literal["", "softmax", "gumbel"] = ""
    entropy: bool = False

    @property
    def letter(self) -> str:
        """As the paper calls the relaxation."""
        return {"": "", "softmax": "D", "gumbel": "S"}[self.relaxation]


ARMS = (
    Arm("random", "random"),
    Arm("supernet", "supernet"),
    Arm("D", "search", "softmax"),
    Arm("S", "search", "gumbel"),
    Arm("D-entropy", "search", "softmax", entropy=True),
    Arm("S-entropy", "search", "gumbel", entropy=True),
)


@dataclasses.dataclass(frozen=True)
class Extent:
    """How much is trained: `steps` updates per model on `train` images of `size` pixels, judged on `val`."""

    steps: int
    seeds: int
    draws: int
    size: int
    train: int
    val: int
    workers: int
    out: Path


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An architecture of the stochastic discretisation: how often it came, and in how many edges it is not D's."""

    count: int
    differing: int
    delta: float


@dataclasses.dataclass(frozen=True)
class Result:
    """One run. `delta` is that of the deterministic discretisation, or of the one architecture there is."""

    arm: str
    seed: int
    delta: float
    alphas: tuple[float, ...]
    kept: int
    drawn: tuple[Drawn, ...]
    madds: float  # share of separate models'
    seconds: float

    @property
    def certain(self) -> float:
        """Share of the α within CERTAIN of 0 or 1."""
        return sum(min(alpha, 1 - alpha) <= CERTAIN + 1e-9 for alpha in self.alphas) / len(self.alphas)

    @property
    def agreeing(self) -> float:
        """Share of the draws that are the architecture of the deterministic discretisation."""
        return sum(d.count for d in self.drawn if not d.differing) / sum(d.count for d in self.drawn)

    @property
    def expected(self) -> float:
        """Probability of such a draw: Π max(α, 1 − α)."""
        return math.prod(max(alpha, 1 - alpha) for alpha in self.alphas)

    @property
    def draws(self) -> tuple[float, ...]:
        """Δ of every draw."""
        return tuple(d.delta for d in self.drawn for _ in range(d.count))


# -- runs ------------------------------------------------------------------------------------------------------------


def run(arm: Arm, seed: int, extent: Extent) -> Result:
    """Train everything of one run, or read it where it is done."""
    import torch

    from onnxmtl import Task, TaskSet
    from onnxmtl.search.recipe import recipe_named
    from onnxmtl.workflows import compile

    torch.set_num_threads(1)
    folder = extent.out / f"{arm.name}-{extent.steps}-{seed}"
    start = time.monotonic()
    if (folder / "report.json").is_file():  # the last thing that a run writes
        return read(arm, seed, folder, 0.0)
    recipe = recipe_named("mtlnas", "supernet" if arm.kind == "supernet" else "")
    options: dict[str, Any] = {}
    if arm.kind == "search":
        recipe = dataclasses.replace(recipe, decoder="sample", samples=extent.draws, with_argmax=True)
        options = {"relaxation": arm.relaxation, "without": () if arm.entropy else ("entropy",)}
    if arm.kind == "random":
        options = {"policy": "random"}
    trained = recipe.without_search() if arm.kind == "random" else recipe
    many = 1_000_000
    compile(
        BACKBONE,
        TaskSet(tuple(Task(name, kind, head="light") for name, kind in TASKS)),
        out=folder,
        resume=(folder / "run.json").is_file(),
        recipe=recipe,
        data="scenes",
        steps=round(extent.steps * many / trained.weight_steps(many)),
        batch_size=16,
        seed=seed,
        input_size=(extent.size, extent.size),
        train_size=extent.train,
        val_size=extent.val,
        baselines=("single-task",),
        **options,
    )
    return read(arm, seed, folder, time.monotonic() - start)


def read(arm: Arm, seed: int, folder: Path, seconds: float) -> Result:
    """The figures of a finished run."""
    report = json.loads((folder / "report.json").read_text())
    madds = report["costs"]["found"]["multiply_adds"] / report["costs"]["separate"]["multiply_adds"]
    kept = sum(edge["kept"] for edge in report["fused"]["edges"])
    if arm.kind != "search":
        return Result(arm.name, seed, report["delta"]["found"], (), kept, (), madds, seconds)
    (decoded,) = folder.glob("phases/*-decode")
    sites = json.loads((decoded / "policy.json").read_text())["sites"]
    alphas = {site["id"]: site["probabilities"][0][site["options"].index("edge")] for site in sites}
    delta, drawn = discretised(alphas, json.loads((decoded / "candidates.json").read_text()))
    kept = sum(alpha > 0.5 for alpha in alphas.values())
    return Result(arm.name, seed, delta, tuple(alphas.values()), kept, drawn, madds, seconds)


def discretised(alphas: dict[str, float], candidates: Sequence[dict[str, Any]]) -> tuple[float, tuple[Drawn, ...]]:
    """Δ of the deterministic discretisation, and the architectures of the stochastic one.

    Args:
        alphas: Site -> probability of its edge.
        candidates: Architectures that were measured, the deterministic one among them, drawn ``count`` times (or 0).
    """
    delta, drawn = math.nan, []
    for row in candidates:
        edges = {site: "edge" in taken.values() for site, taken in row["architecture"].items()}
        differing = sum(edges[site] != (alpha > 0.5) for site, alpha in alphas.items())
        if not differing:
            delta = row["total"]
        if row["count"]:
            drawn.append(Drawn(row["count"], differing, row["total"]))
    return delta, tuple(drawn)


# -- tables ----------------------------------------------------------------------------------------------------------


def summary(results: Sequence[Result]) -> str:
    """The tables, as Markdown."""
    of = {arm.name: [r for r in results if r.arm == arm.name] for arm in ARMS}
    lines = [
        "| edges | entropy | relaxation | seeds | Δt D % | Δt S % (mean of the draws, their range) | α certain |"
        " draws that are D's | expected | edges in S that D has otherwise | edges kept | multiply-adds |",
        "|---" * 12 + "|",
    ]
    for arm in ARMS:
        if those := of[arm.name]:
            searched = arm.kind == "search"
            cells = [
                {"search": "searched", "random": "random edges", "supernet": "all edges"}[arm.kind],
                "✓" if arm.entropy else "",
                arm.letter,
                str(len(those)),
                listed([r.delta for r in those], "+.2f"),
                "; ".join(
                    f"{statistics.fmean(r.draws):+.2f} ({min(r.draws):+.2f} … {max(r.draws):+.2f})" for r in those
                )
                if searched
                else "",
                listed([r.certain for r in those], ".2f") if searched else "",
                listed([r.agreeing for r in those], ".2f") if searched else "",
                listed([r.expected for r in those], ".2g") if searched else "",
                listed([differing(r) for r in those], ".1f") if searched else "",
                listed([r.kept for r in those], "d"),
                listed([r.madds for r in those], ".2f"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    names = [f"{low:g}–{high:g}" for low, high in itertools.pairwise(BINS)]
    lines += ["", f"| α, all seeds | {' | '.join(names)} |", "|---" * len(BINS) + "|"]
    for arm in ARMS:
        if arm.kind == "search" and of[arm.name]:
            counts = histogram([alpha for r in of[arm.name] for alpha in r.alphas])
            title = f"{arm.letter}, {'with' if arm.entropy else 'without'} entropy"
            lines.append(f"| {title} | {' | '.join(map(str, counts))} |")
    return "\n".join([*lines, "", *verdict(results)])


def listed(values: Sequence[float], form: str) -> str:
    """Every seed's value, and the mean of several floats."""
    shown = "; ".join(format(value, form) for value in values)
    mean = statistics.fmean(values) if len(values) > 1 and not form.endswith("d") else None
    return shown if mean is None else f"{shown} (mean {format(mean, form)})"


def differing(result: Result) -> float:
    """How many edges a draw has otherwise than the deterministic discretisation, on the average."""
    return sum(d.count * d.differing for d in result.drawn) / sum(d.count for d in result.drawn)


def histogram(alphas: Sequence[float]) -> list[int]:
    """How many α lie in each of BINS; bounds belong to the outer bin."""
    counts = [0] * (len(BINS) - 1)
    for alpha in alphas:
        below = sum(alpha > bound + 1e-9 for bound in BINS[1:-1] if bound <= 0.5)
        above = sum(alpha >= bound - 1e-9 for bound in BINS[1:-1] if bound > 0.5)
        counts[below + above] += 1
    return counts


def verdict(results: Sequence[Result]) -> list[str]:
    """What the paper claims, each with whether it came out in every run."""
    searched = [(r, arm) for r in results for arm in ARMS if arm.name == r.arm and arm.kind == "search"]
    with_entropy = [r for r, arm in searched if arm.entropy]
    without = [r for r, arm in searched if not arm.entropy]
    claims = [
        (f"with the entropy every α is within {CERTAIN} of 0 or 1", with_entropy, lambda r: r.certain == 1),
        ("with the entropy every draw is the deterministic architecture", with_entropy, lambda r: r.agreeing == 1),
        (f"without it some α is not within {CERTAIN}", without, lambda r: r.certain < 1),
        ("without it no draw is the deterministic architecture", without, lambda r: r.agreeing == 0),
    ]
    return [f"- {text}: in {sum(map(holds, those))} of {len(those)} runs" for text, those, holds in claims if those]


# -- the program -----------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/evidence-fusion"))
    parser.add_argument("--steps", type=int, default=800, help="updates of every model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=10, help="architectures of the stochastic discretisation")
    parser.add_argument("--size", type=int, default=48, help="height and width of the images")
    parser.add_argument("--train", type=int, default=4000, help="training images")
    parser.add_argument("--val", type=int, default=500, help="validation images")
    parser.add_argument("--arms", nargs="*", default=[a.name for a in ARMS], choices=[a.name for a in ARMS])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = vars(parser.parse_args())
    names = given.pop("arms")
    extent = Extent(**given)
    extent.out.mkdir(parents=True, exist_ok=True)
    os.environ["ONNXMTL_CACHE"] = str((extent.out / "cache").resolve())  # the single-task models: once for all arms
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = [(arm, seed) for seed in range(extent.seeds) for arm in ARMS if arm.name in names]
    results: dict[tuple[str, int], Result] = {}
    with ProcessPoolExecutor(extent.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(run, arm, seed, extent) for arm, seed in jobs]
        for done in as_completed(waiting):
            result = done.result()
            results[result.arm, result.seed] = result
            about = f", α certain {result.certain:.2f}, draws as D {result.agreeing:.2f}" if result.drawn else ""
            print(
                f"[{len(results)}/{len(jobs)}] {result.arm}, seed {result.seed}: Δt {result.delta:+.2f}{about} "
                f"({result.seconds:.0f} s)",
                flush=True,
            )
    ordered = [results[arm.name, seed] for arm, seed in jobs]
    (extent.out / "results.json").write_text(json.dumps([dataclasses.asdict(r) for r in ordered], indent=2) + "\n")
    print(summary(ordered))
    return 0


if __name__ == "__main__":
    sys.exit(main())
