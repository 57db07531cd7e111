"""What a supermodel is expected to cost once every task has drawn its options: exact and differentiable.

Written once for numpy arrays and torch tensors. With p(t,s,o) the probability that task t takes option o at site s,
tasks and sites independent, a class v of nodes (:class:`~onnxmtl.analysis.table.CostItem`: option o of site g, tasks
T_v) leaves on average

    E[copies of v] = Σ_{∅≠S⊆T_v} (−1)^{|S|+1} · Π_{t∈S} p(t,g,o) · agree(v,S)
    agree(v,S)     = 1 if |S| = 1, else Π_{u upstream of v} Σ_{o'∈same(u,v)} Π_{t∈S} p(t,u,o')

nodes in the selected model, because Σ_{∅≠S⊆G} (−1)^{|S|+1} = 1 for each group G of tasks that compute v together. A
single task needs its copy whatever happens above it: that term has no upstream factor (with one, all that follows an
own copy would look free). A weight is needed unless every task, independently, draws no use of it; of a weight at a
grouped site (:mod:`onnxmtl.ir.choice`) there are as many copies as of a node there.

Work and memory are 2^T times the length of the table; what is above an item is multiplied up in log₂(depth) steps.

Precondition: an option reads its site's input (no site inside another site's option). Parameter-free computing
options of two *different* sites on one tensor are counted twice, although selection merges them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxmtl.analysis.table import Agreement, CostItem, SiteTable
from onnxmtl.cost.arrays import Array, array_namespace, constant, product, to_float64
from onnxmtl.errors import ModelError

MAX_TASKS = 12  # 2^12 subsets of tasks
_PART = 8  # sums in one part of what lies above, a power of two

_Numpy = np.ndarray[Any, np.dtype[Any]]


class ExpectedCost:
    """Expected multiply-adds and parameters of one table, prepared once and evaluated many times.

    `probabilities` is everywhere a list with one array [tasks, options of the site] per site, in the table's order;
    rows of tasks that do not pass through a site are ignored. Results are arrays without dimensions, in float64, of
    the library of the probabilities.

    Raises:
        ModelError: More than :data:`MAX_TASKS` tasks: the sum over their subsets would be too long.
    """

    def __init__(self, table: SiteTable) -> None:
        if len(table.tasks) > MAX_TASKS:
            msg = (
                f"the expected cost sums over all subsets of tasks and takes up to {MAX_TASKS} of them, "
                f"the model has {len(table.tasks)}; train without the cost regularizer or split the tasks"
            )
            raise ModelError(msg)
        self.table = table
        self._columns = _Columns(table)
        self._work = _Copies(self._columns, table.cost_items)
        grouped = [item for weight in table.weight_items if (item := weight.per_group) is not None]
        self._grouped_weights = _Copies(self._columns, grouped) if grouped else None
        self._prepare_weights()

    def multiply_adds(self, probabilities: Sequence[Array], like: Array | None = None) -> Array:
        """Expected multiply-adds of the selected model (batch 1), equal computations of several tasks done once.

        Args:
            probabilities: See the class.
            like: Any array of the wanted library; needed only for a table without sites.
        """
        return self._work.total(self._join(probabilities, like))

    def multiply_adds_unshared(self, probabilities: Sequence[Array], like: Array | None = None) -> Array:
        """Expected multiply-adds (batch 1) if every task computed alone: the sum over the tasks."""
        return self._work.singles(self._join(probabilities, like))

    def parameters(self, probabilities: Sequence[Array], like: Array | None = None) -> Array:
        """Expected number of elements of all trainable weights of the selected model, heads included."""
        p = self._join(probabilities, like)
        total = p.sum() * 0.0 + self._fixed_parameters
        if self._grouped_weights is not None:
            total = total + self._grouped_weights.total(p)
        if not len(self._sizes):
            return total
        # The probability that a task uses a weight at a site.
        used = _masked_sum(p.reshape(1, -1), self._groups, p)[0]
        unused = product((1.0 - used)[constant(self._weight_groups, p)])
        return total + ((1.0 - unused) * constant(self._sizes, p)).sum()

    # -- preparation (numpy, once) ---------------------------------------------------------------------------------

    def _prepare_weights(self) -> None:
        """For every weight that is not always needed: its size, and per (task, site) the options that use it."""
        groups: dict[tuple[int, ...], int] = {}
        weights: dict[tuple[int, ...], float] = {}  # weights that are used together are one
        self._fixed_parameters = float(sum(w.size for w in self.table.weight_items if w.always))
        for weight in self.table.weight_items:
            if weight.always or weight.agree is not None:
                continue
            drawn: dict[tuple[int, int], set[int]] = {}
            for task, site, option in weight.uses:
                place = task * (self._columns.one + 1) + self._columns.of(site, option)
                drawn.setdefault((task, site), set()).add(place)
            places_of = [tuple(sorted(places)) for places in drawn.values()]
            key = tuple(sorted(groups.setdefault(places, len(groups)) for places in places_of))
            weights[key] = weights.get(key, 0.0) + float(weight.size)
        self._sizes = np.array(list(weights.values()))
        # The last group is empty: nothing uses the weight there. It fills weights up to a common length.
        self._groups = _masked([*groups, []])
        self._weight_groups = _padded(list(weights), len(groups))

    # -- evaluation ------------------------------------------------------------------------------------------------

    def _join(self, probabilities: Sequence[Array], like: Array | None) -> Array:
        """All probabilities as one array [tasks, columns], with the column of ones."""
        tasks = len(self.table.tasks)
        expected = [(tasks, len(site.options)) for site in self.table.sites]
        if [tuple(p.shape) for p in probabilities] != expected:
            msg = f"probabilities have shapes {[tuple(p.shape) for p in probabilities]}, the table {expected}"
            raise ValueError(msg)
        anchor = probabilities[0] if len(probabilities) else (np.zeros(0) if like is None else like)
        one = constant(np.ones((tasks, 1)), anchor)
        return array_namespace(anchor).concatenate([*(to_float64(p) for p in probabilities), one], 1)


class _Columns:
    """All options of all sites side by side; one last column is the constant 1 (no site)."""

    def __init__(self, table: SiteTable) -> None:
        self.tasks = len(table.tasks)
        self._starts = [0, *itertools.accumulate(len(site.options) for site in table.sites)]
        self.one = self._starts[-1]

    def of(self, site: int | None, option: int | None) -> int:
        """The column of an option."""
        return self.one if site is None or option is None else self._starts[site] + option


class _Copies:
    """Σ cost · E[copies] over items, with probabilities as one array [tasks, columns]."""

    def __init__(self, columns: _Columns, items: Sequence[CostItem]) -> None:
        self._single = np.zeros((columns.tasks, columns.one + 1))  # terms |S| = 1
        above = _Above()
        joint: dict[tuple[int, int, tuple[int, ...]], float] = {}  # items that differ in their cost alone are one
        for item in items:
            column = columns.of(item.site, item.option)
            self._single[list(item.tasks), column] += item.cost
            part = above.part(item.agree) if len(item.tasks) > 1 else None
            if part is not None:  # else it cannot be computed for two tasks at once
                place = (column, part, item.tasks)
                joint[place] = joint.get(place, 0.0) + item.cost
        masks = np.arange(1 << columns.tasks)
        sizes = np.array([int(mask).bit_count() for mask in masks])
        self._rows = masks[sizes > 1]
        signs = np.where(sizes[self._rows] % 2 == 1, 1.0, -1.0)
        self._items = np.array([key[:2] for key in joint], dtype=np.int64).reshape(-1, 2).T
        self._joint = np.zeros((len(self._rows), len(joint)))
        for i, ((_, _, tasks), cost) in enumerate(joint.items()):
            allowed = sum(1 << t for t in tasks)
            self._joint[:, i] = np.where((self._rows & ~allowed) == 0, cost * signs, 0.0)
        # One more sum is the constant 1, to fill parts up to a common length.
        sums = [[columns.of(site, option) for option in options] for site, options in above.sums]
        self._agreeing = _masked([*sums, [columns.one]])
        self._parts = _padded(above.parts, len(above.sums))
        self._jumps = above.jumps()

    def total(self, p: Array) -> Array:
        """Equal computations of several tasks done once."""
        total = self.singles(p)
        if not self._items.shape[1]:
            return total
        subsets = _subset_products(p)[constant(self._rows, p)]
        sums = _masked_sum(subsets, self._agreeing, p)  # [subsets, (site, agreeing options)]
        above = product(sums[:, constant(self._parts, p)])  # [subsets, parts]
        for jump in self._jumps:  # every part times what lies 1, 2, 4, … parts above it
            above = above * above[:, constant(jump, p)]
        counts = subsets[:, constant(self._items[0], p)] * above[:, constant(self._items[1], p)]
        return total + (counts * constant(self._joint, p)).sum()

    def singles(self, p: Array) -> Array:
        """Every task for itself."""
        return (p * constant(self._single, p)).sum()


def _subset_products(p: Array) -> Array:
    """Π_{t∈S} p(t, column) for all subsets S of tasks, in the order of their bit masks: [2^tasks, columns]."""
    xp = array_namespace(p)
    subsets = xp.ones_like(p[:1])
    for t in range(p.shape[0]):
        subsets = xp.concatenate([subsets, subsets * p[t]], 0)
    return subsets


def expected_multiply_adds(table: SiteTable, probabilities: Sequence[Array]) -> Array:
    """:meth:`ExpectedCost.multiply_adds`, for a single evaluation."""
    return ExpectedCost(table).multiply_adds(probabilities)


def expected_parameters(table: SiteTable, probabilities: Sequence[Array]) -> Array:
    """:meth:`ExpectedCost.parameters`, for a single evaluation."""
    return ExpectedCost(table).parameters(probabilities)


class _Above:
    """What lies above the items, in parts: a part is a few sums to be multiplied, and the part it continues.

    The product along a chain of parts is that of everything above an item. Items deep in a network continue nearly
    the same chain, so all parts together are as long as the network. (Not multiplied along the network's edges: a
    join would count what lies above both its inputs twice.)
    """

    def __init__(self) -> None:
        self.sums: dict[tuple[int, tuple[int, ...]], int] = {}  # (site, options) -> number
        self.parts: list[tuple[int, ...]] = [()]  # numbers of sums; the first part is empty
        self._base: list[int] = [0]
        self._number: dict[tuple[int, tuple[int, ...]], int] = {}
        self._read: dict[int, int] = {}  # id of an Agreement -> part

    def part(self, agree: Mapping[int, tuple[int, ...]]) -> int | None:
        """The part whose chain is `agree`; None if some site has no options after which tasks are equal."""
        if not isinstance(agree, Agreement):
            return self._extend(0, agree) if all(agree.values()) else None
        if not agree.possible:
            return None
        missing = []
        part = 0
        for piece in agree.parts():
            if id(piece) in self._read:
                part = self._read[id(piece)]
                break
            missing.append(piece)
        for piece in reversed(missing):
            part = self._read[id(piece)] = self._extend(part, piece.added)
        return part

    def _extend(self, base: int, agree: Mapping[int, tuple[int, ...]]) -> int:
        pairs = [(site, tuple(sorted(set(options)))) for site, options in agree.items()]
        numbers = sorted(self.sums.setdefault(pair, len(self.sums)) for pair in pairs)
        for start in range(0, len(numbers), _PART):
            key = (base, tuple(numbers[start : start + _PART]))
            if key not in self._number:
                self._number[key] = len(self.parts)
                self.parts.append(key[1])
                self._base.append(base)
            base = self._number[key]
        return base

    def jumps(self) -> list[_Numpy]:
        """For every part the one 1, 2, 4, … places up its chain, as long as there is one for some part."""
        jump = np.array(self._base)
        found = []
        while jump.any():  # the first part, which is its own base, holds no factor
            found.append(jump)
            jump = jump[jump]
        return found


def _masked(rows: Sequence[Sequence[int]]) -> tuple[_Numpy, _Numpy]:
    """Rows of unequal length for :func:`_masked_sum`: indices, and 1 where there is one."""
    width = max(map(len, rows), default=0)
    columns, mask = np.zeros((width, len(rows)), np.int64), np.zeros((width, len(rows)))
    for i, row in enumerate(rows):
        columns[: len(row), i] = row
        mask[: len(row), i] = 1.0
    return columns, mask


def _masked_sum(values: Array, rows: tuple[_Numpy, _Numpy], like: Array) -> Array:
    """The sums of the columns of `values` that each of the rows names: [values' rows, rows]."""
    columns, mask = rows
    parts = [values[:, constant(c, like)] * constant(m, like) for c, m in zip(columns, mask, strict=True)]
    return sum(parts[1:], parts[0])


def _padded(rows: list[tuple[int, ...]], filler: int) -> _Numpy:
    """Index rows of unequal length as one array whose width is a power of two."""
    longest = max((len(row) for row in rows), default=1)
    width = 1 << max(longest - 1, 0).bit_length()
    padded = np.full((len(rows), width), filler, dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded
