"""``onnxmtl bench``: models side by side in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxmtl.cli.console import JsonOption, QuietOption, console, emit_json, show, text_table

_SINGLE_TASK = "single-task"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """``"1,2"`` -> (1, 2), each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) < 100_000 for part in parts):
        msg = f"{option} takes whole numbers from 1 on, as 1,2, not {text!r}"
        raise typer.BadParameter(msg)
    return tuple(dict.fromkeys(map(int, parts)))


def bench_command(
    models: Annotated[
        list[Path], typer.Argument(help="ONNX files, or directories of runs.", metavar="MODEL…", show_default=False)
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            help="What ratios refer to: single-task (a model per task of the first MODEL's run), or a file; "
            "several files (repeat it) are run one after the other.",
            metavar="single-task|FILE",
        ),
    ] = None,
    threads: Annotated[str, typer.Option(help="Threads within an operator, one measurement for each.")] = "1",
    batch: Annotated[str, typer.Option(help="Images at once, one measurement for each.")] = "1",
    provider: Annotated[
        str, typer.Option(help="Execution providers in order of preference: cpu, cuda, or ONNX Runtime's names.")
    ] = "cpu",
    seconds: Annotated[float, typer.Option(min=0, help="How long each model is timed in each setting.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often at least.")] = 20,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="Sizes that a file leaves open (repeatable).", metavar="INPUT=Nx3x224x224"),
    ] = None,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, each model in a process of its own.")] = True,
    profile: Annotated[bool, typer.Option(help="Take ONNX Runtime's profile, to explain ratios.")] = True,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the measurement as a page too.", metavar="FILE.html")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Write the chart of latencies as a file.", metavar="FILE.svg")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure models side by side: latency, throughput, peak memory, and their ratio to separate models.

    All run in turns on the same cores. A ratio is the median over the rounds, with quartiles; the ideal one is that of
    the multiply-adds. Other work on the machine makes times longer and spreads wider: look at the quartiles.

    Example: onnxmtl bench runs/a/model.onnx --against single-task --threads 1,2 --batch 1,8
    """
    counts, batches = parse_numbers(threads, "--threads"), parse_numbers(batch, "--batch")
    if against and _SINGLE_TASK in against and len(against) > 1:
        raise typer.BadParameter("--against takes single-task or files, not both")

    import tempfile

    from rich.text import Text

    from onnxmtl.deploy.bench.bench import BenchOptions, bench
    from onnxmtl.deploy.bench.candidates import named, separate
    from onnxmtl.deploy.bench.feeds import parse_shape
    from onnxmtl.deploy.bench.rows import latency_rows, profile_rows, subject_rows
    from onnxmtl.deploy.html.bench_page import check_targets, write_bench

    check_targets(html, svg)
    options = BenchOptions(
        threads=counts,
        batch=batches,
        providers=tuple(_PROVIDERS.get(name.strip().lower(), name.strip()) for name in provider.split(",")),
        seconds=seconds,
        rounds=rounds,
        shapes=dict(map(parse_shape, shape or [])),
        memory=memory,
        profile=profile,
    )
    candidates = named(models)
    told = console(quiet=quiet or json)
    with tempfile.TemporaryDirectory(prefix="onnxmtl-bench-") as folder:
        base = None
        if against == [_SINGLE_TASK]:
            from onnxmtl.workflows.benching import single_task_models

            base = single_task_models(models[0], Path(folder))
        elif against:
            base = separate(list(map(Path, against)), candidates)
        found = bench(candidates, base, options, tell=told.print)
    write_bench(found, html, svg)
    if json:
        emit_json({"html": html, "svg": svg, **found.to_json()})
        return
    tables = {"Latency": latency_rows, "Where the time goes": profile_rows, "What was measured": subject_rows}
    for title, rows_of in tables.items():
        rows = rows_of(found)
        if len(rows) > 1:
            show(Text(title, style="bold"), text_table(rows, whole=("model",)), "")
    if found.baseline:
        show(f"×: share of {found.baseline}; processor: of the time that all threads worked; ±: half of the rounds", "")
    show(*found.explanations(), *(f"note: {remark}" for remark in found.remarks))
    show("; ".join(f"{name}: {value}" for name, value in found.machine.items()))
    show(*(f"written: {file}" for file in (html, svg) if file is not None))
