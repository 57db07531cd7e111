"""Parts of blocks: what the same tasks need. A head that reads an early feature needs nothing behind it.

Of a block, a group of a layout has one copy of each part that at least one of its tasks needs; what no task of a group
needs is not in the emitted graph, and costs nothing. A task that needs nothing any more, from some block on, is
finished there: which group it is in then changes no graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from onnxmtl.policy.enumeration import Group, Groups

__all__ = ["Part", "finished", "left_out", "whole_blocks", "without_idle_splits"]


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a block.

    Attributes:
        block: Index of the block.
        tasks: Indices of the tasks that need it, ascending.
    """

    block: int
    tasks: Group

    def needing(self, groups: Sequence[Group]) -> Sequence[Group]:
        """Of each group of the block, the tasks that need the part: one entry per copy of it."""
        if len(self.tasks) == sum(map(len, groups)):
            return groups  # as usual, and quicker
        found = (tuple(task for task in group if task in self.tasks) for group in groups)
        return [group for group in found if group]


def whole_blocks(tasks: int, blocks: int) -> tuple[Part, ...]:
    """Every block as one part that all tasks need."""
    return tuple(Part(block, tuple(range(tasks))) for block in range(blocks))


def left_out(parts: Sequence[Part], task: int, blocks: int) -> list[int]:
    """The blocks that a task does without, all or some of them."""
    needed = {part.block for part in parts if task in part.tasks}
    return [b for b in range(blocks) if b not in needed or any(p.block == b and task not in p.tasks for p in parts)]


def finished(parts: Sequence[Part], tasks: int, blocks: int) -> tuple[frozenset[int], ...]:
    """Per block the tasks that need neither it nor any block behind it."""
    found, idle = [], set(range(tasks))
    for block in reversed(range(blocks)):
        idle -= {task for part in parts if part.block == block for task in part.tasks}
        found.append(frozenset(idle))
    return tuple(reversed(found))


def without_idle_splits(groups: Groups, parts: Sequence[Part]) -> Groups:
    """Of the layouts with the same graph, the one in which finished tasks split nothing: they stay in one group.

    Of the groups that their group splits into, that is the one with the first task which is not finished.
    """
    tasks = sum(map(len, groups[0]))
    now: list[Group] = [tuple(range(tasks))]
    found = []
    for block, idle in zip(groups, finished(parts, tasks, len(groups)), strict=True):
        split: list[Group] = []
        for group in now:
            going = set(group) - idle
            pieces = sorted(tuple(sorted(going & set(other))) for other in block if going & set(other))
            first, rest = (pieces[0], pieces[1:]) if pieces else ((), [])
            split += [tuple(sorted((*first, *(set(group) & idle)))), *rest]
        now = sorted(split)
        found.append(tuple(now))
    return tuple(found)
