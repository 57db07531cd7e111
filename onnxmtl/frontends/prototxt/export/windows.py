"""Kernel, stride, padding and dilation as Caffe writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import onnx_ir as ir

from onnxmtl.frontends.prototxt.schema import is_repeated

Pads: TypeAlias = tuple[int, int, int, int]  # top, left, bottom, right

_DEFAULTS = {"stride": 1, "pad": 0, "dilation": 1}


def attribute_ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    """An attribute of whole numbers, or its default."""
    return [int(number) for number in node.attributes.get_ints(name, default)]


def window_pads(
    node: ir.Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Pads:
    """(top, left, bottom, right), ``auto_pad`` worked out."""
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        top, left, bottom, right = attribute_ints(node, "pads", [0, 0, 0, 0]) if mode == "NOTSET" else (0, 0, 0, 0)
        return top, left, bottom, right
    begins, ends = [], []
    for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        begins.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
        ends.append(total - begins[-1])
    return begins[0], begins[1], ends[0], ends[1]


def set_window(param: Any, name: str, values: Sequence[int]) -> None:
    """Write (height, width) of ``kernel_size``, ``stride``, ``pad`` or ``dilation``; nothing where it is the default.

    One number where both are equal; ``kernel_h`` and ``kernel_w`` and so on where not; dilations have no such fields
    and are written twice.
    """
    height, width = values
    if height == width == _DEFAULTS.get(name):
        return
    fields = param.DESCRIPTOR.fields_by_name
    short = name.removesuffix("_size")
    if height == width:
        if is_repeated(fields[name]):
            getattr(param, name).append(height)
        else:
            setattr(param, name, height)
    elif f"{short}_h" in fields:
        setattr(param, f"{short}_h", height)
        setattr(param, f"{short}_w", width)
    else:
        getattr(param, name).extend((height, width))
