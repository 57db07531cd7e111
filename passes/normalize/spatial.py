"""Follows the image's height and width through a network: shared by the passes that change sizes.

:func:`trace` says for every value which axes they are and on what grid its positions lie, and for every node what has
to change so that no value is coarser than a given stride.
"""

from __future__ import annotations

import dataclasses
from typing import NoReturn

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.passes.normalize.windows import Window, read_window

# Operators that treat every position alike. Those that average over all positions (GroupNormalization, global pooling)
# see more of them on a finer grid: the same quantity, sampled more densely.
_POINTWISE = frozenset(
    {
        "Abs", "Add", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Div", "Dropout", "Elu",
        "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GroupNormalization", "HardSigmoid", "HardSwish",
        "Identity", "InstanceNormalization", "LRN", "LeakyRelu", "Less", "Log", "Max", "Mean", "Min", "Mish", "Mul",
        "Neg", "Not", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus",
        "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where",
    }
)  # fmt: skip
_WINDOWED = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})
_COLLAPSING = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "Shape", "Size"})
_REDUCING = frozenset({"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceSumSquare"})
# Operators along one axis (attribute, default), fine on every axis that is not spatial.
_ALONG_AXIS = {
    "Concat": 0,
    "Split": 0,
    "Softmax": -1,
    "LogSoftmax": -1,
    "LpNormalization": -1,
    "ArgMax": 0,
    "Gather": 0,
}

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where a value's positions lie.

    Attributes:
        axes: Its height and width axes.
        stride: Pixels of the image per position.
        rate: Positions of it per position of the network as exported: > 1 behind a stride that became a dilation.
    """

    axes: Pair
    stride: Pair = (1, 1)
    rate: Pair = (1, 1)

    @property
    def finer(self) -> bool:
        """Whether the grid is finer than the exported one."""
        return self.rate != (1, 1)


@dataclasses.dataclass(frozen=True)
class Trace:
    """What :func:`trace` found.

    Attributes:
        windows: New windows of nodes whose stride, dilation or padding has to change.
        pads: Nodes whose constant padding grows by the factors.
        reshapes: Reshape nodes that keep height and width as their last axes (channel shuffle).
        unclear: The first convolution or pooling whose grid is not known, and the node that lost it.
    """

    windows: dict[ir.Node, Window]
    pads: dict[ir.Node, Grid]
    reshapes: tuple[ir.Node, ...]
    unclear: tuple[ir.Node, ir.Node] | None


def trace(graph: ir.Graph, image: ir.Value, limit: int | None = None) -> Trace:
    """Follow the grids from the image on; nothing is changed.

    Args:
        graph: Shapes are inferred.
        image: The image input [N, C, H, W].
        limit: Largest stride allowed; None for any.

    Raises:
        ModelError: A node behind a removed stride cannot work on a finer grid; names it.
    """
    tracer = _Tracer(limit)
    tracer.grids[image] = Grid((2, 3))
    for node in graph:
        tracer.visit(node)
    return Trace(tracer.windows, tracer.pads, tuple(tracer.reshapes), tracer.unclear)


class _Tracer:
    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.grids: dict[ir.Value, Grid] = {}
        self.lost: dict[ir.Value, ir.Node] = {}  # values whose grid is not known any more, and who lost it
        self.windows: dict[ir.Node, Window] = {}
        self.pads: dict[ir.Node, Grid] = {}
        self.reshapes: list[ir.Node] = []
        self.unclear: tuple[ir.Node, ir.Node] | None = None

    def visit(self, node: ir.Node) -> None:
        """Work out the grid of the node's outputs."""
        inputs = [value for value in node.inputs if value is not None]
        known = {self.grids[value] for value in inputs if value in self.grids}
        if any(value in self.lost for value in inputs):
            self._behind_lost(node, inputs)
            return
        if not known:
            return  # constants, or values without height and width
        if len(known) > 1:
            self._lose(node, "its inputs lie on different grids", finer=any(grid.finer for grid in known))
            return
        grid = known.pop()
        if node.op_type in _WINDOWED:
            out: Grid | None = self._window(node, grid)
        elif node.op_type in _COLLAPSING:
            return
        else:
            out = self._other(node, grid)
        if out is not None:
            self.grids.update((value, out) for value in node.outputs)

    def _behind_lost(self, node: ir.Node, inputs: list[ir.Value]) -> None:
        culprit = next(self.lost[value] for value in inputs if value in self.lost)
        if node.op_type in _WINDOWED and self.unclear is None:
            self.unclear = (node, culprit)
        self.lost.update((value, culprit) for value in node.outputs)

    def _lose(self, node: ir.Node, why: str, *, finer: bool) -> None:
        if finer:
            refuse(node, why)
        self.lost.update((value, node) for value in node.outputs)

    def _window(self, node: ir.Node, grid: Grid) -> Grid | None:
        window = read_window(node)
        if window is None:
            self._lose(node, "its window is not a constant 2-D one", finer=grid.finer)
            return None
        keep: list[int] = []
        for stride, step in zip(grid.stride, window.strides, strict=True):
            allowed = step if self.limit is None else min(step, max(1, self.limit // stride))
            if self.limit is not None and (step % allowed or (allowed < step and stride * allowed != self.limit)):
                refuse(node, f"its stride {step} cannot be split so that the output stride is {self.limit}")
            keep.append(allowed)
        removed = (window.strides[0] // keep[0], window.strides[1] // keep[1])
        new = window.on_finer_grid(grid.rate, (keep[0], keep[1]), node)
        if new != window:
            self.windows[node] = new
        return Grid(grid.axes, _times(grid.stride, (keep[0], keep[1])), _times(grid.rate, removed))

    def _other(self, node: ir.Node, grid: Grid) -> Grid | None:
        if node.op_type in _POINTWISE or node.op_type in ("Concat",):
            if grid.finer and (constant := _sized_constant(node, grid)) is not None:
                refuse(node, f"its constant {constant.name!r} has the image's size")
            if node.op_type in _POINTWISE:
                return grid
        data = node.inputs[0]
        rank = 0 if data is None or data.shape is None else len(data.shape)
        if node.op_type in _ALONG_AXIS:
            axis = node.attributes.get_int("axis", _ALONG_AXIS[node.op_type]) % max(rank, 1)
            if axis not in grid.axes and not (node.op_type == "Gather" and not _is_vector(node.inputs[1])):
                return grid
        elif node.op_type == "Transpose":
            order = list(node.attributes.get_ints("perm") or range(rank - 1, -1, -1))
            return dataclasses.replace(grid, axes=(order.index(grid.axes[0]), order.index(grid.axes[1])))
        elif node.op_type in _REDUCING:
            return self._reduce(node, grid, rank)
        elif node.op_type == "LayerNormalization":
            if max(grid.axes) < node.attributes.get_int("axis", -1) % rank:
                return grid
        elif node.op_type == "MatMul":
            if data in self.grids and max(grid.axes) < rank - 1 and rank > 2:
                return grid
        elif node.op_type == "Pad":
            if not grid.finer:
                return grid
            if (
                node.attributes.get_string("mode", "constant") == "constant"
                and constant_ints(node.inputs[1]) is not None
            ):
                self.pads[node] = grid
                return grid
        elif node.op_type in ("Resize", "ConvTranspose") and not grid.finer:
            finer = _upsampled(node, grid)
            if finer is not None:
                return finer
        elif node.op_type == "Slice":
            axes = constant_ints(node.inputs[3]) if len(node.inputs) > 3 else None
            if axes is not None and not {axis % rank for axis in axes} & set(grid.axes):
                return grid
        elif node.op_type == "Reshape" and _keeps_last_axes(node, grid):
            self.reshapes.append(node)
            last = len(constant_ints(node.inputs[1]) or ())
            return dataclasses.replace(grid, axes=(last - 2, last - 1))
        self._lose(node, f"{node.op_type} works on fixed positions", finer=grid.finer)
        return None

    def _reduce(self, node: ir.Node, grid: Grid, rank: int) -> Grid | None:
        axes = constant_ints(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
        reduced = {axis % rank for axis in axes} if axes is not None else set(range(rank))
        if set(grid.axes) <= reduced:
            return None  # a mean over all positions has no grid
        if reduced & set(grid.axes):
            self._lose(node, "it reduces only one of height and width", finer=grid.finer)
            return None
        if node.attributes.get_int("keepdims", 1):
            return grid
        above, left = (axis - sum(other < axis for other in reduced) for axis in grid.axes)
        return dataclasses.replace(grid, axes=(above, left))


def constant_ints(value: ir.Value | None) -> list[int] | None:
    """The numbers of a constant integer input; None if it is computed."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return [int(number) for number in value.const_value.numpy().reshape(-1)]


def _upsampled(node: ir.Node, grid: Grid) -> Grid | None:
    """The grid behind a Resize or ConvTranspose, if it has whole pixels."""
    data, out = node.inputs[0], node.outputs[0]
    if data is None or data.shape is None or out.shape is None or grid.axes != (2, 3):
        return None
    strides = []
    for stride, before, after in zip(grid.stride, list(data.shape)[2:], list(out.shape)[2:], strict=True):
        if not isinstance(before, int) or not isinstance(after, int) or not after or stride * before % after:
            return None
        strides.append(stride * before // after)
    return Grid(grid.axes, (strides[0], strides[1]))


def _keeps_last_axes(node: ir.Node, grid: Grid) -> bool:
    data, target = node.inputs[0], constant_ints(node.inputs[1])
    if data is None or data.shape is None or target is None or len(target) < 3:
        return False
    rank = len(data.shape)
    return grid.axes == (rank - 2, rank - 1) and target[-2:] == list(data.shape)[-2:]


def _sized_constant(node: ir.Node, grid: Grid) -> ir.Value | None:
    """A constant input with more than one row or column."""
    rank = max((len(v.shape) for v in node.inputs if v is not None and v.shape is not None), default=0)
    for value in node.inputs:
        if value is None or not value.is_initializer() or value.shape is None:
            continue
        offset = rank - len(value.shape)  # broadcasting aligns the last axes
        for axis in grid.axes:
            # Normalization and PRelu weights are per channel.
            if node.op_type in _POINTWISE - {"BatchNormalization", "GroupNormalization", "InstanceNormalization"} and (
                axis >= offset and value.shape[axis - offset] != 1
            ):
                return value
    return None


def height_and_width(value: ir.Value) -> Pair:
    """The last two dimensions of a value whose shape is known."""
    assert value.shape is not None
    height, width = list(value.shape)[-2:]
    assert isinstance(height, int) and isinstance(width, int)
    return height, width


def _is_vector(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 1


def _times(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0], a[1] * b[1]


def refuse(node: ir.Node, why: str) -> NoReturn:
    """Raise the ModelError of a stride that cannot become a dilation because of `node`."""
    msg = (
        f"node {node.name!r} ({node.op_type}) stands behind a stride that should become a dilation, and {why}; use a "
        "larger --output-stride, or --features before this node"
    )
    raise ModelError(msg)
