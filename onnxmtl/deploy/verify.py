"""The replayable certificate: an emitted model still is, and still computes, what was trained. No torch.

Beside ``model.onnx`` lie ``certificate.npz`` (inputs, and the outputs that torch computed for them) and
``certificate.json`` (hash of each weight, operators, digest per output). :func:`verify` replays them in ONNX Runtime.

Tolerances, as max|Δ| / max|y| per task: 1e-5 for a model without folded normalizations, run as it is; 1e-4 where
normalizations are folded or the runtime may rewrite the graph.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from onnxmtl import runtime
from onnxmtl.deploy.structure import operator_differences, operator_list, output_digests, weight_hashes
from onnxmtl.errors import ModelError, OnnxMTLError, VerificationError
from onnxmtl.frontends.onnx import load
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.instruments import relative_error
from onnxmtl.runs import atomic_write, file_sha256, read_json, write_json

MODEL_FILE = "model.onnx"
ARRAYS_FILE = "certificate.npz"
RECORD_FILE = "certificate.json"
REPORT_FILE = "verify.json"
FORMAT = 1
EXACT = 1e-5
FOLDED = 1e-4
# Share of an integer output's elements that may differ: those where two classes tie within the tolerance.
TIES = 1e-3
_ROWS = 4  # images of the batch that are run again one by one


Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Reference: TypeAlias = Callable[[Path, Mapping[str, Array]], Mapping[str, Array]]


@dataclasses.dataclass(frozen=True)
class TaskCheck:
    """How one task's output compares with the certificate.

    Relative errors are max|Δ|/max|y|; for an output of class numbers, the share of elements that differ.

    Attributes:
        task: Name of the output.
        integer: Whether the output holds class numbers.
        max_error: max|Δ| with the runtime's optimizations off.
        plain_error: Relative error with the runtime's optimizations off.
        optimized_error: Relative error with them on.
        batch_error: Largest relative difference between rows of a batch and single images.
        agreement: Share of positions with the same largest class; None where there are no classes.
        torch_error: Relative error against a recomputation in torch; None if that was not asked for.
    """

    task: str
    integer: bool
    max_error: float
    plain_error: float
    optimized_error: float
    batch_error: float
    agreement: float | None = None
    torch_error: float | None = None


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """What :func:`verify` found.

    Attributes:
        model: Name of the model's file.
        sha256: Hash of that file.
        same_file: Whether it is byte for byte the file that was emitted.
        folded: Whether normalizations were folded into convolutions at emission.
        weights: Number of weights compared.
        operators: Number of operators compared.
        plain_tolerance: For `plain_error`.
        optimized_tolerance: For the other errors.
        tasks: One entry per task that could be run.
        problems: One line each; empty if all is well.
    """

    model: str
    sha256: str
    same_file: bool
    folded: bool
    weights: int
    operators: int
    plain_tolerance: float
    optimized_tolerance: float
    tasks: tuple[TaskCheck, ...]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; numbers that are not finite are null."""
        content: dict[str, Any] = {**dataclasses.asdict(self), "problems": list(self.problems), "passed": self.passed}
        content["tasks"] = [
            {key: _finite(value) for key, value in dataclasses.asdict(check).items()} for check in self.tasks
        ]
        return content

    def check(self) -> VerifyReport:
        """Return the report.

        Raises:
            VerificationError: There are problems; the message has the first and their number.
        """
        if self.problems:
            more = len(self.problems) - 1
            rest = f" (and {more} more, see {REPORT_FILE})" if more else ""
            msg = f"{self.model} does not verify: {self.problems[0]}{rest}"
            raise VerificationError(msg)
        return self


