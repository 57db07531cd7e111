"""What a run's directory tells about the model on the device: parity, latency, int8, entry points.

Each is there once its command has run: ``verify.json`` (`onnxmtl verify`, and compile itself), ``bench.json``
(`onnxmtl report --bench`, or what `onnxmtl bench --json` prints), ``quantization.json`` of an int8 model of it (in a
directory beside the run), ``entry_points/manifest.json`` (`onnxmtl specialize --entry-points`). What speaks of another
model file than the run's is left out, with a sentence that says so.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from onnxmtl.deploy.bench.results import Bench
from onnxmtl.deploy.quantize.results import Quantization
from onnxmtl.deploy.structured import structured
from onnxmtl.deploy.verify import MODEL_FILE, VerifyReport
from onnxmtl.deploy.verify import REPORT_FILE as VERIFY_FILE
from onnxmtl.errors import RunError
from onnxmtl.runs import file_sha256, read_json
from onnxmtl.runtime.manifest import MANIFEST_FILE

BENCH_FILE = "bench.json"
QUANTIZATION_FILE = "quantization.json"
ENTRY_POINTS = "entry_points"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class SegmentPart:
    """One segment of the entry points.

    Attributes:
        name: Of the segment.
        tasks: That need it.
        nodes: Number of operators.
        multiply_adds: Of one image; None if unknown.
    """

    name: str
    tasks: tuple[str, ...]
    nodes: int
    multiply_adds: int | None


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a task's output is from the single file's, ONNX Runtime's optimizations on.

    Attributes:
        ulps: The largest distance in units in the last place; None for class numbers.
        relative: max|Δ|/max|y|; of class numbers the share that differs.
    """

    ulps: int | None
    relative: float


@dataclasses.dataclass(frozen=True)
class EntryPointParts:
    """The entry points of a run's model.

    Attributes:
        segments: In the order in which they run.
        outputs: The tasks, in the model's order.
        differences: Per task; empty where an earlier version wrote them.
    """

    segments: tuple[SegmentPart, ...]
    outputs: tuple[str, ...]
    differences: Mapping[str, Difference] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> int | None:
        """Multiply-adds of all segments; None if one is unknown."""
        return _total(self.segments)

    def needed(self, task: str) -> tuple[SegmentPart, ...]:
        """What runs for one task alone."""
        return tuple(segment for segment in self.segments if task in segment.tasks)

    def share(self, task: str) -> float | None:
        """Of the multiply-adds that run for one task alone; None if unknown."""
        part, whole = _total(self.needed(task)), self.total
        return None if part is None or not whole else part / whole


@dataclasses.dataclass(frozen=True)
class Int8Model:
    """An int8 model of the run's.

    Attributes:
        name: Of its directory.
        report: What quantize found.
    """

    name: str
    report: Quantization


@dataclasses.dataclass(frozen=True)
class OnDevice:
    """All of it; what is not there is None or empty.

    Attributes:
        verified: The last verification.
        bench: The last measurement.
        int8: Models made by quantize, by name.
        entry_points: The model in segments.
    """

    verified: VerifyReport | None = None
    bench: Bench | None = None
    int8: tuple[Int8Model, ...] = ()
    entry_points: EntryPointParts | None = None


