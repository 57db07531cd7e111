"""The arithmetic of Resize along one axis: coordinates, nearest indices, interpolation matrices (numpy)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_TIE = np.float32(1e-6)


@dataclasses.dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes:
        old: Size before.
        new: Size after.
        scale: The scale of the coordinates; not always new / old, for sizes are whole numbers.
        region: Start and end of what is resized (``tf_crop_and_resize``), 0 and 1 being the outer elements' centres.
    """

    old: int
    new: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """The attributes of Resize.

    Attributes:
        mode: "nearest", "linear" or "cubic".
        coordinates: coordinate_transformation_mode.
        nearest: nearest_mode: how a coordinate becomes an index.
        cubic: The cubic's coefficient a.
        antialias: Whether the filter is stretched when the image shrinks.
        exclude_outside: Whether weights of elements outside are dropped, and the rest made to sum to 1.
    """

    mode: str
    coordinates: str
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    antialias: bool = False
    exclude_outside: bool = False


def coordinates(axis: Axis, mode: str, dtype: type[np.floating[Any]]) -> Floats:
    """For each output element, where it lies in the input (0 is the centre of the first element)."""
    index: Floats = np.arange(axis.new).astype(dtype)
    scale, one, half = dtype(axis.scale), dtype(1), dtype(0.5)
    if mode == "asymmetric":
        spread: Floats = index / scale
        return spread
    if mode == "align_corners":
        aligned: Floats = index * dtype(axis.old - 1) / dtype(max(axis.new - 1, 1))
        return aligned
    if mode == "tf_crop_and_resize":
        start, end = (dtype(place) * dtype(axis.old - 1) for place in axis.region)
        if axis.new == 1:
            middle: Floats = index * 0 + half * (start + end)
            return middle
        cropped: Floats = start + index * ((end - start) / dtype(axis.new - 1))
        return cropped
    if mode == "pytorch_half_pixel" and axis.new == 1:
        return index * 0
    if mode == "half_pixel_symmetric":
        adjustment = dtype(axis.new) / (scale * dtype(axis.old))
        offset = dtype(axis.old) / dtype(2) * (one - adjustment)
    else:
        offset = dtype(0)
    centred: Floats = offset + (index + half) / scale - half
    return centred


def nearest_indices(axis: Axis, interpolation: Interpolation) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The chosen input element of each output element.

    In float32, and with its tolerance for ties, as ONNX Runtime has it: which neighbour is nearer can hang on the
    last bit.
    """
    x = coordinates(axis, interpolation.coordinates, np.float32)
    below = np.floor(x)
    tie = np.abs(x - below - np.float32(0.5)) < _TIE
    nearer = np.floor(x + np.float32(0.5))
    rounded: Floats = {
        "round_prefer_floor": np.where(tie, below, nearer),
        "round_prefer_ceil": np.where(tie, below + 1, nearer),
        "floor": below,
        "ceil": np.ceil(x),
    }[interpolation.nearest]
    return rounded.clip(0, axis.old - 1).astype(np.int64)


def outside(axis: Axis) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which output elements of ``tf_crop_and_resize`` lie outside the image."""
    x = coordinates(axis, "tf_crop_and_resize", np.float32)
    return (x < 0) | (x > axis.old - 1)


def matrix(axis: Axis, interpolation: Interpolation) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """M of shape [old, new] with y = x M for linear and cubic interpolation."""
    x = coordinates(axis, interpolation.coordinates, np.float64)
    cubic = interpolation.mode == "cubic"
    stretch = min(axis.scale, 1.0) if interpolation.antialias else 1.0
    if not cubic and not interpolation.antialias:
        x = np.clip(x, 0, axis.old - 1)
    reach = math.ceil((2 if cubic else 1) / stretch)
    first = np.floor(x).astype(np.int64) - reach
    taps = first[:, None] + np.arange(2 * reach + 2)[None, :]  # [new, taps]
    distance = (taps - x[:, None]) * stretch
    weights = _cubic(distance, interpolation.cubic) if cubic else np.maximum(1 - np.abs(distance), 0)
    if interpolation.exclude_outside:
        weights = np.where((taps >= 0) & (taps < axis.old), weights, 0)
    if interpolation.exclude_outside or interpolation.antialias:
        weights /= weights.sum(axis=1, keepdims=True)
    result = np.zeros((axis.old, axis.new))
    columns = np.broadcast_to(np.arange(axis.new)[:, None], taps.shape)
    np.add.at(result, (np.clip(taps, 0, axis.old - 1), columns), weights)
    return result


def _cubic(distance: Floats, a: float) -> Floats:
    """Keys' cubic convolution kernel with coefficient `a`."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
