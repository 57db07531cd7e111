"""Directories of finished runs, made up: what the report reads, without training anything."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KINDS = {
    "segmentation": ("miou", {"miou": True, "pixel_accuracy": True}),
    "depth": ("abs", {"abs": False, "rel": False, "rmse": False, "delta1": True, "delta2": True, "delta3": True}),
    "normals": ("mean_angle", {"mean_angle": False, "median_angle": False, "within_11.25": True, "within_30": True}),
    "edges": ("abs_edge", {"abs_edge": False}),
    "keypoints": ("abs_key", {"abs_key": False}),
    "classification": ("accuracy", {"accuracy": True}),
}
STAGES = (("pre-train", 400), ("policy-train", 900), ("post-train", 1200))


def layer_names(count: int) -> list[str]:
    """Names as torch gives them: a stem, stages, blocks."""
    names = ["stem.conv"]
    i = 0
    while len(names) < count:
        stage, block = divmod(i // 3, max(1, count // 12))
        names.append(f"layer{stage + 1}.{block}.conv{i % 3 + 1}")
        i += 1
    return names


def write_run(
    folder: Path,
    tasks: Sequence[tuple[str, str]] = (("seg", "segmentation"), ("depth", "depth"), ("normals", "normals")),
    layers: int = 20,
    *,
    seed: int = 0,
    options: Sequence[str] = ("shared", "own", "skip"),
    names: Sequence[str] | None = None,
    delta: bool = True,
    steps: int = 60,
    record: dict[str, Any] | None = None,
) -> Path:
    """A finished run with every part that a report can show.

    Args:
        folder: Made if it is not there.
        tasks: (name, kind) each, kinds out of :data:`KINDS`.
        layers: Of the network; each is a site too.
        seed: Of the numbers.
        options: Of every site.
        names: Of the layers.
        delta: Whether single-task models were trained.
        steps: Points in every history.
        record: Entries of run.json's config that are replaced.
    """
    rng = random.Random(seed)
    chosen_names = list(names or layer_names(layers))
    policy, architecture = _policy(rng, chosen_names, [name for name, _ in tasks], options)
    sharing = _sharing(rng, chosen_names, [name for name, _ in tasks], architecture)
    report = _report(rng, tasks, sharing, delta)
    config = {
        "recipe": "automtl", "data": "scenes", "steps": 2500, "batch_size": 16, "seed": seed, "budget": "params<=0.6x",
        "architecture": None, "train_size": 0, "val_size": 0,
        "tasks": json.dumps({"tasks": [
            {"name": name, "kind": kind, "channels": 3, "weight": 1.0} for name, kind in tasks
        ]}),
        "with_recipe": {
            "space": "vcn", "regularizers": {"sharing": 0.005, "multiply_adds": 0.3},
            "stages": [{"name": name, "share": count / 2500} for name, count in STAGES],
        },
        **(record or {}),
    }  # fmt: skip
    write(folder / "run.json", {
        "format": 1, "seed": seed, "config": config, "started": "2026-11-22T07:16:03+00:00",
        "command": ["/somewhere/bin/onnxmtl", "compile", "net.onnx", "--tasks", "seg=segmentation,depth"],
        "source": {"kind": "onnx", "name": "net.onnx", "path": "net.onnx", "weights": None},
        "versions": {"onnxmtl": "0.1.0", "python": "3.11.7"},
    })  # fmt: skip
    write(folder / "report.json", report)
    phases = ["import", *(f"single-task-{i + 1}" for i in range(len(tasks))), "hard-sharing"]
    phases += [name for name, _ in STAGES[:2]] + ["decode", "post-train", "emit"]
    for i, phase in enumerate(phases, start=1):
        where = folder / "phases" / f"{i:02d}-{phase}"
        write(where / "done.json", {"phase": phase, "key": "0"})
        length = dict(STAGES).get(phase, 1500)
        if phase.startswith(("single-task", "hard-sharing")) or phase in dict(STAGES):
            one = [tasks[i - 2][0]] if phase.startswith("single-task") else [name for name, _ in tasks]
            write(where / "history.json", _history(rng, phase, one, length, steps))
        if phase == "decode":
            write(where / "policy.json", policy)
            write(where / "architecture.json", {"architecture": architecture})
            write(where / "candidates.json", _candidates(rng, report, architecture))
    return folder


def write(path: Path, content: Any) -> None:
    """A JSON file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False))


