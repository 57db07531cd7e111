"""Resize: nearest, linear and cubic, in every coordinate mode.

Resizing is separable. Per axis, nearest is a selection and the others are a small matrix; torch's own
interpolation is used where it computes exactly the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from onnxmtl.lowering.ops.interpolation import Axis, Interpolation, matrix, nearest_indices, outside
from onnxmtl.lowering.ops.reading import floats, ints, real
from onnxmtl.lowering.ops.registry import Context, Inputs, Kernel, lowers

_TORCH_MODES = {"linear": "bilinear", "cubic": "bicubic"}
_TORCH_CUBIC = -0.75

Resizer = Callable[[torch.Tensor], torch.Tensor]


@lowers("Resize")
def resize(node: ir.Node) -> Kernel:
    """Resize by scales or to sizes. What is computed from the sizes is kept for the next call."""
    interpolation = _interpolation(node)
    scales_of, sizes_of = floats(node, 2), ints(node, 3)
    given_axes = tuple(node.attributes.get_ints("axes", ()))
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    crops = interpolation.coordinates == "tf_crop_and_resize"
    region_of = floats(node, 1)
    fill = real(node, "extrapolation_value", 0.0)
    plans: dict[tuple[object, ...], Resizer] = {}

    def kernel(xs: Inputs, ctx: Context) -> torch.Tensor:
        x: torch.Tensor = xs[0]
        scales, sizes = scales_of(xs), sizes_of(xs) or None
        region = region_of(xs) if crops else None
        key = (x.shape, x.dtype, x.device, scales, sizes, region)
        plan = plans.get(key)
        if plan is None:
            axes = _axes(x, given_axes or tuple(range(x.dim())), scales, sizes, policy, region)
            plan = plans[key] = _plan(x, axes, interpolation)
            if crops:
                plan = plans[key] = _filled(x, plan, axes, fill)
        return plan(x)

    return kernel


def _interpolation(node: ir.Node) -> Interpolation:
    attributes = node.attributes
    coordinates = attributes.get_string("coordinate_transformation_mode", "half_pixel")
    mode = attributes.get_string("mode", "nearest")
    return Interpolation(
        mode=mode,
        coordinates=coordinates,
        nearest=attributes.get_string("nearest_mode", "round_prefer_floor"),
        cubic=real(node, "cubic_coeff_a", _TORCH_CUBIC),
        antialias=bool(attributes.get_int("antialias", 0)),
        exclude_outside=bool(attributes.get_int("exclude_outside", 0)),
    )


def _axes(
    x: torch.Tensor,
    axes: Sequence[int],
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    policy: str,
    region: Sequence[float] | None = None,
) -> list[tuple[int, Axis]]:
    """The axes that change, with old size, new size and scale."""
    old = [x.shape[axis] for axis in axes]
    if sizes is None:
        assert scales is not None, "Resize without scales and sizes"
        # Scales are float32 in ONNX: a product a hair below a whole number must not lose a pixel.
        new = [math.floor(float(np.float32(n) * np.float32(s))) for n, s in zip(old, scales, strict=True)]
    else:
        new = list(sizes)
        scales = [b / a for a, b in zip(old, new, strict=True)]
        if policy != "stretch":
            scale = min(scales) if policy == "not_larger" else max(scales)
            scales = [scale] * len(axes)
            new = [math.floor(n * scale + 0.5) for n in old]
    if region is not None:
        regions = [(region[i], region[i + len(axes)]) for i in range(len(axes))]
        crops = zip(axes, old, new, scales, regions, strict=True)
        return [(axis % x.dim(), Axis(a, b, s, r)) for axis, a, b, s, r in crops if a != b or r != (0.0, 1.0)]
    changed = zip(axes, old, new, scales, strict=True)
    return [(axis % x.dim(), Axis(a, b, s)) for axis, a, b, s in changed if a != b or s != 1.0]


def _plan(x: torch.Tensor, axes: Sequence[tuple[int, Axis]], interpolation: Interpolation) -> Resizer:
    """A function that resizes tensors of the shape, type and device of `x`."""
    if not axes:
        return lambda y: y
    if interpolation.mode == "nearest":
        return _nearest(x, axes, interpolation)
    if _like_torch(x, axes, interpolation):
        changed = dict(axes)
        size = [changed[axis].new if axis in changed else x.shape[axis] for axis in (2, 3)]
        mode = _TORCH_MODES[interpolation.mode]
        aligned = interpolation.coordinates == "align_corners"
        return lambda y: F.interpolate(y, size, mode=mode, align_corners=aligned)
    dtype = x.dtype if x.is_floating_point() else torch.float32
    matrices = [(axis, torch.from_numpy(matrix(step, interpolation)).to(x.device, dtype)) for axis, step in axes]

    def apply(y: torch.Tensor) -> torch.Tensor:
        y = y.to(dtype)
        for axis, weights in matrices:
            y = torch.matmul(y.transpose(axis, -1), weights).transpose(axis, -1)
        return y.to(x.dtype)

    return apply


def _filled(x: torch.Tensor, plan: Resizer, axes: Sequence[tuple[int, Axis]], fill: float) -> Resizer:
    """The plan, and the fill where a crop reaches beyond the image."""
    beyond = torch.zeros((), dtype=torch.bool, device=x.device)
    for axis, step in axes:
        shape = [-1 if i == axis else 1 for i in range(x.dim())]
        beyond = beyond | torch.from_numpy(outside(step)).to(x.device).reshape(shape)
    return lambda y: torch.where(beyond, fill, plan(y))


def _nearest(x: torch.Tensor, axes: Sequence[tuple[int, Axis]], interpolation: Interpolation) -> Resizer:
    indices = [(axis, nearest_indices(step, interpolation)) for axis, step in axes]
    factors = {axis: _factor(index, x.shape[axis]) for axis, index in indices}
    if x.dim() == 4 and x.is_floating_point() and set(factors) <= {2, 3} and all(factors.values()):
        # Whole-number magnification: torch's own is faster, and there is nothing to round.
        size = [x.shape[axis] * (factors.get(axis) or 1) for axis in (2, 3)]
        return lambda y: F.interpolate(y, size, mode="nearest")
    moved = [(axis, torch.from_numpy(index).to(x.device)) for axis, index in indices]

    def apply(y: torch.Tensor) -> torch.Tensor:
        for axis, index in moved:
            y = y.index_select(axis, index)
        return y

    return apply


def _factor(index: np.ndarray[tuple[int], np.dtype[np.int64]], size: int) -> int:
    """k if every element is repeated k times, else 0."""
    factor = len(index) // size
    whole = factor * size == len(index) and np.array_equal(index, np.arange(len(index)) // max(factor, 1))
    return factor if whole else 0


def _like_torch(x: torch.Tensor, axes: Sequence[tuple[int, Axis]], interpolation: Interpolation) -> bool:
    """Whether F.interpolate on a [N, C, H, W] tensor gives the same: it knows two coordinate modes, takes the
    scale from the sizes, and neither excludes the outside nor smooths."""
    if x.dim() != 4 or not x.is_floating_point() or any(axis < 2 for axis, _ in axes):
        return False
    plain = dataclasses.replace(interpolation, antialias=False, exclude_outside=False) == interpolation
    cubic = interpolation.mode == "linear" or interpolation.cubic == _TORCH_CUBIC
    exact = all(step.scale == step.new / step.old for _, step in axes)
    coordinates = interpolation.coordinates in ("half_pixel", "align_corners", "half_pixel_symmetric") or (
        interpolation.coordinates == "pytorch_half_pixel" and all(step.new > 1 for _, step in axes)
    )
    return plain and cubic and exact and coordinates
