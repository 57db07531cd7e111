"""Training curves: one chart per figure, the stages of the search one behind the other, baselines on the same steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from onnxmtl.deploy.html.axes import Axis, axis, tick_text
from onnxmtl.deploy.html.figure import PANEL, Figure, Panel
from onnxmtl.deploy.html.theme import task_class
from onnxmtl.deploy.runfiles import Curve, Training
from onnxmtl.deploy.svg import SANS_EM, cut, group, label, line, polyline

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 40, 8, 38, 22, 168
_SMOOTHED = 30  # points and more get a mean that moves
# Names of figures in a history -> titles; the rest goes by its own name.
_TITLES = {
    "cost": "expected multiply-adds, of separate models'",
    "temperature": "temperature",
    "active": "sites that decide",
    "lr/weights": "learning rate of the weights",
    "lr/policy": "learning rate of the policy",
}
_ORDER = ("cost", "temperature", "regularizer/", "active", "", "lr/")


@dataclasses.dataclass(frozen=True)
class _Line:
    """One curve of a chart: its points with the steps of all stages counted on, its class, its words."""

    points: tuple[tuple[float, float], ...]
    kind: str
    title: str


def curves_figure(trainings: Sequence[Training], tasks: Sequence[str]) -> Figure | None:
    """All charts; None if nothing was recorded.

    Args:
        trainings: In the order in which they ran, baselines among them.
        tasks: Names of the tasks; their position gives their colour.
    """
    stages = [training for training in trainings if not training.baseline and training.curves]
    # Random architectures are many, and how they were trained is not the question.
    shown = [training for training in trainings if training.baseline and not training.phase.startswith("random")]
    baselines = [training for training in shown if training.curves]
    starts, total = _starts(stages)
    total = max([total, *(training.steps for training in baselines)])
    panels = []
    for task in tasks:
        lines = _losses(task, tasks.index(task), stages, starts, baselines)
        if lines:
            panels.append(_chart(f"loss of {task}", lines, stages, starts, total))
    names = {name for stage in stages for name in stage.curves if not name.startswith(("loss/", "policy/"))}
    for name in sorted(names, key=lambda n: (_rank(n), n)):
        lines = _whole(name, stages, starts)
        constant = len({y for one in lines for _, y in one.points}) == 1
        if not (constant and name.startswith(("lr/", "active"))):
            panels.append(_chart(_TITLES.get(name, name.replace("/", " ")), lines, stages, starts, total))
    if not panels:
        return None
    keys = ["solid: in weight steps (pale: every point, strong: their moving mean)"]
    if any(name.startswith("policy/") for stage in stages for name in stage.curves):
        keys.append("dotted: in policy steps, on the data held out for them")
    if baselines:
        keys.append("grey: baselines, on steps of their own (dashed: single-task, fine: hard sharing)")
    text = f"Over the steps of the whole run. Losses, {'; '.join(keys)}."
    return Figure("curves", "Training curves", text, tuple(panels))


def _rank(name: str) -> int:
    return next(
        (i for i, prefix in enumerate(_ORDER) if prefix and name.startswith(prefix)),
        _ORDER.index(""),
    )


def _starts(stages: Sequence[Training]) -> tuple[list[float], float]:
    starts, total = [], 0.0
    for stage in stages:
        starts.append(total)
        total += stage.steps
    return starts, total


def _losses(
    task: str, colour: int, stages: Sequence[Training], starts: Sequence[float], baselines: Sequence[Training]
) -> list[_Line]:
    lines = []
    for training in baselines:
        curve = training.curves.get(f"loss/{task}")
        if curve is not None:
            lines.append(
                _Line(_mean(_points(curve, 0)), "curve grey " + ("dash" if training.single else "held"), training.phase)
            )
    for stage, start in zip(stages, starts, strict=True):
        policy = stage.curves.get(f"policy/{task}")
        if policy is not None:
            kind = f"curve way {task_class(colour)} held"
            lines.append(_Line(_mean(_points(policy, start)), kind, f"{stage.phase}, policy steps"))
        curve = stage.curves.get(f"loss/{task}")
        if curve is not None:
            points = _points(curve, start)
            if len(points) >= _SMOOTHED:
                lines.append(_Line(points, f"way {task_class(colour)} curve pale", stage.phase))
            lines.append(_Line(_mean(points), f"way {task_class(colour)} curve", stage.phase))
    return lines if any("grey" not in one.kind for one in lines) else []


def _whole(name: str, stages: Sequence[Training], starts: Sequence[float]) -> list[_Line]:
    lines = []
    for stage, start in zip(stages, starts, strict=True):
        curve = stage.curves.get(name)
        if curve is not None:
            lines.append(_Line(_points(curve, start), "way t5 curve", stage.phase))
    return lines


def _points(curve: Curve, start: float) -> tuple[tuple[float, float], ...]:
    return tuple((start + step, value) for step, value in zip(curve.steps, curve.values, strict=True))


def _mean(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """The moving mean over a twelfth of the points, narrower at the ends; few points are left as they are."""
    if len(points) < _SMOOTHED:
        return points
    reach = max(1, len(points) // 24)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    found = []
    for i, (x, _) in enumerate(points):
        half = min(reach, i, len(points) - 1 - i)
        found.append((x, (sums[i + half + 1] - sums[i - half]) / (2 * half + 1)))
    return tuple(found)


def _chart(
    title: str, lines: Sequence[_Line], stages: Sequence[Training], starts: Sequence[float], total: float
) -> Panel:
    values = [y for one in lines for _, y in one.points]
    across = Axis(0, max(total, 1), _LEFT, PANEL - _RIGHT)
    bottom = _HEIGHT - _BOTTOM
    up = axis(values, bottom, _TOP, log=True)
    parts = [label(0, 11, cut(title, 48), "bold")]
    for tick in up.ticks():
        y = up.at(tick)
        parts += [line(_LEFT, y, PANEL - _RIGHT, y, "grid")]
        parts.append(label(_LEFT - 6, y + 3.5, tick_text(tick), "faint", anchor="end", size=10))
    parts += _stages(stages, starts, total, across, bottom)
    for tick in across.ticks():
        parts.append(label(across.at(tick), _HEIGHT - 7, tick_text(tick), "faint", anchor="middle", size=10))
    parts.append(line(_LEFT, bottom, PANEL - _RIGHT, bottom, "axis"))
    for one in lines:
        tip = f"{one.title}: {one.points[0][1]:.4g} to {one.points[-1][1]:.4g}"
        places = [(across.at(x), up.at(y)) for x, y in one.points]
        if len(places) == 1:
            places.append((places[0][0] + 1, places[0][1]))
        parts.append(group([polyline(places, one.kind)], tip))
    scale = ", logarithmic" if up.log else ""
    return Panel(PANEL, _HEIGHT, "".join(parts), f"chart: {title} over the steps{scale}")


def _stages(
    stages: Sequence[Training], starts: Sequence[float], total: float, across: Axis, bottom: float
) -> list[str]:
    """Where stages begin, and their names where there is room for them."""
    parts = []
    for i, (stage, start) in enumerate(zip(stages, starts, strict=True)):
        end = starts[i + 1] if i + 1 < len(stages) else start + stage.steps
        left, right = across.at(start), across.at(end)
        if i:
            parts.append(line(left, _TOP - 12, left, bottom, "axis"))
        if 10 * SANS_EM * len(stage.phase) <= right - left:
            text = label(left + 3, _TOP - 5, stage.phase, "faint", size=10)
            parts.append(group([text], f"{stage.phase}: {tick_text(end - start)} steps"))
    return parts
