"""Resize: Interp (bilinear, outer pixels on outer pixels) and Upsample (every pixel several times)."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxmtl.frontends.prototxt.export.net import Net
from onnxmtl.frontends.prototxt.export.registry import require, says


@says("Resize")
def resize(node: ir.Node, net: Net) -> None:
    """Interp or Upsample."""
    old, new = net.shape(node.inputs[0]), net.shape(node.outputs[0])
    if old == new:
        net.alias(node)
        return
    require(len(old) == 4 and old[:2] == new[:2], "it resizes more than height and width")
    mode = node.attributes.get_string("mode", "nearest")
    coordinates = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    require(node.attributes.get_int("antialias", 0) == 0, "it smooths (antialias)")
    if mode == "linear":
        require(coordinates == "align_corners", f"bilinear in Caffe is with align_corners, this one is {coordinates}")
        written = net.layer("Interp", node, [node.inputs[0]], [node.outputs[0]])
        written.message.interp_param.height, written.message.interp_param.width = new[2:]
        return
    require(mode == "nearest", f"its mode is {mode}")
    factors = [b // a for a, b in zip(old[2:], new[2:], strict=True)]
    whole = all(a * f == b for a, f, b in zip(old[2:], factors, new[2:], strict=True))
    require(whole, "its size is no multiple of the image's")
    rounding = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    for size, factor in zip(old[2:], factors, strict=True):
        repeats = all(_nearest(i, size, factor, coordinates, rounding) == i // factor for i in range(size * factor))
        require(repeats, f"nearest in Caffe repeats every pixel, this one is {coordinates} and {rounding}")
    param = net.layer("Upsample", node, [node.inputs[0]], [node.outputs[0]]).message.upsample_param
    if factors[0] == factors[1]:
        param.scale = factors[0]
    else:
        param.scale_h, param.scale_w = factors


def _nearest(i: int, size: int, factor: int, coordinates: str, rounding: str) -> int | None:
    """Pixel that pixel `i` of the result is (the operator's definition); None for what is not known here."""
    match coordinates:
        case "asymmetric":
            x = i / factor
        case "half_pixel" | "half_pixel_symmetric":
            x = (i + 0.5) / factor - 0.5
        case "pytorch_half_pixel":
            x = (i + 0.5) / factor - 0.5 if size * factor > 1 else 0.0
        case "align_corners":
            x = i * (size - 1) / (size * factor - 1) if size * factor > 1 else 0.0
        case _:
            return None
    match rounding:
        case "floor":
            found = math.floor(x)
        case "ceil":
            found = math.ceil(x)
        case "round_prefer_ceil":
            found = math.floor(x + 0.5)
        case _:
            found = math.ceil(x - 0.5)
    return min(max(found, 0), size - 1)
