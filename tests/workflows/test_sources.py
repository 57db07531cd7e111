"""load() and compile() take whatever the user has; a run remembers what it was, and refuses another."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
import torch
from helpers.compiling import QUICK, TASKS
from torch import nn

import onnxmtl
from onnxmtl.deploy.explain import explain
from onnxmtl.errors import ModelError, RunError
from onnxmtl.ir import to_bytes
from onnxmtl.workflows.source import Source


def module(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU()
    )


IMAGE = torch.zeros(1, 3, 16, 16)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A run that starts from a torch module."""
    out = tmp_path_factory.mktemp("torch") / "run"
    return onnxmtl.compile(module(), TASKS, example_input=IMAGE, out=out, **QUICK)


def test_objects_of_one_file_give_one_backbone(backbone):
    expected = to_bytes(onnxmtl.load(backbone))
    for source in (ir.load(backbone), onnx.load(backbone)):
        assert to_bytes(onnxmtl.load(source)) == expected
    graph = onnxmtl.load(gs.import_onnx(onnx.load(backbone)))
    assert [node.op_type for node in graph.graph] == [node.op_type for node in onnxmtl.load(backbone).graph]


def test_a_torch_module_compiles_and_is_certified(compiled):
    model = onnx.load(compiled.model)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.output] == ["seg", "depth"]
    assert onnxmtl.verify(compiled.path).passed


def test_the_run_says_where_it_came_from(compiled, backbone):
    record = json.loads((compiled.path / "run.json").read_text())
    assert record["source"] == {"kind": "torch", "path": None, "weights": None, "name": "Sequential"}
    assert len(record["config"]["model"]) == 64 and record["config"]["weights"] is None
    assert Source(backbone).describe() == {
        "kind": "onnx", "path": str(backbone), "weights": None, "name": backbone.name,
    }  # fmt: skip


def test_what_was_said_is_recorded(compiled):
    stages = {entry.stage for entry in explain(compiled.path)}
    assert "import" in stages
    folders = {file.parent.name[3:] for file in compiled.path.glob("phases/*/diagnostics.json")}
    assert folders == {"import", "decode", "emit"}


def test_the_same_module_resumes(compiled):
    again = onnxmtl.compile(module(), TASKS, example_input=IMAGE, out=compiled.path, resume=True, **QUICK)
    assert again.model.read_bytes() == compiled.model.read_bytes()


def test_another_module_does_not_resume(compiled):
    with pytest.raises(RunError, match=r"cannot resume .*: model was .* in the run and is .* now"):
        onnxmtl.compile(module(1), TASKS, example_input=IMAGE, out=compiled.path, resume=True, **QUICK)


def test_changed_weights_of_a_prototxt_are_seen(tmp_path):
    file, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    file.write_text("name: 'net'")
    weights.write_bytes(b"one")
    source = Source(file, weights=weights, dialect="caffe")
    before = source.digests("")
    assert source.describe()["weights"] == str(weights) and source.describe()["kind"] == "prototxt"
    weights.write_bytes(b"two")
    after = source.digests("")
    assert before["model"] == after["model"] and before["weights"] != after["weights"]


def test_a_prototxt_of_the_fixtures_loads_and_counts(request):
    folder = request.config.rootpath / "tests" / "fixtures" / "prototxt"
    model = onnxmtl.load(folder / "residual_automtl.prototxt", dialect="automtl")
    assert any(node.op_type == "Conv" for node in model.graph)
    image = model.graph.inputs[0]
    assert len(image.shape) == 4 and image.dtype is ir.DataType.FLOAT


def test_arguments_that_do_not_fit_are_refused_before_a_directory_is_made(tmp_path, backbone):
    for options in ({"weights": "w.caffemodel"}, {"dialect": "caffe"}, {"example_input": IMAGE}):
        with pytest.raises(ModelError):
            onnxmtl.compile(backbone, TASKS, out=tmp_path / "run", **options, **QUICK)
        assert not (tmp_path / "run").exists()
    with pytest.raises(ModelError, match="an example input is needed"):
        onnxmtl.compile(module(), TASKS, out=tmp_path / "run", **QUICK)


def test_features_are_named_after_the_modules_layers():
    backbone = onnxmtl.load(module(), np.zeros((1, 3, 16, 16), np.float32), features=["2"])
    assert [value.producer().name for value in backbone.graph.outputs] == ["2"]
