"""The classifier is cut off; the features become the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxmtl.analysis.features import describe, find_feature, named_value, write_features
from onnxmtl.errors import ModelError
from onnxmtl.ir import Diagnostic, Namer, report, stamp
from onnxmtl.ir.passes import InPlacePass, PassResult
from onnxmtl.passes.normalize.fold import remove_dead
from onnxmtl.passes.normalize.inputs import image_input
from onnxmtl.passes.normalize.shapes import infer_shapes


class CutAtFeatures(InPlacePass):
    """Makes the feature tensors the graph's outputs and removes what only served other outputs.

    Requires: shapes are inferred; unique names.
    Ensures: outputs are the features, in the order asked for, under their own names; metadata ``onnxmtl.features``
    and ``onnxmtl.kind``; one image input.

    Args:
        features: Names of tensors or nodes; None finds the one before the classifier.

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
            values = [_find(model)]
        else:
            values = list(dict.fromkeys(named_value(graph, name) for name in self.features))
        if not values:
            msg = "no features named; leave --features out to have them found"
            raise ModelError(msg)
        describe(graph, values)  # refuses what is no feature map before anything is changed
        for value in values:
            if value.is_graph_input() and not any(other is not value for other in values):
                msg = f"the only feature, {value.name!r}, is the image itself; name a tensor that the network computes"
                raise ModelError(msg)
        values = [_copy_of_input(graph, value) if value.is_graph_input() else value for value in values]
        graph.outputs.clear()
        graph.outputs.extend(values)
        before = len(graph)
        remove_dead(graph)
        _drop_unused_inputs(graph)
        image_input(graph)
        features = write_features(model)
        if self.features is None:
            feature = features[0]
            message = (
                f"cut off {before - len(graph)} nodes behind the feature tensor {feature.name!r} "
                f"({feature.channels} channels, stride {feature.stride})"
            )
            hint = "name another one with --features if this is not it"
            report(model, Diagnostic("features-found", message, _producer(values[0]), hint))
        return PassResult(model, True)


def _find(model: ir.Model) -> ir.Value:
    try:
        return find_feature(model.graph)
    except ModelError:
        image_input(model.graph)  # an open image size, or a node that does not fit its inputs, explains it better
        infer_shapes(model)
        raise


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
