"""Trees to compare a found one with (BMTAS, Table 3): the same tree with tasks exchanged, and a plain one as dear."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from onnxmtl.policy.layout import Layout
from onnxmtl.runs.seeds import derive_seed

_ENUMERATED = 6  # tasks: 720 permutations
_ATTEMPTS = 200  # per layout, for more tasks


def permutations(layout: Layout, count: int, seed: int = 0) -> tuple[Layout, ...]:
    """The same tree with other tasks on its branches; all different, and none of them the tree itself.

    Permutations of the tasks are drawn at random, so a layout is as likely as there are permutations that lead to it.

    Args:
        layout: The tree.
        count: How many are wanted.
        seed: Of the draws; the first ones do not depend on `count`.

    Returns:
        As many as there are, if these are fewer: none of a tree in which all tasks stand alike.
    """
    rng = np.random.default_rng(derive_seed(seed, "permutations"))
    found: dict[Layout, None] = {}
    for order in _orders(len(layout.tasks), count, rng):
        groups = tuple(tuple(tuple(order[task] for task in group) for group in block) for block in layout.groups)
        drawn = Layout(layout.tasks, groups, layout.blocks)
        if drawn != layout:
            found[drawn] = None
        if len(found) == count:
            break
    return tuple(found)


def _orders(tasks: int, count: int, rng: np.random.Generator) -> Iterator[Sequence[int]]:
    if tasks <= _ENUMERATED:
        every = list(itertools.permutations(range(tasks)))
        return (every[i] for i in rng.permutation(len(every)))
    return ([int(task) for task in rng.permutation(tasks)] for _ in range(count * _ATTEMPTS))


def vanilla(layout: Layout, cost: Callable[[Layout], float]) -> Layout:
    """All tasks share the first blocks and have the others alone, at a cost as near to the tree's as can be.

    Args:
        layout: The tree.
        cost: Of a tree with the same tasks and blocks.

    Returns:
        The plain tree; of two as near the one that shares more.
    """
    blocks, tasks = len(layout.groups), len(layout.tasks)
    wanted = cost(layout)
    plain = [
        Layout(
            layout.tasks,
            tuple(
                (tuple(range(tasks)),) if block < point else tuple((t,) for t in range(tasks))
                for block in range(blocks)
            ),
            layout.blocks,
        )
        for point in range(blocks, -1, -1)
    ]
    return min(plain, key=lambda one: abs(cost(one) - wanted))
