"""The page of a recommendation: the trees drawn, the front, what was predicted against what was measured."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxmtl.deploy.html.elements import Section, beside, bullets, facts, folded, page, paragraph, stacked, table, tile
from onnxmtl.deploy.html.figure import Figure, inline, standalone
from onnxmtl.deploy.html.recommend_charts import front_figure, measured_figure, pairs_figure
from onnxmtl.deploy.html.trees import tree_panel
from onnxmtl.deploy.html.writing import html_target
from onnxmtl.deploy.recommend_rows import block_rows, correlation_rows, layout_rows, weight_words
from onnxmtl.deploy.recommendation import QUANTITIES, Recommendation
from onnxmtl.runs import atomic_write
from onnxmtl.runs.atomic import disk_errors

_DRAWN = 12  # trees; the others are in the table


def write_page(found: Recommendation, out: str | os.PathLike[str], svg: str | os.PathLike[str] | None = None) -> None:
    """Write the page, and with `svg` its figures into that directory.

    Raises:
        RunError: The name is no good, or the disk refuses.
    """
    target = html_target(Path(out))
    figures = figures_of(found)
    if svg is not None:
        folder = Path(svg)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            atomic_write(folder / f"{name}.svg", standalone(figure).encode())
    atomic_write(target, recommend_page(found, figures).encode())


def figures_of(found: Recommendation) -> dict[str, Figure]:
    """Name -> figure, in the order of the page."""
    made: list[Figure | None] = [
        trees_figure(found),
        front_figure(found),
        measured_figure(found),
        pairs_figure(found),
    ]
    return {figure.name: figure for figure in made if figure is not None}


def trees_figure(found: Recommendation) -> Figure | None:
    """The recommended trees, the best first."""
    panels = tuple(
        tree_panel(row.layout, f"{rank}. layout {row.layout.number}, score {row.score:.4g}")
        for rank, row in enumerate(found.layouts[:_DRAWN], start=1)
    )
    text = "From the image (top) to the heads: a box per block and group of tasks that share it, a dot per task."
    return Figure("trees", "The trees", text, panels) if panels else None


def recommend_page(found: Recommendation, figures: Mapping[str, Figure]) -> str:
    """The whole document. The same answer gives the same text."""
    lead = f"{len(found.tasks)} tasks, {len(found.blocks)} blocks, scores from {found.estimator}"
    if found.trainings:
        lead += f", {found.trainings} trainings"
    sections = [
        Section("layouts", "Recommended layouts", _layouts(found, figures)),
        Section("front", "Cost against score", _front(found, figures)),
        Section("measured", "Predicted against measured", _measured(found, figures)),
        Section("pairs", "Two tasks at a time", _pairs(found, figures)),
        Section("blocks", "What the blocks cost", _table(block_rows(found))),
        Section("asked", "What was asked", _asked(found)),
        Section("notes", "Notes", bullets(found.notes) if found.notes else ""),
    ]
    return page(f"Where tasks branch off: {found.title}", lead, _tiles(found), sections, "onnxmtl")


def _tiles(found: Recommendation) -> list[str]:
    if not found.layouts:
        return []
    first = found.layouts[0]
    tiles = [tile(f"{first.score:.4g}", "predicted score of the best layout")]
    for quantity, words in (("multiply_adds", "multiply-adds"), ("multiply_adds_trunk", "trunk multiply-adds")):
        if quantity in first.costs and found.separate.get(quantity):
            share = first.costs[quantity] / found.separate[quantity]
            tiles.append(tile(f"{share:.2f}×", f"{words} of separate models"))
            break
    tiles.append(tile(f"{first.costs.get('models', 1):.0f}", "backbones from the image on"))
    both = [row for row in found.correlations if row.seed is None] or list(found.correlations[:1])
    if both and math.isfinite(both[0].spearman):
        tiles.append(tile(f"{both[0].spearman:.3f}", f"Spearman of predicted and measured, {both[0].count} layouts"))
    return tiles


def _layouts(found: Recommendation, figures: Mapping[str, Figure]) -> str:
    text = paragraph(
        "Score: what is predicted, weighted over the tasks; per task its predicted relative performance in percent "
        "against a network of its own. "
        "Costs are those of the emitted model. Each layout is a file: onnxmtl compile MODEL --tasks … --layout "
        "layouts/01.json trains and emits it.",
        "faint",
    )
    drawn = inline(figures["trees"]) if "trees" in figures else ""
    return _table(layout_rows(found, found.layouts)) + text + drawn


def _front(found: Recommendation, figures: Mapping[str, Figure]) -> str:
    if not found.front:
        return ""
    rows = layout_rows(found, found.front)
    return inline(figures["front"]) + folded("the same as a table", _table(rows))


def _measured(found: Recommendation, figures: Mapping[str, Figure]) -> str:
    if not found.trained:
        return ""
    rows = stacked(_table(correlation_rows(found)), _table(layout_rows(found, found.trained, measured=True)))
    return beside(rows, inline(figures["measured"])) if "measured" in figures else rows


def _pairs(found: Recommendation, figures: Mapping[str, Figure]) -> str:
    return inline(figures["pairs"]) if "pairs" in figures else ""


def _asked(found: Recommendation) -> str:
    return facts(
        [
            ("tasks", ", ".join(found.tasks)),
            ("estimator", found.estimator),
            ("decoder", found.decoder),
            ("task weights", weight_words(found)),
            ("budget", ", ".join(limit.limit for limit in found.limits) or "none"),
            ("cost", QUANTITIES.get(found.cost, found.cost)),
            ("trainings", str(found.trainings or "none: the table was given")),
            ("seeds", ", ".join(map(str, found.seeds))),
        ]
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    return table(list(rows[0]), [("", list(row)) for row in rows[1:]]) if len(rows) > 1 else ""
