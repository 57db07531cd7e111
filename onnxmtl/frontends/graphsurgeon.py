"""To onnx-graphsurgeon and back, without losing what graphsurgeon does not know.

graphsurgeon drops all metadata, most doc strings, denotations and the order of initializers. A graph made by
:func:`to_graphsurgeon` carries the model it came from (``graph.onnxmtl_origin``), and each of its nodes and tensors
the one it was (``onnxmtl_origin``), so that :func:`from_graphsurgeon` can put everything back on whatever is still
there, renamed or not. What graphsurgeon copied, and so lost the marks of, is recognised by name. Nodes and tensors
that are new get nothing.

Weights stay where they are: a graph's constants are read when somebody asks for their values, and those that nobody
asked for are the same tensors in the end.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxmtl.errors import MissingDependencyError, ModelError
from onnxmtl.ir import attach_functions, carry

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

ORIGIN = "onnxmtl_origin"


def to_graphsurgeon(model: ir.Model) -> gs.Graph:
    """A graphsurgeon graph of `model`, which is left unchanged.

    Raises:
        MissingDependencyError: onnx-graphsurgeon is not installed.
    """
    gs = _graphsurgeon()
    origin = model.clone()
    carry(model, origin)
    attach_functions(origin)
    kept = {}
    for graph in origin.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                kept[value] = value.const_value
                value.const_value = ir.TensorProtoTensor(_hollow(value.const_value, str(value.name)))
    proto = ir.to_proto(origin)
    for value, tensor in kept.items():
        value.const_value = tensor
    graph = gs.import_onnx(proto)
    for function in graph.functions:
        setattr(function, ORIGIN, _bytes_of(function))
    _mark(graph, origin.graph)
    setattr(graph, ORIGIN, origin)
    return graph


def from_graphsurgeon(graph: gs.Graph, origin: ir.Model | None = None) -> ir.Model:
    """The model of a graphsurgeon graph, which is left unchanged.

    Args:
        graph: Any graph; one of :func:`to_graphsurgeon` gets its metadata back.
        origin: Where metadata comes from for a copy of such a graph, which has lost it.

    Raises:
        ModelError: graphsurgeon cannot write the graph: an output without a type, a value that nothing makes.
    """
    gs = _graphsurgeon()
    from onnx_graphsurgeon.util.exception import OnnxGraphSurgeonException

    origin = getattr(graph, "__dict__", {}).get(ORIGIN, origin)
    _check_inputs(graph)
    try:
        with _hollowed(graph) as weights:
            proto = gs.export_onnx(graph)
    except (OnnxGraphSurgeonException, AttributeError, TypeError, ValueError, AssertionError) as error:
        msg = f"graphsurgeon cannot write the graph {graph.name!r}: {_first_line(error)}"
        raise ModelError(msg) from error
    try:
        model: ir.Model = ir.from_proto(proto)
    except Exception as error:  # a graph that was edited by hand may be anything
        msg = f"the graph {graph.name!r} is no valid model: {_first_line(error)}; try graph.cleanup().toposort()"
        raise ModelError(msg) from error
    for found in model.graphs():
        for name, value in found.initializers.items():
            if name in weights:
                value.const_value = _called(weights[name], name)
    if origin is not None:
        _restore_model(model, origin, graph)
        _restore(model.graph, graph, origin.graph)
    return model


def _check_inputs(graph: gs.Graph) -> None:
    """Every value that a node reads is made by a node, or is an input or a constant: graphsurgeon does not look."""
    gs = _graphsurgeon()
    given = {tensor.name for tensor in graph.inputs}
    given |= {tensor.name for node in graph.nodes for tensor in node.outputs}
    for node in graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Variable) and tensor.name and tensor.name not in given:
                msg = (
                    f"the graph {graph.name!r} is no valid model: node {node.name!r} ({node.op}) reads "
                    f"{tensor.name!r}, which no node makes; make it, or list it in graph.inputs"
                )
                raise ModelError(msg)


def is_new(node: ir.Node) -> bool:
    """Whether a node of a model of :func:`from_graphsurgeon` was not in the model that the graph was made of."""
    return bool(node.meta.get(_NEW, False))


_NEW = "onnxmtl.new"


# -- there -----------------------------------------------------------------------------------------------------------


def _mark(graph: Any, origin: ir.Graph | ir.Function) -> None:
    """Tell every node and tensor of `graph` what it was."""
    values: dict[str, ir.Value] = {**_named(origin)}
    lazy = _lazy_class()
    for name, tensor in graph.tensors().items():
        value = values.get(name)
        if value is None:
            continue
        setattr(tensor, ORIGIN, value)
        if isinstance(tensor, _graphsurgeon().Constant) and value.const_value is not None:
            tensor._values = lazy(value.const_value)
    for node, source in zip(graph.nodes, origin, strict=True):
        setattr(node, ORIGIN, source)
        inner = {name: a.as_graph() for name, a in source.attributes.items() if a.type is ir.AttributeType.GRAPH}
        for name, subgraph in inner.items():
            _mark(node.attrs[name], subgraph)


def _named(graph: ir.Graph | ir.Function) -> dict[str, ir.Value]:
    initializers = graph.initializers.values() if isinstance(graph, ir.Graph) else ()
    outputs = [value for node in graph for value in node.outputs]
    return {str(value.name): value for value in (*initializers, *graph.inputs, *outputs)}


def _hollow(tensor: Any, name: str) -> onnx.TensorProto:
    """A tensor of the same type and shape without data."""
    return onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape.numpy())


@functools.cache
def _lazy_class() -> Any:
    """graphsurgeon's lazy values over a tensor of ours; made when graphsurgeon is there."""
    from onnx_graphsurgeon.ir.tensor import LazyValues

    class Weights(LazyValues):  # type: ignore[misc]
        def __init__(self, source: Any) -> None:
            hollow = LazyValues(_hollow(source, str(source.name)))
            self.source, self.shape, self.dtype, self.nbytes = source, hollow.shape, hollow.dtype, hollow.nbytes

        @property
        def tensor(self) -> onnx.TensorProto:
            proto = onnx.TensorProto()
            proto.CopyFrom(ir.to_proto(self.source))
            return proto

        def load(self) -> np.ndarray[Any, Any]:
            return np.array(self.source.numpy())

    return Weights