def _policy(rng: random.Random, names: Sequence[str], tasks: Sequence[str], options: Sequence[str]) -> tuple[Any, Any]:
    sites, architecture = [], {}
    for depth, name in enumerate(names):
        rows, logits = [], []
        for i, _ in enumerate(tasks):
            leaning = 3 - 5 * depth / len(names) + (i % 2)
            row = [leaning if j == 0 else rng.gauss(0, 1.2) for j in range(len(options))]
            total = sum(math.exp(x) for x in row)
            logits.append(row)
            rows.append([math.exp(x) / total for x in row])
        sites.append({"id": name, "depth": depth, "options": list(options), "tasks": list(tasks),
                      "probabilities": rows, "logits": logits})  # fmt: skip
        architecture[name] = {
            task: options[max(range(len(options)), key=row.__getitem__)] for task, row in zip(tasks, rows, strict=True)
        }
    return {"tasks": list(tasks), "sites": sites, "source": "policy-train"}, architecture


def _sharing(rng: random.Random, names: Sequence[str], tasks: Sequence[str], architecture: Any) -> list[Any]:
    """Layers as the architecture implies: tasks stay together as long as they agree."""
    rows = []
    value = dict.fromkeys(tasks, 0)  # tasks with equal values see equal inputs
    for depth, name in enumerate(names):
        taken = architecture[name]
        groups: dict[Any, list[str]] = {}
        for task in tasks:
            if taken[task] in ("shared", "select"):
                groups.setdefault(("shared", value[task]), []).append(task)
            elif taken[task] != "skip":
                groups.setdefault(("own", task), []).append(task)
        shared = [task for key, group in groups.items() if key[0] == "shared" for task in group]
        uses = {}
        for key, group in groups.items():
            for task in group:
                others = [t for t in group if t != task]
                same = [t for t in shared if t != task]
                uses[task] = (
                    "own" if key[0] == "own" else f"once with {', '.join(others)}" if others
                    else f"weights of {', '.join(same)}" if same else "own"
                )  # fmt: skip
                value[task] = hash((depth, key[0], tasks.index(task) if key[0] == "own" else key[1]))
        rows.append({
            "layer": name, "op": "Conv", "runs": list(groups.values()), "parameters": 1000 * (depth + 1),
            "uses": {task: uses.get(task, "skipped") for task in tasks},
            "multiply_adds": 400_000 + 9_000_000 // (depth + 3) + rng.randrange(200_000),
        })  # fmt: skip
    return rows


