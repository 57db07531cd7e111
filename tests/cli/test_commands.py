"""inspect, verify and doctor, as a user calls them."""

from __future__ import annotations

import json
import os

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.graphs import GraphBuilder

from onnxmtl import cli, runtime
from onnxmtl.deploy.verify import write_certificate
from onnxmtl.ir import make_choice, new_initializer, save
from onnxmtl.kinds import TaskSet

LIGHT = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "light")


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def finish(builder, outputs, kind):
    """The graph as a model whose outputs are called as given."""
    for name, value in outputs.items():
        value.name = name
        builder.graph.outputs.append(value)
    model = ir.Model(builder.graph, ir_version=10, producer_name="onnxmtl")
    model.metadata_props["onnxmtl.kind"] = kind
    return model


@pytest.fixture
def folder(tmp_path):
    """Two tasks on a shared trunk, with a certificate."""
    builder = GraphBuilder()
    trunk = builder.conv(builder.image, 4, name="conv1")
    outputs = {}
    for task, channels in (("seg", 5), ("depth", 1)):
        builder.task = task
        outputs[task] = builder.conv(trunk, channels, k=1, name="conv")
    model = finish(builder, outputs, "final")
    model.metadata_props["onnxmtl.tasks"] = TaskSet.parse("seg=segmentation:5,depth").to_json()
    save(model, tmp_path / "model.onnx")
    images = {"image": np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)}
    write_certificate(tmp_path, images, runtime.run(tmp_path / "model.onnx", images), {})
    return tmp_path


def test_inspect_a_backbone(capsys):
    code, out, err = run(capsys, "inspect", os.path.join(LIGHT, "light_resnet50.onnx"), "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["kind"] == "backbone" and found["tasks"] == [] and found["sharing"] == []
    assert [(row["stride"], row["channels"]) for row in found["features"]] == [(32, 2048)]
    # torchvision's resnet50 has 25 557 032 weights and 4.09 G multiply-adds, its classifier 2 049 000 and 2 048 000.
    assert found["costs"]["parameters"] == 25_557_032 - 2_049_000
    assert found["costs"]["multiply_adds"] == pytest.approx(4.087e9, rel=1e-3)
    assert found["operators"]["Conv"] == found["normalizations"] == 53
    assert found["trainable"] == {"backbone": found["costs"]["parameters"]}


def test_inspect_a_backbone_for_people(capsys):
    code, out, err = run(capsys, "inspect", os.path.join(LIGHT, "light_squeezenet.onnx"))
    assert (code, err) == (0, "")
    assert "512 channels at stride" in out and "normalization" in out and "no nodes" not in out


def test_inspect_a_model_of_ours(folder, capsys):
    code, out, err = run(capsys, "inspect", folder, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["kind"] == "final"
    assert [row["name"] for row in found["tasks"]] == ["seg", "depth"]
    conv1 = 4 * 3 * 9 + 4
    assert found["costs"]["parameters_trunk"] == conv1
    assert found["costs"]["parameters"] == conv1 + (4 * 5 + 5) + (4 + 1)
    trunk = 64 * 4 * 27
    assert found["costs"]["multiply_adds_unshared"] - found["costs"]["multiply_adds"] == trunk
    (row,) = found["sharing"]
    assert row["layer"] == "conv1" and row["runs"] == [["seg", "depth"]]
    assert found["costs"]["file_bytes"] == (folder / "model.onnx").stat().st_size
    code, out, _ = run(capsys, "inspect", folder / "model.onnx")
    assert code == 0 and "once" in out and "segmentation, 5 channels, logits" in out


def test_inspect_a_supermodel(tmp_path, capsys):
    builder = GraphBuilder()
    x = builder.image
    options = [("shared", builder.conv(x, 3, name="a")), ("own", builder.conv(x, 3, name="b")), ("skip", x)]
    logits = new_initializer(builder.graph, "logits", np.zeros(3, np.float32))
    node = make_choice(options, logits, site="s0", task="depth", name="choice", output="depth")
    builder.graph.append(node)
    save(finish(builder, {"depth": node.outputs[0]}, "supermodel"), tmp_path / "super.onnx")
    code, out, err = run(capsys, "inspect", tmp_path / "super.onnx", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["costs"] is None
    assert [(row["id"], row["options"], row["choices"]) for row in found["sites"]] == [
        ("s0", ["shared", "own", "skip"], 1)
    ]
    code, out, _ = run(capsys, "inspect", tmp_path / "super.onnx")
    assert code == 0 and "shared · own · skip" in out


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a"])
def test_bad_files_are_one_line(tmp_path, capsys, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    for command in ("inspect", "verify"):
        code, out, err = run(capsys, command, tmp_path / "bad.onnx")
        assert code == 1 and out == "" and err.startswith("error: ") and err.count("\n") == 1
        assert "bad.onnx" in err


def test_verify(folder, capsys):
    code, out, err = run(capsys, "verify", folder)
    assert (code, err) == (0, "") and "verified" in out and "byte for byte" in out
    code, out, _ = run(capsys, "verify", folder, "--json")
    assert code == 0 and json.loads(out) == json.loads((folder / "verify.json").read_text())
    assert run(capsys, "verify", folder, "--quiet") == (0, "", "")


def test_verify_against_torch(folder, capsys):
    code, out, err = run(capsys, "verify", folder, "--against", "torch", "--json")
    assert (code, err) == (0, "")
    assert all(task["torch_error"] <= 1e-5 for task in json.loads(out)["tasks"])
    code, out, _ = run(capsys, "verify", folder, "--against", "torch")
    assert code == 0 and "torch now" in out


def test_verify_a_tampered_model(folder, capsys):
    proto = onnx.load(folder / "model.onnx")
    array = onnx.numpy_helper.to_array(proto.graph.initializer[0]) * np.float32(1.01)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array, proto.graph.initializer[0].name))
    onnx.save(proto, folder / "model.onnx")
    code, out, err = run(capsys, "verify", folder, "--json")
    assert code == 1 and err.startswith("error: model.onnx does not verify: weight 'conv1.weight' is not the one")
    assert err.count("\n") == 1 and json.loads(out)["passed"] is False


def test_verify_without_certificate(folder, capsys):
    (folder / "certificate.json").unlink()
    code, out, err = run(capsys, "verify", folder)
    assert code == 1 and out == "" and "has no certificate.json" in err and err.count("\n") == 1


def test_wrong_choice_is_usage(folder, capsys):
    assert run(capsys, "verify", folder, "--against", "tensorflow")[0] == 2


def test_doctor(capsys):
    code, out, err = run(capsys, "doctor")
    assert (code, err) == (0, "") and "CPUExecutionProvider" in out and "runs" in out
    code, out, _ = run(capsys, "doctor", "--json", "--provider", "NoSuchProvider")
    assert code == 1 and "NoSuchProvider" in json.loads(out)["problems"][0]


@pytest.mark.parametrize(
    ("command", "defaults"),
    [
        ("compile", ("found", "the model's", "runs/compile-N")),
        ("explain", ("found", "the model's")),
        ("inspect", ("the model's",)),
    ],
)
def test_help_tells_defaults_that_are_not_values(capsys, monkeypatch, command, defaults):
    """In square brackets within the text they would be taken for markup, and left out."""
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"[default: ({default})]" in printed for default in defaults)
