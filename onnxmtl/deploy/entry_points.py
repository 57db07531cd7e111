"""``entry_points/``: a model in segments, so that a device computes only the tasks it is asked for.

The directory holds one ONNX file per segment, one file with the weights of all of them, and ``manifest.json``
(:mod:`onnxmtl.runtime.manifest`). It is written only if it computes what the model computes, bit for bit.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxmtl import ops, runtime
from onnxmtl.deploy.parity import random_feeds, same_bits, ulps
from onnxmtl.deploy.results import finite
from onnxmtl.deploy.verify import MODEL_FILE
from onnxmtl.errors import ModelError, VerificationError
from onnxmtl.frontends.onnx import load
from onnxmtl.ir import save
from onnxmtl.ir.external import WeightsFile
from onnxmtl.passes._handing import hand_over_float32
from onnxmtl.passes.entry_points import Rates, Segment, join_small, preparation, segment_model, segments_of
from onnxmtl.passes.finalize import separated
from onnxmtl.passes.instruments import relative_error
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.runs import atomic_directory, file_sha256, write_json
from onnxmtl.runtime.manifest import FORMAT

FOLDER = "entry_points"
WEIGHTS_FILE = "weights.data"
_ALIGNED = 64  # bytes: whatever type a tensor has, its pointer into the mapped file is aligned
_DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16", ir.DataType.DOUBLE: "float64"}


@dataclasses.dataclass(frozen=True)
class SegmentRow:
    """One segment, for people and programs.

    Attributes:
        name: Its tasks, joined by "+"; "all" for all of them.
        file: Its file's name.
        tasks: The tasks that need it.
        nodes: Number of operators.
        multiply_adds: Of one image; None where shapes are unknown.
    """

    name: str
    file: str
    tasks: tuple[str, ...]
    nodes: int
    multiply_adds: int | None


@dataclasses.dataclass(frozen=True)
class TaskRow:
    """What asking for one task alone means.

    Attributes:
        task: Its name.
        segments: Names of the segments that run.
        multiply_adds: Of these, for one image; None where shapes are unknown.
        share: Of all multiply-adds of the model, 0 to 1; None where shapes are unknown.
        ulps: The largest difference from the model's own output with the runtime's optimizations on, in units in the
            last place; with them off there is none. None for an output of class numbers.
        relative: The same difference as max|Δ|/max|y|; for class numbers the share that differs.
    """

    task: str
    segments: tuple[str, ...]
    multiply_adds: int | None
    share: float | None
    ulps: int | None
    relative: float


@dataclasses.dataclass(frozen=True)
class EntryPoints:
    """What was written.

    Attributes:
        path: The directory.
        model: The model that was cut.
        weight_bytes: Size of the file of weights.
        segments: In the order in which they run.
        tasks: In the order of the model's outputs.
    """

    path: Path
    model: Path
    weight_bytes: int
    segments: tuple[SegmentRow, ...]
    tasks: tuple[TaskRow, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**dataclasses.asdict(self), "path": os.fspath(self.path), "model": os.fspath(self.model)}


def write_entry_points(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    rates: Rates | None = None,
    join: bool = True,
) -> EntryPoints:
    """Cut a model into segments by the tasks that need them, and write them into a directory of their own.

    Args:
        model: Any ONNX file with one image input, its outputs being the tasks; or a run's directory.
        out: The directory; new or empty. Default: ``entry_points`` beside the model.
        rates: What joining small segments is weighed by; see :func:`onnxmtl.passes.entry_points.join_small`.
        join: Whether small segments are joined at all.

    Returns:
        What was written. With the runtime's optimizations off it computes the same bits as the model, for every task
        alone and for all together, on one batch of random images; the same bits as the model with its fused siblings
        separated, if it has any, for separately they are cut.

    Raises:
        ModelError: There is no such model, it is a supermodel, has control flow, or not exactly one image input.
        VerificationError: The segments compute something else; nothing is written.
        RunError: `out` is not empty, or the disk refuses.
        MissingDependencyError: There is no ONNX Runtime.
    """
    file = Path(model) / MODEL_FILE if Path(model).is_dir() else Path(model)
    target = file.parent / FOLDER if out is None else Path(out)
    whole = load(file)
    apart = separated(whole)
    prepared = Pipeline(preparation(), name="entry points")(whole).model
    image = _image_input(prepared, file)
    segments = segments_of(prepared)
    if join:
        segments = join_small(prepared, segments, rates)
    segments = hand_over_float32(prepared, segments)
    rows = _rows(prepared, segments)
    with atomic_directory(target) as beside:
        _write_models(prepared, segments, rows, beside)
        content = {**_head(prepared, image, file), **_body(segments, rows)}
        write_json(beside / runtime.MANIFEST_FILE, content)
        with tempfile.TemporaryDirectory(prefix="onnxmtl-") as folder:
            exact = file if apart is whole else save(apart, Path(folder, MODEL_FILE))
            differences = _compare(file, exact, beside)
        told = {task: {"ulps": steps, "relative": error} for task, (steps, error) in differences.items()}
        write_json(beside / runtime.MANIFEST_FILE, {**content, "differences": finite(told)})
        weight_bytes = (beside / WEIGHTS_FILE).stat().st_size
        manifest = runtime.Manifest.read(beside)
    return EntryPoints(target, file, weight_bytes, rows, _tasks(manifest, rows, differences))


def _image_input(model: ir.Model, file: Path) -> ir.Value:
    inputs = list(model.graph.inputs)
    if len(inputs) != 1 or inputs[0].dtype not in _DTYPES or inputs[0].shape is None:
        names = ", ".join(f"{value.name}: {value.type}" for value in inputs) or "none"
        msg = f"{file}: a model with one floating-point image input is needed, its inputs are: {names}"
        raise ModelError(msg)
    return inputs[0]


def _rows(model: ir.Model, segments: Sequence[Segment]) -> tuple[SegmentRow, ...]:
    everything = len(model.graph.outputs)
    rows: list[SegmentRow] = []
    for i, segment in enumerate(segments):
        name = "all" if len(segment.tasks) == everything else "+".join(segment.tasks)
        if any(row.name == name for row in rows):
            name = f"{name} ({i})"
        plain = re.sub(r"[^A-Za-z0-9_+-]", "_", name)[:40]
        rows.append(SegmentRow(name, f"{i}-{plain}.onnx", segment.tasks, len(segment.nodes), _work(segment)))
    return tuple(rows)


def _work(segment: Segment) -> int | None:
    try:
        return sum(map(ops.multiply_adds, segment.nodes))
    except ModelError:  # a shape is unknown
        return None


def _write_models(model: ir.Model, segments: Sequence[Segment], rows: Sequence[SegmentRow], folder: Path) -> None:
    with (folder / WEIGHTS_FILE).open("wb") as file:
        weights = WeightsFile(file, WEIGHTS_FILE, align=_ALIGNED)
        for segment, row in zip(segments, rows, strict=True):
            made = segment_model(model, segment, row.name)
            for value in made.graph.initializers.values():
                value.const_value = weights.place(value) or value.const_value
            proto: onnx.ModelProto = ir.to_proto(made)
            (folder / row.file).write_bytes(proto.SerializeToString(deterministic=True))


def _head(model: ir.Model, image: ir.Value, file: Path) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": {"file": file.name, "sha256": file_sha256(file)},
        "input": {"name": image.name, "shape": _shape(image), "dtype": _DTYPES[image.dtype or ir.DataType.FLOAT]},
        "outputs": [str(value.name) for value in model.graph.outputs],
        "metadata": {str(key): str(text) for key, text in model.metadata_props.items()},
        "weights": WEIGHTS_FILE,
    }


def _body(segments: Sequence[Segment], rows: Sequence[SegmentRow]) -> dict[str, Any]:
    named = list(zip(segments, rows, strict=True))
    tensors = [
        {
            "name": value.name,
            "dtype": None if value.dtype is None else str(value.dtype.numpy()),
            "shape": _shape(value),
            "from": row.name,
            "to": [other.name for reading, other in named if value in reading.inputs],
        }
        for segment, row in named
        for value in segment.outputs
    ]
    return {
        "segments": [
            {
                **dataclasses.asdict(row),
                "inputs": [value.name for value in segment.inputs],
                "outputs": [value.name for value in segment.outputs],
            }
            for segment, row in named
        ],
        "tensors": [tensor for tensor in tensors if tensor["to"]],
    }


def _shape(value: ir.Value) -> list[int | str | None] | None:
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def _compare(file: Path, exact: Path, folder: Path) -> Mapping[str, tuple[int | None, float]]:
    """Task -> how far it is from the model's own output with optimizations on: ulps, and relative.

    Raises:
        VerificationError: With them off there is a difference from `exact` at all.
    """
    found: dict[str, tuple[int | None, float]] = {}
    for optimize in (False, True):
        opened = runtime.session(file if optimize else exact, optimize=optimize)
        feeds = random_feeds(opened)
        whole = runtime.run(opened, feeds)
        del opened  # two copies of the weights are enough
        (images,) = feeds.values()
        got: dict[str, list[runtime.Array]] = {task: [] for task in whole}
        segments = runtime.load(folder, optimize=optimize, by_segment=True)
        for tasks in (list(whole), *([task] for task in whole)):
            for parts in (segments, runtime.load(folder, optimize=optimize)):
                for task, output in parts(images, tasks).items():
                    got[task].append(output)
        for task, expected in whole.items():
            outputs = got[task]
            if not optimize and not all(same_bits(output, expected) for output in outputs):
                msg = f"{file}: cut into segments, it computes the task {task!r} otherwise; nothing was written"
                raise VerificationError(msg)
            steps = [ulps(output, expected) for output in outputs]
            known = [step for step in steps if step is not None]
            error = max(relative_error(output, expected) for output in outputs)
            found[task] = (max(known, default=None), error)
    return found


def _tasks(
    manifest: runtime.Manifest, rows: Sequence[SegmentRow], differences: Mapping[str, tuple[int | None, float]]
) -> tuple[TaskRow, ...]:
    work = {row.name: row.multiply_adds for row in rows}
    everything = _total(list(work.values()))
    tasks = []
    for task in manifest.outputs:
        names = tuple(manifest.segments[step.segment].name for step in runtime.plan(manifest.segments, [task]))
        needed = _total([work[name] for name in names])
        share = needed / everything if needed is not None and everything else None
        tasks.append(TaskRow(task, names, needed, share, *differences[task]))
    return tuple(tasks)


def _total(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None
