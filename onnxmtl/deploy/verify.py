"""The replayable certificate: an emitted model still is, and still computes, what was trained. No torch.

:func:`verify` compares a model with its certificate (:mod:`onnxmtl.deploy.certificate`) and replays that in ONNX
Runtime.

Tolerances, as max|Δ| / max|y| per task: 1e-5 for a model without folded normalizations, run as it is; 1e-4 where
normalizations are folded or the runtime may rewrite the graph. A float16 model is held to 1e-2, as ‖Δ‖ / ‖y‖: a few
elements may be far off, such as the direction of a vector that is nearly zero. So is an int8 model, to 5e-2 of what it
computed when it was made: the kernels of another machine round after other sums.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from onnxmtl import runtime
from onnxmtl.deploy.certificate import EIGHT, HALF, INT8, SINGLE, Certificate, load_model, read_certificate
from onnxmtl.deploy.certificate import MODEL_FILE as MODEL_FILE
from onnxmtl.deploy.certificate import RECORD_FILE as RECORD_FILE
from onnxmtl.deploy.certificate import write_certificate as write_certificate
from onnxmtl.deploy.closeness import agreement, distance, is_float, largest_error, max_error
from onnxmtl.deploy.structure import operator_differences, operator_list, output_digests, weight_hashes
from onnxmtl.errors import ModelError, OnnxMTLError, VerificationError
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.finalize.half import FLOAT16
from onnxmtl.runs import file_sha256, write_json

REPORT_FILE = "verify.json"
# Share of an integer output's elements that may differ: those where two classes tie within the tolerance.
TIES = 1e-3
_TIES = {SINGLE: TIES, FLOAT16: HALF, INT8: EIGHT}
_ROWS = 4  # images of the batch that are run again one by one


Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Reference: TypeAlias = Callable[[Path, Mapping[str, Array]], Mapping[str, Array]]


@dataclasses.dataclass(frozen=True)
class TaskCheck:
    """How one task's output compares with the certificate.

    Relative errors are max|Δ|/max|y|, of a float16 or int8 model ‖Δ‖/‖y‖; for an output of class numbers, the share of
    elements that differ.

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
        precision: What the model computes in: float32, float16 (where that is safe) or int8.
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
    precision: str = SINGLE

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
        VerificationError: There is no certificate, or it is damaged; or `reference` is given for an int8 model.
        ModelError: There is no model, or no readable one.
        MissingDependencyError: There is no ONNX Runtime.
    """
    file = Path(path) / MODEL_FILE if Path(path).is_dir() else Path(path)
    model = load_model(file)
    certificate = read_certificate(file.parent)
    record, precision, (plain, optimized) = certificate.record, certificate.precision, certificate.tolerances
    if reference is not None and precision == INT8:
        msg = f"{file} is an int8 model, which torch does not recompute; verify the float model that it was made of so"
        raise VerificationError(msg)
    problems = _structural_problems(file, model, record, certificate.outputs)
    checks: tuple[TaskCheck, ...] = ()
    try:
        wanted = reference(file, certificate.inputs) if reference is not None else None
        checks = _replay(file, certificate, _output_names(model), _class_axes(model), wanted)
    except ModelError as error:
        problems.append(str(error))
    for check in checks:
        problems += _numeric_problems(check, plain, optimized, precision)
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
        precision=precision,
    )
    if write_report:
        write_json(file.parent / REPORT_FILE, report.to_json())
    return report


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
    certificate: Certificate,
    present: Sequence[str],
    class_axes: Mapping[str, int],
    reference: Mapping[str, Array] | None,
) -> tuple[TaskCheck, ...]:
    inputs = certificate.inputs
    names = [name for name in certificate.outputs if name in present]
    error = largest_error if certificate.precision == SINGLE else distance
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
    for task in names:
        expected, with_optimizations = certificate.outputs[task], certificate.optimized[task]
        pairs = [(optimized[task][i : i + 1], row[task]) for i, row in enumerate(rows)]
        pairs.append((np.concatenate([optimized[task], optimized[task][:1]]), larger[task]))
        scale = float(np.max(np.abs(expected), initial=0.0)) if is_float(expected) else 0.0
        checks.append(
            TaskCheck(
                task=task,
                integer=not is_float(expected),
                max_error=max_error(expected, plain[task]),
                plain_error=error(expected, plain[task]),
                optimized_error=error(with_optimizations, optimized[task]),
                batch_error=max(error(one, other, scale) for one, other in pairs),
                agreement=agreement(with_optimizations, optimized[task], class_axes.get(task)),
                torch_error=None if reference is None else error(np.asarray(reference[task]), optimized[task]),
            )
        )
    return tuple(checks)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _batch(inputs: Mapping[str, Array]) -> int:
    return min(len(array) for array in inputs.values())


def _class_axes(model: ir.Model) -> dict[str, int]:
    """Task -> axis of the classes, for tasks whose output has one score per class."""
    text = model.metadata_props.get("onnxmtl.tasks")
    with contextlib.suppress(OnnxMTLError):
        if text:
            tasks = TaskSet.from_json(text)
            return {task.name: 1 for task in tasks if task.spec.categorical and task.output != "argmax"}
    return {}


def _numeric_problems(check: TaskCheck, plain: float, optimized: float, precision: str) -> list[str]:
    before = "when it was quantized" if precision == INT8 else "was trained"
    limits = [
        (f"computes something else than {before}", check.plain_error, plain),
        ("computes something else when the runtime optimizes the graph", check.optimized_error, optimized),
        ("depends on the batch an image is in", check.batch_error, optimized),
        ("computes something else than torch does now", check.torch_error, optimized),
    ]
    problems = []
    for words, error, tolerance in limits:
        limit = _TIES.get(precision, TIES) if check.integer else tolerance
        if error is not None and not error <= limit:
            problems.append(f"{check.task!r} {words}: relative error {error:.1e}, allowed {limit:.0e}")
    return problems
