"""Networks side by side with the edges that were found between them, as MTL-NAS's Fig. A2, and how sure the search was
of each, as its Fig. A1.

A dot per layer, a tick behind it for its fusion unit: edges leave dots (features before fusion) and end at ticks, so
that edges of both directions between two layers cross and do not cover each other.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from onnxmtl.deploy.html.elements import Cell, table
from onnxmtl.deploy.html.figure import PANEL, Figure, Panel, legend_item
from onnxmtl.deploy.html.rows import bare_names, head_height, heads
from onnxmtl.deploy.html.theme import task_class
from onnxmtl.deploy.svg import box, cut, dot, group, label, line, polygon
from onnxmtl.policy.fused import CERTAIN, Fused, FusedEdge, FusedLayer

_LEFT = 86  # of the networks; names stand before it
_NAME_LETTERS = 12
_BAND = 16.0  # height of a stage's heading
_MOST_ROWS = 26  # in one panel, if no edge forbids
_BINS = 25  # as the paper draws them
_Place = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class _Stage:
    """Layers of all networks at one stride, task -> layers; drawn on one band."""

    stride: int
    layers: Mapping[str, tuple[FusedLayer, ...]]

    @property
    def rows(self) -> int:
        return max(len(part) for part in self.layers.values())


def fusion_figure(fused: Fused) -> Figure:
    """The networks, one per column, and the edges between them."""
    tasks = list(fused.layers)
    stages = _stages(fused)
    parts = _pages(stages, fused.edges)
    panels = [_panel(part, fused, tasks, f"{i + 1} of {len(parts)}") for i, part in enumerate(parts)]
    if fused.alphas:
        panels.append(_histogram(fused))
    return Figure(
        "fusion", "Fusion", _words(fused), tuple(panels), _legend(bool(fused.kept), len(fused.kept) < len(fused.edges))
    )


def edge_table(fused: Fused) -> str:
    """Every candidate edge with its α."""
    return table(
        [*(Cell(name, "text") for name in ("into", "from", "edge")), "α"],
        [
            (
                "",
                [
                    Cell(f"{edge.target} {edge.target_layer}", "mono"),
                    Cell(f"{edge.source} {edge.source_layer}", "text mono"),
                    Cell("kept" if edge.kept else "cut", "text"),
                    "" if edge.alpha is None else f"{edge.alpha:.3f}",
                ],
            )
            for edge in fused.edges
        ],
    )


def _words(fused: Fused) -> str:
    alphas = fused.alphas
    sure = f" {fused.certain()} of {len(alphas)} α are within {CERTAIN} of 0 or 1." if alphas else ""
    return (
        "A network per task, from the image (top) to the heads; an edge leads from a layer's features (dot) to the "
        "fusion unit behind another network's layer (tick), in the colour of the task it comes from. "
        f"{len(fused.kept)} of {len(fused.edges)} candidate edges are kept.{sure}"
    )


# -- where things are --------------------------------------------------------------------------------------------------


def _stages(fused: Fused) -> list[_Stage]:
    """Stages in the order in which the networks run through them; one for all if networks disagree about the order."""
    runs = {
        task: [(stride, tuple(part)) for stride, part in itertools.groupby(layers, key=lambda layer: layer.stride)]
        for task, layers in fused.layers.items()
    }
    strides = sorted({stride for parts in runs.values() for stride, _ in parts})
    if all([stride for stride, _ in parts] == sorted({stride for stride, _ in parts}) for parts in runs.values()):
        found = {task: dict(parts) for task, parts in runs.items()}
        return [_Stage(stride, {task: found[task].get(stride, ()) for task in runs}) for stride in strides]
    if len({tuple(stride for stride, _ in parts) for parts in runs.values()}) == 1:
        count = len(next(iter(runs.values())))
        return [
            _Stage(next(iter(runs.values()))[i][0], {task: parts[i][1] for task, parts in runs.items()})
            for i in range(count)
        ]
    return [_Stage(0, fused.layers)]


def _pages(stages: Sequence[_Stage], edges: Sequence[FusedEdge]) -> list[list[_Stage]]:
    """The stages of each panel: long networks are broken between two stages that no edge joins."""
    stage_of = {
        (task, layer.name): i
        for i, stage in enumerate(stages)
        for task, layers in stage.layers.items()
        for layer in layers
    }
    spans = [
        sorted((stage_of[edge.source, edge.source_layer], stage_of[edge.target, edge.target_layer])) for edge in edges
    ]
    pages: list[list[_Stage]] = [[]]
    for i, stage in enumerate(stages):
        rows = sum(one.rows for one in pages[-1])
        if pages[-1] and rows + stage.rows > _MOST_ROWS and not any(a < i <= b for a, b in spans):
            pages.append([])
        pages[-1].append(stage)
    return pages


def _row_height(stages: Sequence[_Stage]) -> float:
    rows = sum(stage.rows for stage in stages)
    return 36.0 if rows <= 14 else 30.0 if rows <= _MOST_ROWS else 24.0


def _panel(stages: Sequence[_Stage], fused: Fused, tasks: Sequence[str], number: str) -> Panel:
    room = (PANEL - _LEFT - 10) / len(tasks)
    xs = {task: _LEFT + room * (i + 0.5) for i, task in enumerate(tasks)}
    row = _row_height(stages)
    unit = 0.42 * row  # a unit is so far behind its layer
    top = head_height(tasks)
    parts = heads([(task, i) for i, task in enumerate(tasks)], list(xs.values()), top)
    layers_of = list(dict.fromkeys(layer.name for network in fused.networks for layer in network.layers))
    shorter = dict(zip(layers_of, bare_names(layers_of), strict=True))
    places: dict[tuple[str, str], _Place] = {}
    names: list[str] = []
    y = top
    for i, stage in enumerate(stages):
        height = _BAND + row * stage.rows
        if i % 2:
            parts.append(box(0, y, PANEL, height, "band"))
        if stage.stride:
            names.append(label(0, y + 12, f"stride {stage.stride}", "faint"))
        for task, layers in stage.layers.items():
            step = row * stage.rows / max(1, len(layers))  # a network with fewer layers is spread over the band
            for j, layer in enumerate(layers):
                places[task, layer.name] = (xs[task], y + _BAND + step * (j + 0.5) - unit / 2)
        names += _names(stage, shorter, places)
        y += height
    for i, task in enumerate(tasks):
        parts.append(line(xs[task], top, xs[task], y, f"{task_class(i)} way"))
    shown = [edge for edge in fused.edges if (edge.target, edge.target_layer) in places]
    for edge in sorted(shown, key=lambda edge: edge.kept):  # what was found lies on what was not
        parts.append(_edge(edge, tasks, places, unit))
    targets = {(edge.target, edge.target_layer) for edge in shown}
    for i, task in enumerate(tasks):
        for stage in stages:
            for layer in stage.layers[task]:
                parts.append(_layer(task, i, layer, places[task, layer.name], unit, (task, layer.name) in targets))
    kept = sum(edge.kept for edge in shown)
    text = (
        f"networks of {len(tasks)} tasks, part {number}: {kept} of {len(shown)} candidate edges between them are kept"
    )
    return Panel(PANEL, y + 6, "".join([*parts, *names]), text)


def _names(stage: _Stage, shorter: Mapping[str, str], places: Mapping[tuple[str, str], _Place]) -> list[str]:
    """Names of the stage's layers, if all networks have the same ones."""
    first, layers = next(iter(stage.layers.items()))
    if any([layer.name for layer in part] != [layer.name for layer in layers] for part in stage.layers.values()):
        return []
    return [
        label(0, places[first, layer.name][1] + 3.5, cut(shorter[layer.name], _NAME_LETTERS), "mono")
        for layer in layers
    ]


