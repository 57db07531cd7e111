"""Every layout, one after the other: the oracle for programs that never enumerate."""

from __future__ import annotations

import functools
import itertools


def partitions(group):
    """Every partition of a tuple of tasks, in canonical order (groups ascending, by their first task)."""
    if not group:
        yield ()
        return
    first, *others = group
    for size in range(len(others) + 1):
        for chosen in itertools.combinations(others, size):
            rest = tuple(task for task in others if task not in chosen)
            for partition in partitions(rest):
                yield tuple(sorted(((first, *chosen), *partition)))


@functools.lru_cache(maxsize=32)
def every_layout(tasks, blocks):
    """All layouts as tuples of partitions: each block splits the groups of the one before."""

    def continued(groups, left):
        if not left:
            yield ()
            return
        for parts in itertools.product(*map(list, map(partitions, groups))):
            partition = tuple(sorted(group for part in parts for group in part))
            for rest in continued(partition, left - 1):
                yield (partition, *rest)

    return tuple(continued((tuple(range(tasks)),), blocks))


def branching_points(groups):
    """{(t, u): first block in which they are apart}."""
    count = 1 + max(task for group in groups[0] for task in group)
    return {
        (t, u): next((b for b, block in enumerate(groups) if not any({t, u} <= set(g) for g in block)), len(groups))
        for t, u in itertools.combinations(range(count), 2)
    }


def tie_key(groups, tasks=None, block=0):
    """The order of layouts of equal score and cost: trees that keep earlier tasks together come first."""
    tasks = tuple(range(1 + max(t for g in groups[0] for t in g))) if tasks is None else tasks
    if block == len(groups) or not tasks:
        return ()
    first = next(group for group in groups[block] if tasks[0] in group)
    rest = tuple(task for task in tasks if task not in first)
    here = tuple(task not in first for task in tasks)
    return (here, tie_key(groups, first, block + 1), tie_key(groups, rest, block))


def what_is_shared(groups, parts):
    """What the graph of a layout is: of each part which tasks have a copy together."""
    return tuple(
        frozenset(frozenset(group) & set(part.tasks) for group in groups[part.block]) - {frozenset()} for part in parts
    )


def still_shared(groups, parts):
    """Which tasks are together in each block, without those that need nothing from there on."""
    found = []
    for block, partition in enumerate(groups):
        going = {task for part in parts if part.block >= block for task in part.tasks}
        found.append(frozenset(frozenset(group) & going for group in partition) - {frozenset()})
    return tuple(found)


def different_layouts(tasks, blocks, parts):
    """Of every set of layouts that differ in finished tasks alone, the first in the order of ties."""
    found = {}
    for groups in sorted(every_layout(tasks, blocks), key=tie_key):
        found.setdefault(still_shared(groups, parts), groups)
    return list(found.values())
