"""What a run's directory has of the model on the device, made up: parity, latency, int8, entry points."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxmtl.deploy.bench.memory import Memory
from onnxmtl.deploy.bench.profiling import Profile
from onnxmtl.deploy.bench.results import Bench, Measurement, Spread, Subject
from onnxmtl.deploy.quantize.results import BlockResult, Quantization, TaskHeld, Times
from onnxmtl.deploy.verify import TaskCheck, VerifyReport

MODEL = b"a model"
SHA256 = hashlib.sha256(MODEL).hexdigest()
TASKS = ("seg", "depth", "normals")


def write_device(folder: Path, tasks: Sequence[str] = TASKS, *, int8: Path | None = None) -> Path:
    """Put all four parts into a run's directory, the int8 model's table into `int8` (or beside the run)."""
    (folder / "model.onnx").write_bytes(MODEL)
    write(folder / "verify.json", verified(tasks).to_json())
    write(folder / "bench.json", {**measured().to_json(), "model": SHA256})
    write((int8 or folder.with_name(f"{folder.name}-int8")) / "quantization.json", quantized(tasks).to_json())
    write(folder / "entry_points" / "manifest.json", manifest(tasks))
    return folder


def write(path: Path, content: Any) -> None:
    """A JSON file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, allow_nan=False))


def verified(names: Sequence[str] = TASKS, **changed: Any) -> VerifyReport:
    """A verification that passed; the first task's output holds class numbers."""
    checks = tuple(
        TaskCheck(task, i == 0, 0.5, 0.0 if i == 0 else 1.5e-6 * i, 2.5e-6 * i, 3e-7, 0.99987 if i == 0 else None)
        for i, task in enumerate(names)
    )
    fields = {
        "model": "model.onnx", "sha256": SHA256, "same_file": True, "folded": True, "weights": 61, "operators": 83,
        "plain_tolerance": 1e-4, "optimized_tolerance": 1e-4, "tasks": checks, "problems": (),
    }  # fmt: skip
    return VerifyReport(**{**fields, **changed})


def measured(settings: Sequence[tuple[int, int]] = ((1, 1), (2, 1)), seed: int = 0) -> Bench:
    """This model against separate ones, in every setting of (threads, batch)."""
    rng = random.Random(seed)
    rows = []
    for threads, batch in settings:
        base = 40.0 * batch / threads
        for name, ratio in (("this model", 0.43), ("separate models", None)):
            middle = base * (ratio or 1.0) * rng.uniform(0.98, 1.02)
            spread = Spread(middle, 0.95 * middle, 1.06 * middle, 20)
            share = None if ratio is None else Spread(middle / base, 0.41, 0.46, 20)
            operators = {"Conv": 0.93 * middle, "Resize": 0.05 * middle, "ReorderOutput": 0.02 * middle}
            rows.append(
                Measurement(
                    candidate=name,
                    threads=threads,
                    batch=batch,
                    latency=spread,
                    work=spread,
                    parts=(spread,),
                    ratio=share,
                    work_ratio=share,
                    ideal=None if ratio is None else 0.402,
                    memory=Memory(91_000_000, 62_000_000),
                    profile=Profile(operators, middle, 0.93 * middle),
                )
            )
    subjects = (
        Subject("this model", ("model.onnx",), 65_950_000, 2_972_000),
        Subject("separate models", ("seg", "depth", "normals"), 164_000_000, 9_949_000),
    )
    return Bench({"processor": "a processor", "onnxruntime": "1.0"}, subjects, "separate models", tuple(rows))


def quantized(names: Sequence[str] = TASKS, blocks: int = 9, **changed: Any) -> Quantization:
    """An int8 model with one block rolled back."""
    held = tuple(
        TaskHeld(task, "miou" if i == 0 else "abs", i == 0, "" if i == 0 else "m", 0.4, 0.37, 0.398, 0.004, "1%", True)
        for i, task in enumerate(names)
    )
    rows = tuple(
        BlockResult(
            f"trunk.{i}",
            tuple(names),
            f"layer{i}.conv1",
            f"layer{i}.conv2",
            i != 2,
            400_000,
            100_000 + 300_000 * (i == 2),
            {task: 0.01 * (i + 1) + 0.001 * j for j, task in enumerate(names)},
        )
        for i in range(blocks)
    )
    times = Times(1, *(Spread(value, 0.9 * value, 1.1 * value, 30) for value in (17.2, 9.4, 0.547, 0.551)))
    metrics = {name: {task: {"abs": value} for task in names} for name, value in (("float", 0.4), ("int8", 0.37))}
    fields = {
        "source": "/somewhere/model.onnx", "source_sha256": SHA256, "data": "scenes", "images": 128, "validation": 1000,
        "reduce_range": False, "tasks": held, "metrics": metrics, "blocks": rows, "evaluations": 4,
        "float_bytes": 3_600_000, "bytes": 1_310_000, "times": times,
    }  # fmt: skip
    return Quantization(**{**fields, **changed})


def manifest(tasks: Sequence[str] = TASKS) -> dict[str, Any]:
    """All tasks share a trunk; all but the first one a branch; each has a part of its own."""
    rows = [("all", list(tasks), 30, 40_000_000)]
    rows += [("+".join(tasks[1:]), list(tasks[1:]), 12, 20_000_000)] if len(tasks) > 2 else []
    rows += [(task, [task], 9, 1_500_000 * (i + 1)) for i, task in enumerate(tasks)]
    return {
        "format": 1, "model": {"file": "model.onnx", "sha256": SHA256}, "outputs": list(tasks), "tensors": [],
        "differences": {task: {"ulps": 17 * i or None, "relative": 1e-7 * i} for i, task in enumerate(tasks)},
        "segments": [
            {"name": name, "file": f"{i}.onnx", "tasks": those, "nodes": nodes, "multiply_adds": work, "inputs": [],
             "outputs": []}
            for i, (name, those, nodes, work) in enumerate(rows)
        ],
    }  # fmt: skip
