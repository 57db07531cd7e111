"""All sets of tasks, and all ways to take the group of the smallest task out of each."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

Masks = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["Masks", "SizeClass", "size_classes"]


@dataclasses.dataclass(frozen=True, eq=False)
class SizeClass:
    """All sets of one size, n, as bit masks.

    Attributes:
        sets: [s].
        first: [s, 2^(n-1)]; every group of the set's smallest task. The whole set comes first, the task alone last;
            in between, a group with an earlier task comes before one without it (the second smallest task decides,
            then the third …).
        rest: [s, 2^(n-1)]; what is left of the set without that group.
    """

    sets: Masks
    first: Masks
    rest: Masks


@functools.lru_cache(maxsize=4)
def size_classes(tasks: int) -> tuple[SizeClass, ...]:
    """The sets of `tasks` tasks by their size: 1, 2, … `tasks`."""
    everything = np.arange(1, 2**tasks, dtype=np.int64)
    bits = everything[:, None] >> np.arange(tasks) & 1
    sizes = bits.sum(axis=1)
    classes = []
    for size in range(1, tasks + 1):
        chosen = everything[sizes == size]
        members = np.nonzero(bits[sizes == size])[1].reshape(-1, size)  # ascending
        code = np.arange(2 ** (size - 1) - 1, -1, -1, dtype=np.int64)
        taken = code[:, None] >> np.arange(size - 2, -1, -1) & 1  # the most significant bit: the second smallest task
        values = np.left_shift(np.int64(1), members.astype(np.int64))
        first = values[:, :1] + values[:, 1:] @ taken.T
        classes.append(SizeClass(chosen, first, chosen[:, None] ^ first))
    return tuple(classes)
