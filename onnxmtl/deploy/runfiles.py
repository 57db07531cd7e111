"""A run's directory, read for people: whatever is there already, and a sentence for whatever is not.

Only ``run.json`` is needed. A part that is missing or unreadable (an old run, one that is under way, one whose
architecture was given) becomes a remark and never an error.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from onnxmtl.deploy.ondevice import QUANTIZATION_FILE, OnDevice, read_device
from onnxmtl.deploy.recommendation import RECOMMENDATION_FILE
from onnxmtl.deploy.results import DrawResult, Report
from onnxmtl.deploy.sweep import SWEEP_PAGE
from onnxmtl.errors import ModelError, RunError
from onnxmtl.policy.architecture import Architecture
from onnxmtl.runs import read_json
from onnxmtl.runs.directory import DONE_FILE, RUN_FILE

REPORT_FILE = "report.json"
# The second names are those of an earlier version.
_SINGLE = re.compile(r"(single-task|separate)-[0-9]+")
_BASELINE = re.compile(rf"({_SINGLE.pattern}|hard-sharing|all-shared|random-.*)")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class SitePolicy:
    """The policy at one site.

    Attributes:
        site: Its id.
        depth: Sites before it on the longest way.
        options: Names, in order.
        tasks: Tasks that pass through it.
        probabilities: Per task of `tasks` one number per option.
    """

    site: str
    depth: int
    options: tuple[str, ...]
    tasks: tuple[str, ...]
    probabilities: tuple[tuple[float, ...], ...]

    def of(self, task: str) -> tuple[float, ...] | None:
        """The task's distribution; None if it does not pass through the site."""
        return self.probabilities[self.tasks.index(task)] if task in self.tasks else None


@dataclasses.dataclass(frozen=True)
class RunPolicy:
    """The policy that was learnt: per site and task a distribution over the options.

    Attributes:
        tasks: All tasks.
        sites: In the order of the network.
        source: The stage it comes from.
    """

    tasks: tuple[str, ...]
    sites: tuple[SitePolicy, ...]
    source: str = ""


@dataclasses.dataclass(frozen=True)
class Curve:
    """One figure over the steps of a training.

    Attributes:
        steps: Increasing.
        values: One per step, all finite.
    """

    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Training:
    """What one training phase recorded.

    Attributes:
        phase: Its name, as ``pre-train``.
        curves: Name of the figure (a task's loss, a regularizer, ``temperature``, …) -> curve.
        baseline: Whether it trained something that the found model is compared with.
    """

    phase: str
    curves: Mapping[str, Curve]
    baseline: bool

    @property
    def single(self) -> bool:
        """Whether it trained a single-task model."""
        return bool(_SINGLE.fullmatch(self.phase))

    @property
    def steps(self) -> float:
        """The last step of any of its figures."""
        return max((curve.steps[-1] for curve in self.curves.values()), default=0.0)


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """All that a run's directory tells.

    Attributes:
        path: The directory.
        record: Content of run.json: ``config``, ``command``, ``source``, ``started``, ``versions``.
        tasks: Names of the tasks.
        report: The final table; None if the run is not done.
        architecture: What was selected.
        policy: What was learnt.
        candidates: Architectures drawn from the policy.
        trainings: In the order in which they ran.
        phases: Names of the phases that are done, in order.
        remarks: One sentence per part that is not there.
        device: Parity, latency, int8 models, entry points.
    """

    path: Path
    record: Mapping[str, Any]
    tasks: tuple[str, ...]
    report: Report | None
    architecture: Architecture | None
    policy: RunPolicy | None
    candidates: tuple[DrawResult, ...]
    trainings: tuple[Training, ...]
    phases: tuple[str, ...]
    remarks: tuple[str, ...]
    device: OnDevice = dataclasses.field(default_factory=OnDevice)

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration the run was started with."""
        config: Mapping[str, Any] = self.record["config"]
        return config

    @property
    def title(self) -> str:
        """The backbone and the data."""
        if self.report is not None:
            return self.report.title
        return f"{self.source('name') or 'a model'} on {self.config.get('data', 'its data')}"

    def source(self, name: str) -> str:
        """An entry of run.json's ``source``, "" if there is none."""
        source = self.record.get("source")
        value = source.get(name) if isinstance(source, Mapping) else None
        return str(value) if value else ""


def read_run(path: str | os.PathLike[str], quantized: Sequence[str | os.PathLike[str]] = ()) -> RunFiles:
    """Read the directory of a run, finished or not.

    Args:
        path: The directory.
        quantized: Directories of int8 models of it, besides those that lie in it or beside it.

    Raises:
        RunError: It is no run, or one of `quantized` is no int8 model of it.
    """
    folder = Path(path)
    record = _record(folder)
    if (folder / RECOMMENDATION_FILE).is_file():
        page = folder / "report.html"
        msg = f"{folder} is a run of recommend and has its page: {page}; onnxmtl recommend {folder} asks again"
        raise RunError(msg)
    remarks: list[str] = []
    phases = _phases(folder)
    report = _part(folder / REPORT_FILE, Report.from_json, remarks)
    if report is None and not (folder / REPORT_FILE).exists():
        done = f"done so far: {', '.join(phases)}" if phases else "no phase is done yet"
        remarks.append(f"The run is not finished ({done}), so it has no metrics and costs; compile --resume ends it.")
    decoded = next((entry for entry in _folders(folder) if entry.name.endswith("-decode")), folder / "decode")
    architecture = _part(decoded / "architecture.json", _architecture, remarks)
    given = record["config"].get("architecture") is not None
    policy = None
    if not given:
        policy = _part(decoded / "policy.json", _policy, remarks)
        if policy is None and decoded.is_dir() and not (decoded / "policy.json").exists():
            remarks.append("No policy was kept: nothing was decided by a search, or an earlier version made the run.")
    else:
        remarks.append("The architecture was given with --architecture, so there is no policy.")
    trainings = _trainings(folder, remarks)
    if not trainings and phases:
        remarks.append("No training curves were kept: an earlier version made the run, or nothing was trained yet.")
    device = read_device(folder, remarks, quantized)
    return RunFiles(
        path=folder,
        record=record,
        tasks=_task_names(record["config"], report),
        report=report,
        architecture=architecture,
        policy=policy,
        candidates=_part(decoded / "candidates.json", _candidates, remarks) or (),
        trainings=trainings,
        phases=phases,
        remarks=tuple(remarks),
        device=device,
    )


