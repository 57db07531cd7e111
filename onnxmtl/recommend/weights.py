"""How much each task counts in the score: the same, or less for tasks whose two-task results look like noise.

SVD entropy (TreeMTL Eq. 1 and 2) is high for an irregular sequence of results over the branching points. The released
code, which is our default, leaves out branching point 0 (0 % by definition), and a task weighs 1 − entropy. Read
literally, the paper's equation normalizes negative numbers, which gives irregular tasks *more* weight; it is there as
variant ``paper``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxmtl.errors import DataError
from onnxmtl.recommend.scores import Array
from onnxmtl.recommend.table import TwoTaskTable

_ORDER = 3  # of the embedding, as the released code

__all__ = ["LEAST_BLOCKS", "WEIGHTS", "entropy", "equal", "svd_entropy", "weights"]


def equal(table: TwoTaskTable) -> Array:
    """[T]; 1/T each."""
    return np.full(len(table.tasks), 1 / len(table.tasks))


def svd_entropy(table: TwoTaskTable, variant: str = "") -> Array:
    """[T]; they sum to 1.

    Args:
        table: Complete.
        variant: Empty: as the released code. ``paper``: equations 1 and 2 to the letter.

    Raises:
        DataError: Something is not trained, or there are fewer than 3 branching points besides 0.
    """
    if variant not in ("", "paper"):
        msg = f"SVD entropy has the variants '' and 'paper', not {variant!r}"
        raise DataError(msg)
    table.require_complete()
    rows = slice(0 if variant == "paper" else 1, None)
    if table.blocks + 1 - (rows.start or 0) < _ORDER:
        msg = f"SVD entropy needs {_ORDER} branching points or more, the table has {table.blocks}: take equal weights"
        raise DataError(msg)
    count = len(table.tasks)
    means = np.array(
        [np.mean([entropy(table.values[t, u, rows]) for u in range(count) if u != t]) for t in range(count)]
    )
    raw = -means if variant == "paper" else 1 - means
    total = float(raw.sum())
    return equal(table) if abs(total) < 1e-12 else raw / total


def entropy(sequence: np.ndarray[Any, Any]) -> float:
    """Normalized SVD entropy of a sequence of n >= 3 numbers: 0 (regular) to 1.

    −Σ σ̄ log₂ σ̄ / log₂ 3, with σ̄ the singular values (divided by their sum) of the matrix [n − 2, 3] of its windows.
    A sequence of zeros is regular.
    """
    values = np.linalg.svd(np.lib.stride_tricks.sliding_window_view(sequence, _ORDER), compute_uv=False)
    total = float(values.sum())
    shares = values[values > 0] / total if total > 0 else np.ones(1)
    return max(0.0, -float((shares * np.log2(shares)).sum())) / math.log2(_ORDER)


WEIGHTS: dict[str, Callable[[TwoTaskTable], Array]] = {
    "equal": equal,
    "svd-entropy": svd_entropy,
    "svd-entropy:paper": lambda table: svd_entropy(table, "paper"),
}


LEAST_BLOCKS = {"svd-entropy": _ORDER, "svd-entropy:paper": _ORDER - 1}
"""Blocks that a table has to have for these weights; for others 1 will do."""


def weights(name: str, table: TwoTaskTable) -> Array:
    """The weights of that name; ``auto`` is SVD entropy where there are 3 branching points or more, else equal.

    Raises:
        DataError: There is no such name, or the table does not allow it.
    """
    if name == "auto":
        name = "svd-entropy" if table.blocks >= _ORDER else "equal"
    if name not in WEIGHTS:
        msg = f"there are no task weights {name!r}; there are: auto, {', '.join(WEIGHTS)}"
        raise DataError(msg)
    return WEIGHTS[name](table)
