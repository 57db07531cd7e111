"""Random trees: what :mod:`onnxmtl.policy.random` needs where sites are grouped (the space ``branch``).

There options are names of equal candidates, and what counts is who shares. Many architectures are the same tree: at
every site the m groups into which one group falls take different ones of n candidates, in n·(n−1)…(n−m+1) ways.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxmtl.analysis.table import SiteTable
from onnxmtl.policy.architecture import Architecture
from onnxmtl.policy.branching import layout_of

_Int = np.ndarray[Any, np.dtype[np.int64]]
_Float = np.ndarray[Any, np.dtype[np.float64]]
_Group = tuple[int, ...]


def is_tree_space(table: SiteTable) -> bool:
    """Whether all sites are grouped."""
    return bool(table.sites) and all(site.grouped for site in table.sites)


def log_ways(table: SiteTable, picks: _Int) -> _Float:
    """For each architecture the logarithm of how many architectures are the same tree.

    Args:
        table: Of grouped sites.
        picks: Options [architectures, sites, tasks]; -1 where a task does not come by.
    """
    count, _, tasks = picks.shape
    together = np.ones((count, tasks, tasks), bool)
    found = np.zeros(count)
    for site in table.sites:
        row = picks[:, site.index]
        present = row[0] >= 0
        parents = together & present[:, None] & present
        together = parents & (row[:, :, None] == row[:, None, :])
        leads = present & ~np.tril(together, -1).any(2)  # the first task of its group
        children = (parents & leads[:, None, :]).sum(2)  # into how many groups the parent of a task falls
        first = present & ~np.tril(parents, -1).any(2)
        options = len(site.options)
        steps = np.concatenate([[0.0], np.cumsum(np.log(np.arange(options, 0, -1)))])
        found += (steps[np.minimum(children, options)] * first).sum(1)
    return found


def random_tree_like(table: SiteTable, architecture: Architecture, rng: np.random.Generator) -> Architecture:
    """A random tree with as many groups of tasks at every block; all such trees are equally likely.

    Built from the last block on: the groups of a block are merged to those before it. In how many ways n groups become
    m does not depend on their sizes, so each step may be drawn by itself. Tasks that end early count as if they went
    on with their group.

    Raises:
        ModelError: The architecture does not fit the table.
    """
    counts = [len(groups) for groups in layout_of(table, architecture).groups]
    trees: list[list[_Group]] = []
    groups: list[_Group] = [(task,) for task in range(len(table.tasks))]
    for number in reversed(counts):
        groups = [tuple(sorted(t for i in part for t in groups[i])) for part in _merged(len(groups), number, rng)]
        trees.append(groups)
    picks: dict[tuple[int, int], int] = {}
    before: list[_Group] = [tuple(range(len(table.tasks)))]
    for site, groups in zip(table.sites, reversed(trees), strict=True):
        for parent in before:
            parts = [group for group in groups if group[0] in parent]
            options = rng.permutation(len(site.options))[: len(parts)]
            picks.update({(site.index, t): int(o) for group, o in zip(parts, options, strict=True) for t in group})
        before = groups
    return Architecture.from_indices(table, picks)


def _merged(size: int, number: int, rng: np.random.Generator) -> list[list[int]]:
    """A random partition of 0 … size−1 into `number` parts, all equally likely (Stirling numbers of the second kind).

    The last element is alone in S(n−1, m−1) of the S(n, m) partitions, else it joins one of m parts.
    """
    if size == 0:
        return []
    alone, all_ways = _stirling(size - 1, number - 1), _stirling(size, number)
    if rng.random() * all_ways < alone:
        return [*_merged(size - 1, number - 1, rng), [size - 1]]
    parts = _merged(size - 1, number, rng)
    parts[int(rng.integers(number))].append(size - 1)
    return parts


def _stirling(size: int, number: int) -> int:
    """In how many ways `size` things make `number` parts."""
    row = [1] + [0] * max(number, 0)
    for _ in range(size):
        row = [0] + [row[m - 1] + m * row[m] for m in range(1, len(row))]
    return row[number] if number >= 0 else 0
