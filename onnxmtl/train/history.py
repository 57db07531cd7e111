"""What a training went through, as a few hundred points: part of every checkpoint, and of a phase's result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

POINTS = 400


@dataclasses.dataclass(frozen=True)
class Point:
    """Means over one window of steps.

    Attributes:
        step: How many steps were done at the end of the window.
        figures: Name -> mean over those steps of the window that had the figure.
    """

    step: int
    figures: Mapping[str, float]


class History:
    """Figures of a training of `steps` steps, at most :data:`POINTS` points, each the mean of its window.

    Names of figures: ``loss/TASK`` (weight steps), ``policy/TASK`` (the same loss in policy steps, on the data held out
    for them), ``regularizer/NAME`` (unweighted), ``temperature``, ``active`` (sites that decide), ``lr/weights``,
    ``lr/policy``, ``cost`` (expected multiply-adds as a share of separate models'), ``held-out/TASK`` (its primary
    metric, where a stage judges its policy) and whatever a weighting tells.

    Attributes:
        steps: Of the whole training.
        window: Steps per point; the last point may have fewer.
        points: So far.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.window = max(1, math.ceil(steps / POINTS))
        self.points: list[Point] = []
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, done: int, figures: Mapping[str, float]) -> None:
        """Note the figures of a step; `done` steps are over with it."""
        for name, value in figures.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)
        if done % self.window == 0 or done == self.steps:
            if self._sums:
                means = {name: total / count for name, (total, count) in self._sums.items()}
                self.points.append(Point(done, means))
            self._sums = {}

    def curve(self, name: str) -> list[tuple[int, float]]:
        """(steps done, value) of one figure, where it was noted."""
        return [(point.step, point.figures[name]) for point in self.points if name in point.figures]

    def to_json(self) -> dict[str, Any]:
        """As JSON values: ``{"steps", "window", "points": [{"step", "figures": {name: value}}]}``."""
        return {
            "steps": self.steps,
            "window": self.window,
            "points": [{"step": point.step, "figures": dict(point.figures)} for point in self.points],
        }

    def state(self) -> dict[str, Any]:
        """Everything, the unfinished window too, as JSON values."""
        return {**self.to_json(), "sums": {name: list(sums) for name, sums in self._sums.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> History:
        """Read what :meth:`to_json` or :meth:`state` gave."""
        history = cls(int(content["steps"]))
        history.points = [Point(int(point["step"]), dict(point["figures"])) for point in content["points"]]
        history._sums = {name: (float(total), int(count)) for name, (total, count) in content.get("sums", {}).items()}
        return history
