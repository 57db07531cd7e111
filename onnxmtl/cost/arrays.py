"""Writing a formula once for numpy and torch arrays, without importing torch."""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np

# A numpy array or a torch tensor.
Array: TypeAlias = Any


def array_namespace(array: Array) -> Any:
    """The module an array belongs to: ``numpy`` or ``torch``.

    Raises:
        TypeError: `array` is neither.
    """
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return torch
    msg = f"expected a numpy array or a torch tensor, got {type(array).__name__}"
    raise TypeError(msg)


def constant(values: np.ndarray[Any, Any], like: Array) -> Array:
    """`values` as an array of `like`'s library, on its device; the dtype of `values` is kept."""
    if array_namespace(like) is np:
        return values
    return array_namespace(like).as_tensor(values, device=like.device)


def to_float64(array: Array) -> Array:
    """`array` in double precision; differentiable for torch tensors."""
    return array.astype(np.float64) if array_namespace(array) is np else array.double()


def product(factors: Array) -> Array:
    """The product over the last axis, whose length is a power of two, as a balanced tree.

    Unlike ``torch.prod`` it needs no special case for zeros in its gradient, and unlike a sum of logarithms it
    survives them.
    """
    size = factors.shape[-1]
    while size > 1:
        size //= 2
        factors = factors[..., :size] * factors[..., size:]
    return factors[..., 0]
