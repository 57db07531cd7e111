"""Models that onnxmtl emitted, merged: contract, tasks and parts are those of all."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.compiling import write_backbone
from helpers.merging import tuned
from helpers.networks import parse

import onnxmtl
from onnxmtl import cli, runtime
from onnxmtl.errors import ModelError
from onnxmtl.ir import clone, save
from onnxmtl.kinds import TaskSet, load_tasks
from onnxmtl.passes.finalize import finalize_passes
from onnxmtl.passes.finalize.contract import CONTRACT_KEY
from onnxmtl.passes.finalize.metadata import PARTS_KEY
from onnxmtl.passes.heads import TASKS_KEY, AttachHeads
from onnxmtl.passes.merge_metadata import MERGED_KEY
from onnxmtl.passes.pipelines import Pipeline
from onnxmtl.workflows.merging import merge

IMAGE = {"layout": "NCHW", "range": [0, 1], "mean": [0.5, 0.5, 0.5], "scale": [2, 2, 2], "colour": "RGB"}


def emitted(file, tasks: str, image=IMAGE, seed=0):
    """Heads on the backbone, finalized; the trunk of all is one."""
    found = load_tasks(tasks)
    model = AttachHeads(found, seed)(onnxmtl.load(file)).model
    return Pipeline(finalize_passes(found, image))(model).model


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("net") / "net.onnx")


@pytest.fixture(scope="module")
def segmentation(file):
    return emitted(file, "seg=segmentation:4")


def test_contract_tasks_and_parts_are_joined(file, tmp_path, capsys):
    a = save(emitted(file, "seg=segmentation:4,depth"), tmp_path / "a.onnx")
    b = save(emitted(file, "seg=segmentation:6", seed=1), tmp_path / "b.onnx")
    report = merge([a, b], tmp_path / "c.onnx")
    assert list(report.outputs) == ["a_seg", "depth", "b"]
    model = runtime.load(tmp_path / "c.onnx")
    contract = json.loads(model.metadata[CONTRACT_KEY])
    assert list(contract["outputs"]) == list(model.outputs) == ["a_seg", "depth", "b"]
    assert contract["input"]["mean"] == IMAGE["mean"] and contract["input"]["name"] == model.input
    assert [contract["outputs"][name]["classes"] for name in ("a_seg", "b")] == [4, 6]
    assert TaskSet.from_json(model.metadata[TASKS_KEY]).names == ("a_seg", "depth", "b")
    assert json.loads(model.metadata[MERGED_KEY])[1] == {"name": "b", "outputs": {"b": "seg"}}
    shared, *_ = json.loads(model.metadata[PARTS_KEY])
    assert shared["tasks"] == ["a_seg", "depth", "b"] and {"a/stem", "b/stem"} <= set(shared["layers"])
    assert cli.main(["inspect", str(tmp_path / "c.onnx"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["kind"] == "final"


def test_merging_what_was_merged(file, tmp_path):
    names = ("a", "b", "c")
    for seed, name in enumerate(names):
        save(emitted(file, f"{name}=segmentation:4", seed=seed), tmp_path / f"{name}.onnx")
    merge([tmp_path / "a.onnx", tmp_path / "b.onnx"], tmp_path / "ab.onnx")
    merge([tmp_path / "ab.onnx", tmp_path / "c.onnx"], tmp_path / "abc.onnx")
    report = merge([tmp_path / f"{name}.onnx" for name in names], tmp_path / "all.onnx")
    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    one, two = (runtime.load(tmp_path / f"{name}.onnx") for name in ("abc", "all"))
    assert one.outputs == two.outputs == names and report.merged.nodes == len(onnxmtl_nodes(tmp_path / "abc.onnx"))
    for name in names:
        np.testing.assert_array_equal(one(image)[name], two(image)[name])


def onnxmtl_nodes(path):
    import onnx

    return onnx.load(path).graph.node


def test_images_that_are_prepared_otherwise_are_refused(file, segmentation, tmp_path):
    a = save(segmentation, tmp_path / "a.onnx")
    b = save(emitted(file, "depth", {**IMAGE, "mean": [0, 0, 0]}), tmp_path / "b.onnx")
    with pytest.raises(ModelError, match=r"a takes images of mean \[0.5, 0.5, 0.5\], b of mean \[0, 0, 0\]"):
        merge([a, b], tmp_path / "c.onnx")
    assert not (tmp_path / "c.onnx").exists()


@pytest.mark.parametrize("key", [CONTRACT_KEY, TASKS_KEY])
@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1, "input": 3, "outputs": {}}'])
def test_damaged_metadata(segmentation, key, text, tmp_path):
    model = clone(segmentation)
    a = save(model, tmp_path / "a.onnx")
    model.metadata_props[key] = text
    with pytest.raises(ModelError, match=f"b: its metadata '{key}' is damaged"):
        merge([a, save(model, tmp_path / "b.onnx")], tmp_path / "c.onnx")


def test_one_of_ours_and_one_of_others(segmentation, tmp_path):
    ours = save(segmentation, tmp_path / "ours.onnx")
    others = parse("""<ir_version: 10, opset_import: ["": 21], metadata_props: ["author": "me"]>
    net (float[N,3,16,16] x) => (float[N,3,16,16] y) { y = Relu(x) }""")
    report = merge([ours, save(others, tmp_path / "others.onnx")], tmp_path / "c.onnx")
    assert "no output contract is written: others has none" in report.remarks
    metadata = runtime.load(tmp_path / "c.onnx").metadata
    assert CONTRACT_KEY not in metadata and metadata["others/author"] == "me"


def test_metadata_of_others_is_kept(tmp_path):
    base = parse("""<ir_version: 10, opset_import: ["": 21], metadata_props: ["author": "me", "date": "one"]>
    net (float[N,3] x) => (float[N,3] y) <float[3] w = {1, 2, 3}> { y = Mul(x, w) }""")
    other = tuned(base, ["w"])
    other.metadata_props.update({"author": "me", "date": "two"})
    paths = [save(model, tmp_path / f"{name}.onnx") for name, model in (("a", base), ("b", other))]
    merge(paths, tmp_path / "c.onnx")
    opened = runtime.session(tmp_path / "c.onnx").get_modelmeta().custom_metadata_map
    assert {key: opened[key] for key in ("author", "a/date", "b/date")} == {
        "author": "me",
        "a/date": "one",
        "b/date": "two",
    }