def write_certificate(
    folder: str | os.PathLike[str],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    structure: Mapping[str, Any],
    *,
    folded: bool = True,
) -> None:
    """Write the certificate of ``folder/model.onnx`` beside it. Equal arguments give equal bytes.

    Args:
        folder: Holds ``model.onnx``.
        inputs: Name of the model's input -> images, two or more.
        outputs: Task -> what torch computes for `inputs`, after the output contract's last step.
        structure: What the model should be, for people and later tools (JSON values); kept as it is.
        folded: Whether normalizations were folded in the model.

    Raises:
        ModelError: There is no readable model.
        RunError: The disk refuses.
    """
    place = Path(folder)
    model = _load(place / MODEL_FILE)
    arrays = {f"input:{name}": np.ascontiguousarray(array) for name, array in inputs.items()}
    arrays |= {f"output:{name}": np.ascontiguousarray(array) for name, array in outputs.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    atomic_write(place / ARRAYS_FILE, buffer.getvalue())
    record = {
        "format": FORMAT,
        "model": file_sha256(place / MODEL_FILE),
        "arrays": file_sha256(place / ARRAYS_FILE),
        "folded": folded,
        "tolerances": {"plain": FOLDED if folded else EXACT, "optimized": FOLDED},
        "weights": weight_hashes(model),
        "operators": operator_list(model),
        "outputs": output_digests(model),
        "structure": dict(structure),
    }
    write_json(place / RECORD_FILE, record)


def verify(
    path: str | os.PathLike[str], *, reference: Reference | None = None, write_report: bool = True
) -> VerifyReport:
    """Compare an emitted model with its certificate, and replay that in ONNX Runtime.

    Args:
        path: The directory, or the model file in it.
        reference: Recomputes outputs from (model file, inputs), e.g.
            :func:`onnxmtl.deploy.against_torch.torch_outputs`; the runtime's outputs are compared with them too.
        write_report: Whether to write ``verify.json`` beside the model.

    Returns:
        The report. It does not raise for a model that differs: see :meth:`VerifyReport.check`.

    Raises:
        VerificationError: There is no certificate, or it is damaged.
        ModelError: There is no model, or no readable one.
        MissingDependencyError: There is no ONNX Runtime.
    """
    file = Path(path) / MODEL_FILE if Path(path).is_dir() else Path(path)
    model = _load(file)
    record, inputs, outputs = _read_certificate(file)
    plain, optimized = (FOLDED, FOLDED) if record["folded"] else (EXACT, FOLDED)
    problems = _structural_problems(file, model, record, outputs)
    checks: tuple[TaskCheck, ...] = ()
    tasks = {name: array for name, array in outputs.items() if name in _output_names(model)}
    try:
        wanted = reference(file, inputs) if reference is not None else None
        checks = _replay(file, inputs, tasks, _class_axes(model), wanted)
    except ModelError as error:
        problems.append(str(error))
    for check in checks:
        problems += _numeric_problems(check, plain, optimized)
    sha256 = file_sha256(file)
    report = VerifyReport(
        model=file.name,
        sha256=sha256,
        same_file=sha256 == record["model"],
        folded=record["folded"],
        weights=len(record["weights"]),
        operators=len(record["operators"]),
        plain_tolerance=plain,
        optimized_tolerance=optimized,
        tasks=checks,
        problems=tuple(problems),
    )
    if write_report:
        write_json(file.parent / REPORT_FILE, report.to_json())
    return report


def _load(file: Path) -> ir.Model:
    if not file.exists():
        msg = f"{file}: no such model file; give the directory that compile wrote, or the model.onnx in it"
        raise ModelError(msg)
    return load(file)


def _read_certificate(file: Path) -> tuple[dict[str, Any], dict[str, Array], dict[str, Array]]:
    folder = file.parent
    for name in (RECORD_FILE, ARRAYS_FILE):
        if not (folder / name).is_file():
            msg = f"{folder} has no {name}: only models that onnxmtl emitted can be verified, in their directory"
            raise VerificationError(msg)
    try:
        record = read_json(folder / RECORD_FILE)
        if record["format"] != FORMAT or record["arrays"] != file_sha256(folder / ARRAYS_FILE):
            msg = f"{folder}: {RECORD_FILE} and {ARRAYS_FILE} do not belong together; emit the model again"
            raise VerificationError(msg)
        with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        for key in ("folded", "weights", "operators", "outputs", "model"):
            record[key]
    except (OnnxMTLError, ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, VerificationError):
            raise
        msg = f"{folder}: the certificate is damaged ({error}); emit the model again"
        raise VerificationError(msg) from error
    inputs = {name.removeprefix("input:"): array for name, array in found.items() if name.startswith("input:")}
    outputs = {name.removeprefix("output:"): array for name, array in found.items() if name.startswith("output:")}
    return record, inputs, outputs


def _output_names(model: ir.Model) -> list[str]:
    return [str(value.name) for value in model.graph.outputs]


def _structural_problems(
    file: Path, model: ir.Model, record: Mapping[str, Any], outputs: Mapping[str, Array]
) -> list[str]:
    problems = []
    names = _output_names(model)
    for task in outputs:
        if task not in names:
            problems.append(f"there is no output {task!r}, only {', '.join(names)}")
    problems += [f"output {name!r} is no task of the certificate" for name in names if name not in outputs]
    recorded, found = record["weights"], weight_hashes(model)
    for name in sorted({*recorded, *found}):
        if name not in found:
            problems.append(f"weight {name!r} is gone")
        elif name not in recorded:
            problems.append(f"weight {name!r} was not recorded")
        elif recorded[name] != found[name]:
            problems.append(f"weight {name!r} is not the one that was emitted")
    differences = operator_differences(record["operators"], operator_list(model))
    if not problems and not differences:
        digests = output_digests(model)
        differences = [
            f"what computes {name!r} is wired otherwise"
            for name, digest in record["outputs"].items()
            if digests.get(name) != digest
        ]
    problems += differences
    try:
        onnx.checker.check_model(os.fspath(file), full_check=True)
    except Exception as error:  # the checker and shape inference raise unrelated classes
        problems.append(f"onnx's checker refuses it: {' '.join(str(error).split())}")
    return problems


def _replay(
    file: Path,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    class_axes: Mapping[str, int],
    reference: Mapping[str, Array] | None,
) -> tuple[TaskCheck, ...]:
    names = list(outputs)
    plain = runtime.run(runtime.session(file, optimize=False), inputs, names)
    session = runtime.session(file, optimize=True)
    optimized = runtime.run(session, inputs, names)
    rows = [
        runtime.run(session, {name: array[row : row + 1] for name, array in inputs.items()}, names)
        for row in range(min(_ROWS, _batch(inputs)))
    ]
    # One more size, larger than any before: what is baked in for the certificate's own batch shows here.
    larger = runtime.run(session, {name: np.concatenate([array, array[:1]]) for name, array in inputs.items()}, names)
    checks = []
    for task, expected in outputs.items():
        pairs = [(optimized[task][i : i + 1], row[task]) for i, row in enumerate(rows)]
        pairs.append((np.concatenate([optimized[task], optimized[task][:1]]), larger[task]))
        scale = float(np.max(np.abs(expected), initial=0.0)) if _is_float(expected) else 0.0
        checks.append(
            TaskCheck(
                task=task,
                integer=not _is_float(expected),
                max_error=_max_error(expected, plain[task]),
                plain_error=_error(expected, plain[task]),
                optimized_error=_error(expected, optimized[task]),
                batch_error=max(_error(one, other, scale) for one, other in pairs),
                agreement=_agreement(expected, optimized[task], class_axes.get(task)),
                torch_error=None if reference is None else _error(np.asarray(reference[task]), optimized[task]),
            )
        )
    return tuple(checks)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _batch(inputs: Mapping[str, Array]) -> int:
    return min(len(array) for array in inputs.values())


def _is_float(array: Array) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _max_error(expected: Array, found: Array) -> float:
    """max|Δ|; infinite where shapes differ or a value is not a number."""
    if expected.shape != found.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):  # inf - inf
        difference = np.abs(expected.astype(np.float64) - found.astype(np.float64))
    error = float(np.max(difference, initial=0.0))
    return error if np.isfinite(error) else float("inf")


