"""The performance table: all that questions about layouts are answered from, in one file of a run.

    performance.json    tasks, blocks, what tasks need of them and what that costs, two-task performance, similarities
    table.csv           the two-task performance alone, in TreeMTL's format

With it ``onnxmtl recommend RUN --budget …`` answers in a moment, without the model, the data or torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxmtl.deploy.results import finite
from onnxmtl.errors import RunError
from onnxmtl.policy.parts import Part
from onnxmtl.recommend.table import TwoTaskTable, write_csv
from onnxmtl.runs import read_json, write_json
from onnxmtl.workflows.recommending.costs import CostTable

PERFORMANCE_FILE, TABLE_FILE = "performance.json", "table.csv"
FORMAT = 2
_FORMATS = (1, FORMAT)  # 1: every task needs every block, whose costs are called "blocks"

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclasses.dataclass(frozen=True, eq=False)
class Performance:
    """What is known of a backbone and its tasks.

    Attributes:
        title: Backbone and data.
        tasks: Names.
        blocks: Names of the blocks.
        costs: Of blocks and heads.
        estimator: What the trainings were made for: ``two-task``, ``rsa`` or ``grouping``.
        table: Two-task performance; None without.
        similarity: [T, T, B] of single-task networks behind each block; None without.
        seeds: Of the trainings; () if the table was given.
        trainings: How many there were.
        tables: The two-task table of each seed.
    """

    title: str
    tasks: tuple[str, ...]
    blocks: tuple[str, ...]
    costs: CostTable
    estimator: str = "two-task"
    table: TwoTaskTable | None = None
    similarity: Array | None = None
    seeds: tuple[int, ...] = ()
    trainings: int = 0
    tables: tuple[TwoTaskTable, ...] = ()

    def write(self, folder: Path) -> None:
        """Write both files.

        Raises:
            RunError: The disk refuses.
        """
        content = {
            "format": FORMAT,
            "title": self.title,
            "tasks": self.tasks,
            "blocks": self.blocks,
            "costs": {
                "parts": [dataclasses.asdict(part) for part in self.costs.parts],
                "copies": self.costs.copies,
                "heads": self.costs.heads,
                "base": self.costs.base,
                "heads_known": self.costs.heads_known,
            },
            "estimator": self.estimator,
            "table": None if self.table is None else self.table.values.tolist(),
            "similarity": None if self.similarity is None else self.similarity.tolist(),
            "seeds": self.seeds,
            "trainings": self.trainings,
            "tables": [table.values.tolist() for table in self.tables],
        }
        write_json(folder / PERFORMANCE_FILE, finite(content))
        if self.table is not None:
            write_csv(self.table, folder / TABLE_FILE)

    @classmethod
    def read(cls, folder: Path) -> Performance:
        """Read what :meth:`write` wrote.

        Raises:
            RunError: There is none, or it is of another version.
        """
        file = folder / PERFORMANCE_FILE
        if not file.is_file():
            msg = f"{folder} has no {PERFORMANCE_FILE}: give the directory of a finished run of recommend, or a model"
            raise RunError(msg)
        content = read_json(file)
        try:
            if content["format"] not in _FORMATS:
                msg = f"format {content['format']}"
                raise ValueError(msg)
            tasks, blocks = tuple(map(str, content["tasks"])), tuple(map(str, content["blocks"]))

            def table(values: Any) -> TwoTaskTable:
                return TwoTaskTable(tasks, len(blocks), _array(values))

            costs = content["costs"]
            return cls(
                title=str(content["title"]),
                tasks=tasks,
                blocks=blocks,
                costs=CostTable(
                    tasks,
                    _numbers(costs["blocks" if content["format"] == 1 else "copies"]),
                    _numbers(costs["heads"]),
                    {name: float(value) for name, value in costs["base"].items()},
                    bool(costs["heads_known"]),
                    tuple(_part(part, len(tasks), len(blocks)) for part in costs.get("parts", ())),
                    len(blocks),
                ),
                estimator=str(content["estimator"]),
                table=None if content["table"] is None else table(content["table"]),
                similarity=None if content["similarity"] is None else _array(content["similarity"]),
                seeds=tuple(map(int, content["seeds"])),
                trainings=int(content["trainings"]),
                tables=tuple(map(table, content["tables"])),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            msg = f"{file} is not of this version of onnxmtl ({error}); run recommend again"
            raise RunError(msg) from error


def _array(values: Any) -> Array:
    """Nested lists as numbers; null is nan."""
    return np.array(values, dtype=np.float64)


def _part(content: Mapping[str, Any], tasks: int, blocks: int) -> Part:
    part = Part(int(content["block"]), tuple(map(int, content["tasks"])))
    if part.block not in range(blocks) or not set(part.tasks) <= set(range(tasks)):
        msg = f"part {dict(content)}"
        raise ValueError(msg)
    return part


def _numbers(content: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(math.nan if v is None else float(v) for v in values) for name, values in content.items()}