def _report(rng: random.Random, tasks: Sequence[tuple[str, str]], sharing: list[Any], delta: bool) -> Any:
    rows, changes = [], {}
    for name, kind in tasks:
        primary, metrics = KINDS[kind]
        listed, gains = [], {"found": [], "shared": [], "random": []}
        for metric, higher in metrics.items():
            base = 20 + 10 * rng.random() if "angle" in metric else 0.3 + 0.5 * rng.random()
            values = {"separate": base, "constant": base * (0.3 if higher else 2.5)} if delta else {"constant": base}
            for model, mean in (("shared", -0.02), ("random", -0.03), ("found", 0.015)):
                change = rng.gauss(mean, 0.02)
                values[model] = base * (1 + (change if higher else -change))
                gains[model].append(100 * change)
            listed.append({"metric": metric, "higher_is_better": higher, "unit": "", "values": values})
        first = next(m["values"] for m in listed if m["metric"] == primary)
        changes[name] = {model: sum(g) / len(g) for model, g in gains.items()} if delta else {}
        rows.append({
            "task": name, "kind": kind, "metric": primary, "higher_is_better": metrics[primary], "margin": 0.1,
            "found": first["found"], "constant": first["constant"], "separate": first.get("separate"),
            "shared": first["shared"], "metrics": listed, "delta": changes[name],
        })  # fmt: skip
    total = (
        {m: sum(c[m] for c in changes.values()) / len(tasks) for m in ("found", "shared", "random")} if delta else {}
    )
    trunk = sum(row["parameters"] for row in sharing)
    work = sum(row["multiply_adds"] for row in sharing)
    executed = sum(row["multiply_adds"] * len(row["runs"]) for row in sharing)
    count, head = len(tasks), 120_000

    def costs(copies: float, runs: int, once: float) -> Any:
        parameters = int(trunk * copies)
        return {"parameters": parameters + count * head, "parameters_trunk": parameters, "parameters_paper": parameters,
                "multiply_adds": runs, "multiply_adds_unshared": work * count, "executed_once": once,
                "file_bytes": 4 * (parameters + count * head)}  # fmt: skip

    draws = [
        {"source": source, "metrics": {r["task"]: {r["metric"]: r["found"]} for r in rows}, "parameters": trunk * 2,
         "multiply_adds": int(executed * rng.uniform(0.95, 1.05)), "delta": {n: rng.gauss(-3, 1) for n, _ in tasks},
         "total": rng.gauss(-3, 0.8), "count": 1, "taken": False, "weights": "retrained"}
        for source in ("random-total", "random-per-task") for _ in range(4)
    ]  # fmt: skip
    return {
        "title": "net.onnx on scenes", "tasks": rows, "sharing": sharing, "model": "model.onnx", "command": "",
        "weights": "retrained", "notes": ["features-found [layer4]: cut off 3 nodes behind the feature tensor"],
        "costs": {
            "found": costs(1.4, executed, 0.42), "shared": costs(1.0, work, 0.8),
            **({"separate": costs(count, work * count, 0.0)} if delta else {}),
        },
        "delta": total, "draws": draws if delta else [], "decoding": "the most probable architecture within the budget",
        "budget": [{"limit": "params<=0.6x", "quantity": "parameters", "bound": trunk * count * 0.6,
                    "value": trunk * 1.4, "met": True}],
    }  # fmt: skip


def _history(rng: random.Random, phase: str, tasks: Sequence[str], length: int, points: int) -> Any:
    rows = []
    for i in range(1, points + 1):
        step = max(1, i * length // points)
        falling = math.exp(-2.5 * i / points)
        figures = {f"loss/{t}": (0.4 + 0.1 * j) + falling + rng.gauss(0, 0.05) for j, t in enumerate(tasks)}
        if phase == "policy-train":
            figures |= {f"policy/{t}": v + 0.1 for t, v in list(figures.items()) for t in [t.removeprefix("loss/")]}
            figures |= {"temperature": 5 * 0.02 ** (i / points), "cost": 0.9 - 0.4 * i / points,
                        "regularizer/sharing": 3 * falling + 0.2, "lr/policy": 0.05}  # fmt: skip
        figures["lr/weights"] = 0.001 * (1 + math.cos(math.pi * i / points)) / 2 if phase == "post-train" else 0.001
        rows.append({"step": step, "figures": figures})
    return {"steps": length, "window": max(1, length // points), "points": rows}


def _candidates(rng: random.Random, report: Any, architecture: Any) -> list[Any]:
    drawn = []
    for i in range(6):
        found = {r["task"]: {m["metric"]: m["values"]["found"] * rng.uniform(0.9, 1) for m in r["metrics"]}
                 for r in report["tasks"]}  # fmt: skip
        known = bool(report["delta"])
        drawn.append({
            "source": "policy", "architecture": architecture, "metrics": found, "taken": i == 2, "count": i + 1,
            "parameters": int(report["costs"]["found"]["parameters"] * rng.uniform(0.8, 1.1)),
            "multiply_adds": int(report["costs"]["found"]["multiply_adds"] * rng.uniform(0.8, 1.1)),
            "delta": {r["task"]: rng.gauss(-6, 2) for r in report["tasks"]} if known else {},
            "total": rng.gauss(-6, 1.5) if known else None, "weights": "recalibrated",
        })  # fmt: skip
    return drawn
