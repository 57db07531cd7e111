"""Kernel, stride, padding and dilation as Caffe's convolutions and pools write them."""

from __future__ import annotations

from typing import Any

from onnxmtl.frontends.prototxt.registry import Layer

MAX_EXTENT = 1 << 20


def pair(layer: Layer, param: Any, name: str, default: int | None) -> tuple[int, int]:
    """(height, width) of a setting: ``name`` once or per axis, or ``name_h`` and ``name_w``.

    The fields beside ``kernel_size`` are ``kernel_h`` and ``kernel_w``.

    AutoMTL keeps the last of several values of ``name`` and does not know the two other fields.

    Raises:
        ModelError: Missing, given both ways, or more values than axes.
    """
    given = getattr(param, name)
    values = list(given) if not isinstance(given, int) else [given] if param.HasField(name) else []
    fields = [f"{name.removesuffix('_size')}_{side}" for side in "hw"]
    split = [field for field in fields if field in param.DESCRIPTOR.fields_by_name and param.HasField(field)]
    if layer.automtl and values:
        values = values[-1:]
    if split and values:
        raise layer.error(f"{name} is given together with {split[0]}; keep one of them")
    if split:
        fallback = 0 if default is None else default
        values = [getattr(param, f) if param.HasField(f) else fallback for f in fields]
    if not values and default is not None:
        values = [default]
    if not values:
        raise layer.error(f"{name} is missing")
    if len(values) > 2:
        raise layer.error(f"{name} has {len(values)} values; networks of images have two axes")
    if max(values) > MAX_EXTENT:
        raise layer.error(f"{name} is {max(values)}")
    return values[0], values[-1]


def positive(layer: Layer, **settings: tuple[int, int]) -> None:
    """Refuse windows and strides of zero.

    Raises:
        ModelError: One of them is zero.
    """
    for name, (height, width) in settings.items():
        if min(height, width) < 1:
            raise layer.error(f"{name} has to be at least 1")
