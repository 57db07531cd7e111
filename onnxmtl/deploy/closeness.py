"""How far two arrays are apart, for verification: one number each, infinite where they cannot be compared."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from onnxmtl.passes.instruments import relative_error

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_TINY = float(np.finfo(np.float32).tiny)


def is_float(array: Array) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def max_error(expected: Array, found: Array) -> float:
    """max|Δ|; infinite where shapes differ or a value is not a number."""
    if expected.shape != found.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):  # inf - inf
        difference = np.abs(expected.astype(np.float64) - found.astype(np.float64))
    error = float(np.max(difference, initial=0.0))
    return error if np.isfinite(error) else float("inf")


def largest_error(expected: Array, found: Array, scale: float | None = None) -> float:
    """The relative error; infinite as well where a value of either is not a number: nothing emitted may have such."""
    finite = all(not is_float(array) or bool(np.isfinite(array).all()) for array in (expected, found))
    return relative_error(found, expected, scale) if finite else float("inf")


def distance(expected: Array, found: Array, scale: float | None = None) -> float:
    """‖Δ‖/‖expected‖; of class numbers the share that differs. Infinite where :func:`largest_error` is."""
    if not is_float(expected) or expected.shape != found.shape or not math.isfinite(largest_error(expected, found)):
        return largest_error(expected, found)
    apart = float(np.linalg.norm(found.astype(np.float64) - expected.astype(np.float64)))
    return apart and apart / max(float(np.linalg.norm(expected.astype(np.float64))), _TINY)


def agreement(expected: Array, found: Array, axis: int | None) -> float | None:
    if expected.shape != found.shape or not expected.size:
        return None
    if not is_float(expected):
        return float(np.mean(expected == found))
    if axis is None:
        return None
    return float(np.mean(expected.argmax(axis) == found.argmax(axis)))
