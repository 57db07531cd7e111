"""What a quantization came to: blocks, tasks, sizes and times; as JSON and as rows of tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from onnxmtl.deploy.bench.results import Spread
from onnxmtl.deploy.report import amount, number
from onnxmtl.deploy.results import finite
from onnxmtl.errors import VerificationError


@dataclasses.dataclass(frozen=True)
class BlockResult:
    """One block.

    Attributes:
        name: As ``trunk.0``.
        tasks: That need it.
        first, last: Names of its first and last node that has weights.
        int8: Whether it is quantized in the result.
        float_bytes: Of its weights in the float model.
        bytes: Of its weights in the result, scales included.
        sensitivity: Task -> root of the mean squared change of the task's output, with this block alone in int8, over
            the standard deviation of the output; for an output of class numbers the share of them that changes.
    """

    name: str
    tasks: tuple[str, ...]
    first: str
    last: str
    int8: bool
    float_bytes: int
    bytes: int
    sensitivity: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class TaskHeld:
    """One tolerance, and what became of it.

    Attributes:
        task: Its name.
        metric: The metric that is watched.
        higher_is_better: Its direction.
        unit: Of the metric; "" for a ratio.
        before: Of the float model, in onnxruntime on the validation data.
        all_int8: With every block in int8.
        after: Of the last mixture that was evaluated: the result, if all tasks are held.
        allowed: The largest loss, in the metric's own numbers.
        tolerance: As the user wrote it.
        held: Whether the loss is allowed.
    """

    task: str
    metric: str
    higher_is_better: bool
    unit: str
    before: float
    all_int8: float
    after: float
    allowed: float
    tolerance: str
    held: bool

    @property
    def loss(self) -> float:
        """How much worse the last mixture is than the float model; below 0 if it is better."""
        return self.before - self.after if self.higher_is_better else self.after - self.before


@dataclasses.dataclass(frozen=True)
class Times:
    """One image, both models in turns on the same cores.

    Attributes:
        threads: Of onnxruntime.
        before, after: Milliseconds of the float model and of the result.
        ratio: After over before, taken round by round.
        processor_ratio: The same of the processor's time, which other programs on the machine do not lengthen.
    """

    threads: int
    before: Spread
    after: Spread
    ratio: Spread
    processor_ratio: Spread


@dataclasses.dataclass(frozen=True)
class Quantization:
    """The whole of it.

    Attributes:
        source: The float model's file.
        source_sha256: Its hash.
        data: What it was calibrated and evaluated on.
        images: How many training images it was calibrated on.
        validation: How many validation samples each evaluation went through.
        reduce_range: Whether weights take 7 bits.
        tasks: A row per tolerance.
        metrics: "float", "int8" (every block) and "result" -> task -> metric -> value.
        blocks: In the model's order.
        evaluations: How often the validation set was gone through.
        float_bytes: Size of the float model's file, with its weights.
        bytes: Size of the last mixture's.
        times: None where no model was written.
    """

    source: str
    source_sha256: str
    data: str
    images: int
    validation: int
    reduce_range: bool
    tasks: tuple[TaskHeld, ...]
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]
    blocks: tuple[BlockResult, ...]
    evaluations: int
    float_bytes: int
    bytes: int
    times: Times | None = None

    @property
    def held(self) -> bool:
        """Whether every task is within its tolerance."""
        return all(task.held for task in self.tasks)

    @property
    def size_ratio(self) -> float:
        """Bytes of the last mixture over those of the float model."""
        return self.bytes / self.float_bytes

    def to_json(self) -> dict[str, Any]:
        """As JSON values; numbers that are not finite are null."""
        content: dict[str, Any] = finite(dataclasses.asdict(self))
        return {**content, "held": self.held, "size_ratio": self.size_ratio}

    def check(self) -> Quantization:
        """Return itself.

        Raises:
            VerificationError: A task is not held; says which, and by how much it falls short.
        """
        failing = [task for task in self.tasks if not task.held]
        if failing:
            what = "; ".join(
                f"{task.task}: {task.metric} {number(task.before)} → {number(task.after)}, allowed {task.tolerance}"
                for task in failing
            )
            msg = (
                f"no int8 block could be left without losing more than is allowed ({what}); nothing was written, the "
                f"float model {self.source} is as it was: allow more with --max-drop, or calibrate on more images"
            )
            raise VerificationError(msg)
        return self


def task_rows(found: Quantization) -> list[list[str]]:
    """The tasks, for people; the first row names the columns."""
    rows = [["task", "metric", "float", "all int8", "result", "loss", "allowed", ""]]
    for task in found.tasks:
        arrow = "↑" if task.higher_is_better else "↓"
        unit = f" [{task.unit}]" if task.unit else ""
        values = [number(value) for value in (task.before, task.all_int8, task.after)]
        allowed = f"{number(task.allowed, 3)} ({task.tolerance})"
        held = "held" if task.held else "NOT held"
        rows.append(
            [task.task, f"{task.metric} {arrow}{unit}", *values, number(task.loss, 2), allowed, held],
        )
    return rows


def block_rows(found: Quantization) -> list[list[str]]:
    """The quantization table, for people: the most sensitive block of each task is marked."""
    names = list(dict.fromkeys(task.task for task in found.tasks))
    most = {name: max(block.sensitivity.get(name, 0.0) for block in found.blocks) for name in names}
    rows = [["block", "first layer", "precision", "float", "now", *(f"changes {name}" for name in names)]]
    for block in found.blocks:
        changes = []
        for name in names:
            value = block.sensitivity.get(name)
            mark = " *" if value and value == most[name] else ""
            changes.append("" if value is None else f"{value:.2%}{mark}")
        sizes = [amount(size, "B") for size in (block.float_bytes, block.bytes)]
        rows.append([block.name, block.first, "int8" if block.int8 else "float", *sizes, *changes])
    return rows


def summary(found: Quantization) -> list[str]:
    """Sizes, times and how it was found, for people."""
    kept = [block.name for block in found.blocks if not block.int8]
    lines = [
        f"{len(found.blocks) - len(kept)} of {len(found.blocks)} blocks in int8"
        + (f"; in floating point: {', '.join(kept)}" if kept else ""),
        f"size: {amount(found.float_bytes, 'B')} → {amount(found.bytes, 'B')} ({found.size_ratio:.2f} x)",
    ]
    if found.times is not None:
        times = found.times
        lines.append(
            f"latency, one image, {times.threads} thread{'s' * (times.threads > 1)}, in turns: "
            f"{times.before.median:.3g} ms → {times.after.median:.3g} ms ({times.ratio.median:.2f} x, quartiles "
            f"{times.ratio.low:.2f} to {times.ratio.high:.2f}; of processor time {times.processor_ratio.median:.2f} x)"
        )
    most = len(found.blocks) + len({task.task for task in found.tasks})
    lines.append(
        f"calibrated on {found.images} training images of {found.data}; {found.evaluations} evaluations on "
        f"{found.validation} validation samples (at most {most})"
    )
    return lines
