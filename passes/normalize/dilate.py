"""Strides become dilations: denser features for dense tasks, with the same weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from onnxmtl.analysis.features import describe, read_features, write_features
from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, Namer, listed, new_initializer, report, stamp
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.inputs import image_input
from onnxmtl.passes.normalize.shapes import infer_node, infer_shapes
from onnxmtl.passes.normalize.spatial import Grid, constant_ints, height_and_width, refuse, trace
from onnxmtl.passes.normalize.windows import Window, read_window, write_window


class StridesToDilations(InPlacePass):
    """Removes strides so that no tensor is coarser than `output_stride`, and dilates what follows them.

    The network with fewer strides computes the exported one's values and those in between: every r-th position of its
    features is what the exported network computes, where r is the exported stride over the new one. (Averages over the
    whole image, as in squeeze-and-excitation, see the denser map and differ accordingly.)

    Requires: shapes are inferred; outputs are the features.
    Ensures: no feature has a larger stride; weights are untouched; metadata ``onnxmtl.features`` is up to date.

    Args:
        output_stride: 1 or more.

    Raises:
        ModelError: A node behind a removed stride has no dilated form; names it.
    """

    def __init__(self, output_stride: int) -> None:
        if output_stride < 1:
            msg = f"the output stride must be 1 or more, not {output_stride}"
            raise ModelError(msg)
        self.output_stride = output_stride

    def call(self, model: ir.Model) -> PassResult:
        """Trace, then rewrite in graph order."""
        graph = model.graph
        image = image_input(graph)
        plan = trace(graph, image, self.output_stride)
        coarse = [feature.name for feature in describe(graph, graph.outputs) if feature.stride > self.output_stride]
        if plan.unclear is not None and (plan.windows or coarse):
            node, culprit = plan.unclear
            refuse(culprit, f"what it does to height and width is not understood, and {node.name!r} comes after it")
        if not plan.windows:
            message = f"no feature has a stride above {self.output_stride}: nothing to dilate"
            report(model, Diagnostic("output-stride-kept", message))
            return PassResult(model, False)
        namer = Namer(graph)
        opsets = dict(graph.opset_imports)
        for node in list(graph):
            if node in plan.windows:
                _rewrite_window(graph, node, plan.windows[node], namer)
            elif node in plan.pads:
                _rewrite_pad(graph, node, plan.pads[node], namer)
            elif node in plan.reshapes:
                fit_reshape(graph, node, namer)
            forget_shapes(node)
            infer_node(node, opsets)
        infer_shapes(model, complete=True)
        if read_features(model):
            write_features(model)
        shown = listed([str(node.name) for node in plan.windows])
        message = f"output stride is {self.output_stride} now: changed strides and dilations of {shown}"
        report(model, Diagnostic("strides-dilated", message))
        return PassResult(model, True)


def forget_shapes(node: ir.Node) -> None:
    """Drop the shapes of the node's outputs, so that inference decides them."""
    for value in node.outputs:
        value.shape = None


def fit_reshape(graph: ir.Graph, node: ir.Node, namer: Namer) -> None:
    """Give a Reshape that keeps height and width as its last axes the current ones."""
    data, target = node.inputs[0], constant_ints(node.inputs[1])
    assert data is not None and target is not None
    target[-2:] = height_and_width(data)
    shape = new_initializer(graph, namer.unique(f"{node.name}.shape"), np.array(target, np.int64))
    node.replace_input_with(1, shape)


def _rewrite_window(graph: ir.Graph, node: ir.Node, window: Window, namer: Namer) -> None:
    data, exported = node.inputs[0], read_window(node)
    assert data is not None and exported is not None
    same = window.keeping_size(height_and_width(data), exported)
    counted = node.attributes.get_int("count_include_pad", 0) == 1
    if node.op_type in ("Conv", "MaxPool") or counted or _takes_pads(same):
        window = same
    if node.op_type != "Conv" and not _takes_pads(window):
        if node.op_type == "MaxPool":
            fill = -np.inf
        elif node.op_type == "AveragePool" and counted:
            fill = 0.0
        else:
            msg = (
                f"node {node.name!r} ({node.op_type}) would need padding beyond its kernel when dilated, which "
                "runtimes refuse; use a larger --output-stride"
            )
            raise ModelError(msg)
        _pad_before(graph, node, window.pads, fill, namer)
        window = dataclasses.replace(window, pads=(0, 0, 0, 0))
    write_window(node, window)


def _takes_pads(window: Window) -> bool:
    """Whether a pooling may have these pads: runtimes refuse pads of the kernel's size or more, dilated or not."""
    return all(pad < window.kernel[i % 2] for i, pad in enumerate(window.pads))


def _pad_before(graph: ir.Graph, node: ir.Node, pads: tuple[int, int, int, int], fill: float, namer: Namer) -> None:
    data = node.inputs[0]
    assert data is not None and data.dtype is not None
    top, left, bottom, right = pads
    amounts = new_initializer(
        graph, namer.unique(f"{node.name}.pads"), np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
    )
    value = new_initializer(graph, namer.unique(f"{node.name}.fill"), np.array(fill, data.dtype.numpy()))
    out = ir.Value(name=namer.unique(f"{node.name}.padded"), type=data.type)
    pad = ir.Node("", "Pad", [data, amounts, value], outputs=[out], name=namer.unique(f"{node.name}.pad"))
    graph.insert_before(node, stamp(pad, StridesToDilations.__name__, node))
    infer_node(pad, dict(graph.opset_imports))
    node.replace_input_with(0, out)


def _rewrite_pad(graph: ir.Graph, node: ir.Node, grid: Grid, namer: Namer) -> None:
    """Padding grows like everything behind a removed stride."""
    amounts = constant_ints(node.inputs[1])
    data = node.inputs[0]
    assert amounts is not None and data is not None and data.shape is not None
    axes = constant_ints(node.inputs[3]) if len(node.inputs) > 3 else None
    positions = [axis % len(data.shape) for axis in axes] if axes is not None else list(range(len(data.shape)))
    factors = [dict(zip(grid.axes, grid.rate, strict=True)).get(axis, 1) for axis in positions]
    scaled = [amount * factor for amount, factor in zip(amounts, factors * 2, strict=True)]
    node.replace_input_with(1, new_initializer(graph, namer.unique(f"{node.name}.pads"), np.array(scaled, np.int64)))
