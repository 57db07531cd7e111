"""Windows over spatial axes, as convolutions and pools share them: strides, dilations, pads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

Pads = tuple[tuple[int, ...], tuple[int, ...]]  # (at the beginning of each axis, at its end)


@dataclasses.dataclass(frozen=True)
class Window:
    """The window of a convolution or a pool.

    Attributes:
        rank: Number of spatial axes.
        strides: Per axis.
        dilations: Per axis.
        auto_pad: "NOTSET", "VALID", "SAME_UPPER" or "SAME_LOWER".
        pads: Explicit pads (begin, end); zeros unless `auto_pad` is "NOTSET".
    """

    rank: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    auto_pad: str
    pads: Pads

    @property
    def same(self) -> bool:
        """Whether the pads depend on the input's size."""
        return self.auto_pad in ("SAME_UPPER", "SAME_LOWER")

    def extents(self, kernel: Sequence[int]) -> tuple[int, ...]:
        """Input elements a dilated kernel spans, per axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(kernel, self.dilations, strict=True))

    def pads_for(self, sizes: Sequence[int], kernel: Sequence[int]) -> Pads:
        """The pads for an input of these sizes. SAME: as many as make ⌈size / stride⌉ outputs."""
        if not self.same:
            return self.pads
        totals = [
            max((-(-size // stride) - 1) * stride + extent - size, 0)
            for size, stride, extent in zip(sizes, self.strides, self.extents(kernel), strict=True)
        ]
        return self.halved(totals)

    def halved(self, totals: Sequence[int]) -> Pads:
        """Split pads into begin and end; the odd one goes to the end for SAME_UPPER, else to the beginning."""
        small = tuple(total // 2 for total in totals)
        large = tuple(total - half for total, half in zip(totals, small, strict=True))
        return (small, large) if self.auto_pad == "SAME_UPPER" else (large, small)


def window_of(node: ir.Node, rank: int) -> Window:
    """Read strides, dilations, auto_pad and pads of a node with `rank` spatial axes."""
    attributes = node.attributes
    ones = (1,) * rank
    zeros = (0,) * rank
    auto_pad = attributes.get_string("auto_pad", "NOTSET")
    pads = tuple(attributes.get_ints("pads", ()))
    explicit = auto_pad == "NOTSET" and bool(pads)
    return Window(
        rank=rank,
        strides=tuple(attributes.get_ints("strides", ones)),
        dilations=tuple(attributes.get_ints("dilations", ones)),
        auto_pad=auto_pad,
        pads=(pads[:rank], pads[rank:]) if explicit else (zeros, zeros),
    )


def torch_pad(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Pads in the order of ``torch.nn.functional.pad``: last axis first, begin before end."""
    flat: list[int] = []
    for b, e in zip(reversed(begin), reversed(end), strict=True):
        flat += [b, e]
    return flat


def spatial_rank(node: ir.Node, weight: int | None = None) -> int:
    """Number of spatial axes, from ``kernel_shape`` or from the shape of input `weight`."""
    if "kernel_shape" in node.attributes:
        return len(node.attributes["kernel_shape"].as_ints())
    value = None if weight is None else node.inputs[weight]
    shape = None
    if value is not None:
        shape = value.shape if value.const_value is None else value.const_value.shape
    assert shape is not None
    return len(shape) - 2
