"""Representation similarity between single-task networks (Vandenhende et al. 2019, "Branched Multi-Task Networks").

At each branching point, K images give a K × K matrix of how differently a network sees each two of them (1 − Pearson
correlation of its features). Two tasks are similar there if their matrices rank the pairs of images alike (Spearman).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxmtl.errors import DataError
from onnxmtl.recommend.scores import Array

__all__ = ["dissimilarities", "pearson", "ranks", "similarity", "spearman"]


def dissimilarities(features: np.ndarray[Any, Any]) -> Array:
    """[K, …] features of K images -> [K (K − 1) / 2], 1 − Pearson correlation of each pair of images.

    An image whose features are all the same correlates with nothing (0).

    Raises:
        DataError: There are fewer than 3 images, or a feature is not finite.
    """
    flat = np.asarray(features, np.float64).reshape(len(features), -1)
    if len(flat) < 3 or not np.isfinite(flat).all():
        msg = f"representations are compared on 3 images or more with finite features, not on {len(flat)}"
        raise DataError(msg)
    centred = flat - flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    scaled = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)
    found: Array = (1 - scaled @ scaled.T)[np.triu_indices(len(flat), 1)]
    return found


def similarity(matrices: Sequence[Sequence[np.ndarray[Any, Any] | None]]) -> Array:
    """[T, T, B]; Spearman correlations of tasks' dissimilarities.

    Args:
        matrices: matrices[t][b] of :func:`dissimilarities`, of task t's network behind block b; the same images. Or
            the same as [K, K], of which the part above the diagonal is read. None: the network does not come there, so
            that the task loses nothing by what is shared (1).
    """
    count, blocks = len(matrices), len(matrices[0])
    found = np.ones((count, count, blocks))
    for b in range(blocks):
        upper = [_upper(row[b]) for row in matrices]
        for t in range(count):
            for u in range(t):
                one, other = upper[t], upper[u]
                if one is not None and other is not None:
                    found[t, u, b] = found[u, t, b] = spearman(one, other)
    return found


def _upper(matrix: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any] | None:
    return matrix if matrix is None or matrix.ndim == 1 else matrix[np.triu_indices(len(matrix), 1)]


def ranks(values: np.ndarray[Any, Any]) -> Array:
    """Ranks from 0 on; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    shared: Array = ((ends - counts) + (ends - 1)) / 2
    return shared[inverse]


def pearson(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Correlation of two sequences; 0 if one of them is constant."""
    a, b = (np.asarray(values, np.float64) - np.mean(values) for values in (x, y))
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else 0.0


def spearman(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Correlation of ranks."""
    return pearson(ranks(x), ranks(y))
