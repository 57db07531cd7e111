"""int8 from an emitted model: calibrate, quantize, measure every task, roll blocks back until all are held."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmtl import runtime
from onnxmtl.data import DataSource, Subset, iterate
from onnxmtl.data.dataset import permutation
from onnxmtl.deploy.bench.results import Spread
from onnxmtl.deploy.bench.timing import interleaved, pinned
from onnxmtl.deploy.ondevice import QUANTIZATION_FILE
from onnxmtl.deploy.quantize.blocks import QuantBlock, name_nodes, quant_blocks
from onnxmtl.deploy.quantize.guard import Guarded, guard
from onnxmtl.deploy.quantize.qdq import Calibrated, calibrate, check_quantizable, quantized, weight_bytes_of
from onnxmtl.deploy.quantize.results import BlockResult, Quantization, TaskHeld, Times
from onnxmtl.deploy.quantize.tolerance import Metrics, Tolerance, parse_tolerances
from onnxmtl.deploy.runfiles import read_run
from onnxmtl.deploy.verify import MODEL_FILE, verify, write_certificate
from onnxmtl.errors import DataError, ModelError, RunError
from onnxmtl.frontends.onnx import load
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize import separated
from onnxmtl.passes.finalize.contract import CONTRACT_KEY
from onnxmtl.runs import RunDirectory, atomic_directory, file_sha256, free_path, write_json
from onnxmtl.runs.directory import RUN_FILE
from onnxmtl.workflows.config import CompileConfig
from onnxmtl.workflows.data import open_data
from onnxmtl.workflows.emitted_metrics import evaluate_emitted
from onnxmtl.workflows.session import Observer, Silent

IMAGES = 128
_COMPARED = 16  # calibration images on which the blocks' sensitivities are measured
_CERTIFIED = 4  # of these, those of the certificate
_BATCH = 16
_SECONDS = 1.5  # of the latency measurement
_DATA = ("data", "data_options", "seed", "train_size", "val_size")
_NOTHING: Mapping[str, str] = MappingProxyType({})

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class Quantized:
    """The result of ``quantize``.

    Attributes:
        path: The directory with ``model.onnx``, its certificate and ``quantization.json``; None if a task could not be
            held.
        model: Path of the int8 model; None likewise.
        report: What was found.
    """

    path: Path | None
    model: Path | None
    report: Quantization


def quantize(
    model: str | os.PathLike[str],
    *,
    calibrate_on: str | None = None,
    max_drop: str = "",
    out: str | os.PathLike[str] | None = None,
    images: int = IMAGES,
    data_options: Mapping[str, str] = _NOTHING,
    seed: int = 0,
    reduce_range: bool = False,
    threads: int = 1,
    observer: Observer | None = None,
) -> Quantized:
    """An int8 model from an emitted one, every task within what it may lose.

    All blocks are quantized; while a task loses more on the validation set than `max_drop` allows, the block that
    disturbs it most goes back to floating point. At most blocks + tasks passes over the validation set.

    Args:
        model: The emitted ``model.onnx``, or the directory of its run; only read.
        calibrate_on: A data source as ``--data`` names it, or the directory of a run, whose data set is taken. Its
            training images give the ranges, its validation samples judge. None: the data of the model's own run.
        max_drop: What each task may lose, see :mod:`onnxmtl.deploy.quantize.tolerance`; "": one percent each.
        out: Directory to write; must be new or empty. Default: the next free ``runs/quantize-N``.
        images: Training images to calibrate on.
        data_options: Options of a data source that is named.
        seed: Of the choice of images, and of a data source that is named.
        reduce_range: Weights take 7 bits, for CPUs without VNNI.
        threads: Of onnxruntime when latency is measured.
        observer: Told about progress.

    Returns:
        What was written and found. If a task could not be held nothing is written: see :meth:`Quantization.check`.

    Raises:
        OnnxMTLError: The model, the data or an option cannot be used; one clear line.
    """
    if images < 1 or threads < 1:
        msg = f"quantize needs one image and one thread or more, not {images} and {threads}"
        raise RunError(msg)
    file = Path(model) / MODEL_FILE if Path(model).is_dir() else Path(model)
    float_model, tasks = _open(file)
    tolerances = parse_tolerances(max_drop, tasks)
    target = Path(out) if out is not None else free_path("runs", "quantize")
    RunDirectory.check_free(target)
    blocks = quant_blocks(float_model)
    if not blocks:
        msg = f"{file} has no layer with weights that could be quantized"
        raise ModelError(msg)
    config = _config(file, calibrate_on, data_options, seed)
    data, tasks = _data(file, float_model, tasks, config)
    work = _Work(float_model, tasks, data, blocks, observer or Silent())
    calibrated = work.calibrate(images, seed, reduce_range)
    sensitivity = work.sensitivity(calibrated)
    found = work.guard(calibrated, sensitivity, tolerances)
    final = work.model(calibrated, found.result.kept)
    report = Quantization(
        source=str(file),
        source_sha256=file_sha256(file),
        data=data.name,
        images=min(images, len(data.train)),
        validation=len(data.val),
        reduce_range=reduce_range,
        tasks=_held(tasks, tolerances, found),
        metrics={"float": found.reference, "int8": found.steps[0].metrics, "result": found.result.metrics},
        blocks=_rows(blocks, found.result.kept, calibrated.source, final, sensitivity),
        evaluations=found.evaluations,
        float_bytes=_file_bytes(file),
        bytes=len(final),
    )
    if not report.held:
        return Quantized(None, None, report)
    report = dataclasses.replace(report, times=_times(calibrated.source, final, work.compared[:1], threads))
    with atomic_directory(target) as folder:
        (folder / MODEL_FILE).write_bytes(final)
        write_json(folder / QUANTIZATION_FILE, report.to_json())
        work.certify(folder, report.source_sha256)
    return Quantized(target, target / MODEL_FILE, report)


class _Work:
    """The steps that go through data or onnxruntime, on one model."""

    def __init__(
        self, model: ir.Model, tasks: TaskSet, data: DataSource, blocks: Sequence[QuantBlock], observer: Observer
    ) -> None:
        self._model, self._tasks, self._data = model, tasks, data
        self._blocks = {block.name: block for block in blocks}
        inside = {name for block in blocks for name in block.nodes}
        self._outside = [str(node.name) for node in model.graph if node.name not in inside]
        self._observer = observer
        shape = model.graph.inputs[0].shape
        fixed = shape[0] if shape is not None else None
        self._fixed = isinstance(fixed, int)
        self._batch = fixed if isinstance(fixed, int) else _BATCH
        self.compared: Array = np.zeros(0, np.float32)

    def calibrate(self, images: int, seed: int, reduce_range: bool) -> Calibrated:
        """Ranges of the activations, and the images that sensitivities are measured on."""
        train = self._data.train
        chosen = Subset(train, permutation(len(train), seed, "calibrate")[:images].tolist())
        total = -(-len(chosen) // self._batch)
        self._observer.stage("calibrate", total)

        def batches() -> Iterator[Array]:
            first: list[Array] = []
            # Labels do not matter here: a data set may have none for some of these samples.
            for step, batch in enumerate(iterate(chosen, self._tasks, self._batch), 1):
                found = batch.images.numpy()
                if self._fits(found):
                    if sum(map(len, first)) < _COMPARED:
                        first.append(found)
                        self.compared = np.concatenate(first)
                    yield found
                self._observer.update(step, {})

        return calibrate(self._model, batches(), reduce_range=reduce_range)

    def _fits(self, images: Array) -> bool:
        """Whether the model takes so many images: a last, short batch does not fit where their number is fixed."""
        shape = self._model.graph.inputs[0].shape
        return shape is None or not isinstance(shape[0], int) or shape[0] == len(images)

    def model(self, calibrated: Calibrated, kept: Collection[str]) -> bytes:
        """The mixture with these blocks in floating point."""
        names = [name for block in kept for name in self._blocks[block].nodes]
        return quantized(calibrated, [*names, *self._outside])

    def sensitivity(self, calibrated: Calibrated) -> dict[str, dict[str, float]]:
        """Block -> task -> how much the output changes with this block alone in int8."""
        self._observer.stage("sensitivity", len(self._blocks))
        expected = self._run(calibrated.source)
        found = {}
        for step, name in enumerate(self._blocks, 1):
            others = [other for other in self._blocks if other != name]
            outputs = self._run(self.model(calibrated, others))
            found[name] = {
                task: change(expected[task], outputs[task]) for task in self._blocks[name].tasks if task in expected
            }
            self._observer.update(step, {})
        return found

    def _run(self, model: bytes) -> dict[str, Array]:
        session = runtime.session(model)
        parts = [
            runtime.run(session, self.compared[start : start + self._batch])
            for start in range(0, len(self.compared), self._batch)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def certify(self, folder: Path, source: str) -> None:
        """The certificate of the int8 model in `folder`, replayed: what it computes now for a few images.

        Raises:
            VerificationError: Its outputs depend on the batch an image is in, or on the run.
        """
        file, images = folder / MODEL_FILE, self.compared[:_CERTIFIED]
        if self._fixed:
            return  # a certificate is replayed with other numbers of images, too
        plain, optimized = (runtime.run(runtime.session(file, optimize=on), images) for on in (False, True))
        name = str(self._model.graph.inputs[0].name)
        write_certificate(folder, {name: images}, plain, {"made_of": source}, optimized=optimized)
        verify(folder).check()

    def guard(
        self,
        calibrated: Calibrated,
        sensitivity: Mapping[str, Mapping[str, float]],
        tolerances: Sequence[Tolerance],
    ) -> Guarded:
        """The search for blocks that have to stay in floating point."""
        self._observer.stage("evaluate", len(self._blocks) + 1)
        done = 0

        def evaluate(model: bytes) -> Metrics:
            nonlocal done
            found = evaluate_emitted(runtime.session(model), self._tasks, self._data.val, batch_size=self._batch)
            done += 1
            self._observer.update(done, {})
            return found

        reference = evaluate(calibrated.source)
        return guard(
            list(self._blocks),
            sensitivity,
            tolerances,
            reference,
            lambda kept: evaluate(self.model(calibrated, kept)),
        )


def change(expected: Array, found: Array) -> float:
    """Root of the mean squared difference over the standard deviation of what is expected; of integers, the share."""
    if not np.issubdtype(expected.dtype, np.floating):
        return float(np.mean(expected != found))
    difference = float(np.sqrt(np.mean(np.square(expected.astype(np.float64) - found))))
    spread = float(np.std(expected.astype(np.float64)))
    return difference / spread if spread else difference


def _open(file: Path) -> tuple[ir.Model, TaskSet]:
    """The emitted model, its nodes named, and its tasks."""
    if not file.exists():
        msg = f"{file}: no such model file; give an emitted model.onnx, or the directory of its run"
        raise ModelError(msg)
    model = load(file)
    text = model.metadata_props.get("onnxmtl.tasks")
    outputs = tuple(str(value.name) for value in model.graph.outputs)
    if not text or CONTRACT_KEY not in model.metadata_props:
        msg = f"{file} does not say which tasks it solves: quantize takes a model.onnx that onnxmtl emitted"
        raise ModelError(msg)
    tasks = TaskSet.from_json(text)
    if tasks.names != outputs:
        msg = f"{file}: its outputs are {', '.join(outputs)}, its tasks {', '.join(tasks.names)}; emit it again"
        raise ModelError(msg)
    check_quantizable(model, str(file))
    model = separated(model)  # a Split would give all siblings one range
    name_nodes(model)
    return model, tasks


def _config(file: Path, asked: str | None, options: Mapping[str, str], seed: int) -> CompileConfig:
    """The options that open the data: of a run, or of the data source that is named."""
    if asked is not None and not (Path(asked) / RUN_FILE).is_file():
        if Path(asked).is_dir():
            msg = f"--calibrate {asked}: is no run, it has no {RUN_FILE}; give a run, or NAME:PATH of a data set"
            raise RunError(msg)
        return CompileConfig(data=asked, data_options=dict(options), seed=seed)
    run = file.parent if asked is None else Path(asked)
    if options:
        msg = "options of the data are for a data source that --calibrate names; a run has its own"
        raise RunError(msg)
    if not (run / RUN_FILE).is_file():
        msg = f"{file} lies in no run's directory: say what to calibrate on, as --calibrate scenes or a run's directory"
        raise RunError(msg)
    found = read_run(run).config
    try:  # what concerns the data: the rest may be of another version
        return CompileConfig.from_json({name: found[name] for name in _DATA if name in found})
    except (TypeError, ValueError) as error:
        msg = f"{run}: its {RUN_FILE} is not understood; name the data with --calibrate NAME:PATH"
        raise RunError(msg) from error


def _data(file: Path, model: ir.Model, tasks: TaskSet, config: CompileConfig) -> tuple[DataSource, TaskSet]:
    """The data source at the model's image size; its images must be what the model was trained for."""
    shape = model.graph.inputs[0].shape
    if shape is None or len(shape) != 4 or not all(isinstance(size, int) for size in shape[2:]):
        msg = f"{file}: the size of its images is not fixed, so no data can be opened for it"
        raise ModelError(msg)
    data, tasks = open_data(model, tasks, config)
    try:
        wanted = json.loads(model.metadata_props[CONTRACT_KEY])["input"]
        given = dataclasses.asdict(data.input)
        other = [key for key in given if key in wanted and _plain(wanted[key]) != _plain(given[key])]
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{file}: its metadata {CONTRACT_KEY} is damaged; emit the model again"
        raise ModelError(msg) from error
    if other:
        msg = (
            f"data {config.data!r} gives images of another kind than the model takes: {other[0]} is "
            f"{_plain(given[other[0]])}, the model wants {_plain(wanted[other[0]])}; calibrate on its own data"
        )
        raise DataError(msg)
    return data, tasks


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _file_bytes(file: Path) -> int:
    """Of the file, and of its weights if they lie beside it."""
    beside = file.with_name(f"{file.name}.data")
    return file.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _held(tasks: TaskSet, tolerances: Sequence[Tolerance], found: Guarded) -> tuple[TaskHeld, ...]:
    def row(tolerance: Tolerance) -> TaskHeld:
        before, all_int8, after = (
            metrics[tolerance.task][tolerance.metric]
            for metrics in (found.reference, found.steps[0].metrics, found.result.metrics)
        )
        return TaskHeld(
            task=tolerance.task,
            metric=tolerance.metric,
            higher_is_better=tolerance.higher_is_better,
            unit=tasks[tolerance.task].metric_unit(tolerance.metric),
            before=before,
            all_int8=all_int8,
            after=after,
            allowed=tolerance.allowed(before),
            tolerance=tolerance.text,
            held=tolerance not in found.result.failing,
        )

    return tuple(map(row, tolerances))


