"""The window of a convolution or pooling: kernel, stride, dilation, padding; and the same window on a finer grid."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxmtl.errors import ModelError

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Window:
    """A 2-D window with explicit padding.

    Attributes:
        kernel: Taps, vertically and horizontally.
        strides, dilations: As in ONNX.
        pads: Top, left, bottom, right.
        explicit: Whether the node says it this way: no ``auto_pad``, no ``ceil_mode``.
    """

    kernel: Pair
    strides: Pair
    dilations: Pair
    pads: tuple[int, int, int, int]
    explicit: bool = True

    def on_finer_grid(self, rate: Pair, strides: Pair, node: ir.Node) -> Window:
        """The window on a grid `rate` times finer, with smaller `strides`.

        Every `rate`-th position of the finer input is the exported input x[j] = x'[j·r]. A tap at i·s - p + k·d there
        is one at (i·s - p + k·d)·r here: dilation and padding grow by r. Positions outside stay outside, because the
        exported size is ⌈size/r⌉. Every (r·s/s')-th position of the result is the exported result.

        Args:
            rate: Rate of the node's input.
            strides: New strides; divide the old ones.
            node: Named if the padding cannot be made explicit.
        """
        if rate == (1, 1) and strides == self.strides:
            return self
        if not self.explicit and node.op_type == "AveragePool" and node.attributes.get_int("count_include_pad", 0) == 1:
            msg = (
                f"node {node.name!r} (AveragePool) counts padding and rounds its size up (ceil_mode or auto_pad), "
                "which has no dilated form; use a larger --output-stride"
            )
            raise ModelError(msg)
        top, left, bottom, right = self.pads
        return Window(
            self.kernel,
            strides,
            (self.dilations[0] * rate[0], self.dilations[1] * rate[1]),
            (top * rate[0], left * rate[1], bottom * rate[0], right * rate[1]),
        )

    def keeping_size(self, size: Pair, exported: Window) -> Window:
        """The window with end padding such that it keeps its input's size (but for the strides that are left).

        Branches that are joined later may pad differently; with strides their sizes were equal after rounding down. End
        padding decides only about positions behind the last exported one, so it can be chosen.

        Args:
            size: (height, width) of the input, on the finer grid.
            exported: The window before :meth:`on_finer_grid`; an axis whose stride it still has is left alone.
        """
        pads = list(self.pads)
        for axis in range(2):
            step, removed = self.strides[axis], exported.strides[axis] // self.strides[axis]
            rate = removed * self.dilations[axis] // exported.dilations[axis]  # of the result
            reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            count = (size[axis] + pads[axis] + pads[axis + 2] - reach) // step + 1
            wanted = -(-size[axis] // step)
            end = (wanted - 1) * step + reach - size[axis] - pads[axis]
            # The exported number of positions must stay: ⌈count/rate⌉.
            if removed > 1 and end >= 0 and -(-count // rate) == -(-wanted // rate):
                pads[axis + 2] = end
        return dataclasses.replace(self, pads=(pads[0], pads[1], pads[2], pads[3]))


def read_window(node: ir.Node) -> Window | None:
    """The window of a Conv, MaxPool, AveragePool or LpPool node; None if it is not 2-D or sizes are unknown."""
    attributes = node.attributes
    kernel = list(attributes.get_ints("kernel_shape") or ())
    if not kernel and node.op_type == "Conv" and node.inputs[1] is not None and node.inputs[1].shape is not None:
        kernel = [dim if isinstance(dim, int) else 0 for dim in list(node.inputs[1].shape)[2:]]
    if len(kernel) != 2 or (node.op_type == "MaxPool" and len(node.outputs) > 1 and node.outputs[1].uses()):
        return None
    strides = _pair(node, "strides")
    dilations = _pair(node, "dilations")
    pads = list(attributes.get_ints("pads") or (0, 0, 0, 0))
    mode = attributes.get_string("auto_pad", "NOTSET")
    ceil = bool(attributes.get_int("ceil_mode", 0))
    if mode != "NOTSET" or ceil:
        sizes = _sizes(node)
        if sizes is None:
            return None
        for axis, (before, after) in enumerate(sizes):
            span = (after - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1
            if mode in ("SAME_UPPER", "SAME_LOWER"):
                total = max(0, span - before)
                small, large = total // 2, total - total // 2
                pads[axis], pads[axis + 2] = (small, large) if mode == "SAME_UPPER" else (large, small)
            elif mode == "VALID":
                pads[axis], pads[axis + 2] = 0, 0
            if ceil:  # the last window sticks out: pad as much
                pads[axis + 2] = max(pads[axis + 2], span - before - pads[axis])
    explicit = mode == "NOTSET" and not ceil
    return Window((kernel[0], kernel[1]), strides, dilations, (pads[0], pads[1], pads[2], pads[3]), explicit)


def write_window(node: ir.Node, window: Window) -> None:
    """Give the node the window's attributes."""
    node.attributes.pop("auto_pad", None)
    node.attributes.pop("ceil_mode", None)
    for name in ("strides", "dilations", "pads"):
        node.attributes[name] = ir.AttrInt64s(name, list(getattr(window, name)))


def _pair(node: ir.Node, name: str) -> Pair:
    values = node.attributes.get_ints(name) or (1, 1)
    return values[0], values[1]


def _sizes(node: ir.Node) -> list[Pair] | None:
    """(input, output) size per axis."""
    data, out = node.inputs[0], node.outputs[0]
    if data is None or data.shape is None or out.shape is None:
        return None
    pairs = list(zip(list(data.shape)[2:], list(out.shape)[2:], strict=True))
    return [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)] if len(pairs) == 2 else None