# -- and back --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _hollowed(graph: Any) -> Iterator[dict[str, Any]]:
    """The graph with empty tensors for weights that nobody has read; yields these weights by name."""
    from onnx_graphsurgeon.ir.tensor import LazyValues

    weights: dict[str, Any] = {}
    taken = []
    for part in (graph, *graph.subgraphs(recursive=True)):
        for name, tensor in part.tensors().items():
            values = getattr(tensor, "_values", None)
            if isinstance(values, _lazy_class()):
                weights[name] = values.source
                taken.append((tensor, values))
                tensor._values = LazyValues(_hollow(values.source, name))
    try:
        yield weights
    finally:
        for tensor, values in taken:
            tensor._values = values


def _called(tensor: Any, name: str) -> Any:
    if tensor.name == name:
        return tensor
    return ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=tensor.shape, name=name)


def _restore_model(model: ir.Model, origin: ir.Model, graph: Any) -> None:
    """What belongs to the model as a whole, and functions that were not touched."""
    model.metadata_props.update(origin.metadata_props)
    carry(origin, model)
    model.doc_string, model.domain, model.model_version = origin.doc_string, origin.domain, origin.model_version
    originals = {(key[0], key[1]): (key, function) for key, function in origin.functions.items()}
    for function in graph.functions:
        known = originals.get((function.domain, function.name))
        if known is not None and function.__dict__.get(ORIGIN, _bytes_of(function)) == _bytes_of(function):
            model.functions.pop((function.domain or "", function.name, ""), None)
            model.functions[known[0]] = known[1].clone()


def _restore(graph: ir.Graph, edited: Any, origin: ir.Graph | None) -> None:
    """Metadata of a graph, its nodes and its values."""
    values: dict[str, ir.Value] = {}
    nodes: dict[str, ir.Node] = {}
    if origin is not None:
        graph.metadata_props.update(origin.metadata_props)
        graph.meta.update(origin.meta)
        values, nodes = _named(origin), {str(node.name): node for node in reversed(origin) if node.name}
    marked = {name: tensor.__dict__.get(ORIGIN) for name, tensor in edited.tensors().items()}
    for name, value in _named(graph).items():
        known = marked.get(name) or values.get(name)
        if known is not None:
            _restore_value(value, known)
    for node, seen in zip(graph, edited.nodes, strict=True):
        source = seen.__dict__.get(ORIGIN) or nodes.get(str(node.name))
        if source is None:
            node.meta[_NEW] = True
        else:
            node.metadata_props.update(source.metadata_props)
            node.meta.update(source.meta)
            node.doc_string = source.doc_string
            if source.overload and (source.domain, source.op_type) == (node.domain, node.op_type):
                node.overload = source.overload
        for name, attribute in node.attributes.items():
            if attribute.type is ir.AttributeType.GRAPH:
                known_attribute = source.attributes.get(name) if source is not None else None
                is_graph = known_attribute is not None and known_attribute.type is ir.AttributeType.GRAPH
                known_graph = known_attribute.as_graph() if known_attribute is not None and is_graph else None
                _restore(attribute.as_graph(), seen.attrs[name], known_graph)
    _restore_order(graph, list(values))


def _restore_value(value: ir.Value, known: ir.Value) -> None:
    value.metadata_props.update(known.metadata_props)
    value.meta.update(known.meta)
    value.doc_string = known.doc_string
    if value.const_value is None and known.type is not None and value.dtype == known.dtype:
        value.type = known.type  # with its denotation
        if known.shape is not None and value.shape == known.shape:
            value.shape = known.shape


def _restore_order(graph: ir.Graph, order: list[str]) -> None:
    """Initializers in the order they had; new ones last."""
    position = {name: index for index, name in enumerate(order)}
    found = sorted(graph.initializers.items(), key=lambda item: position.get(item[0], len(position)))
    if [name for name, _ in found] != list(graph.initializers):
        for name, _ in found:
            del graph.initializers[name]
        for _, value in found:
            graph.register_initializer(value)


def _bytes_of(function: Any) -> bytes:
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    return bytes(OnnxExporter.export_function(function).SerializeToString(deterministic=True))


def _graphsurgeon() -> Any:
    try:
        import onnx_graphsurgeon
    except ImportError as error:
        msg = "this needs onnx-graphsurgeon; install it: pip install 'onnxmtl[gs]'"
        raise MissingDependencyError(msg) from error
    return onnx_graphsurgeon


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
