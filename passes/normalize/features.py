"""The classifier is cut off; the features become the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmtl.analysis.features import Feature, feature_form, named_value, write_features
from onnxmtl.analysis.finding import find_features
from onnxmtl.analysis.layouts import MapForm, channel_axes
from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, Namer, counted, new_initializer, report, stamp
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.ops import refusals
from onnxmtl.passes.normalize.fold import remove_dead
from onnxmtl.passes.normalize.inputs import image_input
from onnxmtl.passes.normalize.shapes import infer_node, infer_shapes

_LAYOUTS = {"NLC": "tokens [N, L, C]", "NCL": "tokens [N, C, L]", "NHWC": "a map [N, H, W, C]"}


class CutAtFeatures(InPlacePass):
    """Makes the feature tensors the graph's outputs and removes what only served other outputs.

    Tokens [N, L, C] or [N, C, L] and channels-last maps [N, H, W, C] become maps [N, C, H, W] by a Slice (the class
    token goes), a Transpose and a Reshape behind them; the output is then called ``<name>.map``.

    Requires: shapes are inferred; unique names.
    Ensures: outputs are the features, in the order asked for, maps [N, C, H, W], else under their own names; metadata
    ``onnxmtl.features`` and ``onnxmtl.kind``; one image input.

    Args:
        features: Names of tensors or nodes; None finds the one before the classifier, or those of a pyramid.

    Raises:
        ModelError: An unknown name (close ones are listed), a tensor that is no feature map, or no features found.
    """

    changes_outputs = True
    preserves_numerics = True

    def __init__(self, features: Sequence[str] | None = None) -> None:
        self.features = None if features is None else tuple(features)

    def call(self, model: ir.Model) -> PassResult:
        """Cut."""
        graph = model.graph
        if self.features is None:
            values = _find(model)
        else:
            values = list(dict.fromkeys(named_value(graph, name) for name in self.features))
        if not values:
            msg = "no features named; leave --features out to have them found"
            raise ModelError(msg)
        axes = channel_axes(graph)
        forms = [feature_form(value, axes) for value in values]  # refuses before anything is changed
        for value in values:
            if value.is_graph_input() and not any(other is not value for other in values):
                msg = f"the only feature, {value.name!r}, is the image itself; name a tensor that the network computes"
                raise ModelError(msg)
        outputs = [_as_map(model, value, form) for value, form in zip(values, forms, strict=True)]
        graph.outputs.clear()
        graph.outputs.extend(outputs)
        before = len(graph)
        remove_dead(graph)
        _drop_unused_inputs(graph)
        image_input(graph)
        features = write_features(model)
        if self.features is None:
            _say_found(model, values, features, before - len(graph))
        return PassResult(model, True)


def _find(model: ir.Model) -> list[ir.Value]:
    try:
        return find_features(model.graph)
    except ModelError:
        image_input(model.graph)  # an open image size, or a node that does not fit its inputs, explains it better
        if not refusals(model.graph):  # behind operators that nobody knows, shapes are unknown anyway
            infer_shapes(model)
        raise


def _say_found(model: ir.Model, values: Sequence[ir.Value], features: Sequence[Feature], removed: int) -> None:
    shown = ", ".join(f"{row.name!r} ({row.channels} channels, stride {row.stride})" for row in features)
    noun = "feature tensor" if len(features) == 1 else f"{len(features)} feature tensors"
    hint = "name another one with --features if this is not it"
    if len(features) > 1:
        hint = "name others with --features if these are not the ones"
    message = f"cut off {counted(removed, 'node')} behind the {noun} {shown}"
    if not removed:
        message = f"the {noun} {shown}: nothing was cut off"
    report(model, Diagnostic("features-found", message, _producer(values[0]), hint))


def _as_map(model: ir.Model, value: ir.Value, form: MapForm) -> ir.Value:
    """`value`, or a map [N, C, H, W] computed from it. A graph output must not be an input: that is copied."""
    graph = model.graph
    if form.layout == "NCHW":
        return _copy_of_input(graph, value) if value.is_graph_input() else value
    chain = _Chain(graph, value)
    channels, height, width = form.size
    axis = 2 if form.layout == "NCL" else 1
    extra = form.tokens - height * width
    if extra:
        bounds = (("starts", form.first), ("ends", form.first + height * width), ("axes", axis))
        chain.add("Slice", "tokens", [chain.constant(name, [number]) for name, number in bounds])
    if form.layout == "NHWC":
        chain.add("Transpose", "map", perm=[0, 3, 1, 2])
    else:
        if form.layout == "NLC":
            chain.add("Transpose", "channels_first", perm=[0, 2, 1])
        chain.add("Reshape", "map", [chain.constant("shape", [0, channels, height, width])])
    left_out = f", without {counted(extra, 'other token')} (of class or registers)" if extra else ""
    message = f"{_LAYOUTS[form.layout]} became a map [N, {channels}, {height}, {width}]{left_out}"
    report(model, Diagnostic("feature-as-map", message, _producer(value)))
    return chain.value


class _Chain:
    """Appends nodes that each read the one before, from `value` on."""

    def __init__(self, graph: ir.Graph, value: ir.Value) -> None:
        self.graph, self.namer, self.value = graph, Namer(graph), value
        self.base, self.source = str(value.name), value.producer()

    def constant(self, name: str, numbers: Sequence[int]) -> ir.Value:
        return new_initializer(self.graph, self.namer.unique(f"{self.base}.{name}"), np.array(numbers, np.int64))

    def add(self, op: str, name: str, constants: Sequence[ir.Value] = (), **attributes: Sequence[int]) -> None:
        output = ir.Value(name=self.namer.unique(f"{self.base}.{name}"))
        label = self.namer.unique(f"{self.base}.{op.lower()}")
        node = ir.node(op, [self.value, *constants], attributes, outputs=[output], name=label)
        self.graph.append(stamp(node, CutAtFeatures.__name__, self.source))
        infer_node(node, dict(self.graph.opset_imports))
        self.value = output


def _copy_of_input(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """An output must not be an input (onnx refuses it): hand out a copy under a name of its own."""
    namer = Namer(graph)
    output = ir.Value(name=namer.unique(f"{value.name}.feature"), type=value.type, shape=value.shape)
    node = ir.Node("", "Identity", [value], outputs=[output], name=namer.unique(f"{value.name}.copy"))
    graph.append(stamp(node, CutAtFeatures.__name__))
    return output


def _drop_unused_inputs(graph: ir.Graph) -> None:
    used = [value for value in graph.inputs if value.uses()]
    graph.inputs.clear()
    graph.inputs.extend(used)


def _producer(value: ir.Value) -> str:
    node = value.producer()
    return "" if node is None else str(node.name)
