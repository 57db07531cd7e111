"""From a run's files to the report's: which figures there are, which sections, and where they are written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxmtl.deploy.html.charts import cost_figure, delta_figure, plane_figure
from onnxmtl.deploy.html.curves import curves_figure
from onnxmtl.deploy.html.device import device_figures
from onnxmtl.deploy.html.figure import Figure, standalone
from onnxmtl.deploy.html.fusion import fusion_figure
from onnxmtl.deploy.html.policy import as_json as correlation_json
from onnxmtl.deploy.html.policy import correlation_figure, policy_figure
from onnxmtl.deploy.html.run_page import run_page
from onnxmtl.deploy.html.sharing import sharing_figure
from onnxmtl.deploy.html.trees import layout_figure
from onnxmtl.deploy.ondevice import as_json as device_json
from onnxmtl.deploy.runfiles import RunFiles, read_run
from onnxmtl.errors import RunError
from onnxmtl.runs import atomic_write
from onnxmtl.runs.atomic import disk_errors


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        run: What it was made from.
        html: The page.
        svg: One file per figure, if they were asked for.
    """

    run: RunFiles
    html: Path
    svg: tuple[Path, ...]


def figures_of(run: RunFiles) -> dict[str, Figure]:
    """Name -> figure, of those that the run has something for, in the order of the page."""
    found: list[Figure | None] = []
    if run.report is not None:
        found += [
            delta_figure(run.report),
            cost_figure(run.report),
            plane_figure(run.report, run.candidates),
        ]
        if run.report.layout is not None:
            found.append(layout_figure(run.report.layout))
        if run.report.fused is not None:
            found.append(fusion_figure(run.report.fused))
        if run.report.sharing and run.tasks:
            found.append(sharing_figure(run.report.sharing, run.tasks))
    if run.policy is not None and run.policy.sites and run.policy.tasks:
        found.append(policy_figure(run.policy, run.architecture))
        if any(len(site.tasks) > 1 for site in run.policy.sites):  # edges of fusion belong to one task each
            found.append(correlation_figure(run.policy))
    found += device_figures(run.device)
    found.append(curves_figure(run.trainings, run.tasks))
    return {figure.name: figure for figure in found if figure is not None}


def html_of(run: RunFiles) -> str:
    """The page. The same files give the same text."""
    return run_page(run, figures_of(run))


def write_html(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    svg: str | os.PathLike[str] | None = None,
    quantized: Sequence[str | os.PathLike[str]] = (),
) -> Written:
    """Write the report of a run.

    Args:
        path: The run's directory.
        out: The file, which ends in ``.html``; by default ``report.html`` in the run's directory. An older one is
            replaced.
        svg: A directory for the figures, one ``.svg`` file each; made if it is not there.
        quantized: Directories of int8 models, besides those that are found in the run and beside it.

    Raises:
        RunError: `path` is no run, one of `quantized` no int8 model of it, a name is no good, or the disk refuses.
    """
    run = read_run(path, quantized)
    target = html_target(run.path / "report.html" if out is None else Path(out))
    figures = figures_of(run)
    drawings = {f"{name}.svg": standalone(figure) for name, figure in figures.items()} if svg is not None else {}
    text = run_page(run, figures)
    folder = Path(svg) if svg is not None else target.parent
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in drawings.items():
        atomic_write(folder / name, drawing.encode())
    atomic_write(target, text.encode())
    return Written(run, target, tuple(folder / name for name in drawings))


def html_target(target: Path) -> Path:
    """`target`, if a page may be written there.

    Raises:
        RunError: It is a directory, or its name does not end in ``.html``.
    """
    if target.suffix.lower() not in (".html", ".htm") or target.is_dir():
        msg = f"{target}: the report is written to a file that ends in .html; choose such a name"
        raise RunError(msg)
    return target


def as_json(run: RunFiles) -> Mapping[str, Any]:
    """All that the report shows, as JSON values."""
    return {
        "run": run.path,
        "title": run.title,
        "tasks": run.tasks,
        "record": run.record,
        "report": None if run.report is None else run.report.to_json(),
        "architecture": None if run.architecture is None else run.architecture.to_dict(),
        "policy": run.policy,
        "correlation": None if run.policy is None else correlation_json(run.policy),
        "candidates": [draw.to_json() for draw in run.candidates],
        "trainings": run.trainings,
        "phases": run.phases,
        "device": device_json(run.device),
        "remarks": run.remarks,
    }