def _error(expected: Array, found: Array, scale: float | None = None) -> float:
    """The relative error; infinite as well where a value of either is not a number: nothing emitted may have such."""
    finite = all(not _is_float(array) or bool(np.isfinite(array).all()) for array in (expected, found))
    return relative_error(found, expected, scale) if finite else float("inf")


def _agreement(expected: Array, found: Array, axis: int | None) -> float | None:
    if expected.shape != found.shape or not expected.size:
        return None
    if not _is_float(expected):
        return float(np.mean(expected == found))
    if axis is None:
        return None
    return float(np.mean(expected.argmax(axis) == found.argmax(axis)))


def _class_axes(model: ir.Model) -> dict[str, int]:
    """Task -> axis of the classes, for tasks whose output has one score per class."""
    text = model.metadata_props.get("onnxmtl.tasks")
    with contextlib.suppress(OnnxMTLError):
        if text:
            tasks = TaskSet.from_json(text)
            return {task.name: 1 for task in tasks if task.spec.categorical and task.output != "argmax"}
    return {}


def _numeric_problems(check: TaskCheck, plain: float, optimized: float) -> list[str]:
    limits = [
        ("computes something else than was trained", check.plain_error, plain),
        ("computes something else when the runtime optimizes the graph", check.optimized_error, optimized),
        ("depends on the batch an image is in", check.batch_error, optimized),
        ("computes something else than torch does now", check.torch_error, optimized),
    ]
    problems = []
    for words, error, tolerance in limits:
        limit = TIES if check.integer else tolerance
        if error is not None and not error <= limit:
            problems.append(f"{check.task!r} {words}: relative error {error:.1e}, allowed {limit:.0e}")
    return problems