def _rows(
    blocks: Sequence[QuantBlock],
    kept: Collection[str],
    before: bytes,
    after: bytes,
    sensitivity: Mapping[str, Mapping[str, float]],
) -> tuple[BlockResult, ...]:
    nodes = [set(block.nodes) for block in blocks]
    sizes = zip(weight_bytes_of(before, nodes), weight_bytes_of(after, nodes), strict=True)
    return tuple(
        BlockResult(
            name=block.name,
            tasks=block.tasks,
            first=block.first,
            last=block.last,
            int8=block.name not in kept,
            float_bytes=float_bytes,
            bytes=now,
            sensitivity=dict(sensitivity[block.name]),
        )
        for block, (float_bytes, now) in zip(blocks, sizes, strict=True)
    )


def _times(before: bytes, after: bytes, image: Array, threads: int) -> Times:
    """One image, the two models in turns."""
    with pinned(threads):
        sessions = [runtime.session(model, threads=threads) for model in (before, after)]
        works = [[lambda session=session: runtime.run(session, image)] for session in sessions]
        one, other = interleaved(works, seconds=_SECONDS)
    ratios = [[b / a for a, b in zip(*pair, strict=True)] for pair in zip(one.totals, other.totals, strict=True)]
    return Times(threads, *(Spread.of(values) for values in (one.totals[0], other.totals[0], *ratios)))
