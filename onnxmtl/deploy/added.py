"""A task that was added to a finished model: where it branches off, what it costs, and that nothing else changed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from onnxmtl.cost.count import Costs
from onnxmtl.deploy.parity import Parity
from onnxmtl.deploy.report import amount, number
from onnxmtl.deploy.results import finite

ADDED_FILE = "added.json"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A place that was tried.

    Attributes:
        like: The task whose path it lies on.
        at: The place.
        multiply_adds: Of the whole model with a branch there, one image.
        parameters: Likewise.
        value: The new task's first metric on held-out training samples after the trial; nan where it has none.
        taken: Whether the branch was trained there.
    """

    like: str
    at: str
    multiply_adds: int
    parameters: int
    value: float
    taken: bool


@dataclasses.dataclass(frozen=True)
class AddedTask:
    """What was added.

    Attributes:
        task: Name of the new task.
        metric: Its first metric.
        at: The place it branches off.
        like: The task whose path it leaves there; the branch began with a copy of that task's layers.
        head_only: Whether it has a head and no layers of its own.
        run: The run it was added to.
        before, after: What the emitted model costs without and with it.
        trials: The places that were tried; empty if there was nothing to choose.
        parity: Per output that was there before: compared with the model as it was.
    """

    task: str
    metric: str
    at: str
    like: str
    head_only: bool
    run: str
    before: Costs
    after: Costs
    trials: tuple[Trial, ...]
    parity: tuple[Parity, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values; numbers that are not finite are null."""
        content: dict[str, Any] = finite(dataclasses.asdict(self))
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> AddedTask:
        """Read what :meth:`to_json` made."""
        rest = dict(content)
        trials = [{**row, "value": math.nan if row["value"] is None else row["value"]} for row in rest.pop("trials")]
        return cls(
            before=Costs(**rest.pop("before")),
            after=Costs(**rest.pop("after")),
            trials=tuple(Trial(**row) for row in trials),
            parity=tuple(Parity(**row) for row in rest.pop("parity")),
            **rest,
        )

    @property
    def ulps(self) -> int | None:
        """The largest difference of the old outputs with the runtime's optimizations on; None without floats."""
        return max((row.optimized_ulps for row in self.parity if row.optimized_ulps is not None), default=None)

    def where(self) -> str:
        """Where the branch begins, in words."""
        if self.head_only:
            return f"a head on what the head of {self.like} reads, {self.at}"
        return f"a branch of its own behind {self.at}, on the path of {self.like}"

    def sentences(self) -> list[str]:
        """What people should know, one line each."""
        before, after = self.before, self.after
        ratio = after.multiply_adds / before.multiply_adds if before.multiply_adds else math.nan
        ulps = self.ulps
        on = "" if ulps is None else f"; with them on the largest difference is {ulps} ulp"
        names = ", ".join(row.output for row in self.parity)
        return [
            f"{self.task} was added: {self.where()}; multiply-adds {amount(before.multiply_adds)} → "
            f"{amount(after.multiply_adds)} ({ratio:.3f}×), parameters {amount(before.parameters)} → "
            f"{amount(after.parameters)}",
            f"{names}: bit for bit as before with ONNX Runtime's optimizations off{on}",
        ]


def trial_rows(added: AddedTask) -> list[list[str]]:
    """The table of trials: a header and one row each; the header alone if there were none."""
    rows = [["branches off behind", "on the path of", "multiply-adds", "parameters", added.metric, ""]]
    for trial in added.trials:
        cells = [trial.at, trial.like, amount(trial.multiply_adds), amount(trial.parameters), number(trial.value)]
        rows.append([*cells, "taken" if trial.taken else ""])
    return rows


def parity_rows(parity: Sequence[Parity]) -> list[list[str]]:
    """The table of old outputs: a header and one row each."""
    rows = [["output", "optimizations off", "optimizations on: max |Δ|/max |y|", "ulp"]]
    for row in parity:
        same = "same bits" if row.identical else "differs"
        ulps = "" if row.optimized_ulps is None else str(row.optimized_ulps)
        rows.append([row.output, same, f"{row.optimized_error:.1e}", ulps])
    return rows