def _record(folder: Path) -> Mapping[str, Any]:
    hint = "give the directory of a run, as compile's --output names it"
    if not folder.is_dir():
        reason = "is a file" if folder.exists() else "does not exist"
        msg = f"{folder}: {reason}; {hint}"
        raise RunError(msg)
    if not (folder / RUN_FILE).is_file():
        if (folder / QUANTIZATION_FILE).is_file():
            hint = "it is what quantize wrote: give the run of the float model, and this one with --quantized"
        elif (folder / SWEEP_PAGE).is_file():
            hint = f"it is a sweep, whose page is {SWEEP_PAGE}: give the directory of a run in it"
        msg = f"{folder}: is no run, it has no {RUN_FILE}; {hint}"
        raise RunError(msg)
    record = read_json(folder / RUN_FILE)
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        msg = f"{folder}: is no run of onnxmtl, its {RUN_FILE} has no configuration; {hint}"
        raise RunError(msg)
    return record


def _part(file: Path, read: Callable[[Any], T], remarks: list[str]) -> T | None:
    """What is in a file of the run; None, and a remark unless it is just not there, if it cannot be read."""
    if not file.exists():
        return None
    try:
        return read(read_json(file))
    except RunError as error:
        remarks.append(f"{str(error)[:1].upper()}{str(error)[1:]}.")
    except (AttributeError, IndexError, KeyError, ModelError, TypeError, ValueError):
        remarks.append(f"{file} is not of this version of onnxmtl and was left out.")
    return None


def _folders(folder: Path) -> list[Path]:
    phases = folder / "phases"
    return sorted(entry for entry in phases.iterdir() if entry.is_dir()) if phases.is_dir() else []


def _name(folder: Path) -> str:
    return re.sub(r"^[0-9]+-", "", folder.name)


def _phases(folder: Path) -> tuple[str, ...]:
    return tuple(_name(entry) for entry in _folders(folder) if (entry / DONE_FILE).is_file())


def _task_names(config: Mapping[str, Any], report: Report | None) -> tuple[str, ...]:
    if report is not None:
        return tuple(task.task for task in report.tasks)
    try:
        tasks = config["tasks"]
        content = json.loads(tasks) if isinstance(tasks, str) else tasks
        return tuple(str(task["name"]) for task in content["tasks"])
    except (KeyError, TypeError, ValueError):
        return ()


def _architecture(content: Any) -> Architecture:
    return Architecture.from_json(json.dumps(content))


def _policy(content: Any) -> RunPolicy:
    sites = []
    for row in content["sites"]:
        options, tasks = tuple(map(str, row["options"])), tuple(map(str, row["tasks"]))
        probabilities = tuple(tuple(float(p) for p in line) for line in row["probabilities"])
        if len(probabilities) != len(tasks) or any(len(line) != len(options) for line in probabilities):
            msg = f"site {row['id']!r} has another number of probabilities than options and tasks"
            raise ValueError(msg)
        if not all(0 <= p <= 1 for line in probabilities for p in line):
            msg = f"site {row['id']!r} has probabilities that are none"
            raise ValueError(msg)
        sites.append(SitePolicy(str(row["id"]), int(row["depth"]), options, tasks, probabilities))
    return RunPolicy(tuple(map(str, content["tasks"])), tuple(sites), str(content.get("source", "")))


def _candidates(content: Any) -> tuple[DrawResult, ...]:
    """Those with metrics: an earlier version wrote the architectures only."""
    if not isinstance(content, list):
        msg = "the candidates are no list"
        raise TypeError(msg)
    return tuple(DrawResult.from_json({"source": "policy", **row}) for row in content if "metrics" in row)


def _trainings(folder: Path, remarks: list[str]) -> tuple[Training, ...]:
    found = []
    for entry in _folders(folder):
        curves = _part(entry / "history.json", _curves, remarks)
        if curves:
            found.append(Training(_name(entry), curves, bool(_BASELINE.fullmatch(_name(entry)))))
    return tuple(found)


def _curves(content: Any) -> dict[str, Curve]:
    """Points ``{"step": …, "figures": {name: value}}`` as one curve per figure; numbers that are none are left out."""
    points: Sequence[Any] = content["points"] if isinstance(content, dict) else content
    found: dict[str, tuple[list[float], list[float]]] = {}
    for point in points:
        for name, value in point["figures"].items():
            if value is not None and math.isfinite(value):
                steps, values = found.setdefault(str(name), ([], []))
                steps.append(float(point["step"]))
                values.append(float(value))
    return {name: Curve(tuple(steps), tuple(values)) for name, (steps, values) in found.items()}
