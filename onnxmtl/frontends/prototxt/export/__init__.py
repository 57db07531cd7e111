"""The way back: a model as ``.prototxt`` and ``.caffemodel``, for what the format can say. ::

    onnxmtl.frontends.prototxt.save(model, "net.prototxt", "net.caffemodel")

One function per operator (:mod:`.convolution`, :mod:`.pooling`, …) writes its layers. A layer has its node's name,
its top the tensor's. What a layer of Caffe computes only nearly is refused: the network that is written computes what
the model computes, or nothing is written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import onnx_ir as ir

import onnxmtl.frontends.prototxt.export.activation
import onnxmtl.frontends.prototxt.export.arithmetic
import onnxmtl.frontends.prototxt.export.convolution
import onnxmtl.frontends.prototxt.export.normalization
import onnxmtl.frontends.prototxt.export.pooling
import onnxmtl.frontends.prototxt.export.resize
import onnxmtl.frontends.prototxt.export.shape  # noqa: F401  (they fill the registry)
from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt.export import caffemodel
from onnxmtl.frontends.prototxt.export.assembly import header, network, silence, tie
from onnxmtl.frontends.prototxt.export.net import Net
from onnxmtl.frontends.prototxt.export.registry import CannotSayError, require, sayer
from onnxmtl.frontends.prototxt.export.remarks import remark_readers
from onnxmtl.frontends.prototxt.export.shapes import known_shapes
from onnxmtl.frontends.prototxt.export.text import to_text
from onnxmtl.ir import Diagnostic, is_supermodel
from onnxmtl.runs.atomic import atomic_write

SaveDialect = Literal["caffe", "automtl"]

_OLDEST_OPSET = 18  # axes of reductions are inputs from here on
_SHOWN = 50
_TYPED = ("ArgMax", "Greater")  # their results become floats


def save(
    model: ir.Model,
    prototxt: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    *,
    dialect: SaveDialect = "caffe",
) -> list[Diagnostic]:
    """Write a model as prototxt.

    Args:
        model: Opset 18 or later, images [N, C, H, W] of a known size, constants folded, as
            :func:`onnxmtl.passes.normalize.normalize` leaves it; :func:`onnxmtl.export_prototxt` takes
            anything. It is left unchanged.
        prototxt: Where to write the network; a file of that name is replaced.
        weights: Where to write the ``.caffemodel``; None: nowhere.
        dialect: ``caffe`` splits BatchNorm and Scale; ``automtl`` has both in BatchNorm, and calls the input "data".

    Returns:
        What the user should know: layers that are not in every Caffe, and the like.

    Raises:
        ModelError: One message with all nodes that the format cannot say; nothing is written then.
        RunError: The disk refuses.
    """
    target, binary = Path(prototxt), None if weights is None else Path(weights)
    if dialect not in get_args(SaveDialect):
        msg = f"dialect {dialect!r} is unknown; written are {' and '.join(get_args(SaveDialect))}"
        raise ModelError(msg)
    if binary is not None and os.path.abspath(binary) == os.path.abspath(target):
        msg = f"{target}: network and weights cannot be one file; give them two names"
        raise ModelError(msg)
    net, text = _said(model, automtl=dialect == "automtl")
    if binary is not None and not any(written.weights for written in net.layers):
        net.remark("prototxt-weights", f"the network has no weights; {binary} is not written")
    elif binary is not None:
        atomic_write(binary, caffemodel.to_bytes(str(model.graph.name or ""), net.layers))
    atomic_write(target, text.encode())
    return net.remarks


def to_prototxt(model: ir.Model, *, dialect: SaveDialect = "caffe") -> str:
    """The text that :func:`save` writes."""
    return _said(model, automtl=dialect == "automtl")[1]


def _said(model: ir.Model, *, automtl: bool) -> tuple[Net, str]:
    """The layers and the text."""
    _check(model)
    net = Net(model.graph, known_shapes(model), automtl=automtl)
    message = header(model.graph, net)
    failed: list[str] = []
    for node in model.graph:
        used = any(value.uses() or value.is_graph_output() for value in node.outputs)
        if node in net.done or not used or (node.op_type == "Constant" and node.domain == ""):
            continue
        try:
            sayer(node)(node, net)
            _check_types(node)
        except CannotSayError as reason:
            failed.append(f"{node.op_type} {node.name or node.outputs[0].name!r} ({reason})")
    _refuse(failed)
    silence(model.graph, net)
    tie(net)
    remark_readers(net)
    return net, to_text(network(message, net))


def _check(model: ir.Model) -> None:
    """The model as a whole can be said.

    Raises:
        ModelError: A supermodel, an old opset, an output that is no layer's.
    """
    graph = model.graph
    if is_supermodel(model):
        msg = "the model is a supermodel, whose choices are open; export the network that was selected from it"
        raise ModelError(msg)
    opset = graph.opset_imports.get("", 0)
    if opset < _OLDEST_OPSET:
        msg = f"the model has opset {opset}, {_OLDEST_OPSET} or later is needed; onnxmtl.export_prototxt converts it"
        raise ModelError(msg)
    for value in graph.inputs:
        if value.dtype is not ir.DataType.FLOAT:
            msg = f"the input {value.name!r} is {value.dtype}; networks in a prototxt read float32"
            raise ModelError(msg)
    for value in graph.outputs:
        if value.producer() is None:
            msg = f"the output {value.name!r} is an input or a constant, which no layer makes; remove it"
            raise ModelError(msg)


def _check_types(node: ir.Node) -> None:
    for value in node.outputs:
        numbers = value.dtype in (None, ir.DataType.FLOAT) or not (value.uses() or value.is_graph_output())
        require(numbers or node.op_type in _TYPED, f"it makes {value.dtype} numbers, Caffe has float32")


def _refuse(failed: list[str]) -> None:
    """Raise the one error that names all nodes."""
    if not failed:
        return
    count = len(failed)
    shown = ", ".join(failed[:_SHOWN]) + (f" and {count - _SHOWN} more" if count > _SHOWN else "")
    msg = (
        f"{count} node{'s' if count > 1 else ''} cannot be said in a prototxt: {shown}; nothing was written: "
        f"end the network before {'them' if count > 1 else 'it'} (--features NAME), or change "
        f"{'these operators' if count > 1 else 'this operator'} for ones that Caffe has"
    )
    raise ModelError(msg)
