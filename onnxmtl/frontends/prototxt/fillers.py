"""Initial weights as Caffe's fillers draw them, for networks that come without a ``.caffemodel``.

Formulas of ``caffe/filler.hpp``; the numbers depend on the weight's name alone, so they are the same in every run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxmtl.runs.seeds import derive_seed

Array = np.ndarray[Any, np.dtype[np.float32]]

KINDS = ("constant", "uniform", "gaussian", "positive_unitball", "xavier", "msra", "bilinear")


def draw(filler: Any, shape: Sequence[int], name: str) -> Array:
    """Weights of a shape, drawn as a ``FillerParameter`` says.

    Args:
        filler: The message; its type is one of :data:`KINDS`.
        shape: Of the blob, outputs first.
        name: Of the weight: the random numbers are derived from it.
    """
    rng = np.random.default_rng(derive_seed(0, "prototxt", name))
    kind = filler.type
    if kind == "uniform":
        return _uniform(rng, filler.min, filler.max, shape)
    if kind == "gaussian":
        drawn = _normal(rng, filler.mean, filler.std, shape)
        if filler.sparse >= 0:  # about that many inputs of each output stay
            drawn *= rng.random(shape) < filler.sparse / max(math.prod(shape[1:]), 1)
        return drawn
    if kind == "positive_unitball":
        drawn = _uniform(rng, 0.0, 1.0, shape)
        rows = drawn.reshape(shape[0], -1) if shape else drawn.reshape(1, 1)
        unit: Array = (rows / rows.sum(1, keepdims=True)).reshape(shape).astype(np.float32)
        return unit
    if kind == "xavier":  # Glorot & Bengio 2010
        bound = math.sqrt(3.0 / _fan(filler.variance_norm, shape))
        return _uniform(rng, -bound, bound, shape)
    if kind == "msra":  # He et al. 2015
        return _normal(rng, 0.0, math.sqrt(2.0 / _fan(filler.variance_norm, shape)), shape)
    if kind == "bilinear":
        return bilinear(shape)
    return np.full(shape, filler.value, np.float32)


def bilinear(shape: Sequence[int]) -> Array:
    """Kernels that interpolate: [outputs, inputs, k, k] -> every one of them the same tent function."""
    size = shape[-1]
    factor = math.ceil(size / 2)
    centre = (2 * factor - 1 - factor % 2) / (2.0 * factor)
    tent = 1.0 - np.abs(np.arange(size) / factor - centre)
    tall = 1.0 - np.abs(np.arange(shape[-2]) / factor - centre)
    return np.broadcast_to(np.outer(tall, tent), shape).astype(np.float32)


def _fan(norm: int, shape: Sequence[int]) -> float:
    """Caffe's count of inputs (0), outputs (1) or their mean (2); for InnerProduct, too, the first axis is outputs."""
    count = math.prod(shape)
    fan_in = count / shape[0] if shape else 1.0
    fan_out = count / shape[1] if len(shape) > 1 else count
    return max((fan_in, fan_out, (fan_in + fan_out) / 2)[norm], 1.0)


def _uniform(rng: np.random.Generator, low: float, high: float, shape: Sequence[int]) -> Array:
    return (rng.random(tuple(shape), dtype=np.float32) * np.float32(high - low) + np.float32(low)).astype(np.float32)


def _normal(rng: np.random.Generator, mean: float, std: float, shape: Sequence[int]) -> Array:
    drawn = rng.standard_normal(tuple(shape), dtype=np.float32)
    return (drawn * np.float32(std) + np.float32(mean)).astype(np.float32)