# -- what is drawn -----------------------------------------------------------------------------------------------------


def _layer(task: str, colour: int, layer: FusedLayer, at: _Place, unit: float, fused: bool) -> str:
    x, y = at
    shapes = [dot(x, y, 4.6, f"{task_class(colour)} halo")]
    if fused:
        shapes.insert(0, box(x - 7, y + unit - 1.6, 14, 3.2, task_class(colour), radius=1.6))
    size = f", {layer.channels} channels" if layer.channels else ""
    return group(shapes, f"{task}: {layer.name}{f', stride {layer.stride}' if layer.stride else ''}{size}")


def _edge(edge: FusedEdge, tasks: Sequence[str], places: Mapping[tuple[str, str], _Place], unit: float) -> str:
    x1, y1 = places[edge.source, edge.source_layer]
    x2, y2 = places[edge.target, edge.target_layer]
    y2 += unit
    right = 1 if x2 > x1 else -1
    end = (x2 - 8 * right, y2)  # at the near end of the unit's tick
    angle = math.atan2(end[1] - y1, end[0] - x1)
    colour = task_class(tasks.index(edge.source))
    alpha = "" if edge.alpha is None else f", α {edge.alpha:.3f}"
    state = "kept" if edge.kept else "cut"
    tip = f"{edge.source} {edge.source_layer} → {edge.target} {edge.target_layer}: {state}{alpha}"
    if not edge.kept:
        return group([line(x1, y1, *end, "axis dash")], tip)
    reach = (end[0] - 5 * math.cos(angle), end[1] - 5 * math.sin(angle))
    return group([line(x1, y1, *reach, f"{colour} way curve"), _head(end, angle, colour)], tip)


