"""Which points are among the k best of some budget: those that fewer than k others beat in cost and in score."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxmtl.recommend.chain import Integers

Indices = np.ndarray[Any, np.dtype[np.int64]]

_CHUNK = 512

__all__ = ["exactly", "skyband"]


def skyband(costs: Integers, scores: Integers, k: int) -> Indices:
    """The k-skyband, or a little more.

    A point beats another if none of its costs is higher and its score is not lower; of equal points the earlier beats
    the later.

    Args:
        costs: [D, n].
        scores: [n].
        k: How many may beat a point before it is dropped.

    Returns:
        Indices, ascending. Every point that fewer than k others beat is among them, whatever n.
    """
    if len(scores) <= k:
        return np.arange(len(scores))
    order = np.lexsort((-scores, *costs[::-1]))  # whatever beats a point comes before it; the sort is stable
    kept = _layers(scores[order], k) if len(costs) == 1 else _counted(costs[:, order], scores[order], k)
    return np.sort(order[kept])


def exactly(costs: Integers, scores: Integers, k: int) -> list[int]:
    """The k-skyband and nothing more, of points so ordered that whatever beats one comes before it.

    Args: as of :func:`skyband`.

    Returns:
        Indices, ascending.
    """
    kept: list[int] = []
    for place in range(len(scores)):
        beats = (costs[:, kept] <= costs[:, place, None]).all(axis=0)
        if int((beats & (scores[kept] >= scores[place])).sum()) < k:
            kept.append(place)
    return kept


def _layers(scores: Integers, k: int) -> Indices:
    """One cost: take the points that nothing beats, k times over. A point of the k-skyband is taken in one of them."""
    left: Indices = np.arange(len(scores))
    layers = []
    for _ in range(k):
        values = scores[left]
        best = np.maximum.accumulate(values)
        new = np.r_[True, values[1:] > best[:-1]]
        layers.append(left[new])
        left = left[~new]
        if not len(left):
            break
    return np.concatenate(layers)


def _counted(costs: Integers, scores: Integers, k: int) -> Indices:
    """Several costs: count. Points that are dropped need no counting: k others that are kept beat them."""
    kept: Indices = np.empty(0, np.int64)
    for start in range(0, len(scores), _CHUNK):
        new = np.arange(start, min(start + _CHUNK, len(scores)))
        new = new[_beaten(costs[:, kept], scores[kept], costs[:, new], scores[new], None) < k]
        among = _beaten(costs[:, new], scores[new], costs[:, new], scores[new], np.arange(len(new)))
        before = _beaten(costs[:, kept], scores[kept], costs[:, new], scores[new], None)
        kept = np.concatenate([kept, new[among + before < k]])
    return kept


def _beaten(
    costs: Integers, scores: Integers, new_costs: Integers, new_scores: Integers, places: Indices | None
) -> Indices:
    """[m]; how many of [n] points, all or those at earlier places, beat each new one."""
    beats = scores[:, None] >= new_scores
    for own, other in zip(costs, new_costs, strict=True):
        beats &= own[:, None] <= other
    if places is not None:
        beats &= places[:, None] < places
    counts: Indices = beats.sum(axis=0)
    return counts
