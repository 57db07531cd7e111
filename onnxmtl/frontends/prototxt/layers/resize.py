"""Interp (DeepLab, PSPNet: bilinear with aligned corners) and Upsample (nearest)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxmtl.frontends.prototxt.builder import Builder, only
from onnxmtl.frontends.prototxt.layers.shape import sliced
from onnxmtl.frontends.prototxt.registry import Blob, Layer, converts


@converts("Interp", reads="interp_param: height width zoom_factor shrink_factor pad_beg pad_end", bottoms=(1, 2))
def interp(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Resize to a size, the second bottom's size, or by a factor of the distance between the outer pixels.

    Negative padding cuts pixels off first.
    """
    x, param = layer.bottoms[0], layer.message.interp_param
    only(layer, len(x.shape) == 4, f"on a blob with {len(x.shape)} axes")
    if param.pad_beg > 0 or param.pad_end > 0:
        raise layer.error("pad_beg and pad_end cut off: they have to be 0 or negative")
    if param.pad_beg or param.pad_end:
        starts, ends = [-param.pad_beg] * 2, [size + param.pad_end for size in x.shape[2:]]
        x = sliced(layer, net, x, (2, 3), starts, ends, suffix="cut")
    if len(layer.bottoms) == 2:
        only(layer, len(layer.bottoms[1].shape) == 4, "a size that is no image's")
        sizes = list(layer.bottoms[1].shape[2:])
    elif param.HasField("height") or param.HasField("width"):
        sizes = [param.height, param.width]
    else:
        if param.zoom_factor < 1 or param.shrink_factor < 1:
            raise layer.error("zoom_factor and shrink_factor have to be at least 1")
        sizes = [(size - 1) // param.shrink_factor + 1 for size in x.shape[2:]]
        sizes = [size + (size - 1) * (param.zoom_factor - 1) for size in sizes]
    shape = (*x.shape[:2], *sizes)
    if shape == x.shape:
        return [x]
    if any(old < 1 or new < 1 for old, new in zip(x.shape[2:], sizes, strict=True)):
        raise layer.error(f"size {sizes[0]}×{sizes[1]}")
    size = net.ints(layer, "sizes", sizes)
    mode: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "align_corners", "axes": (2, 3)}
    return [net.node(layer, "Resize", [x, None, None, size], shape, **mode)]


@converts("Upsample", reads="upsample_param: scale scale_h scale_w upsample_h upsample_w", bottoms=(1, 2))
def upsample(layer: Layer, net: Builder) -> Sequence[Blob]:
    """Every pixel `scale` times. SegNet's form, which puts maxima back where they were, has no counterpart."""
    x, param = layer.bottoms[0], layer.message.upsample_param
    only(layer, len(layer.bottoms) == 1, "the positions of maxima as a second input (SegNet)")
    only(layer, len(x.shape) == 4, f"on a blob with {len(x.shape)} axes")
    both = param.HasField("scale_h") and param.HasField("scale_w")
    factors = (param.scale_h, param.scale_w) if both else (param.scale, param.scale)
    if param.HasField("upsample_h") and param.HasField("upsample_w"):
        sizes = (param.upsample_h, param.upsample_w)
        factors = tuple(size // old for size, old in zip(sizes, x.shape[2:], strict=True))
        fits = tuple(f * old for f, old in zip(factors, x.shape[2:], strict=True)) == sizes
        only(layer, fits, "a size that is no multiple of the input's")
    if min(factors) < 1:
        raise layer.error(f"scale is {min(factors)}")
    shape = (*x.shape[:2], x.shape[2] * factors[0], x.shape[3] * factors[1])
    scales = net.floats(layer, "scales", (1.0, 1.0, *map(float, factors)))
    mode: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return [net.node(layer, "Resize", [x, None, scales], shape, **mode)]