def _head(end: _Place, angle: float, kind: str) -> str:
    """An arrow's head at `end`."""
    wings = [(end[0] - 8 * math.cos(angle + turn), end[1] - 8 * math.sin(angle + turn)) for turn in (-0.45, 0.45)]
    return polygon([end, *wings], kind)


def _histogram(fused: Fused) -> Panel:
    """How many α lie in each of 25 equal parts of 0 to 1."""
    alphas = fused.alphas
    counts = [0] * _BINS
    for alpha in alphas:
        counts[min(_BINS - 1, int(alpha * _BINS))] += 1
    left, top, height = 26.0, 26.0, 90.0
    width = (PANEL - left - 6) / _BINS
    most = max(counts)
    parts = [label(0, 12, "α of the candidate edges", "bold")]
    for i, count in enumerate(counts):
        x, size = left + i * width, height * count / most
        bar = box(x + 0.5, top + height - size, width - 1, size, "found", radius=1)
        parts.append(group([bar], f"{i / _BINS:.2f} to {(i + 1) / _BINS:.2f}: {count} edges"))
    bottom = top + height
    parts += [
        line(left, bottom, PANEL - 6, bottom, "axis"),
        label(left - 6, top + 8, str(most), "faint", anchor="end"),
        label(left - 6, bottom, "0", "faint", anchor="end"),
    ]
    for value in (0.0, 0.5, 1.0):
        x = left + value * _BINS * width
        parts.append(label(x, bottom + 14, f"{value:g}", "faint", anchor="middle"))
    return Panel(PANEL, bottom + 20, "".join(parts), f"histogram of the α of {len(alphas)} edges")


def _legend(kept: bool, cuts: bool) -> tuple[Panel, ...]:
    node = [line(5, -10, 5, 10, "t0 way"), dot(5, -3, 4.6, "t0 halo"), box(-2, 5, 14, 3.2, "t0", radius=1.6)]
    items = [legend_item(node, 12, "layer and its fusion unit")]
    if kept:
        arrow = [line(0, -4, 22, 2.5, "t0 way curve"), _head((27, 4), 0.29, "t0")]
        items.append(legend_item(arrow, 28, "edge, in its source's colour"))
    if cuts:
        items.append(legend_item([line(0, -3, 26, 3, "axis dash")], 26, "candidate, cut"))
    return tuple(items)
