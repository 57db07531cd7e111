"""``onnxmtl inspect --space fusion``: the layers of a network and the candidate edges between copies of it."""

from __future__ import annotations

import json
import os

import onnx
import pytest
from helpers.fusing import different, fused, separated, vgg
from helpers.networks import Network

from onnxmtl import cli
from onnxmtl.deploy.fusion import fusion_candidates
from onnxmtl.errors import ModelError
from onnxmtl.ir import save

LIGHT = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "light")


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def vgg16(tmp_path):
    """VGG-16 as a user exports it, with a classifier, of a sixteenth of the channels."""
    net = Network((1, 3, 32, 32))
    x, channels = net.image, 3
    for stage, (layers, width) in enumerate(((2, 4), (2, 8), (3, 16), (3, 32), (3, 32))):
        for i in range(layers):
            x = net.add("Relu", [net.conv(x, channels, width, bias=True, name=f"conv{stage + 1}_{i + 1}")])
            channels = width
        x = net.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    save(net.model(net.classifier(x, channels)), tmp_path / "vgg16.onnx")
    return tmp_path / "vgg16.onnx"


def test_vgg16_has_24_edges_per_direction(capsys, vgg16) -> None:
    code, out, err = run(capsys, "inspect", vgg16, "--space", "fusion")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    rows = [line for line in lines if line and line[0].isdigit()]
    assert [row[0] for row in rows] == [str(i) for i in range(13)]
    assert [row[2] for row in rows] == ["1"] * 2 + ["2"] * 2 + ["4"] * 3 + ["8"] * 3 + ["16"] * 3  # before the pooling
    assert [row[3] for row in rows] == ["4"] * 2 + ["8"] * 2 + ["16"] * 3 + ["32"] * 6
    assert rows[-1][4] == "100.0%" and [row[5] for row in rows] == list("1212123123123")
    assert out.splitlines()[-3:] == [
        "task2 -> task1: 24 candidate edges",
        "task1 -> task2: 24 candidate edges",
        "in all: 48 candidate edges",
    ]


def test_resnet50_has_36_and_37_with_the_stem(capsys) -> None:
    code, out, err = run(capsys, "inspect", os.path.join(LIGHT, "light_resnet50.onnx"), "--space", "fusion")
    assert (code, err) == (0, "")
    assert "task1 -> task2: 36 candidate edges (37 with the stem)" in out.splitlines()
    assert out.splitlines()[-1] == "in all: 72 candidate edges (74 with the stem)"
    assert "none: the stem" in out and sum(line[:1].isdigit() for line in out.splitlines()) == 17


def test_four_tasks_and_json(capsys, vgg16) -> None:
    code, out, _ = run(capsys, "inspect", vgg16, "--space", "fusion", "--tasks", 4, "--json")
    found = json.loads(out)
    assert code == 0 and found["tasks"] == ["task1", "task2", "task3", "task4"]
    assert found["total"] == 12 * 24 and set(found["directions"].values()) == {24} and len(found["directions"]) == 12
    assert len(found["layers"]) == 4 * 13 and len(found["layers"][4]["edges"]) == 3


def test_a_multi_task_model_has_its_own_tasks(tmp_path) -> None:
    for model, edges in ((vgg(3), 36), (different(), 4)):
        save(model, tmp_path / "net.onnx")
        found = fusion_candidates(tmp_path / "net.onnx", tasks=9)
        assert found.tasks == tuple(v.name for v in model.graph.outputs) and found.total == edges
        assert sum(len(row.edges) for row in found.layers) == edges and not found.alike


def test_other_networks_of_one_model_are_listed_each(capsys, tmp_path) -> None:
    save(different(), tmp_path / "net.onnx")
    code, out, _ = run(capsys, "inspect", tmp_path / "net.onnx", "--space", "fusion")
    assert code == 0 and [line.split()[:3] for line in out.splitlines()[1:6]] == [
        ["seg", "0", "relu0"],
        ["seg", "1", "relu1"],
        ["depth", "0", "relu0"],
        ["depth", "1", "relu1"],
        ["depth", "2", "relu2"],
    ]
    assert "depth -> seg: 3 candidate edges" in out and "2: depth/relu1, depth/relu2" in out


def test_refusals(capsys, tmp_path) -> None:
    save(fused(vgg()), tmp_path / "super.onnx")
    code, out, err = run(capsys, "inspect", tmp_path / "super.onnx", "--space", "fusion")
    assert (code, out) == (1, "")
    assert "this is a supermodel already: without --space, inspect lists its sites" in err
    save(separated(vgg(1)), tmp_path / "one.onnx")
    with pytest.raises(ModelError, match=r"between the networks of two tasks or more, one.onnx has 1"):
        fusion_candidates(tmp_path / "one.onnx")
    code, _, err = run(capsys, "inspect", tmp_path / "one.onnx", "--space", "tree")
    assert code == 2 and "fusion" in err
    for options, words in [
        (("--space", "fusion", "--groups", "4"), "--space lists layers"),
        (("--space", "fusion", "--svg", tmp_path / "drawn.svg"), "--space lists layers"),
        (("--tasks", "3"), "--tasks says how many"),
    ]:
        code, out, err = run(capsys, "inspect", tmp_path / "one.onnx", *options)
        assert (code, out) == (2, "") and words in " ".join(err.split())
    assert not (tmp_path / "drawn.svg").exists()
