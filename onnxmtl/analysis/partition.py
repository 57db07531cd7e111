"""A row of costs cut into N parts that are as equal as possible, exactly."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np


def partition(costs: Sequence[int], groups: int, fixed: Collection[int] = ()) -> list[int]:
    """Cut a row of costs into `groups` parts, none empty: the dearest part as cheap as possible, and among those
    partitions the one with the smallest sum of squares (the most equal one).

    A dynamic program over (parts so far, items so far), quadratic in the number of items and vectorized.

    Args:
        costs: Not negative.
        groups: 1 … number of items.
        fixed: Places where a cut must be: a number i cuts before item i.

    Returns:
        Where to cut: `groups` - 1 increasing numbers, each meaning a cut before that item.

    Raises:
        ValueError: There are fewer items than groups, or as many fixed cuts as groups.
    """
    count = len(costs)
    wanted = sorted(set(fixed))
    if not 1 <= groups <= count or len(wanted) >= groups or any(not 0 < cut < count for cut in wanted):
        msg = f"{count} items with {len(wanted)} fixed cuts cannot be cut into {groups} groups"
        raise ValueError(msg)
    total = np.concatenate([[0], np.cumsum(np.array(costs, dtype=np.int64))])
    # The last part that ends before item j may begin at earliest[j]: not before the last fixed cut.
    earliest = np.zeros(count + 1, np.int64)
    for cut in wanted:
        earliest[cut + 1 :] = cut
    limit = _fewest(total, groups, earliest)
    return _most_equal(total, groups, earliest, limit)


def _fewest(total: np.ndarray, groups: int, earliest: np.ndarray) -> int:
    """The smallest possible cost of the dearest part."""
    count = len(total) - 1
    best = np.where(earliest == 0, total, np.iinfo(np.int64).max)
    best[0] = np.iinfo(np.int64).max  # no part is empty
    for _ in range(groups - 1):
        following = np.full(count + 1, np.iinfo(np.int64).max)
        for end in range(1, count + 1):
            begin = max(1, int(earliest[end]))
            if begin < end:
                following[end] = np.maximum(best[begin:end], total[end] - total[begin:end]).min()
        best = following
    return int(best[count])


def _most_equal(total: np.ndarray, groups: int, earliest: np.ndarray, limit: int) -> list[int]:
    """The cuts whose parts cost at most `limit` and have the smallest sum of squares."""
    count = len(total) - 1
    size = total / max(1, int(total[-1]))  # shares: squares of large numbers stay exact enough
    first = (earliest == 0) & (total <= limit)
    best = np.where(first, size**2, np.inf)
    best[0] = np.inf
    came_from = np.zeros((groups, count + 1), np.int64)
    for part in range(1, groups):
        following = np.full(count + 1, np.inf)
        for end in range(1, count + 1):
            # The cheapest admissible begin comes first: total grows.
            begin = max(1, int(earliest[end]), int(np.searchsorted(total, total[end] - limit)))
            if begin < end:
                sums = best[begin:end] + (size[end] - size[begin:end]) ** 2
                chosen = int(sums.argmin())
                following[end], came_from[part, end] = sums[chosen], begin + chosen
        best = following
    cuts, end = [], count
    for part in range(groups - 1, 0, -1):
        end = int(came_from[part, end])
        cuts.append(end)
    return cuts[::-1]
