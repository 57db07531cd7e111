"""To onnx-graphsurgeon and back: nothing that graphsurgeon forgets is lost."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from helpers.graphs import small_resnet
from helpers.networks import image_of, run, small_network

import onnxmtl
from onnxmtl.errors import ModelError
from onnxmtl.frontends.graphsurgeon import from_graphsurgeon, is_new, to_graphsurgeon
from onnxmtl.frontends.onnx import load, save_external
from onnxmtl.ir import Diagnostic, diagnostics, report, to_bytes
from onnxmtl.passes.spaces.vcn import Vcn


def annotated() -> ir.Model:
    """A network with something on every level."""
    model = small_network(("batch", 3, 16, 16))
    model.metadata_props["level"], model.graph.metadata_props["level"] = "model", "graph"
    model.doc_string, model.domain, model.model_version = "about", "my.domain", 7
    for index, node in enumerate(model.graph):
        node.metadata_props["index"], node.doc_string = str(index), f"node {index}"
        node.outputs[0].metadata_props["value"] = str(node.name)
    for value in model.graph.initializers.values():
        value.metadata_props["weight"] = str(value.name)
    model.graph.inputs[0].metadata_props["image"] = "yes"
    return model


def stack(graph: gs.Graph, name: str) -> gs.Node:
    return next(node for node in graph.nodes if node.name == name)


def by_name(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def test_a_round_trip_gives_the_same_bytes():
    model = annotated()
    before = to_bytes(model)
    assert to_bytes(from_graphsurgeon(to_graphsurgeon(model))) == before
    assert to_bytes(model) == before


def test_graphsurgeon_alone_loses_it():
    """The reason for all this; if it fails one day, much of the module can go."""
    model = annotated()
    assert to_bytes(from_graphsurgeon(gs.import_onnx(ir.to_proto(model)))) != to_bytes(model)


def test_a_supermodel_keeps_its_functions_and_roles():
    model = Vcn()(small_resnet({"a": 2, "b": 3})).model
    before = to_bytes(model)
    assert to_bytes(from_graphsurgeon(to_graphsurgeon(model).cleanup())) == before


def test_an_edited_function_stays_edited():
    model = Vcn()(small_resnet({"a": 2, "b": 3})).model
    graph = to_graphsurgeon(model)
    graph.functions[0].nodes[0].name = "changed"
    (function, *_) = from_graphsurgeon(graph).functions.values()
    assert "changed" in {node.name for node in function}


def test_renamed_nodes_and_tensors_keep_theirs():
    graph = to_graphsurgeon(annotated())
    stack(graph, "a").name = "first"
    stack(graph, "a_relu").outputs[0].name = "renamed_value"
    weight = stack(graph, "b").inputs[1]
    weight.name = "other.w"
    model = from_graphsurgeon(graph)
    old = by_name(annotated(), "a").metadata_props
    assert by_name(model, "first").metadata_props == old
    assert by_name(model, "a_relu").outputs[0].metadata_props == {"value": "a_relu"}
    assert model.graph.initializers["other.w"].metadata_props == {"weight": "b.w"}
    np.testing.assert_array_equal(
        model.graph.initializers["other.w"].const_value.numpy(),
        annotated().graph.initializers["b.w"].const_value.numpy(),
    )


def test_a_copy_is_recognised_by_names():
    model = annotated()
    copied = to_graphsurgeon(model).copy()
    assert to_bytes(from_graphsurgeon(copied, origin=model)) == to_bytes(model)


def test_new_nodes_get_nothing_and_removed_ones_are_gone():
    graph = to_graphsurgeon(annotated())
    relu = stack(graph, "a_relu")
    value = gs.Variable("leaky", dtype=np.float32)
    graph.nodes.append(gs.Node("LeakyRelu", "mine", {"alpha": 0.1}, inputs=list(relu.inputs), outputs=[value]))
    for user in list(relu.outputs[0].outputs):
        user.inputs[0] = value
    model = from_graphsurgeon(graph.cleanup().toposort())
    mine = by_name(model, "mine")
    assert is_new(mine) and not mine.metadata_props and not mine.doc_string
    assert "a_relu" not in {node.name for node in model.graph}
    assert [node.name for node in model.graph if is_new(node)] == ["mine"]
    assert by_name(model, "b").metadata_props == by_name(annotated(), "b").metadata_props


def test_symbols_opset_and_remarks_survive():
    model = annotated()
    report(model, Diagnostic("code", "said"))
    back = from_graphsurgeon(to_graphsurgeon(model))
    assert back.graph.inputs[0].shape == ir.Shape(["batch", 3, 16, 16])
    assert back.graph.opset_imports == model.graph.opset_imports and back.ir_version == model.ir_version
    assert diagnostics(back) == diagnostics(model)


def test_weights_nobody_reads_stay_the_same_tensors(tmp_path):
    save_external(small_network(), tmp_path / "net.onnx", threshold=0)
    model = load(tmp_path / "net.onnx")
    graph = to_graphsurgeon(model)
    touched = stack(graph, "a").inputs[1]
    touched.values = touched.values * 2
    back = from_graphsurgeon(graph)
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    same = {name for name, value in back.graph.initializers.items() if value.const_value is tensors[name]}
    assert same == set(tensors) - {"a.w"}
    np.testing.assert_array_equal(back.graph.initializers["a.w"].const_value.numpy(), 2 * tensors["a.w"].numpy())


def test_graphsurgeons_own_export_has_the_weights():
    model = small_network()
    proto = gs.export_onnx(to_graphsurgeon(model))
    x = image_of(model, 1)
    np.testing.assert_array_equal(run(ir.from_proto(proto), x)[0], run(model, x)[0])


def test_metadata_in_subgraphs():
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        g (bool c, float[2] x) => (float[2] y) {
            [outer] y = If (c) <then_branch = t () => (float[2] a) { [inner] a = Neg (x) },
                      else_branch = e () => (float[2] b) { b = Abs (x) }>
        }""")
    model = ir.from_proto(proto)
    inner = next(iter(next(iter(model.graph)).attributes["then_branch"].as_graph()))
    inner.metadata_props["k"] = "v"
    back = from_graphsurgeon(to_graphsurgeon(model))
    assert next(iter(next(iter(back.graph)).attributes["then_branch"].as_graph())).metadata_props == {"k": "v"}


def test_a_graph_that_cannot_be_written():
    graph = to_graphsurgeon(small_network())
    graph.outputs[0].dtype = None
    with pytest.raises(ModelError, match="graphsurgeon cannot write the graph"):
        from_graphsurgeon(graph)


def test_a_value_that_nothing_makes():
    graph = to_graphsurgeon(small_network())
    graph.nodes[0].inputs[0] = gs.Variable("nothing")
    with pytest.raises(
        ModelError, match=rf"node '{graph.nodes[0].name}' \(Conv\) reads 'nothing', which no node makes"
    ):
        from_graphsurgeon(graph)


def test_load_takes_a_graph():
    backbone = onnxmtl.load(gs.import_onnx(ir.to_proto(small_network())))
    assert [value.name for value in backbone.graph.outputs] == ["out_out"]