def read_device(folder: Path, remarks: list[str], quantized: Sequence[str | os.PathLike[str]] = ()) -> OnDevice:
    """Read what there is.

    Args:
        folder: The run's directory.
        remarks: Gets a sentence for each part that is there and cannot be shown.
        quantized: Directories of int8 models (or their quantization.json), wherever they are. Those that lie in the
            run or beside it are found.

    Raises:
        RunError: One of `quantized` is no result of quantize, or is of another model.
    """
    model = folder / MODEL_FILE
    sha256 = file_sha256(model) if model.is_file() else ""
    reading = _Reading(sha256, remarks)
    return OnDevice(
        verified=reading.part(folder / VERIFY_FILE, _verified, ("sha256",), "onnxmtl verify checks this one"),
        bench=reading.part(folder / BENCH_FILE, _bench, ("model",), "onnxmtl report --bench measures this one"),
        int8=_int8_models(folder, sha256, quantized),
        entry_points=reading.part(
            folder / ENTRY_POINTS / MANIFEST_FILE,
            _entry_points,
            ("model", "sha256"),
            "onnxmtl specialize --entry-points cuts this one, into a new directory",
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Reading:
    """Reads parts that belong to the model with this hash; "" where there is none."""

    sha256: str
    remarks: list[str]

    def part(self, file: Path, read: Callable[[Any], T], place: Sequence[str], hint: str) -> T | None:
        """What is in a file; None, and a remark unless it is just not there, if it is damaged or of another model.

        Args:
            file: JSON.
            read: Makes something of it.
            place: Keys that lead to the hash of the model that it is about; where it has none, it is believed.
            hint: What to do if it is another one's.
        """
        if not file.is_file():
            return None
        try:
            content = read_json(file)
            found = read(content)
        except (RunError, KeyError, TypeError, ValueError):
            self.remarks.append(f"{file.name} cannot be read, or is not of this version of onnxmtl, and was left out.")
            return None
        about: Any = content
        for key in place:
            about = about.get(key) if isinstance(about, dict) else None
        if isinstance(about, str) and about != self.sha256:
            self.remarks.append(f"{file.name} is about another model.onnx and was left out; {hint}.")
            return None
        return found


def _verified(content: Any) -> VerifyReport:
    return structured(VerifyReport, content)


def _bench(content: Any) -> Bench:
    return structured(Bench, content)


def _entry_points(content: Any) -> EntryPointParts:
    return structured(EntryPointParts, content)


def _int8_models(folder: Path, sha256: str, given: Sequence[str | os.PathLike[str]]) -> tuple[Int8Model, ...]:
    """Those that are given, then those in the run and beside it that were made of its model."""
    found: dict[Path, Int8Model] = {}
    for path in map(Path, given):
        file = path / QUANTIZATION_FILE if path.is_dir() else path
        found[file.resolve()] = _given(file, sha256)
    for file in [*_inside(folder), *_inside(folder.resolve().parent)]:
        place = file.resolve()
        if place not in found and (report := _of(file)) is not None and sha256 and report.source_sha256 == sha256:
            found[place] = Int8Model(file.parent.name, report)
    return tuple(found.values())


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(file for entry in folder.iterdir() if (file := entry / QUANTIZATION_FILE).is_file())
    except OSError:  # a directory that may not be listed
        return []


def _of(file: Path) -> Quantization | None:
    try:
        return structured(Quantization, read_json(file))
    except (RunError, KeyError, TypeError, ValueError, OSError):
        return None


def _given(file: Path, sha256: str) -> Int8Model:
    report = _of(file)
    if report is None:
        msg = f"{file}: is no {QUANTIZATION_FILE} of this version; give the directory that onnxmtl quantize wrote"
        raise RunError(msg)
    if report.source_sha256 != sha256:
        msg = f"{file}: was made of another model ({report.source}), not of this run's; give one of this run"
        raise RunError(msg)
    return Int8Model(file.resolve().parent.name, report)


def _total(segments: Sequence[SegmentPart]) -> int | None:
    known = [one.multiply_adds for one in segments if one.multiply_adds is not None]
    return sum(known) if len(known) == len(segments) else None


def as_json(found: OnDevice) -> Mapping[str, Any]:
    """As JSON values."""
    points = found.entry_points
    return {
        "verified": None if found.verified is None else found.verified.to_json(),
        "bench": None if found.bench is None else found.bench.to_json(),
        "int8": [{"name": one.name, **one.report.to_json()} for one in found.int8],
        "entry_points": None
        if points is None
        else {**dataclasses.asdict(points), "shares": {task: points.share(task) for task in points.outputs}},
    }
