"""The page of one run: what was asked, what was found, what it costs, what is shared and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxmtl.deploy.html.asked import asked, command_line, recipe_words, versions
from onnxmtl.deploy.html.charts import finite_delta
from onnxmtl.deploy.html.device import device_sections, device_tiles, missing
from onnxmtl.deploy.html.elements import (
    Section,
    beside,
    bullets,
    code,
    facts,
    folded,
    page,
    paragraph,
    signed,
    stacked,
    tile,
)
from onnxmtl.deploy.html.figure import Figure, inline
from onnxmtl.deploy.html.fusion import edge_table
from onnxmtl.deploy.html.tables import (
    budget_table,
    cost_table,
    draw_table,
    layer_table,
    metric_table,
    spread,
)
from onnxmtl.deploy.results import DrawResult, Report
from onnxmtl.deploy.runfiles import RunFiles

_NO_DELTA = (
    "There is no Δ: it compares with single-task models, and none were trained (--baselines single-task) or the run is "
    "of an earlier version."
)


def run_page(run: RunFiles, figures: Mapping[str, Figure]) -> str:
    """The whole document; figures that are not there are left out, and a sentence says why."""
    lead = ", ".join(
        part
        for part in (
            f"{len(run.tasks)} tasks" if len(run.tasks) != 1 else "one task",
            recipe_words(run.config),
            f"seed {run.record['seed']}" if run.record.get("seed") is not None else "",
            "" if run.report is not None else "not finished",
        )
        if part
    )
    sections = [
        Section("found", "What was found", _found(run, figures)),
        Section("asked", "What was asked", _asked(run)),
        Section("costs", "What it costs", _costs(run, figures)),
        Section("sharing", "What is shared", _sharing(run, figures)),
        *device_sections(run.device, figures),
        Section("policy", "What the search learnt", _policy(run, figures)),
        Section("draws", "What was drawn", _draws(run, figures)),
        Section("training", "How it was trained", inline(figures["curves"]) if "curves" in figures else ""),
        Section("notes", "Notes", _notes(run)),
    ]
    version = dict(versions(run)).get("onnxmtl", "")
    return page(
        run.title, lead, [*_tiles(run.report), *device_tiles(run.device)], sections, f"onnxmtl {version}".strip()
    )


def _tiles(report: Report | None) -> list[str]:
    if report is None:
        return []
    found = report.costs["found"]
    separate = report.costs.get("separate")
    tiles = []
    delta = finite_delta(report, "found")
    if delta is not None:
        words = "Δ against single-task models, mean over tasks"
        tiles.append(tile(signed(delta), words, "good" if delta > 0 else "bad" if delta < 0 else ""))
    if separate is not None and separate.parameters and separate.multiply_adds:
        tiles.append(
            tile(f"{found.parameters / separate.parameters:.2f}×", "parameters of separate models, with heads")
        )
        share = found.multiply_adds / separate.multiply_adds
        tiles.append(tile(f"{share:.2f}×", "multiply-adds of separate models, executed"))
    tiles.append(tile(f"{found.executed_once:.0%}", "of the executed multiply-adds serve two tasks or more"))
    if report.budget:
        met = all(row.met for row in report.budget)
        words = ", ".join(row.limit for row in report.budget)
        tiles.append(tile("met" if met else "not met", f"budget {words}", "good" if met else "bad"))
    return tiles


def _found(run: RunFiles, figures: Mapping[str, Figure]) -> str:
    report = run.report
    if report is None:
        return "".join(paragraph(remark) for remark in run.remarks if remark.startswith("The run is not finished"))
    remark = paragraph(
        f"On the validation set; ↑ higher is better, ↓ lower is better. The found model's weights were "
        f"{report.weights}. Constant is the best prediction that does not look at the image.",
        "faint",
    )
    plots = "".join(inline(figures[name]) for name in ("delta", "plane") if name in figures)
    left = stacked(metric_table(report), remark, "" if plots else paragraph(_NO_DELTA, "faint"))
    return beside(left, stacked(plots, narrow=True)) if plots else left


def _asked(run: RunFiles) -> str:
    command = command_line(run)
    start = code(command) if command else paragraph("The run was started from Python.")
    more = folded("versions", facts(versions(run))) if versions(run) else ""
    return start + facts(asked(run)) + more


def _costs(run: RunFiles, figures: Mapping[str, Figure]) -> str:
    report = run.report
    if report is None:
        return ""
    parts = [cost_table(report.costs)]
    if report.budget:
        parts += ["<h3>Budget</h3>", budget_table(report)]
    if report.decoding:
        parts.append(paragraph(f"How the architecture was decided: {report.decoding}"))
    return beside(stacked(*parts), inline(figures["costs"]))


def _sharing(run: RunFiles, figures: Mapping[str, Figure]) -> str:
    if run.report is None:
        return ""
    if "sharing" not in figures:
        return paragraph("The report lists no layers, so there is nothing to draw.")
    listed = folded("the same as a table", layer_table(run.report.sharing, run.tasks))
    tree = inline(figures["tree"]) if "tree" in figures else ""
    return tree + _fusion(run.report, figures) + inline(figures["sharing"]) + listed


def _fusion(report: Report, figures: Mapping[str, Figure]) -> str:
    if report.fused is None or "fusion" not in figures:
        return ""
    return inline(figures["fusion"]) + folded("all candidate edges", edge_table(report.fused))


def _policy(run: RunFiles, figures: Mapping[str, Figure]) -> str:
    if run.policy is None:
        return "".join(paragraph(remark) for remark in run.remarks if "policy" in remark)
    if not run.policy.sites:
        return paragraph("Nothing was to be decided: there are no sites with a choice.")
    source = ""
    if run.policy.source == "random":
        source = paragraph("Nothing was learnt: the architecture was drawn at random.")
    elif run.policy.source:
        source = paragraph(f"As it was after the stage {run.policy.source}.", "faint")
    shown = [
        stacked(inline(figures[name]), narrow=name == "correlation")
        for name in ("policy", "correlation")
        if name in figures
    ]
    return source + beside(*shown)


def _draws(run: RunFiles, figures: Mapping[str, Figure]) -> str:
    parts = []
    tasks = run.report.tasks if run.report is not None else ()
    if run.candidates:
        times = sum(draw.count for draw in run.candidates)
        text = f"{times} architectures were tried, {len(run.candidates)} of them different."
        text = "One architecture was tried." if times == 1 else text
        parts += [
            "<h3>Candidates</h3>",
            paragraph(f"{text}{_spread(run.candidates)} They were measured before the final training."),
        ]
        parts.append(draw_table(run.candidates, tasks))
    if run.report is not None and run.report.draws:
        text = f"{len(run.report.draws)} random policies were trained like the found one.{_spread(run.report.draws)}"
        parts += ["<h3>Random policies</h3>", paragraph(text), draw_table(run.report.draws, tasks)]
    return "".join(parts)


def _spread(draws: Sequence[DrawResult]) -> str:
    found = spread(draws)
    if found is None or len(draws) < 2:
        return ""
    return f" Their Δ: {signed(found.low)} to {signed(found.high)}, mean {signed(found.mean)}."


def _notes(run: RunFiles) -> str:
    notes = [*run.remarks, *(run.report.notes if run.report is not None else ())]
    done = facts([("phases done", ", ".join(run.phases))]) if run.phases else ""
    use = ""
    if run.report is not None:
        use = paragraph("The model is model.onnx in the run's directory; onnxmtl verify RUN replays its certificate.")
    later = [(what, command) for what, command in missing(run.device) if command]
    more = ""
    if run.report is not None and later:
        more = paragraph(
            "Not on this page yet; what these find in RUN, the run's directory, the next onnxmtl report shows:"
        ) + facts(later)
    return (bullets(notes) if notes else "") + done + use + more
