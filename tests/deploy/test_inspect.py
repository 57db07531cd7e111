"""inspect: blocks and their costs, and that it says what it can about networks that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir
import pytest
from helpers.networks import Network, small_network

from onnxmtl import cli
from onnxmtl.cost.count import count
from onnxmtl.deploy.inspect import Cuts, inspect_model
from onnxmtl.errors import ModelError
from onnxmtl.frontends.onnx import load
from onnxmtl.ir import save
from onnxmtl.kinds import TaskSet
from onnxmtl.passes.heads import AttachHeads
from onnxmtl.passes.normalize import normalize
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.passes.spaces import Tree, layout_blocks
from onnxmtl.policy.layout import Layout

FIXTURES = Path(__file__).parents[1] / "fixtures" / "prototxt"


def written(model, tmp_path):
    save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def custom(net: Network, x: ir.Value, name: str) -> ir.Value:
    net.graph.opset_imports["com.acme"] = 1
    out = ir.Value(name=f"{name}_out")
    net.graph.append(ir.Node("com.acme", "Swizzle", [x], outputs=[out], name=name))
    return out


def test_blocks_add_up_to_the_network(tmp_path):
    path = written(small_network(), tmp_path)
    found = inspect_model(path)
    assert [(row.first, row.last) for row in found.blocks] == [("stem", "stem_relu"), ("a", "out")]
    stem, body = found.blocks
    # 3×3 from 3 to 4 channels on 8×8; then 3×3 from 4 to 6, 3×3 from 6 to 6 and 1×1 from 4 to 6 on 4×4.
    assert stem.multiply_adds == 64 * 4 * 27 and body.multiply_adds == 16 * (6 * 36 + 6 * 54 + 6 * 4)
    assert stem.parameters == 4 * 27 + 8 and body.parameters == 6 * 36 + 6 * 54 + 6 * 4 + 3 * 12
    assert stem.activation_bytes == 3 * 4 * 64 * 4
    assert (stem.stride, body.stride) == (2, 4) and body.features == ("out_out",) and not stem.features
    assert stem.operators == {"BatchNormalization": 1, "Conv": 1, "Relu": 1}
    assert [(row.name, row.behind) for row in found.boundaries] == [("stem_relu_out", 0)]
    assert found.boundaries[0].tensors[0].shape == ("N", 4, 8, 8)
    costs = count(normalize(load(path)))
    assert sum(row.parameters for row in found.blocks) == costs.parameters == found.costs.parameters
    assert sum(row.multiply_adds for row in found.blocks) == costs.multiply_adds
    assert found.slots == {"weight": 672, "scale": 22, "shift": 22} and found.trainable == {"backbone": 716}
    assert found.normalization_kinds == {"BatchNormalization": 4}
    assert sum(row.activation_bytes for row in found.blocks) == found.activation_bytes
    assert 0 < found.peak_activation_bytes < found.activation_bytes
    assert found.file_bytes == path.stat().st_size


def test_unsupported_operators_are_named(tmp_path):
    net = Network()
    x = custom(net, net.conv(net.image, 3, 4, name="a"), "first")
    for i in range(5):
        x = net.conv(x, 4, 4, name=f"b{i}")
    path = written(net.model(net.classifier(custom(net, x, "second"), 4)), tmp_path)
    found = inspect_model(path)
    assert len(found.unsupported) == 2
    assert all("com.acme.Swizzle" in line and "opset 1" in line for line in found.unsupported)
    assert "'first'" in found.unsupported[0] and "'second'" in found.unsupported[1]
    assert any("cannot be used as a backbone" in remark for remark in found.remarks)
    assert sum("2 nodes cannot be trained" in remark for remark in found.remarks) == 1
    assert found.nodes == 11 and found.trainable == {"backbone": 108 + 5 * 144 + 20}
    assert found.costs is None and found.features == ()
    assert [row.parameters for row in found.blocks] == [108, 144, 144, 144, 144, 144, 20]
    assert found.blocks[0].multiply_adds is None
    assert found.boundaries[0].name == "first_out"


def test_unsupported_operators_behind_the_features_do_no_harm(tmp_path):
    net = Network()
    x = net.add("Relu", [net.conv(net.image, 3, 4, name="a")], "last")
    found = inspect_model(written(net.model(custom(net, net.classifier(x, 4), "decode")), tmp_path))
    assert found.unsupported == () and [row.name for row in found.features] == ["last_out"]
    assert any("'decode'" in remark and "cut off" in remark for remark in found.remarks)


def test_an_open_image_size(tmp_path):
    net = Network(("N", 3, "H", "W"))
    x = net.conv(net.image, 3, 4, name="a")
    found = inspect_model(written(net.model(net.classifier(x, 4)), tmp_path))
    assert any("--input-size" in remark for remark in found.remarks)
    assert any("image: float [N, 3, H, W]" in remark for remark in found.remarks)
    assert not any("SymbolicDim" in remark for remark in found.remarks)
    assert found.trainable == {"backbone": 128} and [row.parameters for row in found.blocks] == [108, 20]
    sized = inspect_model(tmp_path / "net.onnx", input_size=(16, 16))
    assert sized.features and not any("cannot be used" in remark for remark in sized.remarks)


def test_control_flow_on_data(tmp_path):
    net = Network()
    x = net.conv(net.image, 3, 4, name="a")
    branches = []
    for name in ("then", "else"):
        out = ir.Value(name=f"{name}_out", type=ir.TensorType(ir.DataType.FLOAT))
        nested = ir.Graph([], [out], nodes=[ir.Node("", "Relu", [x], outputs=[out])], name=name)
        branches.append(ir.AttrGraph(f"{name}_branch", nested))
    flag = net.add("Cast", [net.add("ReduceSum", [x], keepdims=0)], to=9)
    x = ir.Value(name="joined")
    net.graph.append(ir.Node("", "If", [flag], branches, outputs=[x], name="if"))
    for i in range(5):
        x = net.conv(x, 4, 4, name=f"b{i}")
    found = inspect_model(written(net.model(net.classifier(x, 4)), tmp_path))
    assert [line.split()[:2] for line in found.unsupported] == [["If", "'if'"]]
    assert found.blocks[0].first == "a" and found.blocks[0].last == "if"


def test_no_features_to_be_found(tmp_path):
    net = Network()
    x = net.add("Gemm", [net.add("Flatten", [net.image]), net.weight("fc", net.normal(768, 5))])
    found = inspect_model(written(net.model(x), tmp_path))
    assert found.features == () and found.costs.parameters == 3840
    assert any("found no features" in remark for remark in found.remarks)


def test_a_node_that_does_not_fit_its_input(tmp_path):
    net = Network()
    x = net.conv(net.conv(net.image, 3, 4, name="a"), 5, 4, name="b")
    for i in range(4):
        x = net.conv(x, 4, 4, name=f"c{i}")
    found = inspect_model(written(net.model(net.classifier(x, 4)), tmp_path))
    assert any("'b' (Conv): its input 'a_out' has 4 channels" in remark for remark in found.remarks)
    assert found.nodes == 9 and len(found.blocks) == 7


@pytest.mark.parametrize("name", ["residual_automtl", "v1_deploy"])
def test_a_prototxt(name):
    found = inspect_model(FIXTURES / f"{name}.prototxt")
    assert found.features and found.blocks and found.costs.multiply_adds > 0


def test_names_that_are_wrong_are_errors(tmp_path):
    path = written(small_network(), tmp_path)
    with pytest.raises(ModelError, match="'nope'"):
        inspect_model(path, features=["nope"])
    with pytest.raises(ModelError, match="'nope'"):
        inspect_model(path, cuts=Cuts(add=("nope",)))
    with pytest.raises(ModelError, match=r"weights are given for a \.prototxt only"):
        inspect_model(path, weights=path)
    with pytest.raises(ModelError, match="no such file"):
        inspect_model(tmp_path / "none.onnx")


def test_features_of_a_model_of_ours_are_refused(tmp_path):
    model = small_network()
    model.metadata_props["onnxmtl.kind"] = "final"
    with pytest.raises(ModelError, match="--features is for backbones only"):
        inspect_model(written(model, tmp_path), features=["out"])


def test_damaged_metadata_is_a_remark(tmp_path):
    model = small_network()
    model.metadata_props["onnxmtl.kind"] = "final"
    model.metadata_props["onnxmtl.tasks"] = '[{"name": 3'
    found = inspect_model(written(model, tmp_path))
    assert found.tasks == () and any("onnxmtl.tasks" in remark for remark in found.remarks)


def test_the_tree_of_a_model(tmp_path, capsys):
    tasks = TaskSet(tuple(t.replace(head="light") for t in TaskSet.parse("seg=segmentation:3,depth,normals")))
    layout = Layout(tasks.names, (((0, 1, 2),), ((0, 2), (1,))))
    backbone = normalize(small_network())
    blocks = layout_blocks(backbone, layout)
    layout = layout.with_blocks([block.name for block in blocks])
    model = Pipeline([AttachHeads(tasks, 0), Tree(layout, blocks)])(backbone).model
    path = written(model, tmp_path)
    assert inspect_model(path).layout == layout
    code, out, err = run(capsys, "inspect", path)
    assert (code, err) == (0, "") and f"the tree of the tasks:\n{layout.text()}" in out
    _, out, _ = run(capsys, "inspect", path, "--json")
    (tmp_path / "layout.json").write_text(json.dumps({"layout": json.loads(out)["layout"]}))
    assert Layout.from_file(tmp_path / "layout.json") == layout  # for compile --layout

    model.metadata_props["onnxmtl.layout"] = "{}"
    found = inspect_model(written(model, tmp_path))
    assert found.layout is None and any("onnxmtl.layout cannot be read" in remark for remark in found.remarks)
    del model.metadata_props["onnxmtl.layout"]
    found = inspect_model(written(model, tmp_path))
    assert found.layout is None and not any("layout" in remark for remark in found.remarks)
    code, out, _ = run(capsys, "inspect", tmp_path / "net.onnx", "--json")
    assert code == 0 and json.loads(out)["layout"] is None


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command(tmp_path, capsys):
    path = written(small_network(), tmp_path)
    drawing = tmp_path / "net.svg"
    code, out, err = run(capsys, "inspect", path, "--drop", "stem_relu", "--add", "a_relu", "--svg", drawing)
    assert (code, err) == (0, "")
    assert "stem … a_relu" in out and "b … out" in out and "[N, 6, 4, 4] (+1)" in out
    assert drawing.read_text().startswith("<svg") and f"drawn to {drawing}" in out
    code, out, err = run(capsys, "inspect", path, "--json", "--frontier", "2", "--features", "a_relu,out")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [row["name"] for row in found["features"]] == ["a_relu_out", "out_out"]
    assert max(len(row["tensors"]) for row in found["boundaries"]) == 2
    code, out, err = run(capsys, "inspect", path, "--groups", "1")
    assert code == 0 and "stem … out" in out
    code, out, err = run(capsys, "inspect", path, "--groups", "9")
    assert code == 1 and err.startswith("error: the network cannot be cut into 9 groups") and err.count("\n") == 1
    code, out, err = run(capsys, "inspect", path, "--svg", path)
    assert code == 1 and "ends in .svg" in err
