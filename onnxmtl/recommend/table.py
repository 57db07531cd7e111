"""The table of two-task trainings: how well each task of a pair does for each branching point. Reads TreeMTL's CSV.

    branch,"(0, 1)-0","(0, 1)-1","(0, 2)-0",…
    0,0.0,0.0,0.0,…
    1,2.79,2.37,0.80,…

A row per branching point 0 … B (0: separate networks, B: all blocks shared); a column per pair and task: ``"(a, b)-0"``
is the relative performance in % of the pair's first task, ``-1`` of its second; a and b are numbers of tasks or their
names. An empty cell was not trained.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxmtl.errors import DataError
from onnxmtl.recommend.scores import Array
from onnxmtl.runs.atomic import atomic_write

_COLUMN = re.compile(r"\(\s*(.+?)\s*,\s*(.+?)\s*\)\s*-\s*([01])")
_ZERO = 1e-6  # percent; what rounding may leave of 0
_FORM = '"(0, 1)-0"'

__all__ = ["TwoTaskTable", "as_estimates", "read_csv", "write_csv"]


@dataclasses.dataclass(frozen=True, eq=False)
class TwoTaskTable:
    """Relative performance of tasks in two-task models.

    Attributes:
        tasks: Names; T of them.
        blocks: B.
        values: [T, T, B + 1]; values[t, u, b] is how much better (in %) task t does than its separate network when it
            is trained with u and they part at block b. nan: not trained. The diagonal is nan.

    Raises:
        DataError: Fewer than two tasks, names twice, another shape, or an infinite value.
    """

    tasks: tuple[str, ...]
    blocks: int
    values: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        count = len(self.tasks)
        if count < 2 or len(set(self.tasks)) < count:
            msg = (
                f"a two-task table needs two or more tasks with different names, not {', '.join(self.tasks) or 'none'}"
            )
            raise DataError(msg)
        if self.blocks < 1 or self.values.shape != (count, count, self.blocks + 1):
            msg = (
                f"the two-task table of {count} tasks and {self.blocks} blocks has the shape {list(self.values.shape)}"
            )
            raise DataError(msg)
        values = np.array(self.values, np.float64)
        values[np.arange(count), np.arange(count)] = np.nan
        if np.isinf(values).any():
            msg = "the two-task table has an infinite value"
            raise DataError(msg)
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    @classmethod
    def untrained(cls, tasks: Sequence[str], blocks: int) -> TwoTaskTable:
        """Nothing trained, except that separate networks (b = 0) are 0 by definition."""
        values = np.full((len(tasks), len(tasks), blocks + 1), np.nan)
        values[:, :, 0] = 0
        return cls(tuple(tasks), blocks, values)

    @property
    def missing(self) -> tuple[tuple[int, int, int], ...]:
        """(t, u, b), t < u, of what is not trained."""
        absent = np.isnan(self.values) | np.isnan(self.values.transpose(1, 0, 2))
        pairs = itertools.combinations(range(len(self.tasks)), 2)
        return tuple((t, u, b) for t, u in pairs for b in range(self.blocks + 1) if absent[t, u, b])

    def require_complete(self) -> None:
        """Raises DataError, naming the first two-task model that is missing."""
        if self.missing:
            t, u, b = self.missing[0]
            msg = (
                f"the two-task table has no value for {self.tasks[t]!r} with {self.tasks[u]!r} at branching point {b} "
                f"({len(self.missing)} of {math.comb(len(self.tasks), 2) * (self.blocks + 1)} are missing); train them"
            )
            raise DataError(msg)

    def require_every_pair(self) -> None:
        """Raises DataError, naming the first task of which nothing is known with another one, besides b = 0."""
        known = np.isfinite(self.values[:, :, 1:]).sum(axis=2) > 0
        for t, u in itertools.permutations(range(len(self.tasks)), 2):
            if not known[t, u]:
                msg = (
                    f"the two-task table has no value for {self.tasks[t]!r} trained with {self.tasks[u]!r}: every pair "
                    "needs one for both of its tasks, at branching point 1 or later"
                )
                raise DataError(msg)

    def require_relative(self) -> None:
        """Raises DataError where separate networks are not at 0 %: then the values are no relative performance."""
        for t, u in itertools.permutations(range(len(self.tasks)), 2):
            value = float(self.values[t, u, 0])
            if abs(value) > _ZERO:
                msg = (
                    f"the two-task table has {value:g} for {self.tasks[t]!r} with {self.tasks[u]!r} at branching point "
                    "0, which are separate networks: give performance relative to theirs in percent, so 0 there"
                )
                raise DataError(msg)

    def with_pair(self, t: int, u: int, b: int, of_t: float, of_u: float) -> TwoTaskTable:
        """The same table with one more training."""
        values = self.values.copy()
        values[t, u, b], values[u, t, b] = of_t, of_u
        return dataclasses.replace(self, values=values)

    def for_tasks(self, tasks: Sequence[str]) -> TwoTaskTable:
        """The same table with these of its tasks, in this order.

        Raises:
            DataError: One of them is not in the table.
        """
        unknown = [name for name in tasks if name not in self.tasks]
        if unknown:
            msg = f"the two-task table has no task {unknown[0]!r}; it has {', '.join(self.tasks)}"
            raise DataError(msg)
        order = [self.tasks.index(name) for name in tasks]
        return TwoTaskTable(tuple(tasks), self.blocks, self.values[np.ix_(order, order)])


def read_csv(source: str | Path, tasks: Sequence[str] | None = None) -> TwoTaskTable:
    """Read a table in TreeMTL's format.

    Args:
        source: The file.
        tasks: Names that task numbers in the header stand for; None: the header tells the tasks (names in the order in
            which they appear, numbers in their order).

    Raises:
        DataError: The file cannot be read, or something in it is wrong; names the file and the place.
    """
    try:
        reader = csv.reader(
            io.StringIO(Path(source).read_text(encoding="utf-8-sig")), skipinitialspace=True, strict=True
        )
        lines, rows = [], []
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append(reader.line_num)
                rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"cannot read the two-task table {source}: {error}"
        raise DataError(msg) from error
    if len(rows) < 3:
        msg = f"{source}: a two-task table needs a header and the rows of branching points 0 and 1 at least"
        raise DataError(msg)
    for mark in (";", "\t"):
        if any(mark in cell for cell in rows[0]):
            msg = f"{source}: the header has {mark!r} in it; save the table with commas between its cells"
            raise DataError(msg)
    columns = [_column(source, cell) for cell in rows[0][1:]]
    names = tuple(tasks) if tasks is not None else _names(columns)
    blocks = len(rows) - 2
    values = np.full((len(names), len(names), blocks + 1), np.nan)
    places = [_place(source, names, *column) for column in columns]
    for place in places:
        if places.count(place) > 1:
            msg = f"{source}: the performance of {names[place[0]]!r} with {names[place[1]]!r} has two columns"
            raise DataError(msg)
    for number, (at, row) in enumerate(zip(lines[1:], rows[1:], strict=True)):
        if row[0].strip() not in (str(number), f"{number}.0"):
            msg = f"{source}: row {at} is of branching point {row[0].strip()!r}; rows go 0, 1, 2 …"
            raise DataError(msg)
        if len(row) != len(rows[0]):
            msg = f"{source}: row {at} has {len(row)} cells, the header has {len(rows[0])}"
            raise DataError(msg)
        for cell, title, (t, u) in zip(row[1:], rows[0][1:], places, strict=True):
            values[t, u, number] = _value(source, cell, at, title)
    return TwoTaskTable(names, blocks, values)


def write_csv(table: TwoTaskTable, path: str | Path, *, names: bool = True) -> None:
    """Write it in the same format, with names of tasks or with numbers; what is not trained stays empty."""
    pairs = list(itertools.combinations(range(len(table.tasks)), 2))
    label = table.tasks if names else tuple(map(str, range(len(table.tasks))))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["branch", *(f"({label[t]}, {label[u]})-{i}" for t, u in pairs for i in (0, 1))])
    for b in range(table.blocks + 1):
        cells = [float(table.values[x, y, b]) for t, u in pairs for x, y in ((t, u), (u, t))]
        writer.writerow([b, *("" if math.isnan(cell) else repr(cell) for cell in cells)])
    atomic_write(Path(path), out.getvalue().encode())


def _column(source: str | Path, cell: str) -> tuple[str, str, int]:
    match = _COLUMN.fullmatch(cell.strip())
    if match is None:
        msg = f"{source}: the column {cell!r} has to look like {_FORM}, quoted: a pair, and which of its tasks is meant"
        raise DataError(msg)
    return match[1], match[2], int(match[3])


def _names(columns: Sequence[tuple[str, str, int]]) -> tuple[str, ...]:
    seen = list(dict.fromkeys(name for a, b, _ in columns for name in (a, b)))
    return tuple(sorted(seen, key=int)) if all(name.isdecimal() for name in seen) else tuple(seen)


def _place(source: str | Path, names: Sequence[str], a: str, b: str, which: int) -> tuple[int, int]:
    found = []
    for name in (a, b):
        if name in names:
            found.append(names.index(name))
        elif name.isdecimal() and int(name) < len(names):
            found.append(int(name))
        else:
            counted = " (numbers count from 0)" if name.isdecimal() else ""
            msg = f"{source}: the header names the task {name!r}; the tasks are {', '.join(names)}{counted}"
            raise DataError(msg)
    if found[0] == found[1]:
        msg = f"{source}: the header pairs the task {a!r} with itself"
        raise DataError(msg)
    return (found[0], found[1]) if which == 0 else (found[1], found[0])


def _value(source: str | Path, cell: str, row: int, title: str) -> float:
    if cell.strip().lower() in ("", "nan"):
        return math.nan
    try:
        value = math.inf if "_" in cell else float(cell)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        what = "leave it empty if it was not trained"
        if "%" in cell or "," in cell:
            what = "write 2.5 for 2.5 %"
        msg = f"{source}: row {row}, column {title!r}: {cell!r} is no number; {what}"
        raise DataError(msg)
    return value


def as_estimates(table: TwoTaskTable, points: np.ndarray[Any, Any]) -> tuple[float, ...]:
    """Per task the mean of its performance over the two-task models with a layout's branching points (TreeMTL §3.1).

    Args:
        table: Complete where the layout needs it; else a task's estimate is nan.
        points: [T, T] branching points of the layout, of :func:`onnxmtl.recommend.scores.branch_points`.
    """
    count = len(table.tasks)
    return tuple(
        math.fsum(float(table.values[t, u, points[t, u]]) for u in range(count) if u != t) / (count - 1)
        for t in range(count)
    )
