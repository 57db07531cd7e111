"""How many layouts there are, and the number each has in TreeMTL's enumeration order, by counting.

TreeMTL (Zhang, Liu, Guan, AutoML 2022, §3.2) enumerates layouts by recursive cuts. From the layout in which all tasks
share everything, it tries, for every block from the last cut on, for every group of tasks in the order of a list, every
split into two parts, and goes on from each layout that is new. The released code, whose order the recorded results
need, removes the group that is split from the list and appends [the part without the group's first task, the part with
it]; splits come in binary order of the part with the first task, its earlier tasks weighing more.

What follows from that, and makes counting possible: the first way in which a layout is reached takes, at every block,
the groups as a queue. The first one that has to be split loses the final group of its first task, and what remains goes
to the end of the queue. So the layouts that are visited before a given one are, at each decision, those that split the
same group with a smaller part, or split a group that is left as it is although other cuts follow. Their number is a
product over groups of

    g(n, B): layouts of n tasks on B blocks; g(n, 0) = 1, g(n, B) = Σ_k C(n−1, k−1) g(k, B−1) g(n−k, B)

where k is the size of the first task's group at the first block. A number costs O(B·T²) big-integer steps; nothing is
enumerated.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Sequence

from onnxmtl.errors import ModelError

Group = tuple[int, ...]
Groups = tuple[tuple[Group, ...], ...]

__all__ = ["Group", "Groups", "count_layouts", "groups_of_number", "number_of_groups"]


def count_layouts(tasks: int, blocks: int) -> int:
    """How many layouts `tasks` tasks have on `blocks` blocks (exact): 51 for (3, 5), 7556 for (5, 5).

    Raises:
        ModelError: There is no task or no block.
    """
    if tasks < 1 or blocks < 1:
        msg = f"layouts have one task and one block at least, not {tasks} and {blocks}"
        raise ModelError(msg)
    for level in range(1, blocks):  # bottom up, so that the recursion stays shallow
        _count(tasks, level)
    return _count(tasks, blocks)


def number_of_groups(groups: Sequence[Sequence[Sequence[int]]]) -> int:
    """The place of a layout in TreeMTL's enumeration, from 0 (all shared).

    Args:
        groups: Per block a partition of the tasks 0, 1, …, each refining the one before.
    """
    wanted = [{task: group for group in map(_sorted, block) for task in group} for block in groups]
    everything = tuple(sorted(wanted[0]))
    count_layouts(len(everything), len(groups))
    ordered = [everything]
    cuts = len(groups[-1]) - 1  # that are still to be made
    number = 0
    for depth, target in enumerate(wanted):
        queue = _Queue(ordered, len(groups) - depth - 1)
        while queue.open and cuts:
            group = queue.open[0]
            first = target[group[0]]
            if first == group:
                number += queue.if_split()
                queue.keep()
            else:
                number += 1 + queue.if_split_before(_code(group, first))
                queue.split(first)
                cuts -= 1
        ordered = queue.order
    return number


def groups_of_number(tasks: int, blocks: int, number: int) -> Groups:
    """The layout with this place in TreeMTL's enumeration; groups ascending, ordered by their first task.

    Raises:
        ModelError: No layout has this number.
    """
    total = count_layouts(tasks, blocks)
    if not 0 <= number < total:
        msg = f"{tasks} tasks on {blocks} blocks have the layouts 0 to {total - 1}, so there is no layout {number}"
        raise ModelError(msg)
    ordered: list[Group] = [tuple(range(tasks))]
    found: list[tuple[Group, ...]] = []
    left = number  # how many layouts are visited from the current one to the wanted one
    for depth in range(blocks):
        queue = _Queue(ordered, blocks - depth - 1)
        while queue.open and left:
            splits = queue.if_split()
            if left > splits:
                left -= splits
                queue.keep()
            else:
                first, left = queue.find_split(left - 1)
                queue.split(first)
        ordered = queue.order
        found.append(tuple(sorted(ordered)))
    return tuple(found)


class _Queue:
    """The groups at one block while cuts are made there.

    Attributes:
        open: Groups that may still be split, in TreeMTL's order.
        order: All groups, in TreeMTL's order.
    """

    def __init__(self, ordered: Sequence[Group], behind: int) -> None:
        self.open = deque(ordered)
        self.order = list(ordered)
        self._behind = behind  # blocks behind this one
        self._closed = 1  # layouts of the final groups on the blocks behind

    def keep(self) -> None:
        """The next group stays as it is."""
        self._closed *= _count(len(self.open.popleft()), self._behind)

    def split(self, first: Group) -> None:
        """Take `first`, which is final, from the next group; the rest goes to the end."""
        group = self.open.popleft()
        rest = tuple(task for task in group if task not in first)
        self.open.append(rest)
        self.order.remove(group)
        self.order += [rest, first]
        self._closed *= _count(len(first), self._behind)

    def if_split(self) -> int:
        """How many layouts split the next group, all else so far being as it is."""
        size = len(self.open[0])
        return self._others() * (_count(size, self._behind + 1) - _count(size, self._behind))

    def if_split_before(self, code: int) -> int:
        """How many of them do so with a smaller part than that of this code."""
        size = len(self.open[0])
        ways, above = 0, 0
        for bit in reversed(range(size - 1)):
            if code >> bit & 1:
                ways += self._ways(size, above, bit)
                above += 1
        return self._others() * ways

    def find_split(self, index: int) -> tuple[Group, int]:
        """The part with the first task in the split that has the `index`-th of those layouts, and its place behind."""
        group, others = self.open[0], self._others()
        size, above = len(group), 0
        first = [group[0]]
        for bit in reversed(range(size - 1)):
            ways = others * self._ways(size, above, bit)
            if index >= ways:
                index -= ways
                above += 1
                first.append(group[size - 1 - bit])
        return tuple(first), index

    def _ways(self, size: int, above: int, free: int) -> int:
        """Layouts of a group of `size` whose first part has `above` tasks besides the first, and any of `free`."""
        return sum(
            math.comb(free, more)
            * _count(1 + above + more, self._behind)
            * _count(size - 1 - above - more, self._behind + 1)
            for more in range(free + 1)
        )

    def _others(self) -> int:
        """Layouts of all groups but the next one."""
        waiting = list(self.open)[1:]
        return self._closed * math.prod(_count(len(group), self._behind + 1) for group in waiting)


def _code(group: Group, first: Group) -> int:
    """The place of a split: earlier tasks weigh more."""
    return sum(1 << (len(group) - 1 - i) for i in range(1, len(group)) if group[i] in first)


def _sorted(group: Sequence[int]) -> Group:
    return tuple(sorted(group))


@functools.cache
def _count(tasks: int, blocks: int) -> int:
    """g(tasks, blocks) of the module's docstring."""
    if blocks == 0 or tasks == 0:
        return 1
    return sum(
        math.comb(tasks - 1, first - 1) * _count(first, blocks - 1) * _count(tasks - first, blocks)
        for first in range(1, tasks + 1)
    )
