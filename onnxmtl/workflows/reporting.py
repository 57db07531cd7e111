"""The page of a run, with latencies measured now if that is asked for: :func:`report`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from onnxmtl.deploy.bench.bench import BenchOptions, bench
from onnxmtl.deploy.bench.candidates import Candidate
from onnxmtl.deploy.html.writing import Written, html_target, write_html
from onnxmtl.deploy.ondevice import BENCH_FILE
from onnxmtl.deploy.runfiles import read_run
from onnxmtl.deploy.verify import MODEL_FILE
from onnxmtl.errors import OnnxMTLError, RunError
from onnxmtl.runs import file_sha256, write_json

MEASURED = "this model"


def report(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    svg: str | os.PathLike[str] | None = None,
    quantized: Sequence[str | os.PathLike[str]] = (),
    measure: BenchOptions | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Written:
    """Write the page of a run: what was asked and found, costs, sharing, parity, latency, int8, entry points.

    Args:
        run: The run's directory.
        out: The file, which ends in ``.html``; by default ``report.html`` in the run. An older one is replaced.
        svg: A directory for the figures, one ``.svg`` file each.
        quantized: Directories of int8 models, besides those that are found in the run and beside it.
        measure: How latency is measured first, beside a model per task where these can be built; what is found is kept
            in the run as ``bench.json``, in the place of an older one. None: what is there is shown.
        tell: Called with a few words before each step of the measurement.

    Raises:
        OnnxMTLError: It is no run or, to be measured, has no model; a name is no good; the disk refuses.
    """
    if measure is not None:
        found = read_run(run, quantized)  # whatever is wrong is told before anything is measured
        html_target(found.path / "report.html" if out is None else Path(out))
        _measure(found.path, measure, tell)
    return write_html(run, out, svg=svg, quantized=quantized)


def _measure(run: Path, options: BenchOptions, tell: Callable[[str], None]) -> None:
    """Measure the run's model against a model per task, and write bench.json."""
    from onnxmtl.workflows.benching import single_task_models  # the page alone needs nothing of it

    file = run / MODEL_FILE
    if not file.is_file():
        msg = f"{run}: has no {MODEL_FILE} to be measured; end the run with compile --resume, or leave --bench out"
        raise RunError(msg)
    remarks = []
    with tempfile.TemporaryDirectory(prefix="onnxmtl-report-") as folder:
        base = None
        try:
            base = single_task_models(run, Path(folder))
        except OnnxMTLError as error:
            remarks.append(f"The model was measured alone, its separate models could not be built: {error}.")
        measured = bench([Candidate(MEASURED, (file,), (MODEL_FILE,))], base, options, tell)
    content = measured.to_json()
    write_json(run / BENCH_FILE, {**content, "remarks": [*content["remarks"], *remarks], "model": file_sha256(file)})
