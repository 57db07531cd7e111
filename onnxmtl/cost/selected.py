"""What an architecture costs, counted on the table of sites: whole numbers, without selecting the graph.

Equal to :func:`onnxmtl.cost.count.count` on the selected graph (before folding), under the precondition of
:mod:`onnxmtl.cost.expected`. Two tasks run one node together if they take the same option and, at every site above
it, the same one of the options that keep tasks equal there; this is transitive, so the executions of a node are its
classes of tasks, and a task adds one if no task before it is in its class. The copies of a weight at a grouped site
(:mod:`onnxmtl.ir.choice`) are counted alike.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxmtl.analysis.table import Agreement, SiteTable

if TYPE_CHECKING:
    from onnxmtl.policy.architecture import Architecture

Int64 = np.ndarray[Any, np.dtype[np.int64]]
_Bool = np.ndarray[Any, np.dtype[np.bool_]]
_Part = tuple["int | None", tuple[tuple[int, tuple[int, ...]], ...]]  # (number of the base, what is added)


@dataclasses.dataclass(frozen=True, eq=False)
class SelectedCosts:
    """Costs of several architectures, each an array [architectures] of whole numbers (batch 1).

    Attributes:
        parameters: Elements of all unique trainable weights.
        parameters_trunk: Without those that only heads use.
        multiply_adds: Executed by one run of all tasks.
        multiply_adds_trunk: Without the heads'.
        latency: What the table of measured times adds up to; 0 without one.
    """

    parameters: Int64
    parameters_trunk: Int64
    multiply_adds: Int64
    multiply_adds_trunk: Int64
    latency: Int64


class SelectedCost:
    """Counts architectures of one table, many at once; prepared once.

    Args:
        table: The sites.
        times: The same sites with measured times in the place of multiply-adds, if they are to be added up as well.
    """

    def __init__(self, table: SiteTable, times: SiteTable | None = None) -> None:
        self.table = table
        # All options of all sites side by side are the columns; one last column is always taken (no site).
        starts = [0, *itertools.accumulate(len(site.options) for site in table.sites)]
        self._sites = np.array([s for s, site in enumerate(table.sites) for _ in site.options], np.int64)
        self._options = np.array([o for site in table.sites for o in range(len(site.options))], np.int64)
        relations = Relations()
        copied: dict[tuple[int, tuple[int, ...], int, bool], Int64] = {}  # -> (multiply-adds, parameters, time)
        weights_of_groups = [item for weight in table.weight_items if (item := weight.per_group) is not None]
        timed = () if times is None else times.cost_items
        for which, items in enumerate((table.cost_items, weights_of_groups, timed)):
            for item in items:
                outside = item.site is None or item.option is None
                column = starts[-1] if outside else starts[item.site or 0] + (item.option or 0)
                number = relations.number(item.agree) if len(item.tasks) > 1 else 0
                key = (column, item.tasks, number, item.head)
                copied.setdefault(key, np.zeros(3, np.int64))[which] += item.cost
        self._parts = relations.parts
        self._columns = np.array([key[0] for key in copied], np.int64)
        self._passing = np.array([[t in key[1] for t in range(len(table.tasks))] for key in copied], bool)
        self._passing = self._passing.reshape(-1, len(table.tasks))
        self._numbers = np.array([key[2] for key in copied], np.int64)
        heads = [key[3] for key in copied]
        costs = np.array(list(copied.values()), np.int64).reshape(-1, 3)
        self._costs = np.concatenate([_with_and_without_heads(column.tolist(), heads) for column in costs.T], 1)
        weights: dict[tuple[tuple[int, ...], bool], int] = {}
        for weight in table.weight_items:
            if weight.per_group is not None:
                continue
            always = (starts[-1] * len(table.tasks),)
            uses = tuple((starts[site] + option) * len(table.tasks) + task for task, site, option in weight.uses)
            place = (always if weight.always else uses, weight.head)
            weights[place] = weights.get(place, 0) + weight.size
        widest = max((len(uses) for uses, _ in weights), default=1)
        rows = [uses + uses[:1] * (widest - len(uses)) for uses, _ in weights]  # filled up with what is there anyway
        self._uses = np.array(rows, np.int64).reshape(-1, widest)
        self._sizes = _with_and_without_heads(list(weights.values()), [head for _, head in weights])

    def __call__(self, picks: Int64) -> SelectedCosts:
        """Count.

        Args:
            picks: Option indices [architectures, sites, tasks]; -1 where a task does not pass through a site.
        """
        count, _, tasks = picks.shape
        taken = picks[:, self._sites, :] == self._options[:, None]
        taken = np.concatenate([taken, np.ones((count, 1, tasks), bool)], 1)  # [architectures, columns, tasks]
        stored = taken.reshape(count, -1)[:, self._uses].any(-1) @ self._sizes
        equal = np.stack(self._relations(picks))
        takes = taken[:, self._columns] & self._passing
        copies = np.zeros((count, 6), np.int64)  # of executions, weights and times, each with and without heads
        for t in range(tasks):
            new = takes[:, :, t]
            for s in range(t):  # an item is a task's own execution if no task before it runs the same one
                new = new & ~(takes[:, :, s] & equal[self._numbers, :, s, t].T)
            copies += new @ self._costs
        stored = stored + copies[:, 2:4]
        return SelectedCosts(stored[:, 0], stored[:, 1], copies[:, 0], copies[:, 1], copies[:, 4])

    def _relations(self, picks: Int64) -> list[_Bool]:
        """Per part of what lies above, which tasks hold the same value: [architectures, tasks, tasks]."""
        tasks = len(self.table.tasks)
        found: list[_Bool] = []
        for base, added in self._parts:
            equal = np.ones((len(picks), tasks, tasks), bool) if base is None else found[base]
            for site, options in added:
                row = picks[:, site]
                keeps = np.zeros(len(self.table.sites[site].options) + 1, bool)  # the last: no pick (-1)
                keeps[list(options)] = True
                equal = equal & (row[:, :, None] == row[:, None, :]) & keeps[row][:, :, None]
            found.append(equal)
        return found


def _with_and_without_heads(numbers: list[int], heads: list[bool]) -> Int64:
    """[numbers, 2]: each as it is, and 0 if it belongs to a head."""
    return np.array([(number, 0 if head else number) for number, head in zip(numbers, heads, strict=True)],
                    np.int64).reshape(-1, 2)  # fmt: skip


class Relations:
    """The distinct sets of (site, options that keep tasks equal) above nodes, each as an extension of another."""

    def __init__(self) -> None:
        self.parts: list[_Part] = [(None, ())]  # the first is empty: nothing above
        self._number: dict[_Part, int] = {self.parts[0]: 0}
        self._read: dict[int, int] = {}  # id of an Agreement -> number; the table keeps the objects alive

    def number(self, agree: Mapping[int, tuple[int, ...]]) -> int:
        """Position in `parts` of what `agree` says."""
        if not isinstance(agree, Agreement):
            return self._extend(0, agree)
        missing = []
        number = 0
        for piece in agree.parts():
            if id(piece) in self._read:
                number = self._read[id(piece)]
                break
            missing.append(piece)
        for piece in reversed(missing):
            number = self._read[id(piece)] = self._extend(number, piece.added)
        return number

    def _extend(self, base: int, added: Mapping[int, tuple[int, ...]]) -> int:
        if not added:
            return base
        part: _Part = (base, tuple((site, tuple(sorted(set(options)))) for site, options in sorted(added.items())))
        if part not in self._number:
            self._number[part] = len(self.parts)
            self.parts.append(part)
        return self._number[part]


def picks_of(table: SiteTable, architecture: Architecture) -> Int64:
    """One architecture as option indices [sites, tasks]; -1 where a task does not pass through a site.

    Raises:
        ModelError: It does not fit the table.
    """
    picks = np.full((len(table.sites), len(table.tasks)), -1, np.int64)
    for (site, task), option in architecture.indices(table).items():
        picks[site, task] = option
    return picks


def count_architecture(table: SiteTable, architecture: Architecture, *, trunk: bool = False) -> tuple[int, int]:
    """(Parameters, multiply-adds) of the model that `architecture` selects; `trunk` leaves the heads out.

    Raises:
        ModelError: The architecture does not fit the table.
    """
    costs = SelectedCost(table)(picks_of(table, architecture)[None])
    if trunk:
        return int(costs.parameters_trunk[0]), int(costs.multiply_adds_trunk[0])
    return int(costs.parameters[0]), int(costs.multiply_adds[0])
