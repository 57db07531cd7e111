"""The graph's inputs: weights are none, and one image is left."""

from __future__ import annotations

import onnx_ir as ir

from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, report, value_text
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.batch_sizes import BATCH

_CHANNELS = (1, 3, 4)  # of a picture: grey, RGB, RGBA
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class CleanInputs(InPlacePass):
    """Takes initializers and unused values out of the graph's inputs and calls a dynamic batch dimension "N".

    A batch size that is fixed stays fixed here; :class:`~onnxmtl.passes.normalize.batch.DynamicBatch` opens it.

    Ensures: no initializer is an input; every input is used, or is the only one.
    """

    preserves_numerics = True

    def call(self, model: ir.Model) -> PassResult:
        """Clean."""
        graph = model.graph
        kept = [value for value in graph.inputs if not value.is_initializer()]
        weights = len(graph.inputs) - len(kept)
        used = [value for value in kept if value.uses() or value.is_graph_output()] or kept[:1]
        for value in kept:
            if value not in used:
                report(model, Diagnostic("input-removed", f"the input {value.name!r} is not used and was removed"))
        changed = len(used) != len(graph.inputs)
        if changed:
            graph.inputs.clear()
            graph.inputs.extend(used)
        if weights:
            # Before IR version 4 every initializer had to be an input.
            model.ir_version = max(model.ir_version or 0, 4)
            report(
                model,
                Diagnostic("weights-in-inputs", f"{weights} weights were listed as inputs; they are constants now"),
            )
        for value in graph.inputs:
            if value.shape is not None and len(value.shape) == 4 and not isinstance(value.shape[0], int):
                changed |= value.shape[0] != ir.SymbolicDim(BATCH)
                value.shape = ir.Shape([BATCH, *list(value.shape)[1:]])
        return PassResult(model, changed)


def channels_last(value: ir.Value) -> bool:
    """Whether an input is an image [N, H, W, C]: its last size is that of a picture's channels and its second is not,
    or all that reads it puts its channels first."""
    if value.shape is None or len(value.shape) != 4 or value.dtype not in _FLOATS:
        return False
    users = [use.node for use in value.uses()]
    if users and all(_puts_channels_first(node) for node in users):
        return True
    return value.shape[3] in _CHANNELS and value.shape[1] not in _CHANNELS and any(map(_reads_vectors, users))


def _puts_channels_first(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and list(node.attributes.get_ints("perm") or ()) == [0, 3, 1, 2]


def _reads_vectors(node: ir.Node) -> bool:
    """Whether the operator may stand before the Transpose of an image with its channels last; convolutions do not."""
    return node.op_type not in ("Conv", "MaxPool", "AveragePool", "BatchNormalization", "Resize")


def image_input(graph: ir.Graph) -> ir.Value:
    """The one image input, [N, C, H, W] of floats with known C, H and W.

    Raises:
        ModelError: There is none, there are several, or its channels or size are unknown.
    """
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    images = [v for v in inputs if v.shape is not None and len(v.shape) == 4 and v.dtype in _FLOATS]
    listed = ", ".join(map(value_text, inputs)) or "none"
    if len(images) != 1 or len(inputs) != 1:
        msg = f"the network must have one input, a float image [N, C, H, W]; its inputs are: {listed}"
        raise ModelError(msg)
    image = images[0]
    assert image.shape is not None
    if not isinstance(image.shape[1], int):
        msg = f"the number of channels of the input ({listed}) is not fixed; export the model with a fixed one"
        raise ModelError(msg)
    if not all(isinstance(dim, int) and dim > 0 for dim in list(image.shape)[2:]):
        msg = f"the image size of the input ({listed}) is not fixed; say which with --input-size HxW"
        raise ModelError(msg)
    return image
